"""Does each density keep the laws of probability, and does the model draw what it scores?"""

from pyrovae.data import Split
from pyrovae.evaluation import law
from pyrovae.evaluation.parts.part import Figures, Line, Numbers, Part
from pyrovae.programs.pair import Programs


class Law(Part):
    """Whether each density integrates to one and agrees with its own draws: `law.check`. No other part can tell."""

    name = "law"
    lines = (
        Line("smallest_integral", "integral of a density, the smallest", "(law: 1)"),
        Line("largest_integral", "integral of a density, the largest", "(law: 1)"),
        Line("p_value", "p-value: draws are of their density"),
    )
    looks_at_rows = False

    def compute(
        self, programs: Programs, data: Split, train: Split | None, rows: int, seed: int
    ) -> tuple[Numbers, Figures]:
        return law.check(programs, data, seed=seed), {}

    def scope(self, numbers: Numbers) -> str:
        """How many distributions were looked at."""
        return f"{numbers['entries']} distributions of each site"
