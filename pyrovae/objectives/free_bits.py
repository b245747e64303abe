"""The ELBO with a free allowance of KL."""

from typing import Any

from torch import Tensor

from pyrovae import checks
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs.pair import Program
from pyrovae.programs.traces import averaged, check_pathwise, is_enumerated, kl, log_prob, sites, traces


class FreeBits(Objective):
    """L = -1/N sum_n E_q[log p(x_n|z)] + beta sum_j max(free, 1/N sum_n KL_j(x_n)).  (Kingma et al. 2016)

    A latent j costs nothing below its allowance, so none needs to die early in training. Where the KL does not fall
    apart into latents in closed form, a latent site is one group, with the allowance of all its latents. It sums over
    latents that the guide enumerates, each of which is one latent.

    Args:
        free: the allowance, in nats per latent.
        beta: a number >= 0, or a schedule.
    """

    def __init__(self, free: float = 0.1, beta: float | Schedule = 1.0) -> None:
        super().__init__(beta)
        self.free = checks.number("free", free, 0)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        q, p = traces(model, guide, 1, *args, enumerated=True, **kwargs)
        check_pathwise(q, "FreeBits")
        cost: Any = 0.0
        for name, each in kl(q, p)[0].items():
            site = sites(q, False)[name]
            size = 1 if each.ndim > 2 or is_enumerated(site) else site["fn"].event_shape.numel()
            cost = cost + each.flatten(0, 1).mean(0).clamp(min=self.free * size).sum()
        return number * cost - averaged(q, log_prob(p, True)).mean()
