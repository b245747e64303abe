"""What is log p(x), between a lower and an upper bound?"""

from pyrovae.data import Split, subset
from pyrovae.evaluation.annealing import anneal, sandwich
from pyrovae.evaluation.parts.part import Figures, Line, Numbers, Part
from pyrovae.programs.pair import Programs
from pyrovae.scores import mean


class Interval(Part):
    """log p(x) by annealing on a tenth of the rows, and the gap of `sandwich` on simulated data.

    Args:
        chains: chains for each row.
        temperatures: number of temperatures between the guide and the posterior.
    """

    name = "interval"
    lines = (
        Line("log_likelihood", "log p(x) by annealing, {chains} chains", "nats"),
        Line("ess", "effective number of chains", "of {chains}"),
        Line("simulated.lower", "of simulated data: lower bound", "nats"),
        Line("simulated.upper", "of simulated data: upper bound", "nats"),
        Line("simulated.gap", "the gap between them", "nats"),
    )

    def __init__(self, chains: int = 8, temperatures: int = 200) -> None:
        self.chains, self.temperatures = chains, temperatures

    def compute(
        self, programs: Programs, data: Split, train: Split | None, rows: int, seed: int
    ) -> tuple[Numbers, Figures]:
        few = subset(data, max(2, rows // 10), seed)
        annealed = anneal(programs, few, self.chains, self.temperatures, seed=seed)
        return {
            "rows": len(annealed.value),
            "chains": self.chains,
            "temperatures": self.temperatures,
            "log_likelihood": mean(annealed.value),
            "ess": mean(annealed.ess),
            "few_chains": int(annealed.few.sum()),
            "verdict": annealed.verdict,
            "simulated": sandwich(programs, few, self.chains, self.temperatures, seed=seed).summary(),
        }, {}
