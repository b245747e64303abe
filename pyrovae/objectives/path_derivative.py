"""The ELBO with the path-derivative gradient."""

from typing import Any

from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyrovae.programs.pair import Program
from pyrovae.programs.traces import check_latents, check_pathwise, detached, rescored


class PathDerivative_ELBO(Trace_ELBO):
    """grad = E[d/dz (log p(x, z) - log q(z|x)) dz/dphi]: the score d/dphi log q at fixed z, with mean 0, is omitted.

    The value is that of Trace_ELBO. The score is the gradient of the guide's log-density at its own latents, which are
    held constant; it is subtracted. So the guide must be able to score values that it did not draw.
    (Roeder, Wu & Duvenaud 2017)
    """

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        def again(latents: Trace) -> Trace:
            return poutine.trace(poutine.replay(guide, trace=latents)).get_trace(*args, **kwargs)

        loss: Any = 0.0
        for p, q in self._get_traces(model, guide, args, kwargs):
            check_latents(q, "the path derivative")
            check_pathwise(q, "the path derivative")
            score: Any = rescored(detached(q), again).log_prob_sum()
            loss += (q.log_prob_sum() - p.log_prob_sum() - score + score.detach()) / self.num_particles
        return loss
