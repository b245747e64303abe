"""Building a model's networks, and proving that their shapes fit."""

from collections.abc import Callable, Sequence
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

    A network that takes only one leading dimension, or mixes several (one with nn.Flatten() or a softmax over
    dimension 1, say), is wrapped.

    Raises:
        ValueError: it fails on such an input or returns another shape; says what was expected and found.
    """
    network = build(part, input_shape, output_shape)
    expected = f"{role}: expected a network from (N, {_join(input_shape)}) to (N, {_join(output_shape)})"
    if not isinstance(network, nn.Module):
        raise ValueError(f"{expected}, found {network!r}")
    folded = _dry_run(network, (6,), input_shape)
    if isinstance(folded, str) or folded.shape != (6, *output_shape):
        found = folded if isinstance(folded, str) else f"output (N, {_join(folded.shape[1:])})"
        raise ValueError(f"{expected}, found {found}")
    whole = _dry_run(network, (2, 3), input_shape)
    fits = not isinstance(whole, str) and whole.shape == (2, 3, *output_shape)
    if not fits or not torch.allclose(whole.flatten(0, 1), folded, rtol=1e-3, atol=1e-5):  # type: ignore[union-attr]
        network = _OneBatch(network, len(input_shape))
    network.register_forward_hook(_in_the_inputs_dtype)
    return network


def _in_the_inputs_dtype(network: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Under torch.autocast a network may answer in bfloat16, in which no distribution should be scored or sampled."""
    return output.to(inputs[0].dtype)


def _dry_run(network: nn.Module, leading: tuple[int, ...], event_shape: tuple[int, ...]) -> Tensor | str:
    """The output for noise, or the error; leaves modes, buffers and generators as they were."""
    like = next(network.parameters(), torch.empty(()))
    try:
        with mode([network], training=False), torch.no_grad(), seeded(0):
            return network(torch.randn(*leading, *event_shape).to(like))
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


def _join(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
