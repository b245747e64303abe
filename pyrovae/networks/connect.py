"""Builds the parts of a model and checks that their shapes fit."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pyrovae.modes import mode
from pyrovae.networks.mlp import MLP
from pyrovae.networks.network import Network
from pyrovae.randomness import seeded


class HasSpace(Protocol):
    """A prior or a guide family: a distribution of z in some space."""

    space: str


Kind = TypeVar("Kind", bound=nn.Module)

# A part of a model: a module, or a class (or functools.partial of one) that builds the module from its shapes.
Part = nn.Module | Callable[..., Any]


def buildable(role: str, part: Part) -> None:
    """Raise a ValueError unless a part is a module, or a callable that builds one; the name of a class is neither."""
    if not callable(part):
        hint = "; names work only on the command line and in run.toml" if isinstance(part, str) else ""
        raise ValueError(f"{role}: expected a module, or a class or function that builds one, found {part!r}{hint}")


def build(role: str, part: Part, *shapes: tuple[int, ...], kind: type[Kind]) -> Kind:
    """Return the part, after building it from these shapes if necessary.

    Args:
        role: the part's role in its model, for error messages.
        part: the part, or a callable that builds it.
        shapes: the arguments of that callable.
        kind: the contract that the part has to fulfil: `Likelihood`, `GuideFamily` or `Prior`.

    Raises:
        ValueError: the part does not fulfil the contract; the message says what is missing.
    """
    buildable(role, part)
    built: Any = part if isinstance(part, nn.Module) else part(*shapes)
    check_contract(role, built, kind)
    return built


def check_contract(role: str, part: object, kind: Any) -> None:
    """Raise a ValueError unless a part is a subclass of its contract and sets the required attributes."""
    if not isinstance(part, kind):
        base = f"pyrovae.{kind.__module__.split('.')[1]}.{kind.__name__}"
        raise ValueError(f"{role}: expected a subclass of {base}, found {type(part).__name__}")
    missing = [f"`{name}` ({meaning})" for name, meaning in kind.REQUIRED.items() if not hasattr(part, name)]
    if missing:
        raise ValueError(f"{role}: expected {type(part).__name__} to set {' and '.join(missing)}, found none")


def connect(part: Part, inputs: Sequence[tuple[int, ...]], output_shape: tuple[int, ...], role: str) -> nn.Module:
    """Build a network and test it on noise: it has to map (..., *input_shape) to (..., *output_shape).

    A network of several inputs is built as `Joint`. A network that accepts only one leading dimension, or mixes
    several (because of nn.Flatten(), or a softmax over dimension 1), is wrapped.

    Raises:
        ValueError: the network fails on such an input, or returns another shape.
    """
    if len(inputs) > 1:
        return Joint(part, inputs, output_shape, role)
    (input_shape,) = inputs
    buildable(role, part)
    network = part if isinstance(part, nn.Module) else part(input_shape, output_shape)
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


def same_space(prior: HasSpace, guide: HasSpace) -> None:
    """Raise a ValueError unless p(z) and q(z|h) have the same space: real vectors, or points on a sphere."""
    if prior.space != guide.space:
        raise ValueError(f"guide: expected one on {prior.space}, like the prior, found one on {guide.space}")


def takes_missing(network: nn.Module, inputs: Sequence[tuple[int, ...]], role: str = "encoder") -> None:
    """Raise a ValueError unless a network returns finite numbers for an x whose entries are all missing."""
    first, *others = (next(network.parameters(), torch.empty(())).new_zeros(2, *shape) for shape in inputs)
    with torch.no_grad(), mode([network], training=False):
        h = network(torch.full_like(first, torch.nan), *others)
    if not bool(torch.isfinite(h).all()):
        raise ValueError(f"{role}: expected one that takes missing entries (networks.FilledIn), found NaN in h")


class Joint(nn.Module):
    """h = network(x, y, ...): a network of several inputs.

    If x is a vector, or the network flattens it (an MLP), all inputs are concatenated as vectors. If the network sees x
    as an image, an input of the same height and width is appended as channels; any other input is mapped to one more
    channel by an affine map. Leading dimensions are broadcast.

    Args:
        part: the network, or a callable that builds it from the joint input's shape and the output's shape.
        inputs: event shapes of x, y, ...
        output_shape: event shape of h.
        role: the network's role in its model, for error messages.

    Example:
        >>> import torch
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.networks.connect import Joint
        >>> network = Joint(MLP, inputs=[(1, 8, 8), (10,)], output_shape=(4,), role="encoder")
        >>> network(torch.zeros(5, 1, 8, 8), torch.zeros(5, 10)).shape
        torch.Size([5, 4])
    """

    def __init__(self, part: Part, inputs: Sequence[tuple[int, ...]], output_shape: tuple[int, ...], role: str) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        first, *others = self.inputs
        self.flat = len(first) == 1 or _flattens(part)
        sizes = [math.prod(shape) for shape in self.inputs]
        self.channels = nn.ModuleList()
        if self.flat:
            joint: tuple[int, ...] = (sum(sizes),)
        else:
            for shape in others:
                images = len(shape) == 3 and shape[1:] == first[1:]
                self.channels.append(nn.Identity() if images else _Channel(shape, first[1:]))
            counts = [
                shape[0] if isinstance(a, nn.Identity) else 1 for a, shape in zip(self.channels, others, strict=True)
            ]
            joint = (first[0] + sum(counts), *first[1:])
        self.network = connect(part, [joint], output_shape, role)

    def forward(self, *values: Tensor) -> Tensor:
        """x (..., *shape of x), y (..., *shape of y), ... to h (..., *output_shape)."""
        if self.flat:
            beside = [value.flatten(value.ndim - len(shape)) for value, shape in zip(values, self.inputs, strict=True)]
            if isinstance(self.network, MLP):
                return self.network(*beside)
            dim = -1
        else:
            first, *others = values
            beside = [first, *(channel(value) for channel, value in zip(self.channels, others, strict=True))]
            dim = -len(self.inputs[0])
        leading = torch.broadcast_shapes(*(value.shape[:dim] for value in beside))
        return self.network(torch.cat([value.expand(*leading, *value.shape[dim:]) for value in beside], dim))


def _flattens(part: Part) -> bool:
    """Whether a network, or the class that builds it, sees its input as a vector."""
    kind = part.func if isinstance(part, partial) else part
    kind = kind if isinstance(kind, type) else type(kind)
    return issubclass(kind, Network) and kind.flattens


class _Channel(nn.Module):
    """An affine map from a value of any shape to one channel of an image."""

    def __init__(self, shape: tuple[int, ...], image: tuple[int, ...]) -> None:
        super().__init__()
        self.event_dim, self.image = len(shape), image
        self.affine = nn.Linear(math.prod(shape), math.prod(image))

    def forward(self, y: Tensor) -> Tensor:
        return self.affine(y.flatten(y.ndim - self.event_dim)).unflatten(-1, (1, *self.image))


def _in_the_inputs_dtype(network: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return the output in the input's dtype.

    Under torch.autocast a network may return bfloat16, which is too coarse to score or sample distributions.
    """
    return output.to(inputs[0].dtype)


def _dry_run(network: nn.Module, leading: tuple[int, ...], event_shape: tuple[int, ...]) -> Tensor | str:
    """The output for noise, or the error message; modes, buffers and random generators do not change."""
    like = next(network.parameters(), torch.empty(()))
    try:
        with mode([network], training=False), torch.no_grad(), seeded(0):
            return network(torch.randn(*leading, *event_shape).to(like))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


class _OneBatch(nn.Module):
    """Folds all leading dimensions into one, for a network that accepts only one."""

    def __init__(self, network: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.network, self.event_dim = network, event_dim

    def forward(self, x: Tensor) -> Tensor:
        leading = x.shape[: x.ndim - self.event_dim]
        h = self.network(x.reshape(-1, *x.shape[len(leading) :]))
        return h.reshape(*leading, *h.shape[1:])


def _join(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
