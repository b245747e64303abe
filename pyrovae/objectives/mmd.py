"""The ELBO with the aggregated posterior drawn to the prior."""

from typing import Any

from torch import Tensor

from pyrovae import checks
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs.pair import Program
from pyrovae.programs.traces import check_latents, check_pathwise, log_prob, sites, traces


class MMD(Objective):
    """L = -E[log p(x|z)] + beta KL(q(z|x) || p(z)) + weight MMD^2(q(z), p(z)): InfoVAE, and WAE at beta = 0.

    MMD^2 = E k(z, z') + E k(y, y') - 2 E k(z, y) for draws z of the batch's q(z|x_n) and y of the prior, without bias,
    with k(a, b) = c / (c + |a - b|^2), c twice the number of latents. In the letters of Zhao, Song & Ermon (2019)
    beta = 1 - alpha and weight = alpha + lambda - 1. The MMD is no number of nats: `weight` makes it one. A batch of
    one row has none. A learned prior without reparametrised draws (a mixture) learns from the KL alone.

    Args:
        weight: of the MMD.
        beta: a number >= 0, or a schedule.

    Raises:
        ValueError: no latents; one that is no differentiable function of the guide's parameters (a class y).
    """

    def __init__(self, weight: float = 10.0, beta: float | Schedule = 0.0) -> None:
        super().__init__(beta)
        self.weight = checks.number("weight", weight, 0)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        q, p = traces(model, guide, 1, *args, **kwargs)
        check_latents(q, "MMD")
        check_pathwise(q, "MMD")
        distance: Any = 0.0
        for name, site in sites(q, False).items():
            p_z: Any = p.nodes[name]["fn"]
            p_z = p_z.expand(site["log_prob"].shape)
            y = p_z.rsample() if p_z.has_rsample else p_z.sample()
            distance = distance + mmd(site["value"][0], y[0])
        cost = number * (log_prob(q, False) - log_prob(p, False)).mean()
        return cost + self.weight * distance - log_prob(p, True).mean()


def mmd(z: Tensor, y: Tensor) -> Tensor:
    """MMD^2 of two samples (N, ...), without bias; 0 where N = 1, which tells nothing."""
    if len(z) < 2:
        return z.new_zeros(())
    z, y = z.flatten(1), y.flatten(1)
    c, n = 2.0 * z.shape[1], len(z)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return c / (c + (a.unsqueeze(1) - b).square().sum(-1))

    within = sum((kernel(a, a).sum() - n) / (n * (n - 1)) for a in (z, y))
    return within - 2 * kernel(z, y).mean()
