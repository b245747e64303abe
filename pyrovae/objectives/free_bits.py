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

    The KL of latent j has no gradient below its allowance, so that latents stay active early in training. If the KL has
    no closed form for each latent, a latent site is one group, with the allowance of all its latents. Latents that the
    guide enumerates are summed out; each counts as one latent.

    Args:
        free: the allowance, in nats per latent.
        beta: a number >= 0, or a schedule.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import FreeBits
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> round(FreeBits(free=0.5).loss(vae.model, vae.guide, x), 4)  # 6 log 2 + 2 * 0.5
        5.1589
    """

    def __init__(self, free: float = 0.1, beta: float | Schedule = 1.0) -> None:
        super().__init__(beta)
        self.free = checks.number("free", free, 0)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        q, p = traces(model, guide, 1, *args, enumerated=True, **kwargs)
        check_pathwise(q, "FreeBits")
        cost: Any = 0.0
        for name, site_kl in kl(q, p)[0].items():
            site = sites(q, False)[name]
            size = 1 if site_kl.ndim > 2 or is_enumerated(site) else site["fn"].event_shape.numel()
            cost = cost + site_kl.flatten(0, 1).mean(0).clamp(min=self.free * size).sum()
        return number * cost - averaged(q, log_prob(p, True)).mean()
