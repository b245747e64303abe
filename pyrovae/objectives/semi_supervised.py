"""Objectives where some labels are known, and some are not."""

from typing import Any

import pyro.infer
from pyro import poutine

from pyrovae import checks
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs.pair import Program, needs_labels


class SemiSupervised(ELBO):
    """L = -ELBO(x, y) - alpha/N sum_n log q(y_n|x_n) where labels are known, -ELBO(x) where they are not.

    Without its second term a label that is known teaches the classifier q(y|x) nothing: there the guide does not draw
    y. Kingma et al. (2014) write alpha as .1 times the rows over the labels; here it is the weight of one label.

    Args:
        alpha: weight of a known label's classification beside its bound, >= 0.
        beta, estimator: as in `ELBO`; "enumerated" sums over the values of a missing label.

    Raises:
        ValueError: as in `ELBO`; a guide that has no q(y|x).
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
                'SemiSupervised: expected a guide(x, y=None) that has a site "y" where labels are missing, found none'
            )
        return bound - self.alpha * trace.nodes["y"]["fn"].log_prob(y).mean()


class PartlyLabelled(Objective):
    """L = share L'(x, y) + (1 - share) L'(x'): an objective L' of rows with labels and of rows without.

    The programs are called twice. Called with x alone, or with x and y, it is L'.

    Args:
        of: L'.
        share: of the rows with labels in the data.
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
