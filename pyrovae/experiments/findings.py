"""The findings of an experiment: numbers with their errors, in lines and tables, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pyrovae.runs import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# The meaning of ± for `spread`, for `rate` and `with_test_error`, and for `with_error`.
OVER_SEEDS = "the standard deviation over seeds"


OF_TESTS = "the root of the squared standard deviation over seeds and the squared standard error of the test set"


OVER_BOTH = "the standard error over the images, which all share, and over seeds where there are several"


class Number(NamedTuple):
    """A value with its error, if it has one, and its number of decimals."""

    value: float
    error: float | None = None
    digits: int = 2

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:,.{self.digits}f}"
        return f"{self.value:,.{self.digits}f}{error}"


Cell = str | int | Number | Sequence[int]  # several integers: one for each seed


class Table(NamedTuple):
    """Column heads and rows; the first `names` columns name the row."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1

    def __str__(self) -> str:
        heads, *rows = [[_shown(cell).replace("|", "\\|") for cell in row] for row in (self.heads, *self.rows)]
        return report.table(heads, rows, self.names)


class Line(NamedTuple):
    """One quantity for several items, in one line: "log p(x), nats: -94.6 (conv), -98.6 (mlp)"."""

    quantity: str
    values: Mapping[str, Cell]

    def __str__(self) -> str:
        values = [_shown(value) + (f" ({name})" if name else "") for name, value in self.values.items()]
        return f"{self.quantity}: {', '.join(values)}"


def _shown(cell: Cell) -> str:
    if isinstance(cell, str | Number):
        return str(cell)
    return f"{cell:,}" if isinstance(cell, int) else ", ".join(map(str, cell))


@dataclass
class Findings:
    """The findings of an experiment.

    Args:
        lines: the main numbers; the first line is shown in the gallery.
        tables: all numbers; NOTES of the experiment has a text for each table.
        figures: by name; a sequence is the frames of an animation.
        settings: values for CAPTION and NOTES, in addition to the budget.
        error: the meaning of ±.
    """

    lines: Sequence[Line]
    tables: Sequence[Table]
    figures: Mapping[str, Figure | Sequence[Figure]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    error: str = OVER_SEEDS
