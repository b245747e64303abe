"""Reweighted wake-sleep."""

from typing import Any

from torch import Tensor

from pyrovae import checks
from pyrovae.objectives.objective import Objective
from pyrovae.programs.assumptions import laid_out
from pyrovae.programs.pair import Program
from pyrovae.programs.traces import check_latents, detached, draw, log_mean_exp, log_prob, model_at, replayed, rescored


class ReweightedWakeSleep(Objective):
    """L = -1/N sum_n log 1/K sum_k w_nk for the model, -1/N sum_nk w_nk log q(z_k|x_n) for the guide (w normalised).

    w_nk = p(x_n, z_k) / q(z_k|x_n), with the draws held constant, so no latent has to be reparametrised. Each datum has
    its own weights; pyro.infer.ReweightedWakeSleep has one weight for the whole batch. The value is the model's part.
    (Bornschein & Bengio 2015: the wake phase of both)

    Args:
        k: number of particles K.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.objectives import ReweightedWakeSleep
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(4, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> round(ReweightedWakeSleep(k=10).loss(vae.model, vae.guide, x), 4)  # 6 log 2
        4.1589
    """

    def __init__(self, k: int = 5) -> None:
        super().__init__()
        self.k = checks.integer("k", k)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        with laid_out(model, guide, *args, **kwargs):
            return self._bound(model, guide, *args, **kwargs)

    def _bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        latents = detached(draw(guide, self.k, *args, **kwargs))
        check_latents(latents, "ReweightedWakeSleep")
        q = rescored(latents, lambda trace: replayed(guide, trace, self.k, *args, **kwargs))
        log_q = log_prob(q, False)
        p = model_at(model, latents, self.k, *args, **kwargs)
        log_w = log_prob(p, True) + log_prob(p, False) - log_q.detach()
        wake_guide = (log_w.detach().softmax(0) * log_q).sum(0)
        return -(log_mean_exp(log_w)[0] + wake_guide - wake_guide.detach()).mean()
