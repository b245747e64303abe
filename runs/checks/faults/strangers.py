"""Runs that a stranger prepared: nothing in them runs code, and nothing is written outside of them.

Code that is run leaves the file `marker` beside the folder of the case; what must not be written to is in `victim`.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made
import numpy as np
import planting
from campaign import Case
from forking import command, fork
from judge import REFUSED, RIGHT, Outcome, disaster, refusal

from pyrovae import files
from pyrovae.runs import recipe
from pyrovae.runs.recipe import Recipe

CODE, LINKS, VALUES = ("a stranger's run: code", "a stranger's run: links", "a stranger's run: values")
PRECIOUS = "precious"
PART = "from pyrovae.likelihoods import Normal\n\n\nclass Part(Normal):\n    pass\n"


def planted_code(here: Path) -> str:
    """Python that leaves a marker."""
    return f"import pathlib\npathlib.Path({str(marker(here))!r}).write_text('ran')\n"


def marker(here: Path) -> Path:
    """The file that planted code writes."""
    return here.with_name("marker")


def victim(here: Path) -> Path:
    """A folder elsewhere, with a file that must stay as it is, and nothing beside it."""
    folder = here.with_name("victim")
    if not folder.exists():
        folder.mkdir()
        (folder / PRECIOUS).write_text(PRECIOUS)
    return folder


def edit(run: Path, said: dict[str, Any] | None = None, **options: Any) -> None:
    """Write other options into a run.toml, and make the other files agree with it, as a stranger would."""
    asked = Recipe(**{**vars(recipe.read(run / "run.toml")), **options})
    recipe.write(asked, run / "run.toml")
    for path in run.glob("*.safetensors"):
        tensors, about = files.read_tensors(path)
        tie = {"recipe": {**about.get("recipe", {}), **options}}
        files.write_tensors(path, tensors, about | tie | (said or {}))


Prepare = Callable[[Path], Any]
EVERY = {
    "load": made.loaded(),
    "evaluate": command(*made.EVALUATE),
    "plot": command(*made.PLOT),
    "resume": command(*made.RESUME),
    "train it again": command("train", "runs/run", "--name", "again"),
}


def _part(option: str, text: str) -> Prepare:
    return lambda here: edit(here / "runs/run", **{option: text})


def _popen(here: Path) -> None:
    edit(here / "runs/run", {"event_shape": ["touch", str(marker(here))]}, model="subprocess:Popen")


def _own_module(here: Path) -> None:
    (here / "stranger.py").write_text(planted_code(here) + PART)
    edit(here / "runs/run", likelihood="stranger:Part")


def _setup(here: Path) -> None:
    code = planted_code(here).strip().replace("\n", ";")
    edit(here / "runs/run", objective=f'timeit:timeit(setup="{code}")')


class Pickled:
    """What leaves a marker when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def _pickle(name: str) -> Prepare:
    def prepare(here: Path) -> None:
        (here / name).write_bytes(pickle.dumps(Pickled(marker(here))))

    return prepare


def _objects(here: Path) -> None:
    """An array of objects, which numpy pickles."""
    np.save(here / "x.npy", np.array([Pickled(marker(here))] * 60, dtype=object), allow_pickle=True)


def _hooks(here: Path) -> None:
    """The settings of a repository, which git would run."""
    run, hook = here / "runs/run", here / "runs/run/.git/hook.sh"
    subprocess.run(["git", "init", "-q", str(run)], check=True)
    hook.write_text(f"#!/bin/sh\necho ran > {marker(here)}\n")
    hook.chmod(0o755)
    shutil.copy(hook, run / ".git/hooks/post-index-change")
    subprocess.run(["git", "-C", str(run), "config", "core.fsmonitor", str(hook)], check=True)


def _in_run(*words: str) -> Callable[[], Any]:
    """A command in the folder of the run itself."""

    def call() -> Any:
        os.chdir("runs/run")
        return command(*words)()

    return call


def _postscript(here: Path) -> None:
    """A program for a printer in the place of a picture; Pillow would start Ghostscript for it."""
    for path in (here / "cmp").glob("*/figures/*.png"):
        path.write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({marker(here)}) (w) file\n%%EndComments\n")


def _modules(here: Path) -> None:
    """Files that Python, or matplotlib, would read where the working directory is on their path."""
    for name in ("pyrovae", "torch", "numpy", "stranger", "sitecustomize", "usercustomize"):
        (here / f"{name}.py").write_text(planted_code(here))
    (here / "matplotlibrc").write_text("backend: module://stranger\n")
    for path in (here / "cmp").glob("*/figures"):
        shutil.rmtree(path)


def _fresh(*words: str) -> Callable[[], Any]:
    """The command line in a new process, as `pyrovae` starts it: the working directory is not on its path."""
    code = "import sys; from pyrovae.__main__ import main; sys.exit(main(sys.argv[1:]))"

    def call() -> Any:
        sys.exit(subprocess.run([sys.executable, "-P", "-c", code, *words]).returncode)

    return call


def _link(name: str, to: str = PRECIOUS) -> Prepare:
    """A link in the place of a file, or to the folder where `to` is empty."""

    def prepare(here: Path) -> None:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(victim(here) / to)

    return prepare


def _environment(threads: Any) -> Prepare:
    def prepare(here: Path) -> None:
        path = here / "runs/run/environment.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": threads}))
        edit(here / "runs/run", threads=0)

    return prepare


def _json(name: str, **said: Any) -> Prepare:
    def prepare(here: Path) -> None:
        path = here / "runs/run" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | said))

    return prepare


def _says(**said: Any) -> Prepare:
    return lambda here: edit(here / "runs/run", said)


RUN, COMPARISON = ("x.npy", "runs/run"), ("x.npy", "cmp")
PARTS = {
    "a program as model": _popen,
    "an own module": _own_module,
    "code in an option": _setup,
    "a module that ends the process": _part("likelihood", "unittest.__main__:x"),
    "os.system as prior": _part("prior", "os:system"),
    "an attribute of a class": _part("guide", "builtins:dict.fromkeys"),
}
PICKLES = {
    "a pickle as weights": _pickle("runs/run/best.safetensors"),
    "a pickle as state": _pickle("runs/run/last.safetensors"),
    "a pickle as data": _pickle("x.npy"),
    "an array of objects as data": _objects,
}
PLACES = ("metrics.jsonl", "evaluation.json", "scores.safetensors", "environment.json", "last.safetensors", ".lock")


def _holes() -> Iterator[tuple[str, str, tuple[str, ...], Prepare, Callable[[], Any]]]:
    """Row, name, what the run is made of, what the stranger does, and what we do then."""
    for what, prepare in PARTS.items():
        for name, function in EVERY.items():
            yield CODE, f"{what}, then {name}", RUN, prepare, function
    for what, prepare in PICKLES.items():
        for name in ("load", "evaluate", "resume"):
            yield CODE, f"{what}, then {name}", RUN, prepare, EVERY[name]
    yield CODE, "hooks of git, then resume", RUN, _hooks, _in_run("train", ".", "--resume")
    yield CODE, "PostScript as pictures, then compare", COMPARISON, _postscript, made.comparing("compare", "cmp")
    yield CODE, "modules in the working directory, then compare", COMPARISON, _modules, _fresh("compare", "cmp")
    for folder in ("figures", "tensorboard"):
        for name in ("evaluate", "plot", "resume"):
            yield LINKS, f"{folder}, then {name}", RUN, _link(f"runs/run/{folder}", ""), EVERY[name]
    for file in (*PLACES, "figures/loss.png", "figures/samples.png", ".123-evaluation.json", "figures/.1-loss.png"):
        for name in ("evaluate", "plot", "resume"):
            yield LINKS, f"{file}, then {name}", RUN, _link(f"runs/run/{file}"), EVERY[name]
    for file in ("compare.md", "compare.csv", "report.html", "1+seed-0.log", "1+seed-0/figures/loss.png", ".lock"):
        yield LINKS, f"{file}, then compare", COMPARISON, _link(f"cmp/{file}"), made.comparing("compare", "cmp")
    yield LINKS, "a run, then compare", COMPARISON, _link("cmp/1+seed-0", ""), made.comparing("compare", "cmp")
    for threads in (100_000, -1, 1.5, "1", None):
        yield VALUES, f"{threads!r} threads", RUN, _environment(threads), EVERY["evaluate"]
    for shape in ("abc", [], [8, -1], None, [10**9, 10**9], [[3]]):
        yield VALUES, f"event_shape {shape!r}", RUN, _says(event_shape=shape), EVERY["load"]
    for said in ({"epoch": "1"}, {"epoch": 10**30}, {"best_loss": "x"}, {"optimizer": 5}, {"metrics": 3}):
        yield VALUES, f"a state with {said}", RUN, _says(**said), EVERY["resume"]
    for said in ({"log_likelihood": 3}, {"elbo": {"value": "1"}}, {"rows": -1}, {"active_units": {"z": 0.5}}):
        yield VALUES, f"an evaluation with {said}", RUN, _json("evaluation.json", **said), EVERY["resume"]


def cases(template: Path, seed: int) -> Iterator[Case]:
    for row, name, start, prepare, function in _holes():
        yield Case(row, name, _hole(template, start, prepare, function))
    trusted = command("evaluate", "runs/run", "--trust", "stranger")
    yield Case(CODE, "planted: a stranger's module is trusted", _hole(template, RUN, _own_module, trusted), True)
    followed = planting.patched(command(*made.PLOT), check_no_link=planting.nothing)
    prepare = _link("runs/run/figures", "")
    yield Case(LINKS, "planted: links are followed", _hole(template, RUN, prepare, followed), True)
    believed = planting.patched(made.loaded(), _sizes=lambda file, about: (about["event_shape"], None, None))
    prepare = _says(event_shape=None)
    yield Case(VALUES, "planted: sizes are believed", _hole(template, RUN, prepare, believed), True)


def _hole(
    template: Path, start: tuple[str, ...], prepare: Prepare, function: Callable[[], Any]
) -> Callable[[Path], str]:
    def carry_out(here: Path) -> str:
        made.bring(template / "whole", here, *start)
        prepare(here)
        return _harm(here, fork(function, here)) or REFUSED

    return carry_out


def _harm(here: Path, outcome: Outcome) -> str:
    """RIGHT, what is wrong, or nothing where the command was refused in one line."""
    if marker(here).exists():
        return "the stranger's code was run"
    if (there := {path.name: path.read_text() for path in victim(here).iterdir()}) != {PRECIOUS: PRECIOUS}:
        return f"written outside of the run: {there}"
    if outcome.status == 0:
        return disaster(outcome) or RIGHT
    return disaster(outcome) or refusal(outcome, ["runs/", "cmp", "x.npy", "pickled", "network", "--"])
