"""Are simulated latents uniform among the guide's draws, and do the data look like the model's?"""

from collections.abc import Iterator

import numpy as np

from pyrovae import plots
from pyrovae.data import Split, subset
from pyrovae.evaluation.calibration import predictive, simulation_based
from pyrovae.evaluation.parts.part import Figures, Line, Numbers, Part, value
from pyrovae.programs.pair import Programs, takes_labels


class Calibration(Part):
    """Ranks of simulated latents, and predictive checks: `simulation_based` and `predictive`."""

    name = "calibration"
    lines = (
        Line("simulation_based.p_value", "p-value: ranks are uniform", "over {simulation_based.rows} simulated rows"),
    )
    figures = ("ranks",)

    def compute(
        self, programs: Programs, data: Split, train: Split | None, rows: int, seed: int
    ) -> tuple[Numbers, Figures]:
        few = subset(data, rows, seed)
        simulated = simulation_based(programs, few if takes_labels(programs) else 5 * rows, bins=10, seed=seed)
        ranks = plots.rank_histograms({site: np.array(counts) for site, counts in simulated["counts"].items()})
        return {"simulation_based": simulated, "predictive": predictive(programs, few, seed=seed)}, {"ranks": ranks}

    def scope(self, numbers: Numbers) -> str:
        """The number of rows in the predictive checks."""
        return super().scope({**numbers, "rows": numbers["predictive"]["rows"]})

    def text(self, numbers: Numbers) -> Iterator[str]:
        """The p-value of the ranks, and a line for each statistic of the data and of its replicates."""
        yield from super().text(numbers)
        for name, statistic in numbers.get("predictive", {}).get("statistics", {}).items():
            if not isinstance(statistic["observed"], list):  # a list has one value for each row
                yield f"  {f'{name} of the data':44} {value(statistic['observed'])}; of replicates: {_of(statistic)}"


def _of(statistic: Numbers) -> str:
    """The means of a statistic over replicates, with their p-values."""
    return ", ".join(
        f"{kind} {value(statistic[kind]['mean']).strip()} (p-value {statistic[kind]['p_value']:.3f})"
        for kind in ("posterior", "prior")
        if kind in statistic
    )
