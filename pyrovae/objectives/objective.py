"""What every objective is: a loss of two programs in nats per datum, with one number in it that may change."""

import inspect
from typing import Any

import pyro.infer
import torch
from torch import Tensor

from pyrovae.objectives.schedules import Constant, Schedule
from pyrovae.programs.pair import Program


class Objective(pyro.infer.ELBO):
    """A new one says only its `value`; the rest is its use as `loss=` of an SVI, Pyro's or ours.

    Args:
        number: what `scheduled` names: a number >= 0, or a schedule (`WarmUp`, `Cyclic`): a function of `step`, which
            counts the calls of `loss_and_grads`. `loss` and `differentiable_loss` use the present number and count
            nothing.
    """

    scheduled = "beta"

    def __init__(self, number: float | Schedule = 1.0) -> None:
        super().__init__()
        self.schedule: Schedule = number if isinstance(number, Schedule) else Constant(number)
        # What changes from step to step is a tensor: a graph of the step reads it, where it would keep a number.
        fixed = isinstance(self.schedule, Constant)
        self.number: float | Tensor = self.schedule.final if fixed else torch.zeros((), dtype=torch.float64)
        self.step = 0

    def __repr__(self) -> str:
        options = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in options)})"

    @property
    def beta(self) -> float | Schedule:
        """The weight of the KL as it was given."""
        return self.schedule.final if isinstance(self.schedule, Constant) else self.schedule

    @property
    def step(self) -> int:
        """The steps that were taken."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        if isinstance(self.number, Tensor):
            self.number.fill_(self.now)

    @property
    def now(self) -> float:
        """The scheduled number at the present step."""
        return self.schedule(self.step)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """The loss at this scheduled number; differentiable where gradients are on. Nats per datum."""
        raise NotImplementedError

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The present loss, as a number. Nats per datum."""
        with torch.no_grad():
            return float(self.value(self.number, model, guide, *args, **kwargs))

    def final_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss at the number that the schedule leads to: comparable from the first epoch to the last."""
        with torch.no_grad():
            return float(self.value(self.schedule.final, model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The present loss, with gradients. Nats per datum."""
        return self.value(self.number, model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The present loss, with its gradients added to the parameters' .grad; one step on in the schedule."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        self.step += 1
        return loss.item()

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        return pyro.infer.Trace_ELBO()._get_trace(model, guide, args, kwargs)
