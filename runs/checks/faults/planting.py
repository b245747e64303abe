"""Faults that are planted on purpose, in a forked process, so that the campaign can show that it would see them."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from judge import REFUSED, RIGHT

Function = Callable[[], Any]


def patched(function: Function, **replaced: Any) -> Function:
    """The same call where pyrovae's functions of these names are others, in every module that has them."""

    def call() -> Any:
        for name, other in replaced.items():
            replace(name, other)
        return function()

    return call


def replace(name: str, other: Any) -> None:
    """Put another function in place of pyrovae's one of this name, wherever it was imported to."""
    holders = [module for key, module in sys.modules.items() if key.split(".")[0] == "pyrovae" and name in vars(module)]
    if not holders:
        raise LookupError(f"pyrovae has no {name} in which a fault could be planted")
    for module in holders:
        setattr(module, name, other)


@contextmanager
def in_place(path: Path) -> Iterator[Path]:
    """A planted fault: what is to be replaced whole is emptied first, and then written to."""
    path.write_bytes(b"")
    yield path
    os.stat(path)


def in_two_halves(path: Path, content: bytes) -> None:
    """A planted fault: files are written in their place, and the process is killed in the middle of one."""
    if path.name in ("run.toml", "metrics.jsonl") and content:
        path.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    path.write_bytes(content)


def nothing(*args: Any, **options: Any) -> None:
    """A planted fault: what should be checked, or removed, is not."""


def any_wrong(cases: list[Callable[[Path], str]]) -> Callable[[Path], str]:
    """The first of several cases that comes out wrong, in one folder."""

    def carry_out(here: Path) -> str:
        came = RIGHT
        for case in cases:
            came = case(here)
            if came not in (RIGHT, REFUSED):
                break
            shutil.rmtree(here)
            here.mkdir()
        return came

    return carry_out
