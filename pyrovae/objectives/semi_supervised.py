"""Objectives for data of which only some rows are labelled."""

from typing import Any

import pyro.infer
from pyro import poutine

from pyrovae import checks
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs.pair import Program, needs_labels


class SemiSupervised(ELBO):
    """L = -ELBO(x, y) - alpha/N sum_n log q(y_n|x_n) for labelled rows, L = -ELBO(x) for unlabelled rows.

    Without the term with alpha, known labels would not train the classifier q(y|x), because the guide does not draw a
    known y. Kingma et al. (2014) set alpha to .1 times the number of rows over the number of labels; here it is the
    weight of one label.

    Args:
        alpha: weight of the classification loss of a labelled row, >= 0.
        beta, estimator: as in `ELBO`; "enumerated" sums over the values of a missing label.

    Raises:
        ValueError: as in `ELBO`; or the guide has no q(y|x).

    Example:
        >>> import torch
        >>> from pyrovae.models import SemiSupervisedVAE
        >>> from pyrovae.objectives import SemiSupervised
        >>> vae, x = SemiSupervisedVAE(event_shape=6, latent_dim=2, num_classes=4), torch.ones(3, 6)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()
        >>> y = vae.encode_labels(torch.tensor([0, 1, 2]))
        >>> round(SemiSupervised(alpha=1.0).loss(vae.model, vae.guide, x, y), 4)  # 6 log 2 + log 4, and alpha log 4
        6.9315
    """

    def __init__(
        self, alpha: float = 50.0, beta: float | Schedule = 1.0, estimator: str | pyro.infer.ELBO = "enumerated"
    ) -> None:
        super().__init__(beta, estimator)
        self.alpha = checks.number("alpha", alpha, 0)

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        bound = super().value(number, model, guide, *args, **kwargs)
        y = args[1] if len(args) > 1 else kwargs.get("y")
        if y is None:
            return bound
        trace: Any = {}
        if not needs_labels((model, guide)):
            trace = poutine.trace(poutine.condition(guide, {"y": y})).get_trace(args[0])
        if "y" not in trace:
            raise ValueError(
                'SemiSupervised: expected a guide(x, y=None) with a site "y" if labels are missing, found none'
            )
        return bound - self.alpha * trace.nodes["y"]["fn"].log_prob(y).mean()


class PartlyLabelled(Objective):
    """L = share L'(x, y) + (1 - share) L'(x'): the objective L' for a batch of labelled and unlabelled rows.

    The programs are called twice, with (x, y) and with x'. If the arguments are only x, or x and y, it equals L'.

    Args:
        of: L'.
        share: share of labelled rows in the data.
    """

    def __init__(self, of: Objective, share: float) -> None:
        super().__init__(of.schedule)
        self.of, self.share, self.scheduled = of, share, of.scheduled

    def value(self, number: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        *labelled, others = args
        if len(args) < 3:
            return self.of.value(number, model, guide, *args, **kwargs)
        with_labels = self.of.value(number, model, guide, *labelled, **kwargs)
        return self.share * with_labels + (1 - self.share) * self.of.value(number, model, guide, others, **kwargs)
