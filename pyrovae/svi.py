"""Stochastic variational inference with one torch optimiser for all parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyrovae.handlers import own_parameters
from pyrovae.programs import Program
from pyrovae.randomness import seeded


class SVI:
    """Signature and meaning of pyro.infer.SVI: `step` and `evaluate_loss`, in the units of the loss.

    Modules keep their own tensors, so models in one process never share any; after training, Pyro's store holds the
    values of the programs' own `pyro.param` sites and nothing else. A step whose loss or gradient is not finite
    changes no parameter, and is counted in `skipped`.

    Args:
        model, guide: Pyro programs.
        optim: from a list of parameters to a torch optimiser: torch.optim.Adam, or functools.partial of it.
        loss: `objectives.ELBO()`, or any of Pyro's ELBO estimators.
        clip: the largest norm of the gradient, to which a longer one is shortened.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
        loss: Any,
        clip: float | None = None,
    ) -> None:
        self.model, self.guide, self.optim, self.loss = model, guide, optim, loss
        self.clip = float("inf") if clip is None else clip
        self.parameters: dict[str, Tensor] = {}
        self.optimizer: Any = None
        self.skipped = 0

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Run both programs once on these arguments to find their parameters; no random number is used up."""
        with seeded(0), torch.no_grad(), own_parameters() as own:
            self.loss.loss(self.model, self.guide, *args, **kwargs)
        self._adopt(own.found)
        if self.optimizer is None:
            raise ValueError("expected programs with parameters to train, found none: no module is registered")

    def step(self, *args: Any, **kwargs: Any) -> float:
        """One gradient step; the loss before it."""
        with own_parameters() as own:
            loss = self.loss.loss_and_grads(self.model, self.guide, *args, **kwargs)
        self._adopt(own.found)
        assert self.optimizer is not None, "a loss without parameters cannot be stepped"
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
        if torch.isfinite(norm) and torch.isfinite(torch.as_tensor(loss)):
            self.optimizer.step()
        else:
            self.skipped += 1
        self.optimizer.zero_grad()
        return loss

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """The loss; nothing changes."""
        with torch.no_grad(), own_parameters():
            return self.loss.loss(self.model, self.guide, *args, **kwargs)

    def _adopt(self, found: dict[str, Tensor]) -> None:
        """Give the optimiser the parameters that it has not seen yet."""
        new = {name: value for name, value in found.items() if name not in self.parameters and value.requires_grad}
        if not new:
            return
        self.parameters.update(new)
        if self.optimizer is None:
            self.optimizer = self.optim(list(new.values()))
        else:
            self.optimizer.add_param_group({"params": list(new.values())})
