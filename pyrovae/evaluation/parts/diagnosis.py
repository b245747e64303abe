"""Is the guide close to the posterior?"""

from contextlib import suppress

from pyrovae import plots
from pyrovae.data import Split, subset
from pyrovae.evaluation import diagnostics, pareto_k
from pyrovae.evaluation.evaluate import gaps
from pyrovae.evaluation.parts.part import Figures, Line, Numbers, Part
from pyrovae.programs.pair import Programs


class Diagnosis(Part):
    """k-hat, effective samples, KL to the posterior, the gaps, and a verdict: `diagnose`.

    Args:
        particles: number of draws for k-hat.
        steps: steps of refinement, for the gaps.
    """

    name = "diagnosis"
    lines = (
        Line("k.unusable", "k-hat above {k.threshold:.2f}: importance sampling fails", "rows of {rows}"),
        Line("k.median", "median k-hat"),
        Line("k.largest", "largest k-hat"),
        Line("ess", "effective sample size", "of {particles} draws"),
        Line("kl", "KL(q(z|x) || p(z|x)), from below", "nats"),
        Line("elbo", "ELBO", "nats"),
        Line("log_likelihood", "log p(x), {particles} importance samples", "nats"),
        Line("gaps.amortisation_gap", "amortisation gap: of the shared encoder", "nats"),
        Line("gaps.approximation_gap", "approximation gap: of the family", "nats"),
    )
    figures = ("pareto-k",)

    def __init__(self, particles: int = 1000, steps: int = 100) -> None:
        self.particles, self.steps = particles, steps

    def compute(
        self, programs: Programs, data: Split, train: Split | None, rows: int, seed: int
    ) -> tuple[Numbers, Figures]:
        few, lost = subset(data, rows, seed), None
        with suppress(ValueError):  # a guide that cannot be refined has no gaps; any other fault appears again below
            lost = gaps(programs, few, self.steps, particles=self.particles, seed=seed)
        table = diagnostics.by_datum(programs, few, self.particles, seed)
        figure = plots.pareto_k(table["k"].numpy(), pareto_k.usable(self.particles))
        return diagnostics.summary(table, self.particles, seed, lost), {"pareto-k": figure}
