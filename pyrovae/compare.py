"""Comparisons: a grid of ordinary runs, in parallel processes, and one table for each measure."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tqdm import tqdm

from pyrovae import checks, files, recipe
from pyrovae.data.split import blocks, by_label
from pyrovae.programs import arguments, pair, takes_labels
from pyrovae.ranking import ALIKE, kinds
from pyrovae.recipe import Recipe
from pyrovae.runs import OUTPUTS, part_of

# The options that a comparison may vary, by the plural that lists them.
AXES = {
    "models": "model",
    "priors": "prior",
    "likelihoods": "likelihood",
    "guides": "guide",
    "networks": "network",
    "objectives": "objective",
    "betas": "beta",
    "latent_dims": "latent_dim",
    "label_counts": "labels",
}
NUMBERS = ("elbo", "log_likelihood", "kl", "bits_per_dimension", "accuracy")


@dataclass(frozen=True)
class Cell:
    """One run of a grid: its directory's name, its recipe, and which choice of the axes it is a seed of."""

    name: str
    choice: tuple[str, ...]
    recipe: Recipe


def grid(start: Recipe, axes: Mapping[str, Sequence[str]], seeds: int) -> list[Cell]:
    """Every combination of the axes' values, with seeds 0, 1, ...; each recipe is checked.

    Args:
        start: the options that do not vary.
        axes: an option's plural (AXES) to its values, as text.
        seeds: how many runs of each combination.
    """
    checks.integer("seeds", seeds)
    options = [AXES[checks.member("axis", axis, AXES)] for axis in axes]
    cells = []
    for values in product(*axes.values()):
        kinds = {option: type(getattr(start, option)) for option in options}
        chosen = recipe.from_options({o: _read(o, kinds[o], v) for o, v in zip(options, values, strict=True)}, start)
        for seed in range(start.seed, start.seed + seeds):
            name = "+".join([re.sub(r"[^\w.=-]+", "_", value).strip("_") for value in values] + [f"seed-{seed}"])
            cells.append(Cell(name, tuple(values), replace(chosen, seed=seed)))
    if min(len({cell.name for cell in cells}), len({cell.recipe for cell in cells})) < len(cells):
        raise ValueError(f"expected values that differ, found some twice in {dict(axes)}")
    return cells


def _read(option: str, kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{option}: expected {kind.__name__}, found {text!r}") from None


def split(text: str) -> list[str]:
    """The values in "a,b(c=1,d=[2,3])": commas inside brackets do not separate."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    values = [value.strip() for value in values]
    if not all(values):
        raise ValueError(f"expected values separated by commas, found {text!r}")
    return values


def check(cells: Sequence[Cell]) -> str:
    """Raise a ValueError if a combination makes no sense, before any is run; which part of the data judges them."""
    splits = cells[0].recipe.splits()
    for cell in {cell.choice: cell for cell in cells}.values():
        try:
            model = cell.recipe.build(splits.event_shape, splits.num_classes, len(splits.train))
            cell.recipe.initialise(model, splits)
            objective = cell.recipe.objective_for(1, model)
            _, rows = next(by_label(*next(blocks(splits.train, 8, takes_labels(model)))))
            objective.differentiable_loss(*pair(model), *arguments(model, *rows))
        except ValueError as error:
            raise ValueError(f"{', '.join(cell.choice)}: {checks.reason(error)}") from None
    return part_of(splits)[0]


def compare(root: Path, cells: Sequence[Cell], split: str, jobs: int) -> list[str]:
    """Carry out the runs that are not finished yet, `jobs` at a time; the names of those that failed.

    Each is `pyrovae train` in a process of its own, whose output is in NAME.log. An interrupted one goes on where it
    stopped.
    """
    root.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        if (root / cell.name / "run.toml").exists():
            _check_same(root / cell.name, cell.recipe)
    left = [cell for cell in cells if _evaluation(root, cell, split) is None]
    with ThreadPoolExecutor(jobs) as pool:
        done = pool.map(lambda cell: _run(root, cell), left)
        ended = list(tqdm(done, total=len(left), unit="run", disable=None))
    return [cell.name for cell, status in zip(left, ended, strict=True) if status]


def _check_same(path: Path, asked: Recipe) -> None:
    recorded = recipe.read(path / "run.toml")
    if recorded != asked:
        raise ValueError(f"{path} was made with other options; --root starts another comparison")


def _run(root: Path, cell: Cell) -> int:
    """One run, to its evaluation."""
    path = root / cell.name
    path.mkdir(exist_ok=True)
    if not (path / "run.toml").exists():
        recipe.write(cell.recipe, path / "run.toml")
    begun = any((path / name).exists() for name in OUTPUTS)
    command = [sys.executable, "-m", "pyrovae", "train", str(path), *(["--resume"] if begun else [])]
    with open(root / f"{cell.name}.log", "w") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=_environment(cell.recipe)).returncode


def _evaluation(root: Path, cell: Cell, split: str) -> dict[str, Any] | None:
    """A finished run's numbers, if they are those that its recipe asks for: by hand one may have asked for others."""
    path = root / cell.name / "evaluation.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    asked = {"split": split, "particles": cell.recipe.particles, "seed": 0}
    return found if all(found.get(name) == value for name, value in asked.items()) else None


def _environment(asked: Recipe) -> dict[str, str]:
    """One process must not take the cores of its neighbours."""
    return os.environ | ({"OMP_NUM_THREADS": str(asked.threads)} if asked.threads else {})


def collect(root: Path, cells: Sequence[Cell], axes: Mapping[str, Sequence[str]], split: str) -> list[dict[str, Any]]:
    """One row for each choice: its numbers' mean over the seeds that are done, with standard error, and of what."""
    rows = []
    for choice in dict.fromkeys(cell.choice for cell in cells):
        results = [_evaluation(root, cell, split) for cell in cells if cell.choice == choice]
        found = [each for each in results if each is not None]
        if found:
            row: dict[str, Any] = {AXES[axis]: value for axis, value in zip(axes, choice, strict=True)}
            row |= {field: found[0].get(field) for field in ALIKE["log_likelihood"]} | {"seeds": len(found)}
            row |= {name: _over_seeds([each[name]["value"] for each in found if each.get(name)]) for name in NUMBERS}
            rows.append(row)
    files.write_json(root / "compare.json", rows)
    return rows


def _over_seeds(values: list[float]) -> dict[str, float] | None:
    values = [math.nan if value is None else value for value in values]
    if not values:
        return None
    return {"value": mean(values), "standard_error": stdev(values) / math.sqrt(len(values)) if values[1:] else math.nan}


def tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A table in Markdown for all that may be compared, best log p(x) first: a table for each measure."""
    differ = [field for field in ("data", "binarize", "rows") if len({row[field] for row in rows}) > 1]
    for chosen in kinds(rows):
        shown = [name for name in NUMBERS if any(row[name] for row in chosen)]
        varied = [option for option in AXES.values() if option in chosen[0]]
        heads = [*varied, *(_HEADS[name] for name in shown), "seeds"]
        told = "".join(f", {field} {chosen[0][field]}" for field in differ)
        lines = [f"{chosen[0]['split']} data{told}, nats per datum: {chosen[0]['measure']}", ""]
        lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(varied)}{'--:|' * (len(heads) - len(varied))}"]
        for row in chosen:
            cells = [f"`{row[option]}`" for option in varied] + [
                _shown(row[name], {"bits_per_dimension": 3, "accuracy": 4}.get(name, 2)) for name in shown
            ]
            lines.append(f"| {' | '.join([*cells, str(row['seeds'])])} |")
        yield "\n".join(lines)


_HEADS = {
    "elbo": "ELBO",
    "log_likelihood": "log p(x)",
    "kl": "KL",
    "bits_per_dimension": "bits per dimension",
    "accuracy": "accuracy",
}


def _shown(number: Mapping[str, float] | None, digits: int) -> str:
    if number is None:
        return ""
    value, error = number["value"], number["standard_error"]
    return ("" if math.isnan(value) else f"{value:.{digits}f}") + (
        "" if math.isnan(error) else f" ± {error:.{digits}f}"
    )
