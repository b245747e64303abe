"""A forked process gives what a new one gives: else the other rows would say nothing of a user's commands."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made
from campaign import Case
from forking import fork
from judge import judge

ROW = "a new process, and a forked one"


def cases(template: Path, seed: int) -> Iterator[Case]:
    def trained(here: Path) -> Any:
        return made.numbers(here / "runs/run")

    def compared(here: Path) -> Any:
        return made.compared(here / "cmp")

    yield Case(ROW, "train", _case(template, made.TRAIN, trained))
    yield Case(ROW, "compare", _case(template, made.COMPARE, compared))
    other = [*made.TRAIN, "--learning-rate", "0.0010001"]
    yield Case(ROW, "planted: another learning rate", _case(template, other, trained), True)


def _case(template: Path, words: list[str], answer: Callable[[Path], Any]) -> Callable[[Path], str]:
    def run() -> None:
        sys.exit(subprocess.run([sys.executable, "-m", "pyrovae", *words], stdout=subprocess.DEVNULL).returncode)

    def carry_out(here: Path) -> str:
        made.bring(template / "whole", here)
        outcome = fork(run, here)
        return judge(made.with_value(outcome, answer(here)), answer(template / "whole"))

    return carry_out
