"""The page of a comparison: tables, curves, pictures, recipes, and failed runs."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyrovae import files, plots
from pyrovae.comparison import pages
from pyrovae.comparison.grid import Grid
from pyrovae.comparison.rows import Row, label, ranked_by, ranking
from pyrovae.comparison.tables import LEAST_SEEDS, Column, alike_text, caption, columns, margin_text, text
from pyrovae.evaluation.ranking import is_score
from pyrovae.runs.recipe import Recipe
from pyrovae.runs.values import records

TEMPLATE = Path(__file__).with_name("page.html")
# Options that change how close a guide is to the posterior of the same model.
NEARNESS = {"guide", "objective", "beta"}
HIGHEST = "has the highest bound on log p(x)"
PICTURES = ("samples", "reconstructions", "completions")


def report(root: Path, asked: Grid, rows: Sequence[Row], failed: Mapping[str, str]) -> str:
    """The page."""
    ranked, varied = ranking(rows), asked.varied()
    labels = [label(asked, row) for kind in ranked for row in kind]
    before = [sum(map(len, ranked[:number])) for number in range(len(ranked))]
    return pages.render(
        TEMPLATE,
        title=f"{', '.join(axis.replace('_', ' ') for axis in asked.axes)} on {Path(asked.start.data).stem}",
        colours={each: plots.COLOURS[number % len(plots.COLOURS)] for number, each in enumerate(labels)},
        kinds=[_kind(root, asked, rows, kind, number) for kind, number in zip(ranked, before, strict=True)],
        failed=failed,
        runs=dict(zip(labels, _runs(root, asked, [row for kind in ranked for row in kind]), strict=True)),
        changed=_changed(asked.start, varied),
        command=command(root.name, asked),
        versions=_versions([root / name for row in rows for name in row["runs"]]),
    )


def command(name: str, asked: Grid) -> str:
    """The command line of the comparison: the axes, and the options that differ from the defaults."""
    axes = {axis: ",".join(values) for axis, values in asked.axes.items()}
    counts = {
        name: count for name, count in (("seeds", asked.seeds), ("gaps", asked.gaps)) if count != (name == "seeds")
    }
    given = axes | counts | _changed(asked.start, asked.varied())
    flags = [word for option, value in given.items() for word in (f"--{option.replace('_', '-')}", str(value))]
    return " ".join(["pyrovae", "compare", "--root", *map(_quoted, [name, *flags])])


def _quoted(word: str) -> str:
    """A quoted word for a shell; double quotes if it contains single ones, as options of members do."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _changed(made: Recipe, without: Sequence[str] = ()) -> Row:
    """The options of a recipe that differ from the defaults; of paths on this machine, only the names."""
    usual = vars(Recipe(threads=1))
    changed = {name: value for name, value in vars(made).items() if value != usual[name] and name not in without}
    changed.pop("data_root", None)
    return changed | ({"data": Path(made.data).name} if "data" in changed else {})


def _kind(root: Path, asked: Grid, rows: Sequence[Row], kind: Sequence[Row], before: int) -> Row:
    """A table of the page, which follows `before` rows; each cell has its text, and its number if it has one."""
    heads, alike = columns(kind)
    curves = {label(asked, row): _curves(root, row) for row in kind}
    behind = {label(asked, row): row["behind"] for row in kind if row.get("behind")} if kind[1:] else {}
    figure = plots.training_curves(curves, before) if any(curves.values()) else None
    return {
        "caption": caption(rows, kind),
        "measure": kind[0]["measure"],
        "verdict": verdict(asked, kind),
        "columns": heads,
        "alike": alike_text(alike),
        "rows": [(label(asked, row), [_cell(row, each) for each in heads]) for row in kind],
        "ranked": is_score(kind[0]) and not ranked_by(kind),
        "ranked_by": ranked_by(kind),
        "margin": margin_text(kind),
        "curves": None if figure is None else pages.drawing(figure),
        "behind": pages.drawing(plots.intervals(behind, "nats per datum behind the best", before)) if behind else None,
    }


def verdict(asked: Grid, kind: Sequence[Mapping[str, Any]]) -> str:
    """The best choice, and whether the next one is behind it by more than chance explains."""
    ranked = [row for row in kind if is_score(row)]
    if not ranked[1:]:
        return ""
    how = ranked_by(ranked)
    if ranked[0]["place"] is None:
        return f"{how}."
    by = f" {how.capitalize()}." if how else ""
    best, second = (label(asked, row) for row in ranked[:2])
    behind = ranked[1].get("behind")
    if not behind or math.isnan(behind["margin"]):
        return f"{best} {HIGHEST}.{by}{_nearness(asked)}"
    ahead = f"the next, {second}, is behind by {behind['value']:.2f} ± {behind['margin']:.2f} nats per datum"
    seeds = len(ranked[1]["ranked_by"])
    if seeds < LEAST_SEEDS:
        ahead += f": no lead is claimed with {seeds} seed{'s' * (seeds > 1)}, compare at least {LEAST_SEEDS}"
    elif behind["value"] <= behind["margin"]:
        ahead += f": within its 95 % margin of {seeds} seeds, no clear winner"
    return f"{best} {HIGHEST}; {ahead}.{by}{_nearness(asked)}"


def _nearness(asked: Grid) -> str:
    """A bound is higher for a better model or a closer guide: a hint, if the guide varies, how to separate the two."""
    told = " Part of the difference may only reflect a tighter bound: evaluate --examine interval shows how much."
    return told if NEARNESS & set(asked.varied()) else ""


def _cell(row: Mapping[str, Any], column: Column) -> tuple[str, str, float | None]:
    number = row.get(column.name)
    value = number["value"] if isinstance(number, Mapping) else number
    shown, _, error = text(row, column).partition(" ± ")
    return shown, error, None if value is None or math.isnan(value) else value


def _curves(root: Path, row: Mapping[str, Any]) -> list[tuple[list[int], list[float]]]:
    """For each run the losses that all its epochs have: on validation data if there are any."""
    found = []
    for epochs in filter(None, (records(root / name / "metrics.jsonl") for name in row["runs"])):
        loss = "valid_loss" if "valid_loss" in epochs[0] else "loss"
        found.append(([record["epoch"] for record in epochs], [record[loss] for record in epochs]))
    return found


def _runs(root: Path, asked: Grid, rows: Sequence[Row]) -> Iterator[Row]:
    """The first run of each choice, with its pictures and its recipe."""
    made = {cell.name: cell.recipe for cell in asked.cells()}
    for path in (root / row["runs"][0] for row in rows):
        drawn = {name: path / "figures" / f"{name}.png" for name in PICTURES}
        yield {
            "name": path.name,
            "pictures": {name: pages.picture(picture) for name, picture in drawn.items() if picture.exists()},
            "changed": _changed(made[path.name]),
            "recipe": (path / "run.toml").read_text() if (path / "run.toml").exists() else "",
        }


def _versions(paths: Sequence[Path]) -> Row:
    """The environments of the runs; several values if they differ."""
    made = [found for path in paths if (found := files.read_json(path / "environment.json"))]
    names = ("pyrovae", "commit", "python", "torch", "pyro-ppl", "system", "processors", "threads", "device")
    return {
        name: " and ".join(dict.fromkeys(str(each[name]) for each in made if each.get(name))) for name in names if made
    }
