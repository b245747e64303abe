"""The logistic likelihood of grey levels."""

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks, distributions
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import grey_levels
from pyrovae.likelihoods.scale import scaling


class DiscretizedLogistic(Likelihood):
    """P(x|h) = prod_i sigmoid((x_i + w/2 - m_i)/s_i) - sigmoid((x_i - w/2 - m_i)/s_i), for x_i in {0, w, 2w, ..., 1}.

    w = 1/(levels - 1), which is 1/255 for bytes; the lowest and the highest level contain the tails.
    (Kingma et al. 2016; Salimans et al. 2017)

    Args:
        event_shape: event shape of x.
        scale, learn, min_scale: the options of s, in the units of x; as in `Normal`, without "optimal".
        levels: number of grey levels.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import DiscretizedLogistic
        >>> p = DiscretizedLogistic(event_shape=1, levels=4)(torch.tensor([0.3]))
        >>> levels = torch.arange(4.0).unsqueeze(-1) / 3
        >>> round(p.log_prob(levels).exp().sum().item(), 4)  # the probabilities of all levels
        1.0
    """

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        scale: float = 0.1,
        learn: Literal["one", "per-value", "per-input"] | None = "one",
        min_scale: float = 1e-3,
        levels: int = 256,
    ) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        self.levels = checks.integer("levels", levels, 2)
        self.measure, self.advice = grey_levels(levels), advice(levels)
        self.scaling = scaling(self.event_shape, scale, learn, min_scale)
        self.param_shape = self.scaling.param_shape

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        m, s = self.scaling(h)
        return distributions.DiscretizedLogistic(m, s, self.levels).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}, levels={self.levels}"


def advice(levels: int) -> str:
    """The advice for data that do not lie on these levels."""
    return (
        f". Choose as many levels as the data have (bytes: levels=256, here {levels}), give values k/(levels - 1), or "
        "bytes as uint8 with binarize='none'; or use a likelihood for continuous values (likelihoods.Normal)"
    )
