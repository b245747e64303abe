"""The command line: `pyrovae train`, `pyrovae evaluate RUN`, `pyrovae plot RUN`, `pyrovae compare`,
`pyrovae experiment NAME`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from pyrovae import checks, comparison, experiments, files, runs
from pyrovae.comparison import grid
from pyrovae.evaluation.examine import LEAST
from pyrovae.evaluation.parts import PARTS
from pyrovae.runs import names, recipe, report
from pyrovae.runs.recipe import Recipe
from pyrovae.runs.trust import flags, trusted, trusting
from pyrovae.training.faults import TrainingError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
ROWS = 200  # rows of the data that an examination uses
RUNS = Path("runs")
EXPERIMENTS = RUNS / "experiments"


class BadInputError(Exception):
    """Invalid input; the message gives the reason in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (failed), 2 (bad input: one line on stderr) or 130 (interrupted)."""
    try:
        asked = vars(_parser().parse_args(arguments))
        with _trusting(asked):
            asked.pop("command")(**asked)
    except BadInputError as error:
        print(f"pyrovae: {error}", file=sys.stderr)
        return BAD_INPUT
    except TrainingError as error:
        print(f"pyrovae: training stopped at {error}", file=sys.stderr)
        return FAILED
    except OSError as error:  # during the work: the disk is full, or something else is in the place of a file
        print(f"pyrovae: {checks.reason(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("pyrovae: interrupted", file=sys.stderr)
        return INTERRUPTED
    return DONE


def _train(
    path: Path | None,
    name: str,
    root: Path,
    resume: bool,
    examine: str = "",
    rows: int | None = None,
    **options: Any,
) -> None:
    with _bad_input():
        parts = _parts(examine, rows)
        path, asked = _target(path, name, root, resume, options)
        count = asked.threads or (runs.thread_count(path) if path else 0)
    with _claimed(path, root, Path(asked.data).stem) as target, runs.threads(count):
        with _bad_input():
            training = runs.prepare(target, asked, resume)
        print(f"{target}: {asked.data}, {len(training.batches.data)} rows to train on", flush=True)
        if training.matmul_measured:
            print(
                "matmul: {matmul} (medium: {medium_speed:.1f} x as fast, error {medium_error:.0e})".format(
                    matmul=training.matmul, **training.matmul_measured
                )
            )
        try:
            runs.train(target, asked, training)
        except KeyboardInterrupt:
            words = ["pyrovae", "train", str(target), "--resume", *flags(asked.modules())]
            print(f"\ncontinue with: {' '.join(words)}", file=sys.stderr)
            raise
        with _bad_input():
            results = runs.evaluate(target, parts=parts, rows=rows or ROWS)
            _tell(results, parts)
            written = runs.plot(target)
    trust = f", trust={tuple(asked.modules())}" if asked.modules() else ""
    print(f"\nThe run is in {target}. Figures: {written[0].parent}/ ({', '.join(each.stem for each in written)}).")
    if asked.tracker:
        print(f"Curves: `{asked.tracker} --logdir {target}`.")
    print(f"The model: pyrovae.load({str(target)!r}{trust})")


def _target(
    path: Path | None, name: str, root: Path, resume: bool, options: dict[str, Any]
) -> tuple[Path | None, Recipe]:
    """The folder of the run (None if it is not named), and its recipe: that of `path` with the given options."""
    if path and (resume if name else root != RUNS):
        option, needed = ("--name", "RUN or --name") if name else ("--root", "RUN alone, or --name with it")
        raise ValueError(f"{option}: expected {needed}, found RUN {path} and {option} {name or root}")
    start = recipe.read(path / "run.toml") if path else None
    target = root / name if name else path
    if resume and target is None:
        raise ValueError("--resume: expected the run to continue (pyrovae train RUN --resume), found none")
    if resume and target is not None:
        start = recipe.read(target / "run.toml")
    asked = recipe.locate(recipe.from_options(options, start), Path.cwd())
    return target, asked


def _evaluate(path: Path, particles: int, split: str, seed: int, examine: str, rows: int | None = None) -> None:
    with _claimed(path), _bad_input(), runs.threads(runs.thread_count(path)):
        parts = _parts(examine, rows)
        checks.integer("particles", particles, 0, recipe.MOST)
        checks.integer("seed", seed, 0)
        results = runs.evaluate(path, particles, split, seed, parts, rows or ROWS)
    _tell(results, parts)


def _parts(examine: str, rows: int | None) -> list[str]:
    """The requested parts of an examination."""
    if rows is not None and not examine:
        raise ValueError(f"--rows: expected it together with --examine, which uses it, found --rows {rows} alone")
    checks.integer("rows", ROWS if rows is None else rows, LEAST)
    parts = names.split(examine) if examine else []
    for part in parts:
        checks.member("part", part, [*PARTS, "all"])
    return [*PARTS] if "all" in parts else parts


def _tell(results: dict[str, Any], parts: Sequence[str]) -> None:
    print(report.evaluation(results))
    if parts:
        print(report.examination({part: results["examination"][part] for part in parts}))


def _plot(path: Path) -> None:
    with _claimed(path), _bad_input(), runs.threads(runs.thread_count(path)):
        written = runs.plot(path)
    print("\n".join(map(str, written)))


def _compare(path: Path | None, jobs: int, root: Path | None = None, **options: Any) -> None:
    with _bad_input():
        target = _comparison_root(path, root, options)
        asked = grid.asked(target, options)
        cells, jobs = asked.cells(), comparison.at_a_time(asked, jobs)
        split = grid.check(cells)
    print(f"{target}: {len(cells)} runs, {jobs} at a time", flush=True)
    try:
        with _bad_input():
            found = comparison.carry_out(target, asked, split, jobs)
            print(f"\n{found}")
            found.write()
    except KeyboardInterrupt:
        print(f"\ncontinue with: {' '.join(['pyrovae', 'compare', str(target), *flags(trusted())])}", file=sys.stderr)
        raise
    print(f"\nThe comparison is in {target}. Look at {target / 'report.html'}")
    if found.failed:
        raise TrainingError(
            f"{len(found.failed)} of {len(cells)} runs: look at {target / next(iter(found.failed))}.log"
        )


def _comparison_root(path: Path | None, root: Path | None, options: dict[str, Any]) -> Path:
    """The folder of the runs: the given one, or one named by the data and the axes."""
    if path and root:
        raise ValueError(f"--root: expected one folder, found {path} and --root {root}")
    axes = [axis.replace("_", "-") for axis in grid.AXES if axis in options]
    return path or root or Path("runs/compare", "-".join([Path(options.get("data", recipe.Recipe.data)).stem, *axes]))


def _experiment(name: str, root: Path, list: bool, threads: int = 0, **options: Any) -> None:
    if list or not name:
        with _bad_input():
            _nothing_beside_a_list(name, options | {"threads": threads})
            listed = experiments.found(root)
        print("\n".join(f"{each:14} {question}" for each, question in listed.items()))
        return
    data, seeds = options.get("data", "digits"), options.get("seeds", 1)
    with _bad_input():
        checks.integer("threads", threads, 0, recipe.MOST_THREADS)
        experiments.check(root, name, data, seeds)
    with runs.threads(threads):
        target = experiments.run(root, name, data, seeds)
    print(f"\n{(target / 'findings.md').read_text()}\nThe experiment is in {target}.")


def _nothing_beside_a_list(name: str, options: dict[str, Any]) -> None:
    """Raise a ValueError if a list of all experiments is requested together with options of a single one."""
    given = {"NAME": name} | {f"--{option}": value for option, value in options.items()}
    for option, value in given.items():
        if value:
            raise ValueError(f"{option}: expected none together with a list of the experiments, found {value}")


@contextmanager
def _bad_input() -> Iterator[None]:
    """Before any work is done, report a ValueError or OSError as invalid input."""
    try:
        yield
    except files.StorageError:
        raise
    except (ValueError, OSError) as error:
        raise BadInputError(checks.reason(error)) from error


@contextmanager
def _claimed(path: Path | None, root: Path = RUNS, stem: str = "") -> Iterator[Path]:
    """The folder of a run, locked for this command; without a path a new one, root/stem-NUMBER."""
    with ExitStack() as held:
        with _bad_input():
            claim = runs.new_folder(root, stem) if path is None else files.claimed(path)
            target = held.enter_context(claim)
        yield target


@contextmanager
def _trusting(asked: dict[str, Any]) -> Iterator[None]:
    """Trust the modules named by --trust, and those of the parts on the command line, for this command."""
    with ExitStack() as held:
        with _bad_input():
            held.enter_context(trusting([*asked.pop("trust", []), *grid.modules(asked)]))
        yield


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors and a suggestion for a misspelt option."""

    def parse_known_args(self, args=None, namespace=None):
        """Let the subcommand's parser report unknown arguments, because the parser above cannot suggest its options."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        try:
            if unknown and unknown[0].startswith("--"):
                known = {flag for action in self._actions for flag in action.option_strings if flag.startswith("--")}
                checks.member("option", unknown[0].partition("=")[0], known)
        except ValueError as error:
            message = str(error).partition(" (known")[0]
        raise BadInputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("pyrovae", description="Variational autoencoders as explicit Pyro programs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    known: dict[str, Any] = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter, "allow_abbrev": False}

    each = commands.add_parser("train", help="train a model, evaluate it and draw its figures", **known)
    each.add_argument("path", nargs="?", type=Path, metavar="RUN", help="a directory with a run.toml to reproduce")
    each.add_argument(
        "--name", default="", help="name of the run; default: RUN itself, or the data's name and a number"
    )
    each.add_argument("--root", default=RUNS, type=Path, help="folder of the runs")
    each.add_argument("--resume", action="store_true", help="continue an interrupted run; the result is the same")
    _add_examination(each)
    _add_options(each)
    _add_trust(each)
    each.set_defaults(command=_train)

    each = commands.add_parser("compare", help="a grid of runs, in parallel, and a table for each measure", **known)
    each.add_argument("path", nargs="?", type=Path, metavar="ROOT", help="a folder with a compare.toml to run")
    text = "folder of the comparison's runs (default: runs/compare/, named by data and axes)"
    each.add_argument("--root", type=Path, default=argparse.SUPPRESS, help=text)
    text = "runs of each combination (default: 1)"
    each.add_argument("--seeds", default=argparse.SUPPRESS, type=int, help=text)
    text = "number of data rows for measuring the amortisation and approximation gaps (default: 0, none)"
    each.add_argument("--gaps", default=argparse.SUPPRESS, type=int, metavar="ROWS", help=text)
    each.add_argument("--jobs", default=0, type=int, help="runs at a time; 0: one for each core")
    for plural, option in grid.AXES.items():
        flag, text = "--" + plural.replace("_", "-"), f"values of --{option.replace('_', '-')}, separated by commas"
        each.add_argument(flag, default=argparse.SUPPRESS, metavar="A,B", help=text)
    _add_options(each)
    _add_trust(each)
    each.set_defaults(command=_compare)

    each = commands.add_parser("evaluate", help="evaluate a run, with errors: evaluation.json", **known)
    each.add_argument("path", type=Path, metavar="RUN", help="the run's directory")
    each.add_argument("--particles", type=int, default=0, help="importance samples; 0: the recipe's number")
    each.add_argument("--split", default="", help="test, valid or train; empty: the first that exists")
    each.add_argument("--seed", type=int, default=0, help="seed of the noise")
    _add_examination(each)
    _add_trust(each)
    each.set_defaults(command=_evaluate)

    each = commands.add_parser("experiment", help="run one of the experiments in runs/experiments/", **known)
    each.add_argument("name", nargs="?", default="", metavar="NAME", help="name of the experiment; without it, a list")
    each.add_argument("--list", action="store_true", help="list names and questions, one in each line")
    text = "digits (under two minutes), or mnist ($PYROVAE_DATA) (default: digits)"
    each.add_argument("--data", default=argparse.SUPPRESS, help=text)
    text = "repetitions of everything random (default: 1)"
    each.add_argument("--seeds", default=argparse.SUPPRESS, type=int, help=text)
    each.add_argument("--root", default=EXPERIMENTS, type=Path, help="folder of the experiments")
    each.add_argument(
        "--threads", default=0, type=int, help="torch's threads on the CPU; 0: half of torch's own choice"
    )
    each.set_defaults(command=_experiment)

    each = commands.add_parser("plot", help="figures of a run: figures/*.png", **known)
    each.add_argument("path", type=Path, metavar="RUN", help="the run's directory")
    _add_trust(each)
    each.set_defaults(command=_plot)
    return parser


def _add_examination(parser: argparse.ArgumentParser) -> None:
    text = f"further checks of guide and model, any of {', '.join(PARTS)}, or all; empty: none"
    parser.add_argument("--examine", default="", metavar="A,B", help=text)
    text = f"rows of the data to examine (default: {ROWS})"
    parser.add_argument("--rows", type=int, default=argparse.SUPPRESS, help=text)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    text = "a module whose code a run or a compare.toml may use (module:Class); may be repeated (default: none)"
    parser.add_argument("--trust", action="append", default=argparse.SUPPRESS, metavar="MODULE", help=text)


def _add_options(parser: argparse.ArgumentParser) -> None:
    for option in fields(Recipe):
        flag, text = "--" + option.name.replace("_", "-"), f"{option.metadata['help']} (default: {option.default!r})"
        kind: Any = option.type
        parser.add_argument(flag, type=kind, default=argparse.SUPPRESS, metavar=kind.__name__.upper(), help=text)


if __name__ == "__main__":
    sys.exit(main())
