"""What grows with every fit, evaluation, load and plot in one process: descriptors, threads, memory, Pyro's store."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made
import numpy as np
import pyro
import torch
from campaign import Case
from forking import fork
from judge import RIGHT, disaster

import pyrovae
from pyrovae.__main__ import main

ROUNDS, WARM = 24, 8  # rounds in all, and those after which the process is as large as it becomes
MEMORY = 6.0  # MB that the later rounds may add
_PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20


def _fit() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    vae = pyrovae.VAE(3, 2, likelihood=pyrovae.likelihoods.Normal)
    pyrovae.fit(vae, pyrovae.data.from_arrays(x), epochs=1, batch_size=20, compile=False)


def _evaluate() -> None:
    assert main(made.EVALUATE) == 0


def _load() -> None:
    pyrovae.load("runs/run")


def _plot() -> None:
    assert main(made.PLOT) == 0


WORK: dict[str, Callable[[], None]] = {"fit": _fit, "evaluate": _evaluate, "load": _load, "plot": _plot}


def _sizes() -> dict[str, float]:
    """Of this process."""
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count() + len(os.listdir("/proc/self/task")),
        "memory": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
        "parameters in Pyro's store": len(list(pyro.get_param_store().keys())),
    }


def growth(work: Callable[[], None], leak: Callable[[], None] = lambda: None) -> dict[str, float]:
    """What the later rounds add."""
    before: dict[str, float] = {}
    for number in range(ROUNDS):
        if number == WARM:
            before = _sizes()
        work()
        leak()
        gc.collect()  # at once: figures are full of cycles, and what waits for a collection is no leak
    return {name: size - before[name] for name, size in _sizes().items()}


def judged(grown: dict[str, float]) -> str:
    """RIGHT, or what has grown."""
    most = {"memory": MEMORY}
    bad = [f"{name} grew by {size:g}" for name, size in grown.items() if size > most.get(name, 0)]
    return ", ".join(bad) or RIGHT


KEPT: list[Any] = []


def _store() -> None:
    pyro.param(f"leak {len(pyro.get_param_store())}", torch.zeros(()))


LEAKS: dict[str, Callable[[], None]] = {
    "descriptors": lambda: KEPT.append(os.dup(0)),
    "threads": lambda: threading.Thread(target=threading.Event().wait, daemon=True).start(),
    "memory": lambda: KEPT.append(np.ones(2**17)),
    "parameters in Pyro's store": _store,
}


def cases(template: Path, seed: int) -> Iterator[Case]:
    if not Path("/proc/self/fd").exists():
        return
    for name, work in WORK.items():
        yield Case("leaks", f"{ROUNDS} times {name}", _case(template, work))
    for name, leak in LEAKS.items():
        yield Case("leaks", f"planted: {name}", _case(template, _load, leak, name), True)


def _case(template: Path, work: Callable[[], None], leak: Callable[[], None] = lambda: None,
          seen: str = "") -> Callable[[Path], str]:  # fmt: skip
    def carry_out(here: Path) -> str:
        made.bring(template / "whole", here, "x.npy", "runs/run")
        outcome = fork(lambda: growth(work, leak), here)
        came = disaster(outcome) or judged(outcome.value)
        return came if seen in came else RIGHT

    return carry_out
