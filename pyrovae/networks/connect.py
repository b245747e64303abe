"""Building a model's networks, and proving that their shapes fit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.modes import mode
from pyrovae.randomness import seeded

# A part of a model is given built, or as what builds it from its shapes: a class, or functools.partial of one.
Part = nn.Module | Callable[..., Any]


def build(part: Part, *shapes: tuple[int, ...]) -> Any:
    """The part itself, or what it builds from these shapes."""
    return part if isinstance(part, nn.Module) else part(*shapes)


def connect(part: Part, input_shape: tuple[int, ...], output_shape: tuple[int, ...], role: str) -> nn.Module:
    """Build a network and run it dry: (..., *input_shape) must become (..., *output_shape).

    A network that takes only one leading dimension (one that starts with nn.Flatten(), say) is wrapped.

    Raises:
        ValueError: it fails on such an input or returns another shape; says what was expected and found.
    """
    network = build(part, input_shape, output_shape)
    expected = f"{role}: expected a network from (N, {_join(input_shape)}) to (N, {_join(output_shape)})"
    if not isinstance(network, nn.Module):
        raise ValueError(f"{expected}, found {network!r}")
    found = _dry_run(network, (2, *input_shape))
    if found != (2, *output_shape):
        raise ValueError(f"{expected}, found {found if isinstance(found, str) else f'output (N, {_join(found[1:])})'}")
    if _dry_run(network, (2, 1, *input_shape)) == (2, 1, *output_shape):
        return network
    return _OneBatch(network, len(input_shape))


def _dry_run(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | str:
    """The output's shape, or the error; leaves modes, buffers and generators as they were."""
    like = next(network.parameters(), torch.empty(()))
    try:
        with mode([network], training=False), torch.no_grad(), seeded(0):
            return tuple(network(torch.zeros(shape, dtype=like.dtype, device=like.device)).shape)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


class _OneBatch(nn.Module):
    """Folds all leading dimensions into one around a network that takes only one."""

    def __init__(self, network: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.network, self.event_dim = network, event_dim

    def forward(self, x: Tensor) -> Tensor:
        leading = x.shape[: x.ndim - self.event_dim]
        h = self.network(x.reshape(-1, *x.shape[len(leading) :]))
        return h.reshape(*leading, *h.shape[1:])


def _join(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
