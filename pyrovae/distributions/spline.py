"""The monotone rational-quadratic spline."""

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.nn import functional as F  # noqa: N812

from pyrovae import checks
from pyrovae.distributions.autoregressive import bounded

BOUND = 5.0  # the spline acts on [-BOUND, BOUND]; outside, y = x
LEAST = 1e-3  # smallest width and height of a bin, as a share of the box


class RationalQuadratic(Transform):
    """y = y_k + (y_k+1 - y_k) (s t^2 + d_k t (1-t)) / (s + (d_k + d_k+1 - 2s) t (1-t)) in bin k.  (Durkan et al. 2019)

    t = (x - x_k) / (x_k+1 - x_k) is the position in the bin, s the mean slope of the bin, and d the slopes at its two
    ends. The spline maps [-5, 5] onto itself. It is the identity if h = 0, and outside of [-5, 5].

    Args:
        h: (..., 3 bins - 1): logits of the widths and of the heights, and log-slopes at the inner knots. The leading
            shape is that of x.

    Example:
        >>> import torch
        >>> from pyrovae.distributions.spline import RationalQuadratic
        >>> f = RationalQuadratic(torch.zeros(3, 11))  # h = 0: the identity
        >>> f(torch.tensor([-6.0, 0.5, 4.0]))
        tensor([-6.0000,  0.5000,  4.0000])
    """

    domain = codomain = constraints.real
    bijective = True
    sign = 1

    def __init__(self, h: Tensor) -> None:
        super().__init__()
        bins = (h.shape[-1] + 1) // 3
        widths, heights, slopes = h.split([bins, bins, bins - 1], -1)
        self.x, self.y = _knots(widths), _knots(heights)
        self.slopes = F.pad(bounded(slopes).exp(), (1, 1), value=1.0)

    def _call(self, x: Tensor) -> Tensor:
        (left, right), (low, high), (first, last) = self._bin(self.x, x)
        s, t = (high - low) / (right - left), _place(x, left, right)
        y = low + (high - low) * (s * t**2 + first * t * (1 - t)) / (s + (first + last - 2 * s) * t * (1 - t))
        return torch.where(x.abs() < BOUND, y, x)

    def _inverse(self, y: Tensor) -> Tensor:
        (left, right), (low, high), (first, last) = self._bin(self.y, y)
        s, rise = (high - low) / (right - left), _place(y, low, high)
        bend = rise * (first + last - 2 * s)
        a, b, c = s - first + bend, first - bend, -s * rise
        t = 2 * c / (-b - (b**2 - 4 * a * c).sqrt())  # this form of the root is accurate even if a is near 0
        return torch.where(y.abs() < BOUND, left + t * (right - left), y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        (left, right), (low, high), (first, last) = self._bin(self.x, x)
        s, t = (high - low) / (right - left), _place(x, left, right)
        slope = s**2 * (last * t**2 + 2 * s * t * (1 - t) + first * (1 - t) ** 2)
        log_slope = slope.log() - 2 * (s + (first + last - 2 * s) * t * (1 - t)).log()
        return torch.where(x.abs() < BOUND, log_slope, 0.0)

    def _bin(self, knots: Tensor, value: Tensor) -> list[tuple[Tensor, Tensor]]:
        """x, y and slope at both ends of the bin that contains each value; `knots` are the edges of the bins."""
        k = (knots[..., 1:-1] <= value[..., None]).sum(-1, keepdim=True)
        return [(ends.gather(-1, k)[..., 0], ends.gather(-1, k + 1)[..., 0]) for ends in (self.x, self.y, self.slopes)]


def parameter_count(bins: int) -> int:
    """The number of parameters h of a spline for each value."""
    limit = round(1 / LEAST)  # the number of bins of the smallest size that fill the box
    if checks.integer("bins", bins, least=2) >= limit:
        raise ValueError(f"bins: expected an integer >= 2 and < {limit}, found {bins!r}")
    return 3 * int(bins) - 1


def _knots(logits: Tensor) -> Tensor:
    sizes = LEAST + (1 - LEAST * logits.shape[-1]) * logits.softmax(-1)
    return BOUND * (2 * F.pad(sizes.cumsum(-1), (1, 0)) - 1)


def _place(value: Tensor, start: Tensor, end: Tensor) -> Tensor:
    # Clamped, so that the gradients that `where` drops outside the box are finite.
    return ((value - start) / (end - start)).clamp(0, 1)
