"""Trackers: programs that show the curves of a training, in addition to metrics.jsonl. Each needs its own package.

A tracker is a module here with a function `curves(folder, first)`; it has the name of the package and of the folder.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import lazy_loader

from pyrovae import checks

TRACKERS = ("tensorboard",)
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=TRACKERS)

Add = Callable[[int, Mapping[str, float]], None]


def check(name: str) -> None:
    """Raise a ValueError unless the tracker is known and its package is installed; "" is no tracker."""
    if name and find_spec(checks.member("tracker", name, TRACKERS)) is None:
        raise ValueError(f"tracker: expected the package {name}, found none; pip install 'pyrovae[{name}]'")


@contextmanager
def curves(name: str, path: Path, first: int) -> Iterator[Add]:
    """A function that passes an epoch and its numbers to a run's tracker, if it has one.

    Args:
        name: the tracker; "" for none.
        path: the run's directory.
        first: the epoch at which the curves continue; later points of an interrupted training are dropped.
    """
    if not name:
        yield lambda epoch, numbers: None
        return
    with __getattr__(name).curves(path / name, first) as add:
        yield add
