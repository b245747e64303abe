"""The evidence lower bound, with a weight on its KL."""

from collections.abc import Callable
from typing import Any

import pyro.infer
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyrovae.handlers import plate_size, scale_latents
from pyrovae.objectives.schedules import Constant, Schedule
from pyrovae.programs import Program


class ELBO(pyro.infer.ELBO):
    """-ELBO_beta = -1/N sum_n E_q[log p(x_n|z)] - beta E_q[log q(z|x_n) - log p(z)], in nats per datum.

    N is the size of plate "data"; beta = 1 is the bound on log p(x), any other weight is the beta-VAE's objective
    (Higgins et al. 2017). beta multiplies the latent sites of both programs, which know nothing of it.

    Args:
        beta: a number >= 0, or a schedule (`WarmUp`, `Cyclic`): a function of `step`, which counts the calls of
            `loss_and_grads`. `loss` and `differentiable_loss` use the present beta and count nothing.
        estimator: Pyro's: Trace_ELBO() samples the KL, TraceMeanField_ELBO() takes it in closed form where it can,
            TraceEnum_ELBO() sums over enumerated sites.

    Raises:
        ValueError: beta < 0 or not finite; an estimator without a differentiable loss; programs without plate "data".
    """

    def __init__(self, beta: float | Schedule = 1.0, estimator: pyro.infer.ELBO | None = None) -> None:
        super().__init__()
        self.schedule: Schedule = beta if isinstance(beta, Schedule) else Constant(beta)
        self.estimator: Any = estimator or Trace_ELBO()
        # What changes from step to step is a tensor: a graph of the step reads it, where it would keep a number.
        fixed = isinstance(self.schedule, Constant)
        self.weight: float | Tensor = self.schedule.final if fixed else torch.zeros((), dtype=torch.float64)
        self.step = 0
        if not hasattr(self.estimator, "differentiable_loss"):
            raise ValueError(
                "estimator: expected one with a differentiable_loss (Trace_ELBO, TraceMeanField_ELBO, "
                f"TraceEnum_ELBO), found {type(self.estimator).__name__}; where the weights stand inside a "
                "logarithm, beta has no meaning: give such an estimator to SVI as it is"
            )

    @property
    def step(self) -> int:
        """The steps that were taken."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        if isinstance(self.weight, Tensor):
            self.weight.fill_(self.beta)

    @property
    def beta(self) -> float:
        """The weight of the KL at the present step."""
        return self.schedule(self.step)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The present loss, as a number. Nats per datum."""
        with torch.no_grad():
            return float(self._per_datum(self.estimator.loss, self.weight, model, guide, *args, **kwargs))

    def final_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss at the beta that the schedule leads to: comparable from the first epoch to the last."""
        with torch.no_grad():
            return float(self._per_datum(self.estimator.loss, self.schedule.final, model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The present loss, with gradients. Nats per datum."""
        return self._per_datum(self.estimator.differentiable_loss, self.weight, model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The present loss, with its gradients added to the parameters' .grad; one step on in the schedule."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        self.step += 1
        return loss.item()

    def _per_datum(
        self, total: Callable[..., Any], beta: float | Tensor, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Any:
        data = plate_size("data")
        weighted = [scale_latents(beta)(program) for program in (model, guide)]
        loss = total(data(weighted[0]), weighted[1], *args, **kwargs)
        if data.size is None:
            raise ValueError('expected programs with a plate named "data" over their rows, found none in the model')
        return loss / data.size

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        return self.estimator._get_trace(model, guide, args, kwargs)
