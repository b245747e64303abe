"""Disks that are full, or have no room for one more file, and files that may not grow: a line, and the run goes on."""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import made
import planting
from campaign import Case
from forking import command, fork
from judge import REFUSED, RIGHT, disaster, judge, refusal

FULL = ["size=4k", "size=8k", "size=16k", "size=24k", "size=40k", "size=60k", "size=80k", "size=100k", "size=140k"]
FULL += ["nr_inodes=2", "nr_inodes=4", "nr_inodes=6", "nr_inodes=9", "nr_inodes=12", "nr_inodes=15"]
ROOM = "size=50m,nr_inodes=10000"
LIMITS = [300, 1000, 2500, 6000, 12000, 17000, 25000, 40000]  # bytes of one file
BEGIN = ["train", "--name", "run", "--root", "disk", *made.OPTIONS]


@contextmanager
def mounted(path: Path, options: str) -> Iterator[Callable[[str], bool]]:
    """A small file system at a folder, and a function that makes it larger."""

    def mount(options: str) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        return subprocess.run(words, capture_output=True).returncode == 0

    path.mkdir()
    there = mount(options)
    try:
        yield mount if there else lambda options: False
    finally:
        if there:
            subprocess.run(["umount", str(path)], check=True, capture_output=True)


def can_mount(template: Path) -> bool:
    """Whether this process may mount a file system, which root may, outside of most containers."""
    with mounted(template / "can-mount", "size=8k") as mount:
        return mount("remount,size=16k")


def cases(template: Path, seed: int) -> Iterator[Case]:
    expected = made.numbers(template / "whole/runs/run")
    if can_mount(template):
        for options in FULL:
            yield Case("a full disk: train", options, _train(template, options, expected))
        for name in ("evaluate", "plot"):
            for room in (0, 4, 12, 24):
                yield Case(f"a full disk: {name}", f"{room} kB left", _stage(template, name, room, expected))
            yield Case(f"a full disk: {name}", "planted", _stage(template, name, 0, expected, storing=_silent), True)
        yield Case("a full disk: train", "planted", _train(template, "size=8k", expected, storing=_silent), True)
    for limit in LIMITS:
        yield Case("a file may not grow: train", f"{limit} bytes", _limited(template, limit, expected))
    yield Case("a file may not grow: train", "planted", _limited(template, 1000, expected, storing=_silent), True)


@contextmanager
def _silent(path: Path) -> Iterator[None]:
    """A planted fault: no file is named."""
    yield


def _train(template: Path, options: str, expected: Any, **planted: Any) -> Callable[[Path], str]:
    def carry_out(here: Path) -> str:
        made.bring(template / "whole", here)
        with mounted(here / "disk", options) as mount:
            first = fork(planting.patched(command(*BEGIN), **planted), here)
            mount(f"remount,{ROOM}")
            return _refused(first) or _goes_on(here, "disk", expected)

    return carry_out


def _limited(template: Path, limit: int, expected: Any, **planted: Any) -> Callable[[Path], str]:
    """As under a quota: a file may have so many bytes."""

    def train() -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return planting.patched(command(*BEGIN), **planted)()

    def carry_out(here: Path) -> str:
        made.bring(template / "whole", here)
        return _refused(fork(train, here)) or _goes_on(here, "disk", expected)

    return carry_out


def _refused(outcome: Any) -> str:
    """What is wrong with the end of a command that found no room."""
    if outcome.status == 0:
        return ""
    return disaster(outcome) or refusal(outcome, ["disk/"]) or (f"status {outcome.status}" * (outcome.status != 1))


def _goes_on(here: Path, root: str, expected: Any) -> str:
    """Where there is room again, the same command, or --resume, gives the same bits."""
    run = here / root / "run"
    words = ["train", f"{root}/run", "--resume"] if (run / "run.toml").exists() else BEGIN
    again = fork(command(*words), here)
    if left := made.hidden(here):
        return f"then temporary files are left: {left}"
    came = judge(made.with_value(again, made.numbers(run) if again.status == 0 else None), expected)
    return REFUSED if came == RIGHT else f"then {came}"


def _stage(template: Path, name: str, room: int, expected: Any, **planted: Any) -> Callable[[Path], str]:
    """A finished run on a disk that has so many kilobytes left, whose outputs of this stage are gone."""
    words = [name, "disk/run"]

    def carry_out(here: Path) -> str:
        made.bring(template / "whole", here)
        with mounted(here / "disk", ROOM) as mount:
            made.bring(template / "whole/runs", here / "disk", "run")
            lost = ["evaluation.json", "scores.safetensors"] if name == "evaluate" else ["figures/loss.png"]
            for file in lost:
                (here / "disk/run" / file).unlink()
            state = os.statvfs(here / "disk")
            used = (state.f_blocks - state.f_bfree) * state.f_frsize
            mount(f"remount,size={used + 1024 * room}")
            first = fork(planting.patched(command(*words), **planted), here)
            mount(f"remount,{ROOM}")
            return _refused(first) or _again(here, words, expected)

    return carry_out


def _again(here: Path, words: list[str], expected: Any) -> str:
    again = fork(command(*words), here)
    if left := made.hidden(here):
        return f"then temporary files are left: {left}"
    came = judge(made.with_value(again, made.numbers(here / "disk/run")), expected)
    return REFUSED if came == RIGHT else f"then {came}"
