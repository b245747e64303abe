"""The ELBO with a target value of the KL."""

from typing import Any

from torch import Tensor

from pyrovae import checks
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.schedules import Schedule, WarmUp
from pyrovae.programs.pair import Program
from pyrovae.programs.traces import averaged, check_latents, check_pathwise, kl, log_prob, traces


class Capacity(Objective):
    """L = -1/N sum_n E_q[log p(x_n|z)] + gamma |1/N sum_n KL(q(z|x_n) || p(z)) - C|.  (Burgess et al. 2018)

    Latents that the guide enumerates are summed out.

    Args:
        capacity: C, in nats; a number >= 0, or a schedule. In the paper it rises from 0.
        gamma: the weight.
        steps: number of steps in which C rises from 0, if `capacity` is a number.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import Capacity
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> round(Capacity(capacity=10.0, gamma=1.0).loss(vae.model, vae.guide, x), 4)  # 6 log 2 + |0 - 10|
        14.1589
    """

    scheduled = "capacity"

    def __init__(self, capacity: float | Schedule = 10.0, gamma: float = 30.0, steps: int = 0) -> None:
        if steps and isinstance(capacity, Schedule):
            raise ValueError(f"steps: expected 0 if the capacity is a schedule, found {steps}")
        super().__init__(WarmUp(steps, capacity) if steps else capacity)  # type: ignore[arg-type]
        self.capacity, self.gamma = self.schedule, checks.number("gamma", gamma, 0)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        q, p = traces(model, guide, 1, *args, enumerated=True, **kwargs)
        check_latents(q, "Capacity")
        check_pathwise(q, "Capacity")
        total: Any = sum(site_kl.flatten(0, 1).mean(0).sum() for site_kl in kl(q, p)[0].values())
        return self.gamma * (total - number).abs() - averaged(q, log_prob(p, True)).mean()
