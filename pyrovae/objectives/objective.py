"""The contract of an objective: a loss of two programs in nats per datum, with a number that may follow a schedule."""

import inspect
from typing import Any

import pyro.infer
import torch
from torch import Tensor

from pyrovae.objectives.schedules import Constant, Schedule
from pyrovae.programs.pair import Program


class Objective(pyro.infer.ELBO):
    """L = value(number, model, guide, x), in nats per datum: the base class of all objectives.

    Derive your own objective from this class and define `value`. You can pass it as `loss=` to Pyro's SVI or to ours.

    Args:
        number: the number that `scheduled` names (beta, or a capacity): a number >= 0, or a schedule (`WarmUp`,
            `Cyclic`). A schedule is a function of `step`, which counts the calls of `loss_and_grads`. `loss` and
            `differentiable_loss` use the present number and do not count.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import Objective, WarmUp
        >>> class SquaredNorm(Objective):
        ...     def value(self, number, model, guide, x):
        ...         return number * guide(x).square().sum(-1).mean()
        >>> vae, objective = VAE(event_shape=6, latent_dim=2), SquaredNorm(WarmUp(steps=2))
        >>> [objective.loss_and_grads(vae.model, vae.guide, torch.ones(4, 6)) > 0 for _ in range(3)]  # starts at 0
        [False, True, True]
    """

    scheduled = "beta"

    def __init__(self, number: float | Schedule = 1.0) -> None:
        super().__init__()
        self.schedule: Schedule = number if isinstance(number, Schedule) else Constant(number)
        # A number that changes is a tensor: a recorded graph reads a tensor at each step, but keeps a Python number.
        fixed = isinstance(self.schedule, Constant)
        self.number: float | Tensor = self.schedule.final if fixed else torch.zeros((), dtype=torch.float64)
        self.step = 0

    def __repr__(self) -> str:
        options = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in options)})"

    @property
    def beta(self) -> float | Schedule:
        """The weight of the KL, as passed to the constructor."""
        return self.schedule.final if isinstance(self.schedule, Constant) else self.schedule

    @property
    def step(self) -> int:
        """The number of steps taken so far."""
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
        """The loss at this scheduled number; differentiable if gradients are enabled. Nats per datum."""
        raise NotImplementedError

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The present loss, as a number. Nats per datum."""
        with torch.no_grad():
            return float(self.value(self.number, model, guide, *args, **kwargs))

    def final_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss at the schedule's final number, so that all epochs are comparable. Nats per datum."""
        with torch.no_grad():
            return float(self.value(self.schedule.final, model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The present loss, with gradients. Nats per datum."""
        return self.value(self.number, model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The present loss. Adds its gradients to the parameters' .grad, and advances the schedule by one step."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        self.step += 1
        return loss.item()

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        return pyro.infer.Trace_ELBO()._get_trace(model, guide, args, kwargs)
