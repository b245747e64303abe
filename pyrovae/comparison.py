"""Comparisons: a grid of runs, one table for each measure, and a page that shows all of it.

compare.toml     the grid, which `pyrovae compare ROOT` carries out or goes on with
compare.md       the tables that it prints
compare.json     their rows, with all numbers; compare.csv: the same, flat
report.html      the tables, curves, pictures and recipes on one page
"""

import csv
import io
import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae import checks, files, grid, pages, plots
from pyrovae.grid import AXES, Cell, Grid
from pyrovae.ranking import ALIKE, comparable, is_score, kinds, paired
from pyrovae.recipe import Recipe
from pyrovae.report import table
from pyrovae.runs import effort, evaluation

Row = dict[str, Any]


class Column(NamedTuple):
    """A number of a row: its name there, how a table calls it, and how many digits follow the point."""

    name: str
    head: str
    digits: int


COLUMNS = (
    Column("elbo", "ELBO", 2),
    Column("log_likelihood", "log p(x)", 2),
    Column("behind", "behind the best", 2),
    Column("kl", "KL", 2),
    Column("bits_per_dimension", "bits per dimension", 3),
    Column("accuracy", "accuracy", 4),
    Column("active_units", "active units", 1),
    Column("amortisation_gap", "amortisation gap", 2),
    Column("approximation_gap", "approximation gap", 2),
    Column("parameters", "parameters", 0),
    Column("steps", "steps", 0),
    Column("seconds", "seconds", 1),
    Column("seeds", "seeds", 0),
)
# Columns that a table leaves out where all rows have the same.
ALIKE_IS_NOTHING = ("active_units", "parameters", "steps", "seeds")
PICTURES = ("samples", "reconstructions", "completions")


def compare(root: str | Path, *, jobs: int = 0, **options: Any) -> "Comparison":
    """Carry out a grid of runs in parallel processes, or what is left of it, and compare what they found.

    `print` shows the result as one table for each measure; ROOT/report.html as a page. In a root with a compare.toml
    that is the grid: options beside it must agree.

    Args:
        root: folder of the runs.
        jobs: runs at a time; 0 is as many as there are cores.
        options: axes (`guides=["diagonal-normal", "iaf"]`, see `grid.AXES`); what does not vary, as in a run.toml
            (`data="digits"`); `seeds`, runs of each combination; `gaps`, rows of which the guide's gaps are told.

    Raises:
        ValueError: before any run, where these cannot be meant. A run that fails raises nothing: it stands in `failed`.
    """
    root = Path(root)
    asked = grid.asked(root, options)
    found = carry_out(root, asked, grid.check(asked.cells()), at_a_time(asked, jobs))
    found.write()
    return found


def at_a_time(asked: Grid, jobs: int = 0) -> int:
    """How many runs; 0 stands for as many as there are cores for."""
    return checks.integer("jobs", jobs, 0) or max(1, (os.cpu_count() or 1) // max(1, asked.start.threads))


def carry_out(root: Path, asked: Grid, split: str, jobs: int) -> "Comparison":
    """The runs, as `grid.carry_out` has them, and what they found."""
    cells = asked.cells()
    grid.check_runs(root, cells)
    root.mkdir(parents=True, exist_ok=True)
    if not (root / grid.FILE).exists():
        grid.write(asked, root / grid.FILE)
    failed = grid.carry_out(root, cells, split, jobs, asked.gaps)
    return Comparison(root, asked, collect(root, asked, split), failed)


@dataclass(frozen=True)
class Comparison:
    """What a grid of runs found: a row for each choice of which a run is finished, and which runs failed, and why."""

    root: Path
    grid: Grid
    rows: list[Row]
    failed: Mapping[str, str]

    def __str__(self) -> str:
        failed = [f"{name} failed: {why}" for name, why in self.failed.items()]
        return "\n\n".join([*tables(self.rows), *failed])

    def _repr_markdown_(self) -> str:
        return str(self)

    def write(self) -> None:
        """compare.md, compare.json, compare.csv and report.html in the root, each whole or as it was before."""
        files.write_bytes(self.root / "compare.md", f"{self}\n".encode())
        files.write_json(self.root / "compare.json", self.rows)
        files.write_bytes(self.root / "compare.csv", _csv(self.rows).encode())
        files.write_bytes(self.root / "report.html", report(self).encode())

    def difference(
        self, one: str | Sequence[str], other: str | Sequence[str], score: str = "log_likelihood"
    ) -> dict[str, float]:
        """Mean of score(one) - score(other) over the same data, with its error: see `ranking.paired`.

        Args:
            one, other: choices: a value of each axis.
            score: "log_likelihood" or "elbo".

        Raises:
            ValueError: they are of unlike measure, data, split or binarisation, or have no seed in common.
        """
        checks.member("score", score, ("log_likelihood", "elbo"))
        by_label = {label(self.grid, row): row for row in self.rows}
        wanted = [each if isinstance(each, str) else ", ".join(each) for each in (one, other)]
        rows = {each: by_label[checks.member("choice", each, by_label)] for each in wanted}
        comparable(rows)
        found = _paired(self.root, self.grid, rows[wanted[0]], rows[wanted[1]], score)
        if found is None:
            raise ValueError(
                f"{wanted[0]} and {wanted[1]}: expected runs of one seed with scores.safetensors, found none"
            )
        return found


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
            row["behind"] = _paired(root, asked, ranked[0], row)
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


def _paired(root: Path, asked: Grid, one: Row, other: Row, score: str = "log_likelihood") -> dict[str, float] | None:
    """Of the seeds that both have, datum by datum; None where there is none, or an old run kept no scores."""
    left, right = (_by_seed(root, asked, row, score) for row in (one, other))
    shared = [seed for seed in left if seed in right]
    return paired(torch.stack([left[seed] - right[seed] for seed in shared])) if shared else None


def _by_seed(root: Path, asked: Grid, row: Row, score: str) -> dict[int, Tensor]:
    seeds = {cell.name: cell.recipe.seed for cell in asked.cells()}
    found = {seeds[name]: evaluation(root / name)[1] for name in row["runs"]}
    return {seed: table[score] for seed, table in found.items() if table}


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """A table in Markdown for all that may be compared, best log p(x) first: a table for each measure."""
    for chosen in kinds(rows):
        (columns, alike), varied = _columns(chosen), [option for option in AXES.values() if option in chosen[0]]
        lines = [
            [f"`{row[option]}`" for option in varied] + [shown(row.get(each.name), each.digits) for each in columns]
            for row in chosen
        ]
        told = [caption(rows, chosen), table([*varied, *(each.head for each in columns)], lines, len(varied))]
        yield "\n\n".join([*told, *([_alike(alike)] if alike else [])])


def _alike(alike: Mapping[str, str]) -> str:
    return f"alike in all: {', '.join(f'{head} {text}' for head, text in alike.items())}"


def caption(rows: Sequence[Row], chosen: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers of one kind are of, with what other kinds have otherwise."""
    differ = [field for field in ("data", "binarize", "rows") if len({row[field] for row in rows}) > 1]
    told = "".join(f", {field} {chosen[0][field]}" for field in differ)
    gaps = f"; gaps of the first {chosen[0]['gap_rows']} rows" if chosen[0].get("gap_rows") else ""
    return f"{chosen[0]['split']} data{told}, nats per datum: {chosen[0]['measure']}{gaps}"


def _columns(chosen: Sequence[Row]) -> tuple[list[Column], dict[str, str]]:
    """Those that some row has a number for; apart what is alike in all and no score."""
    there = [each for each in COLUMNS if any(row.get(each.name) for row in chosen)]
    texts = {each: {shown(row.get(each.name), each.digits) for row in chosen} for each in there}
    alike = [each for each in there if each.name in ALIKE_IS_NOTHING and len(texts[each]) == 1 and chosen[1:]]
    return [each for each in there if each not in alike], {each.head: texts[each].pop() for each in alike}


def shown(number: Mapping[str, float] | float | None, digits: int) -> str:
    """A number with its error, where there are such."""
    if number is None:
        return ""
    value, error = (number["value"], number["standard_error"]) if isinstance(number, Mapping) else (number, math.nan)
    return ("" if math.isnan(value) else f"{value:.{digits}f}") + (
        "" if math.isnan(error) else f" ± {error:.{digits}f}"
    )


def _csv(rows: Sequence[Row]) -> str:
    """A line a row; a number with an error is two columns, NAME and NAME_error."""
    flat = [dict(chain.from_iterable(_flat(name, value) for name, value in row.items())) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(chain.from_iterable(flat))), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        yield name, " ".join(value)
    elif isinstance(value, dict):
        yield name, value["value"]
        yield f"{name}_error", None if math.isnan(value["standard_error"]) else value["standard_error"]
    else:
        yield name, value


def report(found: Comparison) -> str:
    """The page: tables, curves, pictures, recipes, and what failed."""
    ranked = kinds(found.rows)
    runs = {label(found.grid, row): _run(found, row) for kind in ranked for row in kind}
    before = [sum(map(len, ranked[:number])) for number in range(len(ranked))]
    return pages.render(
        "comparison.html",
        title=f"{', '.join(axis.replace('_', ' ') for axis in found.grid.axes)} on {Path(found.grid.start.data).stem}",
        colours={each: plots.COLOURS[number % len(plots.COLOURS)] for number, each in enumerate(runs)},
        kinds=[_kind(found, kind, number) for kind, number in zip(ranked, before, strict=True)],
        failed=found.failed,
        runs=runs,
        changed=_changed(found.grid.start, found.grid.varied()),
        command=command(found.root.name, found.grid),
        versions=_versions([found.root / name for row in found.rows for name in row["runs"]]),
    )


def command(name: str, asked: Grid) -> str:
    """What makes the comparison on the command line: the axes, and what differs from the defaults."""
    axes = {axis: ",".join(values) for axis, values in asked.axes.items()}
    counts = {
        name: count for name, count in (("seeds", asked.seeds), ("gaps", asked.gaps)) if count != (name == "seeds")
    }
    given = axes | counts | _changed(asked.start, asked.varied())
    flags = [word for option, value in given.items() for word in (f"--{option.replace('_', '-')}", str(value))]
    return " ".join(["pyrovae", "compare", "--root", *map(_quoted, [name, *flags])])


def _quoted(word: str) -> str:
    """A word for a shell; in double quotes where it holds single ones, as options of members do."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _changed(made: Recipe, without: Sequence[str] = ()) -> Row:
    """Where a recipe is not the default one; of what is on this machine alone, the names."""
    usual = vars(Recipe(threads=1))
    changed = {name: value for name, value in vars(made).items() if value != usual[name] and name not in without}
    changed.pop("data_root", None)
    return changed | ({"data": Path(made.data).name} if "data" in changed else {})


def _kind(found: Comparison, kind: Sequence[Row], before: int) -> Row:
    """A table of the page, after so many rows: each cell is its text, and its number where it has one."""
    columns, alike = _columns(kind)
    curves = {label(found.grid, row): _curves(found.root, row) for row in kind}
    behind = {label(found.grid, row): row["behind"] for row in kind if row.get("behind")} if kind[1:] else {}
    figure = plots.training_curves(curves, before) if any(curves.values()) else None
    return {
        "caption": caption(found.rows, kind),
        "measure": kind[0]["measure"],
        "verdict": verdict(found.grid, kind),
        "columns": columns,
        "alike": _alike(alike) if alike else "",
        "rows": [
            (label(found.grid, row), [_cell(row.get(each.name), each.digits) for each in columns]) for row in kind
        ],
        "ranked": is_score(kind[0]),
        "curves": None if figure is None else pages.drawing(figure),
        "behind": pages.drawing(plots.intervals(behind, "nats per datum behind the best", before)) if behind else None,
    }


def verdict(asked: Grid, kind: Sequence[Mapping[str, Any]]) -> str:
    """Which choice is best, and whether the next one is behind it by more than chance explains."""
    ranked = [row for row in kind if is_score(row)]
    if not ranked[1:]:
        return ""
    best, second = (label(asked, row) for row in ranked[:2])
    behind = ranked[1].get("behind")
    if not behind or math.isnan(behind["standard_error"]):
        return f"{best} has the highest log p(x)."
    clear = abs(behind["value"]) > 2 * behind["standard_error"]
    told = f"the next, {second}, is behind by {shown(behind, 2)} nats per datum"
    told += "" if clear else ": within two standard errors, no clear winner"
    alone = ", of one training each: another seed may order them otherwise" if ranked[1]["seeds"] == 1 else ""
    return f"{best} has the highest log p(x); {told}{alone}."


def _cell(number: Mapping[str, float] | float | None, digits: int) -> tuple[str, str, float | None]:
    value = number["value"] if isinstance(number, Mapping) else number
    text, _, error = shown(number, digits).partition(" ± ")
    return text, error, None if value is None or math.isnan(value) else value


def _curves(root: Path, row: Mapping[str, Any]) -> list[tuple[list[int], list[float]]]:
    """Of each run the losses that all its epochs have, on validation data where there are such."""
    found = []
    for records in filter(None, (files.read_lines(root / name / "metrics.jsonl") for name in row["runs"])):
        loss = "valid_loss" if "valid_loss" in records[0] else "loss"
        found.append(([record["epoch"] for record in records], [record[loss] for record in records]))
    return found


def _run(found: Comparison, row: Mapping[str, Any]) -> Row:
    """The first run of a choice: its pictures, and its recipe."""
    path = found.root / row["runs"][0]
    made = {cell.name: cell.recipe for cell in found.grid.cells()}[path.name]
    drawn = {name: path / "figures" / f"{name}.png" for name in PICTURES}
    return {
        "name": path.name,
        "pictures": {name: pages.picture(picture) for name, picture in drawn.items() if picture.exists()},
        "changed": _changed(made),
        "recipe": (path / "run.toml").read_text() if (path / "run.toml").exists() else "",
    }


def _versions(paths: Sequence[Path]) -> Row:
    """What the runs were made with; several where they differ."""
    made = [
        json.loads((path / "environment.json").read_text()) for path in paths if (path / "environment.json").exists()
    ]
    names = ("pyrovae", "commit", "python", "torch", "pyro-ppl", "system", "processors", "threads", "device")
    return {
        name: " and ".join(dict.fromkeys(str(each[name]) for each in made if each.get(name))) for name in names if made
    }
