"""A grid of ordinary runs, with varied and constant options. compare.toml stores it; parallel processes run it.

ROOT/compare.toml            the grid
ROOT/VALUE+...+seed-0/       a run of the grid
ROOT/VALUE+...+seed-0.log    the output of that run
"""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import chain, product
from pathlib import Path
from threading import Event
from typing import Any

import tomli_w
from tqdm import tqdm

from pyrovae import checks, files
from pyrovae.data.split import blocks
from pyrovae.evaluation.examine import LEAST
from pyrovae.programs.arguments import arguments
from pyrovae.programs.columns import by_kind, wanted
from pyrovae.programs.pair import pair
from pyrovae.runs import OUTPUTS, build, drawn, evaluation, names, part_of, recipe, same_data
from pyrovae.runs.recipe import Recipe
from pyrovae.runs.trust import flags, modules_of, trusted

FILE = "compare.toml"
MOST_SEEDS, MOST_RUNS = 1000, 10**5
POLL = 0.5  # seconds between checks of a run that another process is working on
# The options that a comparison may vary, keyed by the plural that lists them.
AXES = {
    "models": "model",
    "priors": "prior",
    "likelihoods": "likelihood",
    "guides": "guide",
    "networks": "network",
    "objectives": "objective",
    "betas": "beta",
    "latent_dims": "latent_dim",
    "label_counts": "num_labels",
    "learning_rates": "learning_rate",
}


@dataclass(frozen=True)
class Cell:
    """One run of a grid: the name of its directory, its recipe, and its choice of the axes' values."""

    name: str
    choice: tuple[str, ...]
    recipe: Recipe


@dataclass(frozen=True)
class Grid:
    """Every combination of some options' values, each with the seeds start.seed, start.seed + 1, ...

    Args:
        axes: an option's plural (AXES) to its values, as text.
        start: the options that do not vary.
        seeds: number of runs of each combination.
        gaps: number of rows of the data for which the guide's gaps are computed; 0 for none.
    """

    axes: Mapping[str, Sequence[str]]
    start: Recipe
    seeds: int = 1
    gaps: int = 0

    def __post_init__(self) -> None:
        checks.integer("seeds", self.seeds, most=MOST_SEEDS)
        if checks.integer("gaps", self.gaps, 0):
            checks.integer("gaps", self.gaps, LEAST)
        if not self.axes:
            raise ValueError(f"expected something to compare, any of {', '.join(AXES)}, found nothing")
        for axis, values in self.axes.items():
            checks.member("axis", axis, AXES)
            if not values:
                raise ValueError(f"{axis}: expected at least one value, found none")
        count = math.prod(map(len, self.axes.values())) * self.seeds
        if count > MOST_RUNS:
            raise ValueError(f"expected at most {MOST_RUNS} runs, found {count}")

    def options(self) -> dict[str, Any]:
        """All options of the grid by name."""
        fixed = {name: value for name, value in vars(self.start).items() if name not in self.varied()}
        return {**self.axes, "seeds": self.seeds, "gaps": self.gaps, **fixed}

    def varied(self) -> list[str]:
        """The options that the axes vary."""
        return [AXES[axis] for axis in self.axes]

    def cells(self) -> list[Cell]:
        """The runs, with checked recipes."""
        cells = []
        for values in product(*self.axes.values()):
            chosen = recipe.from_options(
                {o: _read(o, v) for o, v in zip(self.varied(), values, strict=True)}, self.start
            )
            for seed in range(self.start.seed, self.start.seed + self.seeds):
                name = "+".join([re.sub(r"[^\w.=-]+", "_", value).strip("_") for value in values] + [f"seed-{seed}"])
                cells.append(Cell(name, tuple(values), replace(chosen, seed=seed)))
        if min(len({cell.name for cell in cells}), len({cell.recipe for cell in cells})) < len(cells):
            raise ValueError(f"expected values that differ, found some twice in {dict(self.axes)}")
        return cells


def _read(option: str, text: str) -> Any:
    kind = type(getattr(Recipe, option))
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{option}: expected {kind.__name__}, found {text!r}") from None


def from_options(values: Mapping[str, Any], start: Grid | None = None) -> Grid:
    """A grid with these options, and the others as in `start`: axes (lists or text), `seeds`, `gaps`, recipe options.

    By default each run has one thread, because several run at a time.
    """
    for name in values:
        checks.member("option", name, [*AXES, "seeds", "gaps", *(each.name for each in fields(Recipe))])
    known = {"threads": 1} | (start.options() if start else {}) | dict(values)
    axes = {axis: _values(axis, known.pop(axis)) for axis in AXES if axis in known}
    for axis in axes:
        if AXES[axis] in values:
            raise ValueError(f"{AXES[axis]}: expected one of {AXES[axis]} and {axis}, found both")
        known.pop(AXES[axis], None)
    counts = {name: known.pop(name) for name in ("seeds", "gaps") if name in known}
    return Grid(axes, recipe.from_options(known), **counts)


def _values(axis: str, given: Any) -> list[str]:
    """The values as text; equal numbers, such as 1 and 1.0, become the same text."""
    if isinstance(given, str):
        try:
            given = names.split(given)
        except ValueError as error:
            raise ValueError(f"{axis}: {error}") from None
    if not isinstance(given, Sequence):
        raise ValueError(f"{axis}: expected a list of values, found {given!r}")
    option = AXES[axis]
    if isinstance(getattr(Recipe, option), str) and (odd := [each for each in given if not isinstance(each, str)]):
        raise ValueError(f"{axis}: expected names, found {odd[0]!r}")
    return [str(_read(option, str(each))).removesuffix(".0") for each in given]


def modules(options: Mapping[str, Any]) -> list[str]:
    """The modules outside of pyrovae whose parts these options name; naming them on a command line trusts them."""
    axes = [_values(axis, options[axis]) for axis, option in AXES.items() if option in recipe.PARTS and axis in options]
    return modules_of([*chain.from_iterable(axes), *(options.get(part) for part in recipe.PARTS)])


def read(path: Path) -> Grid:
    """Read a compare.toml; a ValueError names the file, and what is wrong in it."""
    with recipe.in_toml(path) as values:
        return located(from_options(values), path.parent)


def located(grid: Grid, folder: Path) -> Grid:
    """The grid with absolute paths, instead of paths relative to the folder."""
    return replace(grid, start=recipe.locate(grid.start, folder))


def write(grid: Grid, path: Path) -> None:
    """Write compare.toml: the axes, and every other option with its help text; paths are relative to its folder."""
    command = " ".join(["pyrovae compare", path.parent.name, *flags(modules(grid.options()))])
    head = f"# `{command}`, from the folder above, runs this comparison or continues it."
    axes = {axis: [_read(AXES[axis], value) for value in values] for axis, values in grid.axes.items()}
    varied = tomli_w.dumps(axes | {"seeds": grid.seeds, "gaps": grid.gaps}).rstrip()
    recipe.write_toml(path, [head, varied, *recipe.lines(grid.start, path.parent, grid.varied())])


def asked(root: Path, options: Mapping[str, Any]) -> Grid:
    """The grid in the root's compare.toml, or that of the options if there is none; if there are both, they must agree.

    Raises:
        ValueError: the options are invalid, or differ from those of the compare.toml.
    """
    if not (root / FILE).exists():
        if not AXES.keys() & options.keys():
            axes = ", ".join(f"--{axis.replace('_', '-')}" for axis in AXES)
            raise ValueError(f"expected something to compare, a {root / FILE} or any of {axes}, found neither")
        return located(from_options(options), Path.cwd())
    recorded = read(root / FILE)
    now = located(from_options(options, recorded), Path.cwd())
    advice = f"{FILE} in it can be added to, --root starts another comparison"
    recipe.check_same(root, recorded.options(), now.options(), advice)
    return recorded


def check(cells: Sequence[Cell]) -> str:
    """Raise a ValueError if a combination is invalid, before any run; returns the part of the data for evaluation."""
    whole = build.splits(replace(cells[0].recipe, num_labels=0.0))
    for cell in {cell.choice: cell for cell in cells}.values():
        try:
            splits = build.with_kept_labels(cell.recipe, whole)
            model = build.model(cell.recipe, splits.event_shape, splits.num_classes, len(splits.train))
            eager = replace(cell.recipe, compile="no", matmul="highest")  # nothing is recorded
            build.training(eager, model, splits)
            objective = build.objective(cell.recipe, -(-len(splits.train) // cell.recipe.batch_size), model)
            _, rows = next(by_kind(model, *next(blocks(splits.train, 8, wanted(model)))))
            objective.differentiable_loss(*pair(model), *arguments(model, *rows))
        except ValueError as error:
            raise ValueError(f"{', '.join(cell.choice)}: {checks.reason(error)}") from None
    return part_of(whole)[0]


def check_runs(root: Path, cells: Sequence[Cell]) -> None:
    """Raise a ValueError if an existing run has another recipe, or its data have changed."""
    advice = "--root starts another comparison"
    for cell in cells:
        files.check_no_link(root / cell.name)
    there = [cell for cell in cells if (root / cell.name / "run.toml").exists()]
    for cell in there:
        recorded = recipe.read(root / cell.name / "run.toml")
        recipe.check_same(root / cell.name, vars(recorded), vars(cell.recipe), advice)
    if begun := [cell for cell in there if _begun(root / cell.name)]:
        splits = build.splits(replace(begun[0].recipe, num_labels=0.0))
        for cell in begun:
            same_data(root / cell.name, build.with_kept_labels(cell.recipe, splits), advice)


def carry_out(root: Path, cells: Sequence[Cell], split: str, jobs: int, gaps: int = 0) -> dict[str, str]:
    """Run the unfinished runs, which were checked before, `jobs` at a time; returns the failed ones, with the reasons.

    Each is `pyrovae train` in its own process, with its output in NAME.log and the same trusted modules. An interrupted
    run continues where it stopped, with `pyrovae plot` if only figures are missing. A run that fails does not stop the
    others. A run that another process is working on is waited for.
    """
    root.mkdir(parents=True, exist_ok=True)
    left = [cell for cell in cells if not (finished(root, cell, split, gaps) and drawn(root / cell.name))]
    trust, stop = flags(trusted()), Event()  # read here, because a thread of the pool has its own context
    with ThreadPoolExecutor(jobs) as pool:
        try:
            done = pool.map(lambda cell: _carry_out(root, cell, split, gaps, trust, stop), left)
            ended = list(tqdm(done, total=len(left), unit="run", disable=None))
        finally:
            stop.set()
    return {cell.name: why for cell, why in zip(left, ended, strict=True) if why}


def _carry_out(root: Path, cell: Cell, split: str, gaps: int, trust: Sequence[str], stop: Event) -> str:
    """Complete one run; returns the reason if it failed."""
    (root / cell.name).mkdir(exist_ok=True)
    if not _free(root / cell.name, stop):
        return "interrupted"
    if not finished(root, cell, split, gaps):
        return _train(root, cell, gaps, trust)
    return "" if drawn(root / cell.name) else _plot(root, cell, trust)


def _free(path: Path, stop: Event) -> bool:
    """Wait until no other process works in a run's folder; False if the wait is stopped.

    Such a process is a run that someone started by hand, or a child of a killed comparison, which is about to end.
    """
    while files.in_use(path):
        if stop.wait(POLL):
            return False
    return not stop.is_set()


def _train(root: Path, cell: Cell, gaps: int, trust: Sequence[str]) -> str:
    """Train, evaluate and plot one run; returns the reason if it failed."""
    path = root / cell.name
    if not (path / "run.toml").exists():
        recipe.write(cell.recipe, path / "run.toml")
    examined = ["--examine", "diagnosis", "--rows", str(gaps)] if gaps else []
    return _run(root, cell, ["train", str(path), *(["--resume"] if _begun(path) else []), *examined, *trust])


def _plot(root: Path, cell: Cell, trust: Sequence[str]) -> str:
    """Draw the figures of an evaluated run; returns the reason if it failed."""
    return _run(root, cell, ["plot", str(root / cell.name), *trust], "a")


def _run(root: Path, cell: Cell, words: Sequence[str], mode: str = "w") -> str:
    return command(words, root / f"{cell.name}.log", cell.recipe.threads, mode)


def command(words: Sequence[str], log: Path, threads: int = 0, mode: str = "w") -> str:
    """`pyrovae WORDS` in its own process, with its output in `log`; returns the reason if it failed.

    If `threads` is not 0, the process uses this many, so that it does not take the cores of others. It imports nothing
    from the working directory, which may be a stranger's.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | _search_path()
    files.check_file(log)
    with _lifeline() as line, files.overwriting(log, mode) as file:
        called = [sys.executable, "-m", "pyrovae.comparison.child", *words]
        ended = subprocess.run(called, stdin=line, stdout=file, stderr=subprocess.STDOUT, env=environment)
    return _reason(ended.returncode, log)


def _search_path() -> dict[str, str]:
    """Environment that keeps the working directory off the path of a new Python: no empty entry in PYTHONPATH."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(entries)}


@contextmanager
def _lifeline() -> Iterator[int]:
    """A pipe whose end a child reads when this process ends, in any way; nothing is written to it."""
    reading, writing = os.pipe()  # no other child inherits it
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def _begun(path: Path) -> bool:
    return any((path / name).exists() for name in OUTPUTS)


def _reason(status: int, log: Path) -> str:
    """The reason why a run failed: the last line of its output, or the signal that ended it; "" if it did not fail."""
    if status <= 0:
        return f"ended by signal {-status}" if status else ""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next(
        (line.removeprefix("pyrovae: ") for line in reversed(lines) if line), f"status {status}, without output"
    )


def finished(root: Path, cell: Cell, split: str, gaps: int = 0) -> dict[str, Any] | None:
    """The numbers of an evaluated run, if they match the grid's options; an evaluation by hand may have others."""
    try:
        found, _ = evaluation(root / cell.name)
    except ValueError:  # none yet, or damaged: then it is evaluated again
        return None
    asked = {"split": split, "particles": cell.recipe.particles, "seed": 0}
    same = all(found.get(name) == value for name, value in asked.items())
    return found if same and (not gaps or _told(found, gaps)) else None


def _told(found: Mapping[str, Any], gaps: int) -> bool:
    """Whether the gaps for this many rows are there, or the reason why the programs allow none."""
    diagnosis = found.get("examination", {}).get("diagnosis", {})
    # Earlier versions used the first rows, and did not store how many there were.
    return "refused" in diagnosis or ("of_rows" in diagnosis and diagnosis["rows"] == min(gaps, found["rows"]))
