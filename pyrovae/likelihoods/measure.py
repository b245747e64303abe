"""The kinds of numbers whose logarithm a log-likelihood is."""

from dataclasses import dataclass, replace
from typing import Literal, Self


@dataclass(frozen=True)
class Measure:
    """The kind of number that p(x|h) is, and the values that x may take. Compare scores only within one measure.

    Args:
        kind: "mass" if p(x|h) is a probability; "density" if it depends on the unit of x; "mixed" if some columns of x
            have a mass and others a density; "none" if p(x|h) is not a likelihood.
        over: the values that x may take, in words: "real values", "counts".
        levels: number of grey levels, if x has grey levels; otherwise 0.
        note: the part of x that the score covers, if not all of it: "of the entries present".

    Example:
        >>> from pyrovae.likelihoods import Measure
        >>> counts = Measure("mass", "counts")
        >>> str(counts), str(counts.noted("of the entries present"))
        ('mass over counts', 'mass over counts, of the entries present')
    """

    kind: Literal["mass", "density", "mixed", "none"]
    over: str
    levels: int = 0
    note: str = ""

    @property
    def is_likelihood(self) -> bool:
        """Whether p(x|h) is a mass or a density."""
        return self.kind != "none"

    def noted(self, note: str) -> Self:
        """The same measure with this note added."""
        return replace(self, note=f"{self.note}, {note}" if self.note else note)

    def at_a_point(self) -> Self:
        """The measure of p(x|z) at a single z, which is not a likelihood of x."""
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
    """The measure of bytes or another grid of grey levels."""
    return Measure("mass", f"{levels} levels", levels)
