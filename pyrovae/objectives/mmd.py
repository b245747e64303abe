"""The ELBO with a penalty on the distance of the aggregate posterior from the prior."""

from typing import Any

from torch import Tensor

from pyrovae import checks
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs.pair import Program
from pyrovae.programs.traces import check_latents, check_pathwise, log_prob, sites, traces


class MMD(Objective):
    """L = -E[log p(x|z)] + beta KL(q(z|x) || p(z)) + weight MMD^2(q(z), p(z)): InfoVAE, and WAE at beta = 0.

    MMD^2 = E k(z, z') + E k(y, y') - 2 E k(z, y), estimated without bias from draws z of the batch's q(z|x_n) and y of
    the prior, with k(a, b) = c / (c + |a - b|^2), c twice the number of latents. In the notation of Zhao, Song & Ermon
    (2019), beta = 1 - alpha and weight = alpha + lambda - 1. The MMD has no unit; `weight` converts it to nats. It is 0
    for a batch of one row. A learned prior without reparametrised draws (a mixture) is trained by the KL alone.

    Args:
        weight: weight of the MMD.
        beta: a number >= 0, or a schedule.

    Raises:
        ValueError: there are no latents, or one is not a differentiable function of the guide's parameters (a class y).

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import MMD
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> round(MMD(weight=0.0, beta=1.0).loss(vae.model, vae.guide, x), 4)  # the ELBO, 6 log 2
        4.1589
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
    """The unbiased estimate of MMD^2 from two samples (N, ...); 0 if N = 1, when there is no estimate."""
    if len(z) < 2:
        return z.new_zeros(())
    z, y = z.flatten(1), y.flatten(1)
    c, n = 2.0 * z.shape[1], len(z)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return c / (c + (a.unsqueeze(1) - b).square().sum(-1))

    within = sum((kernel(a, a).sum() - n) / (n * (n - 1)) for a in (z, y))
    return within - 2 * kernel(z, y).mean()
