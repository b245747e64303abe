"""Rows of a comparison: what the finished runs of each choice say, over their seeds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from pyrovae import grid
from pyrovae.grid import Cell, Grid
from pyrovae.ranking import ALIKE, is_score, kinds, paired
from pyrovae.runs import effort, evaluation

Row = dict[str, Any]


def label(asked: Grid, row: Mapping[str, Any]) -> str:
    """A choice by its values."""
    return ", ".join(str(row[option]) for option in asked.varied())


def collect(root: Path, asked: Grid, split: str) -> list[Row]:
    """One row for each choice: its numbers' mean over the seeds that are done, with standard error, and of what."""
    rows: list[Row] = []
    cells = asked.cells()
    for choice in dict.fromkeys(cell.choice for cell in cells):
        done = [cell for cell in cells if cell.choice == choice]
        found = {cell: each for cell in done if (each := grid.finished(root, cell, split, asked.gaps)) is not None}
        if found:
            rows.append(dict(zip(asked.varied(), choice, strict=True)) | _numbers(root, found))
    for kind in kinds(rows):
        ranked = [row for row in kind if is_score(row)]
        for row in ranked[1:]:
            row["behind"] = paired_difference(root, asked, ranked[0], row)
        for best in ranked[:1]:
            best["behind"] = {"value": 0.0, "standard_error": math.nan}
    return rows


def _numbers(root: Path, found: Mapping[Cell, Mapping[str, Any]]) -> Row:
    results = list(found.values())
    row: Row = {field: results[0].get(field) for field in ALIKE["log_likelihood"]}
    row |= {"seeds": len(found), "runs": [cell.name for cell in found]}
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
    """Of each gap the mean over the seeds; its error is that over the rows, which all seeds share, and over seeds."""
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
    """Mean and standard error; what JSON has no number for is no number."""
    numbers = [math.nan if value is None else value for value in values]
    if not numbers:
        return None
    error = stdev(numbers) / math.sqrt(len(numbers)) if numbers[1:] else math.nan
    return {"value": mean(numbers), "standard_error": error}


def paired_difference(
    root: Path, asked: Grid, one: Row, other: Row, score: str = "log_likelihood"
) -> dict[str, float] | None:
    """Of the seeds that both have, datum by datum; None where there is none, or an old run kept no scores."""
    left, right = (_by_seed(root, asked, row, score) for row in (one, other))
    shared = [seed for seed in left if seed in right]
    return paired(torch.stack([left[seed] - right[seed] for seed in shared])) if shared else None


def _by_seed(root: Path, asked: Grid, row: Row, score: str) -> dict[int, Tensor]:
    seeds = {cell.name: cell.recipe.seed for cell in asked.cells()}
    found = {seeds[name]: evaluation(root / name)[1] for name in row["runs"]}
    return {seed: table[score] for seed, table in found.items() if table}
