"""The ELBO with its KL taken apart."""

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

    The beta-TC-VAE (Chen et al. 2018): beta presses on the dependence of the latents alone. q(z) is the mean of
    q(z|x_n) over the batch, as if that were all data: for N data in all, the paper's q(z) differs by a constant
    factor, which has no gradient. At beta = 1 it is the ELBO. Where the prior's latents are not independent, the last
    term is E log prod_j q(z_j) / p(z).

    Args:
        beta: a number >= 0, or a schedule.
        information: weight of I(x; z).
    """

    def __init__(self, beta: float | Schedule = 6.0, information: float = 1.0) -> None:
        super().__init__(beta)
        self.information = checks.number("information", information, 0)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        q, p = traces(model, guide, 1, *args, **kwargs)
        z, q_z = _only_site(q)
        each = q_z.base_dist.log_prob(z.unsqueeze(1)).flatten(2)  # log q(z_ij | x_n): (rows i, rows n, latents j)
        rows = len(z)
        aggregate = each.sum(-1).logsumexp(1) - math.log(rows)
        marginals = (each.logsumexp(1) - math.log(rows)).sum(-1)
        log_q, log_p = log_prob(q, False)[0], log_prob(p, False)[0]
        parts = self.information * (log_q - aggregate) + number * (aggregate - marginals) + marginals - log_p
        return (parts - log_prob(p, True)[0]).mean()


def _only_site(q: Any) -> tuple[Tensor, Any]:
    """Its value (N, *latent_shape) and its distribution (1, N)."""
    found = sites(q, False)
    fn = next(iter(found.values()))["fn"] if len(found) == 1 else None
    if not isinstance(fn, Independent) or fn.base_dist.event_shape:
        what = type(fn).__name__ if len(found) == 1 else f"{len(found)} latent sites"
        raise ValueError(f"TotalCorrelation: expected one latent site of independent latents, found {what}")
    return next(iter(found.values()))["value"][0], fn
