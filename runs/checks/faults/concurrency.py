"""Several processes at once in one place: each has its own folder, or one of them works and the other says so."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import made
import planting
from campaign import Case
from forking import begin, command, end
from judge import RIGHT, Outcome, disaster, lines

AT_ONCE = 10  # processes that ask for a name
STARTS = (0.0, 0.05, 0.2, 0.5)  # seconds between two processes
IN_USE = "expected a folder that no other process works in"


def cases(template: Path, seed: int) -> Iterator[Case]:
    train, again = made.numbers(template / "whole/runs/run"), command(*made.RESUME)
    compared = made.compared(template / "whole/cmp")
    for pause in STARTS:
        for row, start, functions, answer in (
            ("two trainings of one name", "whole", [command(*made.TRAIN)] * 2, train),
            ("two resume", "cut", [again] * 2, train),
            ("resume and evaluate", "cut", [again, command(*made.EVALUATE)], train),
        ):
            yield Case(f"at once: {row}", f"{pause} s apart", _two(template, start, functions, pause, answer))
        both = [made.comparing(*made.COMPARE)] * 2
        yield Case("at once: two comparisons", f"{pause} s apart", _compare(template, both, pause, compared))
    yield Case("at once: ten names", f"{AT_ONCE} processes", _names(template, train))
    for row, start, functions in (
        ("two trainings of one name", "whole", [command(*made.TRAIN)] * 2),
        ("two resume", "cut", [again] * 2),
        ("resume and evaluate", "cut", [again, command(*made.EVALUATE)]),
    ):
        yield Case(f"at once: {row}", "planted: no lock", _two(template, start, functions, 0.0, train, True), True)
    yield Case("at once: two comparisons", "planted: no lock", _compare(template, both, 0.0, compared, True), True)
    yield Case("at once: ten names", "planted: all take one name", _names(template, train, True), True)


@contextmanager
def _unlocked(path: Path) -> Iterator[None]:
    """A planted fault: a lock that keeps nobody out."""
    yield


def _start(here: Path, functions: Sequence[Callable[[], Any]], pause: float, planted: bool) -> list[Outcome]:
    """How processes end that were begun one shortly after the other."""
    begun = []
    for number, function in enumerate(functions):
        begun.append(begin(planting.patched(function, **{"_locked": _unlocked} if planted else {}), here, f"-{number}"))
        time.sleep(pause)
    return [end(process) for process in begun]


def _two(template: Path, start: str, functions: Sequence[Callable[[], Any]], pause: float, expected: Any,
         planted: bool = False) -> Callable[[Path], str]:  # fmt: skip
    """One does its work, to the bit; the other is refused, or comes after it."""

    def carry_out(here: Path) -> str:
        made.bring(template / start, here, *(["x.npy"] if start == "whole" else ["x.npy", "runs/run"]))
        ended = _start(here, functions, pause, planted)
        for outcome in ended:
            if fault := _fault(outcome):
                return fault
        if all(outcome.status == 0 for outcome in ended) and pause == 0:
            return "both worked in one folder"
        if left := made.hidden(here):
            return f"temporary files are left: {left}"
        if ended[0].status and ended[1].status:
            return "both were refused"
        return _completed(here, expected)

    return carry_out


def _completed(here: Path, expected: Any) -> str:
    """Whichever of the two came first: where it was not the training, that is done now."""
    outcome = end(begin(command(*made.RESUME), here))
    if fault := disaster(outcome):
        return f"then {fault}"
    value = made.numbers(here / "runs/run")
    return RIGHT if outcome.status == 0 and value == expected else f"then another run: status {outcome.status}"


def _fault(outcome: Outcome) -> str:
    """What is wrong with the end of one of two; that the other one is at work, or was here before, is right."""
    said = lines(outcome.errors)
    if fault := disaster(outcome):
        return fault
    if outcome.status == 0:
        return ""
    fine = len(said) == 1 and (IN_USE in said[0] or "already holds a run" in said[0])
    return "" if fine else f"status {outcome.status}: {said}"


def _compare(template: Path, functions: Sequence[Callable[[], Any]], pause: float, expected: Any,
             planted: bool = False) -> Callable[[Path], str]:  # fmt: skip
    def carry_out(here: Path) -> str:
        made.bring(template / "whole", here)
        ended = _start(here, functions, pause, planted)
        for outcome in ended:
            if fault := _fault(outcome):
                return fault
        if sum(outcome.status == 0 for outcome in ended) != 1 and pause == 0:
            return f"expected one of two to be at work, found {[outcome.status for outcome in ended]}"
        left = made.hidden(here)
        return f"temporary files are left: {left}" if left else _same(made.compared(here / "cmp"), expected)

    return carry_out


def _same(value: Any, expected: Any) -> str:
    return RIGHT if value == expected else f"another table: {value}"


def _names(template: Path, expected: Any, planted: bool = False) -> Callable[[Path], str]:
    """Ten trainings without a name at one moment are ten runs, each with the same bits."""
    words = ["train", *made.OPTIONS]

    def ask() -> Any:
        if planted:
            planting.replace("make_folder", lambda path, new=False: os.makedirs(path, exist_ok=True))
            planting.replace("_locked", _unlocked)
        return command(*words)()

    def carry_out(here: Path) -> str:
        made.bring(template / "whole", here)
        begun = [begin(ask, here, f"-{number}") for number in range(AT_ONCE)]
        ended = [end(process) for process in begun]
        if faults := [fault for outcome in ended if (fault := disaster(outcome) or outcome.errors)]:
            return faults[0]
        runs = sorted(path.name for path in (here / "runs").iterdir())
        if runs != sorted(f"x-{number}" for number in range(1, AT_ONCE + 1)):
            return f"runs {runs}"
        weights = [made.numbers(here / "runs" / name)["best"] for name in runs]
        return RIGHT if weights == [expected["best"]] * AT_ONCE else "other weights"

    return carry_out
