"""Processes that are killed at a random moment: what is asked for again gives the same bits, and nothing is left."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forking
import made
import planting
from campaign import Case
from forking import command, fork
from judge import Outcome, disaster, judge

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
INTERRUPTED = 130


@dataclass(frozen=True)
class Stage:
    """A command that is killed: from which template and which files it starts, and what it makes."""

    name: str
    words: list[str]
    start: str
    files: tuple[str, ...]
    how_often: int = 6  # for each signal

    def bring(self, template: Path, here: Path) -> None:
        made.bring(template / self.start, here, *self.files)

    def function(self, words: list[str]) -> Callable[[], Any]:
        return made.comparing(*words) if self.words[0] == "compare" else command(*words)

    def answer(self, here: Path) -> Any:
        """What it makes, to the bit."""
        if self.words[0] == "compare":
            return {"table": made.compared(here / "cmp")} | {
                path.name: made.numbers(path) for path in sorted(here.glob("cmp/*seed-*")) if path.is_dir()
            }
        return made.numbers(here / "runs/run")

    def again(self, here: Path) -> list[str]:
        """The command that goes on."""
        begun = self.words[0] == "train" and (here / "runs/run/run.toml").exists()
        return made.RESUME if begun else self.words


STAGES = {
    stage.name: stage
    for stage in (
        Stage("train", made.TRAIN, "whole", ("x.npy",), 10),
        Stage("resume", made.RESUME, "cut", ("x.npy", "runs/run")),
        Stage("evaluate", made.EVALUATE, "whole", ("x.npy", "runs/run"), 5),
        Stage("plot", made.PLOT, "whole", ("x.npy", "runs/run"), 5),
        Stage("compare", made.COMPARE, "whole", ("x.npy",), 4),
    )
}


def went_on(stage: Stage, template: Path, here: Path, expected: Any) -> str:
    """What comes of a command that is asked for again after its process has died."""
    again = fork(stage.function(stage.again(here)), here)
    if fault := disaster(again):
        return f"then {fault}"
    if again.status == 0 and (left := made.hidden(here)):
        return f"then temporary files are left: {', '.join(left)}"
    return judge(made.with_value(again, stage.answer(here) if again.status == 0 else None), expected)


def cases(template: Path, seed: int) -> Iterator[Case]:
    for stage in STAGES.values():
        expected, seconds = _undisturbed(stage, template)
        for name, number in SIGNALS.items():
            for count in range(stage.how_often):
                moment = random.Random(f"{seed} {stage.name} {name} {count}").uniform(0, seconds)
                yield Case(
                    f"killed at a random moment: {stage.name}",
                    f"{name} after {moment:.3f} s",
                    _killed(stage, template, expected, (number, moment)),
                )
        yield Case(f"killed at a random moment: {stage.name}", "planted", _planted(stage, template, expected), True)


def _undisturbed(stage: Stage, template: Path) -> tuple[Any, float]:
    """What it makes, and how long it takes."""
    here = template / f"undisturbed-{stage.name}"
    here.mkdir()
    stage.bring(template, here)
    start = time.monotonic()
    outcome = fork(stage.function(stage.words), here, 600)
    assert outcome.status == 0, outcome.errors
    return stage.answer(here), time.monotonic() - start


def _killed(stage: Stage, template: Path, expected: Any, kill: tuple[int, float]) -> Callable[[Path], str]:
    def carry_out(here: Path) -> str:
        stage.bring(template, here)
        died = fork(stage.function(stage.words), here, kill=kill)
        return _death(died, kill[0]) or went_on(stage, template, here, expected)

    return carry_out


def _death(died: Outcome, number: int) -> str:
    """What is wrong with how a process died of a signal; it may have been at its end before."""
    if died.left:
        return f"left processes: {', '.join(died.left)}"
    ends = (0, INTERRUPTED) if number == signal.SIGINT else (0, -number)
    if died.status not in ends or "Traceback" in died.errors:
        return f"of signal {number} it ended with {died.status}: {died.errors[-300:]}"
    return ""


def _planted(stage: Stage, template: Path, expected: Any) -> Callable[[Path], str]:
    """A process that dies while a file is half-written in its place, and temporary files that nobody sweeps up."""

    def carry_out(here: Path) -> str:
        stage.bring(template, here)
        if stage.name in ("train", "resume"):
            fork(planting.patched(stage.function(stage.words), write_bytes=planting.in_two_halves), here)
            return went_on(stage, template, here, expected)
        if stage.name == "compare":
            return _death(fork(_orphans(stage), here), signal.SIGKILL)
        fork(made.dying(1, last_rename, stage.words), here)
        again = fork(planting.patched(stage.function(stage.words), sweep=planting.nothing), here)
        return judge(made.with_value(again, made.hidden(here)), [])

    return carry_out


def last_rename(event: str, path: str) -> bool:
    """Whether a change is what evaluate and plot do last: a temporary file is still there."""
    return event == "os.rename" and path.endswith(("-evaluation.json", "-loss.png"))


def _orphans(stage: Stage) -> Callable[[], Any]:
    """A comparison that is killed, and a child that does not end with it."""

    def compare() -> Any:
        compared = os.getpid()

        def outlives(*args: Any) -> None:
            os.kill(compared, signal.SIGKILL)
            time.sleep(60)

        forking._command = outlives
        return stage.function(stage.words)()

    return compare
