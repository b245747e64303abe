"""Deaths before each change of the file system: what is asked for again gives the same bits, and nothing is left."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made
import planting
from campaign import Case
from forking import command, fork
from kills import STAGES, Stage, last_rename, went_on

from pyrovae.__main__ import main


def cases(template: Path, seed: int) -> Iterator[Case]:
    for name in ("train", "resume", "evaluate", "plot"):
        stage = STAGES[name]
        here = template / f"counted-{name}"
        here.mkdir()
        stage.bring(template, here)
        count = fork(_counted(stage), here).value
        expected = stage.answer(here)
        row = f"death before a change of a file: {name}"
        for number in range(1, count + 1):
            yield Case(row, f"{number} of {count}", _died(stage, template, number, expected))
        yield Case(row, "planted", _planted(stage, template, count, expected), True)


def _counted(stage: Stage) -> Callable[[], Any]:
    """How many changes there are."""

    def count() -> int:
        numbers: list[int] = []
        made.changes(numbers.append)
        assert main(stage.words) == 0
        return len(numbers)

    return count


def _died(stage: Stage, template: Path, number: int, expected: Any, **planted: Any) -> Callable[[Path], str]:
    def carry_out(here: Path) -> str:
        stage.bring(template, here)
        died = fork(planting.patched(made.dying(number, words=stage.words), **planted), here)
        if died.status != made.DIED:
            return f"it did not die: {died.status}, {died.errors[-300:]}"
        return went_on(stage, template, here, expected)

    return carry_out


def _planted(stage: Stage, template: Path, count: int, expected: Any) -> Callable[[Path], str]:
    """Files that are written to in their place; figures, which are made anew in any case, leave temporary files."""
    if stage.name in ("train", "resume"):
        tried = range(3, count, 4)
        return planting.any_wrong([_died(stage, template, n, expected, replacing=planting.in_place) for n in tried])

    def carry_out(here: Path) -> str:
        stage.bring(template, here)
        fork(made.dying(1, last_rename, stage.words), here)
        again = fork(planting.patched(command(*stage.words), sweep=planting.nothing), here)
        left = made.hidden(here)
        return f"temporary files are left: {left}" if left else f"right: {again.status}"

    return carry_out
