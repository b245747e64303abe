"""KL divergences that torch and Pyro lack."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, register_kl


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def _kl_to_a_diagonal_normal(q: Any, p: Independent) -> Tensor:
    """KL(q || p) = -E_q[log p] - H(q) for a diagonal normal p; it depends only on the mean and the variances of q."""
    if not isinstance(p.base_dist, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    squares = (q.mean - p.mean).square() + q.variance
    cross = squares / (2 * p.variance) + (2 * torch.pi * p.variance).log() / 2
    return cross.sum(-1) - q.entropy()
