"""The evidence lower bound, with a weight on its KL, and its two parts."""

from functools import partial
from typing import Any

import pyro.infer
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pyrovae import checks
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.path_derivative import PathDerivative_ELBO
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs.handlers import scale_latents, scale_observed
from pyrovae.programs.pair import Program
from pyrovae.programs.particles import rows
from pyrovae.programs.plates import noted, of_rows
from pyrovae.programs.traces import check_pathwise, sites


class Analytic_ELBO(TraceMeanField_ELBO):
    """TraceMeanField_ELBO, refusing the programs of which it only warns, and for which it is wrong.

    Where the guide draws z1 and then z2 from it, KL(q(z1|x) || p(z1|z2)) at that z2 is no part of the KL. One order
    in both programs is enough; latents that do not depend on each other could stand in any, and so in that one, too.
    """

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        p, q = Trace_ELBO._get_trace(self, model, guide, args, kwargs)
        check_pathwise(q, "analytic")
        needed = [name for name in sites(p, False) if name in q]
        drawn = [name for name in sites(q, False) if name in p]
        if drawn != needed:
            raise ValueError(
                f"analytic: expected a guide that draws the latents in the model's order, {', '.join(needed)}, "
                f"found {', '.join(drawn)}: there the closed forms are not the KL. Draw them in that order, or choose "
                'estimator="sampled" (or "path-derivative")'
            )
        return p, q


ESTIMATORS: dict[str, Any] = {
    "sampled": Trace_ELBO,
    "analytic": Analytic_ELBO,
    "path-derivative": PathDerivative_ELBO,
    "enumerated": partial(TraceEnum_ELBO, max_plate_nesting=1, strict_enumeration_warning=False),
}


class ELBO(Objective):
    """-ELBO_beta = -1/N sum_n E_q[log p(x_n|z)] - beta E_q[log q(z|x_n) - log p(z)], in nats per datum.

    N is the number of rows in plate "data", as the sites' scores have them; beta = 1 is the bound on log p(x), any
    other weight is the beta-VAE's objective (Higgins et al. 2017). beta multiplies the latent sites of both programs,
    which know nothing of it.

    Args:
        beta: a number >= 0, or a schedule.
        estimator: "sampled"; "analytic" takes the KL in closed form where torch knows one, and samples it where not;
            "path-derivative" samples it and leaves the score out of its gradient (Roeder, Wu & Duvenaud 2017: no
            variance where q is the posterior); "enumerated" sums over the values of each latent that the guide marks
            with infer={"enumerate": "parallel"}; or one of Pyro's.

    Raises:
        ValueError: beta < 0 or not finite; an estimator without a differentiable loss; programs without plate "data";
            "analytic" where the guide draws the latents in another order than the model.
    """

    reconstruction = 1.0

    def __init__(self, beta: float | Schedule = 1.0, estimator: str | pyro.infer.ELBO = "sampled") -> None:
        super().__init__(beta)
        if isinstance(estimator, str):
            estimator = ESTIMATORS[checks.member("estimator", estimator, ESTIMATORS)]()
        self.estimator: Any = estimator
        if not hasattr(self.estimator, "differentiable_loss"):
            raise ValueError(
                "estimator: expected one with a differentiable_loss (Trace_ELBO, TraceMeanField_ELBO, "
                f"TraceEnum_ELBO), found {type(self.estimator).__name__}; where the weights stand inside a "
                "logarithm, beta has no meaning: give such an estimator to SVI as it is"
            )

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        seen = noted()
        weighted = [scale_latents(number)(scale_observed(self.reconstruction)(each)) for each in (model, guide)]
        # Under no_grad TraceEnum_ELBO has no differentiable loss.
        total = self.estimator.differentiable_loss if torch.is_grad_enabled() else self.estimator.loss
        loss = total(seen(weighted[0]), weighted[1], *args, **kwargs)
        return loss / of_rows(seen.sites.values(), rows(args)).full_size

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        return self.estimator._get_trace(model, guide, args, kwargs)


class Reconstruction(ELBO):
    """L = -1/N sum_n E_q[log p(x_n|z)]: the ELBO at beta = 0, where a guide of one point is a plain autoencoder."""

    def __init__(self) -> None:
        super().__init__(0.0)


class KL(ELBO):
    """L = beta/N sum_n KL(q(z|x_n) || p(z)): the ELBO without the data. It trains every q(z|x) to be the prior.

    Args:
        beta, estimator: as in `ELBO`.
    """

    reconstruction = 0.0
