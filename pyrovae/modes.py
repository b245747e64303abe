"""Training and evaluation mode, for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def mode(modules: Iterable[nn.Module], training: bool) -> Iterator[None]:
    """Inside, the modules are in training or in evaluation mode; outside, each part is in the one in which it was."""
    modules = list(modules)
    parts = {part: part.training for module in modules for part in module.modules()}
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        for part, was in parts.items():
            part.training = was
