"""Rows of a comparison: the results of the finished runs of each choice, over their seeds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from pyrovae.comparison import grid
from pyrovae.comparison.grid import Cell, Grid
from pyrovae.evaluation.ranking import ALIKE, alike, behind_best, is_score, kinds
from pyrovae.runs import effort, evaluation
from pyrovae.scores import paired

Row = dict[str, Any]
# The row of the best: it is 0 behind itself.
NOTHING = {"value": 0.0, "standard_error": math.nan, "margin": math.nan}


def label(asked: Grid, row: Mapping[str, Any]) -> str:
    """The name of a choice: its values."""
    return ", ".join(str(row[option]) for option in asked.varied())


def collect(root: Path, asked: Grid, split: str) -> list[Row]:
    """One row for each choice: the means of its numbers over the finished seeds, with standard errors and origin."""
    rows: list[Row] = []
    cells = asked.cells()
    for choice in dict.fromkeys(cell.choice for cell in cells):
        done = [cell for cell in cells if cell.choice == choice]
        found = {cell: each for cell in done if (each := grid.finished(root, cell, split, asked.gaps)) is not None}
        if found:
            rows.append(dict(zip(asked.varied(), choice, strict=True)) | _numbers(root, found))
    for kind in kinds(rows):
        _rank(root, [row for row in kind if is_score(row)])
    return rows


def _rank(root: Path, rows: Sequence[Row]) -> None:
    """Add the rank of each row, its distance from the best, and the seeds used: those that all rows have, with scores.

    If an old run has no scores, all seeds are used if they are the same for all rows; otherwise there is no order,
    because means over different seeds could contradict the paired difference.
    """
    scores = [_by_seed(root, row, "log_likelihood") for row in rows]
    shared = [seed for seed in (scores[0] if scores else ()) if all(seed in each for each in scores)]
    if shared:
        of_all = torch.stack([torch.stack([each[seed] for seed in shared]) for each in scores])
        for row, behind in zip(rows, behind_best(of_all), strict=True):
            row["behind"] = behind
        rows = sorted(rows, key=lambda row: row["behind"]["value"])
        rows[0]["behind"] = dict(NOTHING)
    same = all(row["seed_numbers"] == rows[0]["seed_numbers"] for row in rows)
    for place, row in enumerate(rows, 1):
        row["place"] = place if shared or same else None
        row["ranked_by"] = shared or (row["seed_numbers"] if same else [])


def ranking(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups of rows that may be compared, the best first; rows without a rank are last, in their order."""
    return [sorted(kind, key=lambda row: row.get("place") or math.inf) for kind in alike(rows)]


def ranked_by(kind: Sequence[Mapping[str, Any]]) -> str:
    """The seeds that determine the order, if not all rows have the same."""
    ranked = [row for row in kind if is_score(row)]
    if all(row["ranked_by"] == row["seed_numbers"] for row in ranked):
        return ""
    if not (seeds := ranked[0]["ranked_by"]):
        return "the rows have different seeds, and none in common: there is no order"
    shared = ", ".join(map(str, seeds))
    return f"the rows have different seeds: the order and the differences use the common ones: {shared}"


def _numbers(root: Path, found: Mapping[Cell, Mapping[str, Any]]) -> Row:
    results = list(found.values())
    row: Row = {field: results[0].get(field) for field in ALIKE["log_likelihood"]}
    row |= {"seeds": len(found), "runs": [cell.name for cell in found]}
    row["seed_numbers"] = [cell.recipe.seed for cell in found]
    for name in ("elbo", "log_likelihood", "kl", "bits_per_dimension", "accuracy"):
        row[name] = _over_seeds([each[name]["value"] for each in results if each.get(name)])
    row["active_units"] = _over_seeds(
        [sum(each["active_units"].values()) for each in results if "active_units" in each]
    )
    row["latents"] = sum(results[0].get("latents", {}).values())
    row |= _gaps([each.get("examination", {}).get("diagnosis", {}) for each in results])
    took = [effort(root / cell.name) for cell in found]
    for name in ("parameters", "steps"):
        row[name] = next((each[name] for each in took if name in each), None)
    return row | {"seconds": _over_seeds([each["seconds"] for each in took if "seconds" in each])}


def _gaps(diagnoses: Sequence[Mapping[str, Any]]) -> Row:
    """The mean of each gap over the seeds; its error combines those over the rows and over the seeds."""
    row: Row = {"gap_rows": max((each.get("rows", 0) for each in diagnoses), default=0)}
    for name in ("amortisation_gap", "approximation_gap"):
        found = [each["gaps"][name] for each in diagnoses if "gaps" in each]
        row[name] = _over_seeds([each["value"] for each in found])
        if over_rows := _over_seeds([each["standard_error"] for each in found]):
            errors = [over_rows["value"], row[name]["standard_error"]]
            known = [error for error in errors if not math.isnan(error)]
            row[name]["standard_error"] = math.hypot(*known) if known else math.nan
    return row


def _over_seeds(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean and standard error; a null in JSON counts as NaN."""
    numbers = [math.nan if value is None else value for value in values]
    if not numbers:
        return None
    error = stdev(numbers) / math.sqrt(len(numbers)) if numbers[1:] else math.nan
    return {"value": mean(numbers), "standard_error": error}


def paired_difference(root: Path, one: Row, other: Row, score: str) -> dict[str, float] | None:
    """The paired difference for the common seeds; None if there are none, or an old run has no scores."""
    left, right = (_by_seed(root, row, score) for row in (one, other))
    shared = [seed for seed in left if seed in right]
    return paired(torch.stack([left[seed] - right[seed] for seed in shared])) if shared else None


def _by_seed(root: Path, row: Row, score: str) -> dict[int, Tensor]:
    found = {seed: evaluation(root / name)[1] for seed, name in zip(row["seed_numbers"], row["runs"], strict=True)}
    return {seed: table[score] for seed, table in found.items() if table}
