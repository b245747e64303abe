"""The ELBO that asks for a certain KL."""

from typing import Any

from torch import Tensor

from pyrovae import checks
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.schedules import Schedule, WarmUp
from pyrovae.programs.pair import Program
from pyrovae.programs.traces import averaged, check_latents, check_pathwise, kl, log_prob, traces


class Capacity(Objective):
    """L = -1/N sum_n E_q[log p(x_n|z)] + gamma |1/N sum_n KL(q(z|x_n) || p(z)) - C|.  (Burgess et al. 2018)

    It sums over latents that the guide enumerates.

    Args:
        capacity: C, in nats; a number >= 0, or a schedule: the paper lets it rise from 0.
        gamma: the weight.
        steps: over which C rises from 0, where `capacity` is a number.
    """

    scheduled = "capacity"

    def __init__(self, capacity: float | Schedule = 10.0, gamma: float = 30.0, steps: int = 0) -> None:
        if steps and isinstance(capacity, Schedule):
            raise ValueError(f"steps: expected 0 where the capacity is a schedule, found {steps}")
        super().__init__(WarmUp(steps, capacity) if steps else capacity)  # type: ignore[arg-type]
        self.capacity, self.gamma = self.schedule, checks.number("gamma", gamma, 0)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        q, p = traces(model, guide, 1, *args, enumerated=True, **kwargs)
        check_latents(q, "Capacity")
        check_pathwise(q, "Capacity")
        total: Any = sum(each.flatten(0, 1).mean(0).sum() for each in kl(q, p)[0].values())
        return self.gamma * (total - number).abs() - averaged(q, log_prob(p, True)).mean()
