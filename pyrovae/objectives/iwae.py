"""The importance-weighted bound."""

from typing import Any

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.objectives.objective import Objective
from pyrovae.programs.assumptions import laid_out
from pyrovae.programs.pair import Program
from pyrovae.programs.traces import (
    at,
    check_latents,
    check_pathwise,
    detached,
    draw,
    log_mean_exp,
    log_prob,
    log_weight,
    log_weights,
    model_at,
    over,
    replayed,
    rescored,
    sites,
)


class IWAE(Objective):
    """L = -1/N sum_n E[log 1/K sum_k p(x_n, z_k) / q(z_k|x_n)], z_k ~ q(z|x_n).  (Burda et al. 2016)

    With more particles the bound rises towards log p(x), but the signal-to-noise ratio of the encoder's gradient falls
    (Rainforth et al. 2018). `dreg` uses the doubly reparametrised gradient, which has the same mean and does not have
    this problem (Tucker et al. 2019).

    Args:
        k: number of particles K.
        dreg: the encoder's gradient is sum_k w_k^2 d log w_k / dz_k dz_k/dphi, with w_k the normalised weights.

    Raises:
        ValueError: dreg without latents, or with a latent that is not a differentiable function of the guide's
            parameters.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import IWAE
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> round(IWAE(k=10).loss(vae.model, vae.guide, x), 4)  # 6 log 2
        4.1589
    """

    def __init__(self, k: int = 5, dreg: bool = False) -> None:
        super().__init__()
        self.k, self.dreg = checks.integer("k", k), bool(dreg)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        if self.dreg and torch.is_grad_enabled():
            with laid_out(model, guide, *args, **kwargs):
                return -self._doubly_reparametrised(model, guide, *args, **kwargs).mean()
        return -log_mean_exp(log_weights(model, guide, self.k, *args, **kwargs))[0].mean()

    def _doubly_reparametrised(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The bound (N,). Its gradient has the factor w_k for the model's parameters, and w_k^2 for the guide's."""
        q = draw(guide, self.k, *args, **kwargs)
        check_latents(q, "dreg")
        check_pathwise(q, "dreg")
        share: list[Tensor] = []

        def weighted(z: Tensor) -> Tensor:
            again = z.clone()
            if again.requires_grad:
                again.register_hook(lambda gradient: gradient * over(share[0], gradient))
            return again

        latents = at(q, {name: weighted(site["value"]) for name, site in sites(q, False).items()})
        p = model_at(model, latents, self.k, *args, **kwargs)
        path, score = (
            rescored(moved, lambda trace: replayed(guide, trace, self.k, *args, **kwargs))
            for moved in (latents, detached(q))
        )
        log_q = log_prob(score, False)
        log_w = log_weight(path, p) + log_q - log_q.detach()
        share.append(log_w.detach().softmax(0))
        surrogate = (share[0] * log_w).sum(0)
        return log_mean_exp(log_w.detach())[0] + surrogate - surrogate.detach()


class Renyi(Objective):
    """L = -1/N sum_n 1/(1 - a) E[log 1/K sum_k (p(x_n, z_k) / q(z_k|x_n))^(1 - a)].  (Li & Turner 2016)

    a = 0 gives the importance-weighted bound; a -> 1 gives the ELBO; a > 1 gives most weight to the particles where q
    exceeds p most.

    Args:
        alpha: a, any number except 1.
        k: number of particles K.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import Renyi
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> round(Renyi(alpha=0.5, k=10).loss(vae.model, vae.guide, x), 4)  # 6 log 2
        4.1589
    """

    def __init__(self, alpha: float = 0.5, k: int = 5) -> None:
        super().__init__()
        self.alpha, self.k = checks.number("alpha", alpha), checks.integer("k", k)
        if abs(1 - alpha) < 1e-3:  # nearer to 1 the result would be mostly rounding error
            raise ValueError(f"alpha: expected a number other than 1, for which use objectives.ELBO, found {alpha}")

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        log_w = log_weights(model, guide, self.k, *args, **kwargs)
        return -(log_mean_exp((1 - self.alpha) * log_w)[0] / (1 - self.alpha)).mean()
