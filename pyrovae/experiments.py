"""Experiments: questions, each answered with numbers and pictures. In the folder runs/experiments:

NAME/experiment.py      begins with the question, in one sentence; `experiment(data, seeds)` answers it
NAME/DATA/findings.md   what was found, the command, and what it ran on
NAME/DATA/figures/      pictures; of an animation, NAME.gif, a frame of it too
"""

from __future__ import annotations

import ast
import html
import importlib.util
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae import checks, files, plots
from pyrovae.runs import surroundings
from pyrovae.runs.report import shown, spread, table
from pyrovae.scores import paired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FILE",
    "OF_TESTS",
    "OVER_BOTH",
    "OVER_SEEDS",
    "Findings",
    "check",
    "found",
    "gallery",
    "rate",
    "rate_error",
    "repeated",
    "run",
    "spread",
    "table",
    "told",
    "with_error",
    "with_test_error",
]

FILE = "experiment.py"
# What ± is of `spread`, of `rate` and `with_test_error`, and of `with_error`.
OVER_SEEDS = "the standard deviation over seeds"
OF_TESTS = "the root of the squared standard deviation over seeds and the squared standard error of the test set"
OVER_BOTH = "the standard error over the images, which all share, and over seeds where there are several"


@dataclass
class Findings:
    """What an experiment found: Markdown, figures by name (several are the frames of an animation), and what ± is."""

    text: str
    figures: Mapping[str, Figure | Sequence[Figure]] = field(default_factory=dict)
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
    footer = (
        f"`nox -s experiment -- {name} --data {data} --seeds {seeds}`, {minutes:.1f} minutes with "
        f"{made['threads']} of {made['processors']} processors, torch {made['torch']}, commit {made['commit']}."
    )
    with files.replacing_folder(target) as new:
        drawn = plots.write_figures(new / "figures", findings.figures)
        moving = {path.stem for path in drawn if path.suffix == ".gif"}
        pictures = [_picture(each, each in moving) for each in findings.figures]
        notes = [f"±: {findings.error}."] * ("±" in findings.text)
        notes += ["A picture of one training is of the first seed's."] * (seeds > 1)
        sections = [f"# {(module.__doc__ or name).strip()}", findings.text.strip(), " ".join(notes), *pictures, footer]
        files.write_bytes(new / "findings.md", ("\n\n".join(filter(None, sections)) + "\n").encode())
    return target


def _picture(name: str, moves: bool) -> str:
    """In Markdown; one that moves leads to one that stands still."""
    words = name.replace("-", " ")
    return f"[![{words}](figures/{name}.gif)](figures/{name}.png)" if moves else f"![{words}](figures/{name}.png)"


def told(root: Path, name: str, data: str) -> dict[str, str]:
    """Of what an experiment has found: the first `sentence` and `picture`, the `command`, its `seeds` and `minutes`."""
    path = root / name / data / "findings.md"
    _, paragraph, *_, footer = path.read_text().strip().split("\n\n")
    picture = re.search(r"\]\((figures/[^)]+)\)", path.read_text())
    made = re.match(r"`(.+ --seeds (\d+))`, ([\d.]+) minutes", footer)
    if not picture or not made:
        raise ValueError(f"{path}: expected findings with a picture and the command that made them, found other text")
    command, seeds, minutes = made.groups()
    sentence = re.split(r"(?<=[.?]) (?=[A-Z])", paragraph)[0]
    return {
        "sentence": sentence,
        "picture": f"{name}/{data}/{picture[1]}",
        "command": command,
        "seeds": seeds,
        "minutes": f"{float(minutes):.0f}",
    }


def gallery(root: Path, data: str = "mnist", columns: int = 3) -> str:
    """What was found on these data, as a table in HTML for a page in `root`: pictures, sentences, commands."""
    names = [path.parts[-3] for path in sorted(root.glob(f"*/{data}/findings.md"))]
    cells = [_cell(root, name, data, 100 // columns) for name in names]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return "\n".join(["<table>", *("<tr>\n" + "\n".join(row) + "\n</tr>" for row in rows), "</table>"])


def _cell(root: Path, name: str, data: str, width: int) -> str:
    of = told(root, name, data)
    still = of["picture"].replace(".gif", ".png")
    image = f'<img src="{of["picture"]}" alt="{name}">'
    if still != of["picture"]:  # for readers who have asked for less motion
        source = f'<source media="(prefers-reduced-motion: reduce)" srcset="{still}">'
        image = f"<picture>{source}{image}</picture>"
    picture = f'<a href="{name}/{data}/findings.md">{image}</a>'
    made = f"<code>{of['command']}</code>, {of['minutes']} minutes"
    return f'<td width="{width}%" valign="top">{picture}<br>{html.escape(of["sentence"], quote=False)}<br>{made}</td>'


def repeated(scores: Iterable[Tensor]) -> dict[str, float]:
    """The mean of scores (N,) of the same data in each repetition, with its standard error: see `ranking.paired`."""
    return paired(torch.stack(list(scores)))


def with_error(scores: Iterable[Tensor], digits: int = 2) -> str:
    """The same as text, MEAN ± ERROR."""
    return shown(repeated(scores), digits)


def rate(values: Sequence[float], rows: int, digits: int = 3) -> str:
    """Accuracies on the same test rows, one a seed, as text: MEAN ± `rate_error`."""
    return f"{mean(values):.{digits}f} ± {rate_error(values, rows):.{digits}f}"


def rate_error(values: Sequence[float], rows: int) -> float:
    """√(s² + p (1 - p) / rows) of accuracies p: s over the seeds, 0 of one; and the binomial error, which all share."""
    return _combined(values, [math.sqrt(value * (1 - value) / rows) for value in values])


def with_test_error(values: Sequence[float], errors: Sequence[float], digits: int = 3) -> str:
    """The mean over seeds ± √(s² + e²), with s over the seeds and e the test set's own error (root mean square)."""
    return f"{mean(values):.{digits}f} ± {_combined(values, errors):.{digits}f}"


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
