"""Comparisons: a grid of runs, one table for each measure, and a page that shows everything.

compare.toml     the grid, which `pyrovae compare ROOT` runs or continues
compare.md       the tables that it prints
compare.json     their rows, with all numbers; compare.csv: the same, flat
report.html      the tables, curves, pictures and recipes on one page
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrovae import checks, files
from pyrovae.comparison import grid
from pyrovae.comparison.grid import Grid
from pyrovae.comparison.page import report
from pyrovae.comparison.rows import Row, collect, label, paired_difference
from pyrovae.comparison.tables import as_csv, tables
from pyrovae.evaluation.ranking import comparable
from pyrovae.runs.trust import trusting


def compare(root: str | Path, *, jobs: int = 0, trust: Sequence[str] = (), **options: Any) -> "Comparison":
    """Run a grid, or the rest of it, in parallel processes, and compare the results.

    `print` shows the result as one table for each measure; ROOT/report.html is a page. If the root contains a
    compare.toml, that is the grid, and further options must agree with it.

    Args:
        root: folder of the runs.
        jobs: number of runs at a time; 0 is one for each core.
        trust: modules whose code a compare.toml may use, "module:Class"; modules in `options` are trusted.
        options: axes (`guides=["diagonal-normal", "iaf"]`, see `grid.AXES`); constant options, as in a run.toml
            (`data="digits"`); `seeds`, the number of runs of each combination; `gaps`, the number of rows for which the
            guide's gaps are computed.

    Raises:
        ValueError: before any run, if the options are invalid. A run that fails raises no error: it is listed in
            `failed`.

    Example:
        >>> import pyrovae
        >>> print(pyrovae.compare("runs/compare/guides", guides=["diagonal-normal", "iaf"], seeds=3))  # doctest: +SKIP
    """
    root = Path(root)
    with trusting(trust), trusting(grid.modules(options)):
        asked = grid.asked(root, options)
        found = carry_out(root, asked, grid.check(asked.cells()), at_a_time(asked, jobs))
    found.write()
    return found


def at_a_time(asked: Grid, jobs: int = 0) -> int:
    """The number of runs at a time; 0 stands for one for each core."""
    return checks.integer("jobs", jobs, 0) or max(1, (os.cpu_count() or 1) // max(1, asked.start.threads))


def carry_out(root: Path, asked: Grid, split: str, jobs: int) -> "Comparison":
    """Carry out the runs, as in `grid.carry_out`, and collect their results."""
    cells = asked.cells()
    grid.check_runs(root, cells)
    with files.claimed(root):
        if not (root / grid.FILE).exists():
            grid.write(asked, root / grid.FILE)
        failed = grid.carry_out(root, cells, split, jobs, asked.gaps)
        return Comparison(root, asked, collect(root, asked, split), failed)


@dataclass(frozen=True)
class Comparison:
    """The results of a grid: a row for each choice with a finished run, and the failed runs with the reasons."""

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
        """Write compare.md, compare.json, compare.csv and report.html to the root; each is complete or unchanged."""
        files.write_bytes(self.root / "compare.md", f"{self}\n".encode())
        files.write_json(self.root / "compare.json", self.rows)
        files.write_bytes(self.root / "compare.csv", as_csv(self.rows).encode())
        files.write_bytes(self.root / "report.html", self.html().encode())

    def html(self) -> str:
        """The page of report.html."""
        return report(self.root, self.grid, self.rows, self.failed)

    def difference(
        self, one: str | Sequence[str], other: str | Sequence[str], score: str = "log_likelihood"
    ) -> dict[str, float]:
        """Mean of score(one) - score(other) over the same data, with its error and margin: see `scores.paired`.

        The margin is valid for two choices that were named before the results were seen; the margins of the table
        account for the choice of the best.

        Args:
            one, other: choices: a value for each axis.
            score: "log_likelihood" or "elbo".

        Raises:
            ValueError: they differ in measure, data, split or binarisation, or have no seed in common.
        """
        checks.member("score", score, ("log_likelihood", "elbo"))
        by_label = {label(self.grid, row): row for row in self.rows}
        wanted = [each if isinstance(each, str) else ", ".join(each) for each in (one, other)]
        rows = {each: by_label[checks.member("choice", each, by_label)] for each in wanted}
        comparable(rows)
        found = paired_difference(self.root, rows[wanted[0]], rows[wanted[1]], score)
        if found is None:
            raise ValueError(
                f"{wanted[0]} and {wanted[1]}: expected runs of one seed with scores.safetensors, found none"
            )
        return found
