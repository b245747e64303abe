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
    """TraceMeanField_ELBO with an error for the programs for which it is wrong (Pyro's class only warns).

    If the guide draws z2 given z1, then KL(q(z1|x) || p(z1|z2)) at that z2 is not a term of the KL. It is enough that
    both programs draw the latents in the same order. The order of independent latents is free, so the guide can draw
    them in the model's order.
    """

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        p, q = Trace_ELBO._get_trace(self, model, guide, args, kwargs)
        check_pathwise(q, "analytic")
        needed = [name for name in sites(p, False) if name in q]
        drawn = [name for name in sites(q, False) if name in p]
        if drawn != needed:
            raise ValueError(
                f"analytic: expected a guide that draws the latents in the model's order, {', '.join(needed)}, "
                f"found {', '.join(drawn)}: the sum of closed forms is then not the KL. Draw them in that order, "
                'or choose estimator="sampled" (or "path-derivative")'
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

    N is the number of rows in plate "data". beta = 1 gives the bound on log p(x); any other value gives the beta-VAE's
    objective (Higgins et al. 2017). The objective scales the latent sites of both programs by beta; the programs
    themselves do not contain it.

    Args:
        beta: a number >= 0, or a schedule.
        estimator: "sampled" samples the KL; "analytic" uses its closed form if torch has one, and samples it otherwise;
            "path-derivative" samples it and omits the score from its gradient (Roeder, Wu & Duvenaud 2017: no variance
            if q is the posterior); "enumerated" sums over the values of each latent that the guide marks with
            infer={"enumerate": "parallel"}; or an estimator of Pyro's.

    Raises:
        ValueError: beta is negative or not finite; the estimator has no differentiable loss; the programs have no plate
            "data"; the estimator is "analytic" and the guide draws the latents in another order than the model.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import ELBO
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> round(ELBO().loss(vae.model, vae.guide, x), 4)  # 6 log 2
        4.1589
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
                f"TraceEnum_ELBO), found {type(self.estimator).__name__}; if it has its weights inside a logarithm, "
                "beta is undefined: pass such an estimator to SVI directly"
            )

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        seen = noted()
        programs = [scale_latents(number)(scale_observed(self.reconstruction)(program)) for program in (model, guide)]
        # TraceEnum_ELBO.differentiable_loss fails under no_grad.
        total = self.estimator.differentiable_loss if torch.is_grad_enabled() else self.estimator.loss
        loss = total(seen(programs[0]), programs[1], *args, **kwargs)
        return loss / of_rows(seen.sites.values(), rows(args)).full_size

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        return self.estimator._get_trace(model, guide, args, kwargs)


class Reconstruction(ELBO):
    """L = -1/N sum_n E_q[log p(x_n|z)]: the ELBO at beta = 0. With the guide `Delta` it trains a plain autoencoder.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import Reconstruction
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> round(Reconstruction().loss(vae.model, vae.guide, x), 4)  # 6 log 2
        4.1589
    """

    def __init__(self) -> None:
        super().__init__(0.0)


class KL(ELBO):
    """L = beta/N sum_n KL(q(z|x_n) || p(z)): the ELBO without its data term. It trains every q(z|x) towards the prior.

    Args:
        beta, estimator: as in `ELBO`.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import KL
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> vae.encoder[-1].bias.data[0] = 1.0  # the mean of the first latent
        >>> round(KL(estimator="analytic").loss(vae.model, vae.guide, x), 4)  # KL(Normal(1, 1) || Normal(0, 1)) = 1/2
        0.5
    """

    reconstruction = 0.0
