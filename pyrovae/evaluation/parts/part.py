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
    """A number to print: its place in the numbers ("gaps.elbo"), its name, and its unit.

    Name and unit may contain other numbers of the same part: "of {particles} draws".
    """

    path: str
    words: str
    unit: str = ""


class Part(ABC):
    """One question of `examine`. To add a part, write a subclass in a file of its own and add it to `PARTS`.

    Attributes:
        name: by which it is asked for, and under which its numbers stand.
        lines: the numbers that are printed, in this order; those that a model has not are left out.
        figures: names of the figures that it may draw.
        looks_at_rows: whether it looks at rows of the data, chosen at random, or only at what the model generates.
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
            data: held-out rows, of which `subset(data, rows, seed)` is looked at.
            train: what the model was trained on, or None.
            rows: how many rows to look at.
            seed: of the noise.

        Raises:
            ValueError: the programs do not allow this part; says why.
        """

    def text(self, numbers: Numbers) -> Iterator[str]:
        """What is printed: a verdict or a refusal in words, then one line for each number."""
        if "refused" in numbers:
            yield f"\n{self.name}: refused: {numbers['refused']}"
            return
        verdict = f" {numbers['verdict']}" if "verdict" in numbers else ""
        yield f"\n{self.name}, {self.scope(numbers)}:{verdict}"
        for path, words, unit in self.lines:
            for value in _at(numbers, path):
                yield f"  {_filled(words, numbers):44} {_number(value)} {_filled(unit, numbers)}".rstrip()

    def scope(self, numbers: Numbers) -> str:
        """How many rows were looked at, and of how many they were chosen; older examinations took the first ones."""
        rows, of = numbers["rows"], numbers.get("of_rows", 0)
        return f"{rows} of {of} rows, at random" if of > rows else f"{rows} rows"


def _at(numbers: dict[str, Any], path: str) -> list[Any]:
    """The value at this place, in a list; an empty list where there is none."""
    *way, last = path.split(".")
    for key in way:
        numbers = numbers.get(key, {})
    return [numbers[last]] if last in numbers else []


class _Dotted:
    """What "{samples.recall.value}" in a text means: keys of dictionaries as attributes."""

    def __init__(self, numbers: dict[str, Any]) -> None:
        self.numbers = numbers

    def __getattr__(self, key: str) -> Any:
        value = self.numbers[key]
        return _Dotted(value) if isinstance(value, dict) else value


def _filled(text: str, numbers: dict[str, Any]) -> str:
    return text.format_map(
        {key: _Dotted(value) if isinstance(value, dict) else value for key, value in numbers.items()}
    )


def _number(numbers: Any) -> str:
    """A number and its error; integers stand above the digits before the point."""
    if not isinstance(numbers, dict):
        return value(numbers)
    error = numbers.get("standard_error", numbers.get("monte_carlo_error"))
    return value(numbers["value"]) + ("" if error is None or error != error else f" +- {value(error).strip()}")


def value(number: Any) -> str:
    """A number in a column of nine characters."""
    if number is None:
        return f"{'none':>9}"
    if isinstance(number, bool | int):
        return f"{('no', 'yes')[number] if isinstance(number, bool) else number:>5}"
    return f"{number:9.3f}" if abs(number) >= 1e-3 or number == 0 else f"{number:9.0e}"
