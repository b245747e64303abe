"""The ELBO with a decomposition of its KL."""

import math
from typing import Any

from torch import Tensor
from torch.distributions import Independent

from pyrovae import checks
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs.pair import Program
from pyrovae.programs.traces import log_prob, sites, traces


class TotalCorrelation(Objective):
    """L = -E[log p(x|z)] + information I(x; z) + beta KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j)).

    This is the beta-TC-VAE (Chen et al. 2018): beta penalises only the dependence between the latents. q(z) is the mean
    of q(z|x_n) over the batch; the paper's estimate for all N data differs by a constant factor, which has no gradient.
    At beta = 1 the loss is the ELBO. If the prior's latents are not independent, the last term is
    E log prod_j q(z_j) / p(z).

    Args:
        beta: a number >= 0, or a schedule.
        information: weight of I(x; z).

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import TotalCorrelation
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> round(TotalCorrelation(beta=6.0).loss(vae.model, vae.guide, x), 4)  # 6 log 2
        4.1589
    """

    def __init__(self, beta: float | Schedule = 6.0, information: float = 1.0) -> None:
        super().__init__(beta)
        self.information = checks.number("information", information, 0)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        q, p = traces(model, guide, 1, *args, **kwargs)
        z, q_z = _only_site(q)
        log_q_ij = q_z.base_dist.log_prob(z.unsqueeze(1)).flatten(2)  # log q(z_ij | x_n): (rows i, rows n, latents j)
        rows = len(z)
        aggregate = log_q_ij.sum(-1).logsumexp(1) - math.log(rows)
        marginals = (log_q_ij.logsumexp(1) - math.log(rows)).sum(-1)
        log_q, log_p = log_prob(q, False)[0], log_prob(p, False)[0]
        parts = self.information * (log_q - aggregate) + number * (aggregate - marginals) + marginals - log_p
        return (parts - log_prob(p, True)[0]).mean()


def _only_site(q: Any) -> tuple[Tensor, Any]:
    """The value (N, *latent_shape) and the distribution (1, N) of the only latent site."""
    latents = sites(q, False)
    fn = next(iter(latents.values()))["fn"] if len(latents) == 1 else None
    if not isinstance(fn, Independent) or fn.base_dist.event_shape:
        what = type(fn).__name__ if len(latents) == 1 else f"{len(latents)} latent sites"
        raise ValueError(f"TotalCorrelation: expected one latent site of independent latents, found {what}")
    return next(iter(latents.values()))["value"][0], fn
