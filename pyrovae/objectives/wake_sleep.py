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

    w_nk = p(x_n, z_k) / q(z_k|x_n) at draws that are constants: no latent needs to be reparametrised. The weights are
    each datum's own; pyro.infer.ReweightedWakeSleep has one for the whole batch. The value is the model's part.
    (Bornschein & Bengio 2015: wake phase of both)

    Args:
        k: particles K.
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
