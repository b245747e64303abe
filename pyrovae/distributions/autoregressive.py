"""Autoregressive transforms, whose parameters come from one masked network."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from pyro.distributions.transforms import AffineTransform
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn import functional as F  # noqa: N812

from pyrovae import checks


class Autoregressive(nn.Module):
    """y_i = f(x_i; h_i), with h_i a network of x_1, ..., x_(i-1) and the context c.  (MADE: Germain et al. 2015)

    Calling it with the context returns a torch transform. The transform maps x to y, and computes the Jacobian, in one
    pass of the network; it maps y to x in one pass for each value.

    Args:
        dim: size of x and y.
        elementwise: f, from h (..., dim, count) to a transform of (..., dim).
        count: number of parameters of f for each value.
        context: size of c; 0 for none.
        hidden: width of each hidden layer.
        reverse: whether the order of the values is reversed.

    Example:
        >>> import torch
        >>> from pyrovae.distributions.autoregressive import Autoregressive, affine
        >>> f = Autoregressive(dim=3, elementwise=affine, count=2)()
        >>> x = torch.randn(5, 3)
        >>> y = f(x)
        >>> torch.allclose(f.inv(y.clone()), x, atol=1e-5)
        True
    """

    def __init__(
        self,
        dim: int,
        elementwise: Callable[[Tensor], Transform],
        count: int,
        context: int = 0,
        hidden: Sequence[int] = (64, 64),
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.elementwise, self.count, self.passes = elementwise, count, dim
        order = torch.arange(dim).flip(0) if reverse else torch.arange(dim)
        # A unit of degree m sees the context and the first m values; the parameters of value i see units up to degree
        # i.
        degrees = [torch.cat([torch.full((context,), -1), order]), *(torch.arange(width) % dim for width in hidden)]
        layers: list[nn.Module] = []
        for number, (seen, of) in enumerate(pairwise(degrees)):
            layers += [_Masked(of[:, None] > seen if number == 0 else of[:, None] >= seen), nn.ELU()]
        last = order.repeat_interleave(count)[:, None]
        self.network = nn.Sequential(*layers, _Masked(last > degrees[-1] if not hidden else last >= degrees[-1]))

    def forward(self, context: Tensor | None = None) -> Transform:
        return AutoregressiveTransform(lambda x: self.elementwise(self._numbers(x, context)), self.passes)

    def _numbers(self, x: Tensor, context: Tensor | None) -> Tensor:
        if context is not None:
            leading = torch.broadcast_shapes(context.shape[:-1], x.shape[:-1])
            x = torch.cat([context.expand(*leading, -1), x.expand(*leading, -1)], -1)
        return self.network(x).unflatten(-1, (-1, self.count))


def stack(
    transforms: int,
    dim: int,
    elementwise: Callable[[Tensor], Transform],
    count: int,
    context: int = 0,
    hidden: Sequence[int] | int = (64, 64),
) -> nn.ModuleList:
    """A list of `Autoregressive` transforms; each reverses the order of the one before."""
    widths = checks.shape("hidden", hidden)
    return nn.ModuleList(
        Autoregressive(dim, elementwise, count, context, widths, reverse=t % 2 == 1)
        for t in range(checks.integer("transforms", transforms))
    )


class AutoregressiveTransform(Transform):
    """y = f(x), with f = elementwise(x) such that y_i depends on x_1, ..., x_i only.

    It caches its last input, output and Jacobian, so scoring its own samples costs nothing.

    Args:
        elementwise: from x to a transform of each of its values.
        passes: number of passes that x = f^-1(y) takes.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, elementwise: Callable[[Tensor], Transform], passes: int) -> None:
        super().__init__(cache_size=1)
        self.elementwise, self.passes = elementwise, passes
        self._known: tuple[Tensor | None, Tensor | None] = None, None

    def _call(self, x: Tensor) -> Tensor:
        f = self.elementwise(x)
        y = f(x)
        self._known = x, f.log_abs_det_jacobian(x, y).sum(-1)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(self.passes):  # each pass sets one more value right
            x = self.elementwise(x).inv(y)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        known, log_determinant = self._known
        if x is known and log_determinant is not None:
            return log_determinant
        return self.elementwise(x).log_abs_det_jacobian(x, y).sum(-1)


def affine(h: Tensor) -> Transform:
    """y = x e^a + b, with h = (b, a') and a a smooth clip of a' to [-7, 7], so that no scale overflows or vanishes."""
    shift, log_scale = h.unbind(-1)
    return AffineTransform(shift, bounded(log_scale).exp())


def bounded(h: Tensor) -> Tensor:
    """h / (1 + |h| / 7): approximately h near 0, and always within [-7, 7]."""
    return h / (1 + h.abs() / 7)


class _Masked(nn.Linear):
    """A dense layer with only the connections that the mask (outputs, inputs) allows."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)
