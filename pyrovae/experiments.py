"""Experiments: questions, each answered with numbers and pictures. In the folder runs/experiments:

NAME/experiment.py        begins with the question, in one sentence; `experiment(data, seeds)` answers it
NAME/DATA/findings.json   its numbers, the settings and the command that made them
NAME/DATA/findings.md     the same as a page, with the sentences of experiment.py: `write_page` makes it again
NAME/DATA/figures/        pictures; of an animation, NAME.gif, a frame of it too

Beside `experiment`, the file has BUDGETS (settings by data set), CAPTION (what the first picture shows) and NOTES (a
text below each table). They are written by hand and true whatever the numbers are; "{name}" stands for a setting.
"""

import ast
import html
import importlib.util
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from types import ModuleType
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import checks, files, plots, report
from pyrovae.ranking import paired
from pyrovae.runs import surroundings

__all__ = [
    "FILE",
    "OF_TESTS",
    "OVER_BOTH",
    "OVER_SEEDS",
    "Findings",
    "Line",
    "Number",
    "Table",
    "answered",
    "check",
    "found",
    "gallery",
    "numbers",
    "rate",
    "rate_error",
    "repeated",
    "run",
    "spread",
    "with_error",
    "with_test_error",
    "write_page",
]

FILE = "experiment.py"
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


def found(root: Path) -> dict[str, str]:
    """The experiments in a folder: name and sentence. None of them is run."""
    return {path.parent.name: (ast.get_docstring(ast.parse(path.read_text())) or "").strip() for path in _files(root)}


def _files(root: Path) -> list[Path]:
    there = sorted(root.glob(f"*/{FILE}"))
    if not there:
        raise ValueError(
            f"expected NAME/{FILE} in {root}, found none: experiments live in a checkout of the project; --root names "
            "their folder"
        )
    return there


def check(root: Path, name: str, data: str, seeds: int) -> ModuleType:
    """The experiment, or a ValueError that says what is not known of it."""
    checks.member("experiment", name, [path.parent.name for path in _files(root)])
    module = _load(root / name / FILE)
    checks.member("data", data, module.BUDGETS)
    checks.integer("seeds", seeds, most=1000)
    return module


def run(root: Path, name: str, data: str = "digits", seeds: int = 1) -> Path:
    """Carry one out, and write down what it found; earlier findings on these data give way when all is done.

    Args:
        root: the folder of the experiments.
        name: of the experiment.
        data: one of those that it has a budget for.
        seeds: how often what chance decides is repeated.
    """
    module, made, begun = check(root, name, data, seeds), surroundings(), time.perf_counter()
    findings: Findings = module.experiment(data, seeds)
    minutes = (time.perf_counter() - begun) / 60
    target = root / name / data
    with files.replacing_folder(target) as new:
        drawn = plots.write_figures(new / "figures", findings.figures)
        how = {"seeds": seeds, "minutes": minutes} | {key: made[key] for key in MADE_WITH}
        moving = [path.stem for path in drawn if path.suffix == ".gif"]
        files.write_json(new / NUMBERS, how | _stored(findings) | {"moving": moving})
        _write(new, module, name, data)
    return target


NUMBERS, PAGE = "findings.json", "findings.md"
MADE_WITH = ("threads", "processors", "torch", "commit")


def _stored(findings: Findings) -> dict[str, Any]:
    """As findings.json holds them."""
    return {
        "error": findings.error,
        "settings": dict(findings.settings),
        "lines": [line._asdict() | {"values": _data(line.values)} for line in findings.lines],
        "tables": [table._asdict() | {"rows": _data(table.rows)} for table in findings.tables],
        "figures": list(findings.figures),
    }


def _data(cells: Any) -> Any:
    """Cells for JSON: a number is a dict of its fields; an infinity or NaN, which JSON lacks, is a text."""
    if isinstance(cells, Number):
        value, error = (_plain(x) for x in (cells.value, cells.error))
        return {"value": value, "error": error, "digits": cells.digits}
    if isinstance(cells, Mapping):
        return {name: _data(cell) for name, cell in cells.items()}
    return [_data(cell) for cell in cells] if isinstance(cells, list | tuple) else cells


def _plain(x: float | None) -> float | str | None:
    return x if x is None else float(x) if math.isfinite(x) else str(x)


def _cells(data: Any) -> Any:
    """The inverse of `_data`."""
    if isinstance(data, dict) and "digits" in data:
        return Number(float(data["value"]), None if data["error"] is None else float(data["error"]), data["digits"])
    if isinstance(data, dict):
        return {name: _cells(cell) for name, cell in data.items()}
    return [_cells(cell) for cell in data] if isinstance(data, list) else data


def numbers(root: Path, name: str, data: str) -> dict[str, Any]:
    """What findings.json holds, with `lines` and `tables` of numbers."""
    return _read(root / name / data / NUMBERS)


def _read(path: Path) -> dict[str, Any]:
    stored = files.read_json(path)
    try:
        lines = [Line(line["quantity"], _cells(line["values"])) for line in stored["lines"]]
        tables = [Table(table["heads"], _cells(table["rows"]), table["names"]) for table in stored["tables"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the numbers of an experiment, found others; run it again") from error
    return stored | {"lines": lines, "tables": tables}


def write_page(root: Path, name: str, data: str) -> None:
    """Write findings.md again, from the numbers in findings.json and the sentences of experiment.py."""
    _write(root / name / data, _load(root / name / FILE), name, data)


def _write(folder: Path, module: ModuleType, name: str, data: str) -> None:
    stored = _read(folder / NUMBERS)
    files.write_bytes(folder / PAGE, (_page(stored, module, name, data) + "\n").encode())


def _page(stored: Mapping[str, Any], module: ModuleType, name: str, data: str) -> str:
    if len(module.NOTES) != len(stored["tables"]):
        raise ValueError(f"{name}: expected {len(module.NOTES)} tables, found {len(stored['tables'])}: run it again")
    settings, lines, tables = stored["settings"], map(str, stored["lines"]), map(str, stored["tables"])
    parts = [f"# {(module.__doc__ or name).strip()}", _filled(module.CAPTION, settings), *lines]
    for table, note in zip(tables, module.NOTES, strict=True):
        parts += [table, _filled(note, settings)]
    ending = [f"±: {stored['error']}."] * ("±" in "".join(parts))
    ending += ["A picture of one training is of the first seed's."] * (stored["seeds"] > 1)
    pictures = [_picture(figure, figure in stored["moving"]) for figure in stored["figures"]]
    return "\n\n".join(filter(None, [*parts, " ".join(ending), *pictures, _footer(stored, name, data)]))


def _filled(text: str, settings: Mapping[str, Any]) -> str:
    return text.format_map(settings).strip()


def _footer(stored: Mapping[str, Any], name: str, data: str) -> str:
    return (
        f"`{_command(stored, name, data)}`, {stored['minutes']:.1f} minutes with {stored['threads']} of "
        f"{stored['processors']} processors, torch {stored['torch']}, commit {stored['commit']}."
    )


def _command(stored: Mapping[str, Any], name: str, data: str) -> str:
    return f"nox -s experiment -- {name} --data {data} --seeds {stored['seeds']}"


def _picture(name: str, moves: bool) -> str:
    """In Markdown; one that moves leads to one that stands still."""
    words = name.replace("-", " ")
    return f"[![{words}](figures/{name}.gif)](figures/{name}.png)" if moves else f"![{words}](figures/{name}.png)"


def answered(root: Path, data: str) -> list[str]:
    """The experiments that have findings on these data."""
    return [path.parts[-3] for path in sorted(root.glob(f"*/{data}/{NUMBERS}"))]


def gallery(root: Path, data: str = "mnist", columns: int = 3) -> str:
    """What was found on these data, as a table in HTML for a page in `root`: pictures, captions, commands."""
    cells = [_in_gallery(root, name, data, 100 // columns) for name in answered(root, data)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return "\n".join(["<table>", *("<tr>\n" + "\n".join(row) + "\n</tr>" for row in rows), "</table>"])


def _in_gallery(root: Path, name: str, data: str, width: int) -> str:
    stored, module, first = numbers(root, name, data), _load(root / name / FILE), f"{name}/{data}/figures/"
    figure = stored["figures"][0]
    image = f'<img src="{first}{figure}.{"gif" if figure in stored["moving"] else "png"}" alt="{name}">'
    if figure in stored["moving"]:  # for readers who have asked for less motion
        source = f'<source media="(prefers-reduced-motion: reduce)" srcset="{first}{figure}.png">'
        image = f"<picture>{source}{image}</picture>"
    picture = f'<a href="{name}/{data}/{PAGE}">{image}</a>'
    words = html.escape(f"{_filled(module.CAPTION, stored['settings'])} {stored['lines'][0]}.", quote=False)
    made = f"<code>{_command(stored, name, data)}</code>, {stored['minutes']:.0f} minutes"
    return f'<td width="{width}%" valign="top">{picture}<br>{words}<br>{made}</td>'


def repeated(scores: Iterable[Tensor]) -> dict[str, float]:
    """The mean of scores (N,) of the same data in each repetition, with its standard error: see `ranking.paired`."""
    return paired(torch.stack(list(scores)))


def with_error(scores: Iterable[Tensor], digits: int = 2) -> Number:
    """The same as a number with its error."""
    over = repeated(scores)
    return Number(over["value"], over["standard_error"], digits)


def spread(values: Sequence[float], digits: int = 2) -> Number:
    """Mean and standard deviation over repetitions; of one there is none."""
    return Number(mean(values), stdev(values) if len(values) > 1 else None, digits)


def rate(values: Sequence[float], rows: int, digits: int = 3) -> Number:
    """Accuracies on the same test rows, one a seed, as their mean with `rate_error`."""
    return Number(mean(values), rate_error(values, rows), digits)


def rate_error(values: Sequence[float], rows: int) -> float:
    """√(s² + p (1 - p) / rows) of accuracies p: s over the seeds, 0 of one; and the binomial error, which all share."""
    return _combined(values, [math.sqrt(value * (1 - value) / rows) for value in values])


def with_test_error(values: Sequence[float], errors: Sequence[float], digits: int = 3) -> Number:
    """The mean over seeds ± √(s² + e²), with s over the seeds and e the test set's own error (root mean square)."""
    return Number(mean(values), _combined(values, errors), digits)


def _combined(values: Sequence[float], errors: Sequence[float]) -> float:
    over_seeds = stdev(values) if len(values) > 1 else 0.0
    return math.sqrt(over_seeds**2 + mean(error**2 for error in errors))


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"experiment_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
