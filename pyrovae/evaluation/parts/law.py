"""Does each density integrate to one, and do the model's samples follow it?"""

from pyrovae.data import Split
from pyrovae.evaluation import law
from pyrovae.evaluation.parts.part import Figures, Line, Numbers, Part
from pyrovae.programs.pair import Programs


class Law(Part):
    """Whether each density integrates to one and agrees with its own draws: `law.check`. Only this part detects it."""

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
        """The number of distributions that were checked."""
        return f"{numbers['entries']} distributions of each site"
