"""What a log-likelihood is the logarithm of."""

from dataclasses import dataclass, replace
from typing import Literal, Self


@dataclass(frozen=True)
class Measure:
    """The kind of number p(x|h) is, and of which x. Only scores of one measure can be compared.

    `Measure("mass", "counts")` prints as "mass over counts".

    Args:
        kind: "mass", where p(x|h) is a probability; "density", where it depends on the unit of x; "mixed", where some
            columns of x have the one and some the other; "none", where it is no likelihood at all.
        over: the values that x may take, as a reader would name them: "real values", "counts".
        levels: how many grey levels, where these are the values; else 0.
        note: what restricts the score to a part of x, after a comma: "of the entries present".
    """

    kind: Literal["mass", "density", "mixed", "none"]
    over: str
    levels: int = 0
    note: str = ""

    @property
    def is_likelihood(self) -> bool:
        """Whether log p(x|h) is the logarithm of a mass or a density."""
        return self.kind != "none"

    def noted(self, note: str) -> Self:
        """The same measure with one more note."""
        return replace(self, note=f"{self.note}, {note}" if self.note else note)

    def at_a_point(self) -> Self:
        """What p(x|z) at a single z is: no likelihood of x."""
        return replace(self, kind="none", over=f"{self}, at one point z: no likelihood", note="")

    def __str__(self) -> str:
        text = {"none": self.over, "mixed": f"mixed: {self.over}"}.get(self.kind, f"{self.kind} over {self.over}")
        return f"{text}, {self.note}" if self.note else text


BINARY = Measure("mass", "binary values")
CLASSES = Measure("mass", "classes")
COUNTS = Measure("mass", "counts")
REAL = Measure("density", "real values")
UNIT_INTERVAL = Measure("density", "[0, 1]")
SOFT_TARGETS = Measure("none", "cross-entropy of soft targets, no likelihood")


def grey_levels(levels: int) -> Measure:
    """The measure of bytes, and of other grids of grey levels."""
    return Measure("mass", f"{levels} levels", levels)
