"""The logistic distribution on a grid of grey levels."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyrovae.distributions.levels import Levels


class DiscretizedLogistic(dist.TorchDistribution):
    """P(x) = sigmoid((x + w/2 - m)/s) - sigmoid((x - w/2 - m)/s), w = 1/(levels - 1), for x = 0, w, 2w, ..., 1.

    The lowest and the highest level contain the tails.  (Kingma et al. 2016; Salimans et al. 2017)

    Args:
        loc: m.
        scale: s, in the units of x.
        levels: number of levels.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import DiscretizedLogistic
        >>> p = DiscretizedLogistic(torch.tensor(0.5), torch.tensor(0.1), levels=2)
        >>> p.log_prob(torch.tensor([0.0, 1.0])).exp()  # both tails, by symmetry
        tensor([0.5000, 0.5000])
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = Levels(levels)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Levels:
        return self.levels

    def log_prob(self, value: Tensor) -> Tensor:
        """Computed as sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)), which avoids cancellation."""
        if self._validate_args:
            self._validate_sample(value)
        last = self.levels.last
        k, s = self.levels.nearest(value), self.scale * last  # in steps, the edges k - 1/2, k + 1/2 are exact
        lowest, highest = k == 0, k == last
        below = logsigmoid((k + 0.5 - self.loc * last) / s)
        above = logsigmoid((self.loc * last - k + 0.5) / s)
        inside = torch.log(-torch.expm1(-1 / s))
        return torch.where(highest, 0, below) + torch.where(lowest, 0, above) + torch.where(lowest | highest, 0, inside)

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance from E|k - c| and E(k - c)^2, with c the level nearest to m: sums of tail masses."""
        w = 1 / self.levels.last
        c = self.levels.nearest(self.loc.detach())
        first, second = torch.zeros_like(self.loc), torch.zeros_like(self.loc)
        for k in range(1, self.levels.last + 1):
            side = torch.where(k > c, 1.0, -1.0).to(c.dtype)
            tail = torch.sigmoid(side * (self.loc - (k - 0.5) * w) / self.scale)  # P(x >= k w), or P(x < k w)
            first = first + side * tail
            second = second + 2 * (k - 0.5 - c).abs() * tail
        return (c + first) * w, (second - first.square()) * w**2

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The level nearest to a draw from the logistic."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
            return self.levels.nearest(self.loc + self.scale * torch.logit(u)) / self.levels.last
