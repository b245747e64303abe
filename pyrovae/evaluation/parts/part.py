"""The contract of a part of `examine`: it computes, draws and prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pyrovae.data import Split
from pyrovae.programs.pair import Programs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = dict[str, Any]
Figures: TypeAlias = "dict[str, Figure]"


class Line(NamedTuple):
    """A number to print: its path in the numbers ("gaps.elbo"), its name, and its unit.

    Name and unit may contain other numbers of the same part: "of {particles} draws".
    """

    path: str
    words: str
    unit: str = ""


class Part(ABC):
    """One question of `examine`. To add a part, write a subclass in a file of its own and add it to `PARTS`.

    Attributes:
        name: name of the part, also in the results.
        lines: the numbers to print, in this order; numbers that a model does not have are omitted.
        figures: names of the figures that the part may draw.
        looks_at_rows: whether the part uses rows of the data, chosen at random, or only data from the model.

    Example:
        >>> from pyrovae.evaluation.parts.part import Line, Part
        >>> class Spread(Part):
        ...     name, lines = "spread", (Line("deviation", "standard deviation of the data"),)
        ...
        ...     def compute(self, programs, data, train, rows, seed):
        ...         return {"rows": len(data), "deviation": data[:].std().item()}, {}
        >>> print(*Spread().text({"rows": 20, "of_rows": 100, "deviation": 0.5}), sep="")
        <BLANKLINE>
        spread, 20 of 100 rows, at random:  standard deviation of the data                   0.500
    """

    name: str
    lines: tuple[Line, ...]
    figures: tuple[str, ...] = ()
    looks_at_rows: bool = True

    @abstractmethod
    def compute(
        self, programs: Programs, data: Split, train: Split | None, rows: int, seed: int
    ) -> tuple[Numbers, Figures]:
        """Numbers that JSON can hold, and figures by name.

        Args:
            programs: model and guide.
            data: held-out rows; use `subset(data, rows, seed)`.
            train: the training data, or None.
            rows: number of rows to use.
            seed: seed of the noise.

        Raises:
            ValueError: the programs do not allow this part; the message gives the reason.
        """

    def text(self, numbers: Numbers) -> Iterator[str]:
        """The lines to print: a verdict or a refusal in words, then one line for each number."""
        if "refused" in numbers:
            yield f"\n{self.name}: refused: {numbers['refused']}"
            return
        verdict = f" {numbers['verdict']}" if "verdict" in numbers else ""
        yield f"\n{self.name}, {self.scope(numbers)}:{verdict}"
        for path, words, unit in self.lines:
            for value in _at(numbers, path):
                yield f"  {_filled(words, numbers):44} {_number(value)} {_filled(unit, numbers)}".rstrip()

    def scope(self, numbers: Numbers) -> str:
        """The number of rows that were used, and of how many; older examinations used the first rows."""
        rows, of = numbers["rows"], numbers.get("of_rows", 0)
        return f"{rows} of {of} rows, at random" if of > rows else f"{rows} rows"


def _at(numbers: dict[str, Any], path: str) -> list[Any]:
    """The value at this path, in a list; an empty list if there is none."""
    *way, last = path.split(".")
    for key in way:
        numbers = numbers.get(key, {})
    return [numbers[last]] if last in numbers else []


class _Dotted:
    """Gives the keys of dictionaries as attributes, for "{samples.recall.value}" in a text."""

    def __init__(self, numbers: dict[str, Any]) -> None:
        self.numbers = numbers

    def __getattr__(self, key: str) -> Any:
        value = self.numbers[key]
        return _Dotted(value) if isinstance(value, dict) else value


def _filled(text: str, numbers: dict[str, Any]) -> str:
    return text.format_map(
        {key: _Dotted(value) if isinstance(value, dict) else value for key, value in numbers.items()}
    )


def _number(number: Any) -> str:
    """A number and its error; integers are aligned with the digits before the point."""
    if not isinstance(number, dict):
        return value(number)
    error = number.get("standard_error", number.get("monte_carlo_error"))
    return value(number["value"]) + ("" if error is None or error != error else f" +- {value(error).strip()}")


def value(number: Any) -> str:
    """A number in a column of nine characters."""
    if number is None:
        return f"{'none':>9}"
    if isinstance(number, bool | int):
        return f"{('no', 'yes')[number] if isinstance(number, bool) else number:>5}"
    return f"{number:9.3f}" if abs(number) >= 1e-3 or number == 0 else f"{number:9.0e}"
