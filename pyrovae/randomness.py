"""Random numbers that do not change the state of the process's own generators."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


@contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Inside, torch draws from a generator seeded by these integers; outside, nothing changes."""
    state = np.random.SeedSequence(seed).generate_state(2, np.uint32)
    with torch.random.fork_rng():
        torch.manual_seed(int(state[0]) << 32 | int(state[1]))
        yield


class Stream:
    """A private stream of torch's random numbers. You can enter it repeatedly; it continues where it stopped."""

    def __init__(self, *seed: int) -> None:
        with seeded(*seed):
            self.state = generators()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with torch.random.fork_rng():
            set_generators(self.state)
            try:
                yield
            finally:
                self.state = generators()


def generators() -> list[Tensor]:
    """The states of torch's generators: the CPU's, then each GPU's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_generators(states: list[Tensor]) -> None:
    """Set torch's generators to these states."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
