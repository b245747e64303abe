"""What an experiment finds: numbers with their errors, in lines and tables, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pyrovae.runs import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# What ± is of `spread`, of `rate` and `with_test_error`, and of `with_error`.
OVER_SEEDS = "the standard deviation over seeds"


OF_TESTS = "the root of the squared standard deviation over seeds and the squared standard error of the test set"


OVER_BOTH = "the standard error over the images, which all share, and over seeds where there are several"


class Number(NamedTuple):
    """A value with its error, if it has one, and how many of its decimals are shown."""

    value: float
    error: float | None = None
    digits: int = 2

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:,.{self.digits}f}"
        return f"{self.value:,.{self.digits}f}{error}"


Cell = str | int | Number | Sequence[int]  # several integers: one for each seed


class Table(NamedTuple):
    """Heads and rows; the first columns, one or so many, name their row."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1

    def __str__(self) -> str:
        heads, *rows = [[_shown(cell).replace("|", "\\|") for cell in row] for row in (self.heads, *self.rows)]
        return report.table(heads, rows, self.names)


class Line(NamedTuple):
    """A quantity of several things, in one line: "log p(x), nats: -94.6 (conv), -98.6 (mlp)"."""

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
    """What an experiment found.

    Args:
        lines: its main numbers, the first of which stands in the gallery.
        tables: all numbers; NOTES of the experiment has a text for each.
        figures: by name; several are the frames of an animation.
        settings: what CAPTION and NOTES quote, beside the budget.
        error: what ± is.
    """

    lines: Sequence[Line]
    tables: Sequence[Table]
    figures: Mapping[str, Figure | Sequence[Figure]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    error: str = OVER_SEEDS
