"""What the campaign disturbs: small data and runs of them, made once, and how two runs are compared to the bit."""

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from forking import Outcome, asked, command, fork, fork_children
from PIL import Image
from safetensors.torch import load_file

import pyrovae

EPOCHS = 3
SMALL = ["--network", "mlp(hidden=[4])", "--batch-size", "10", "--compile", "no", "--threads", "1"]
SMALL += ["--epochs", str(EPOCHS), "--particles", "3"]
OPTIONS = ["--tracker", "tensorboard", "--data", "x.npy", "--likelihood", "normal", *SMALL]
TRAIN, RESUME = ["train", "--name", "run", *OPTIONS], ["train", "runs/run", "--resume"]
EVALUATE, PLOT = ["evaluate", "runs/run"], ["plot", "runs/run"]
COMPARE = ["compare", "--root", "cmp", "--jobs", "1", "--betas", "1,2", *OPTIONS]
DIED = 137  # the status of a process that ends as if it were killed
# Of a comparison's table what two machines agree in.
TIMES = ("seconds", "seconds_error")


def data(folder: Path) -> None:
    """The same rows as an array, an archive and a folder of pictures."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(0, 3, 60)
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x, y=y)
    (folder / "pictures").mkdir()
    for number, pixels in enumerate(rng.integers(0, 256, size=(30, 4, 4), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / "pictures" / f"{number:02}.png")


def make(folder: Path) -> Path:
    """A folder with whole/, cut/ and other/: the data, and in runs/run a run that is finished, one that was killed
    after two epochs, and one of another beta. whole/ has the comparison cmp/, runs of the archive and the pictures."""
    whole = folder / "whole"
    whole.mkdir()
    data(whole)
    for name in ("cut", "other"):
        shutil.copytree(whole, folder / name)
    _run(whole, command(*TRAIN))
    _run(whole, command("train", "--name", "archive", "--data", "x.npz", "--likelihood", "normal", *SMALL))
    _run(whole, command("train", "--name", "pictures", "--data", "pictures", *SMALL))
    _run(whole, comparing(*COMPARE))
    _run(folder / "other", command(*TRAIN, "--beta", "2"))
    _run(folder / "cut", dying(EPOCHS, lambda event, path: os.path.basename(path) == "metrics.jsonl"), DIED)
    for words in (EVALUATE, PLOT):
        _run(folder / "cut", command(*words))
    return folder


def _run(here: Path, function: Callable[[], Any], status: int = 0) -> None:
    outcome = fork(function, here, 600)
    if outcome.status != status:
        raise RuntimeError(f"{here}: status {outcome.status}: {outcome.errors}")


def comparing(*words: str) -> Callable[[], Any]:
    """A comparison whose children are forked."""

    def compare() -> Any:
        fork_children()
        return command(*words)()

    return compare


Change = Callable[[str, str], bool]


def dying(count: int, which: Change = lambda event, path: True, words: list[str] | None = None) -> Callable[[], Any]:
    """A command that ends, as if killed, before the change of a file that has this number: see `changes`."""

    def died(number: int) -> None:
        if number == count:
            os._exit(DIED)

    def run() -> Any:
        changes(died, which)
        return command(*(words or TRAIN))()

    return run


# The events of Python by which a file or a folder comes, changes its name, or goes.
_EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def changes(each: Callable[[int], Any], which: Change = lambda event, path: True) -> None:
    """Call a function, with a number, before each change that this process makes to the working directory.

    A change is that a file is opened for writing, or that one of _EVENTS happens.
    """
    here, number, home, last = os.getcwd(), 0, os.getpid(), ("", "")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number, last
        if event not in _EVENTS and not (event == "open" and (arguments[2] or 0) & _WRITING):
            return
        path = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
        if (event == "os.remove" and not os.path.lexists(path)) or (event == "os.mkdir" and os.path.lexists(path)):
            return  # nothing changes
        before, last = last, (event, path)
        if before == last or os.getpid() != home or not os.path.abspath(path).startswith(here + os.sep):
            return  # `open` with an opener, or in a mode that makes the file, is seen twice
        if which(event, path):
            number += 1
            each(number)

    sys.addaudithook(hook)


def bring(template: Path, here: Path, *names: str) -> Path:
    """A copy of these files and folders of a template, at the same places; without names, of the data alone."""
    for name in names or ("x.npy",):
        here.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        copied = template / name
        (shutil.copytree if copied.is_dir() else shutil.copy)(copied, here / name)
    return here


def numbers(run: Path) -> dict[str, Any]:
    """All that a run has earned, but for the seconds that it took; of tensors and pictures a digest."""
    found: dict[str, Any] = {path.stem: tensors(path) for path in sorted(run.glob("*.safetensors"))}
    found.pop("previous", None)
    found |= evaluated(run) | figures(run)
    if (run / "metrics.jsonl").exists():
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found["records"] = [{key: value for key, value in each.items() if key != "seconds"} for each in records]
    return found


def tensors(path: Path) -> str:
    """The digest of the tensors in a file, and of nothing else in it."""
    digest = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


def evaluated(run: Path) -> dict[str, Any]:
    """The numbers in evaluation.json."""
    path = run / "evaluation.json"
    return {"evaluation": json.loads(path.read_text())} if path.exists() else {}


def figures(run: Path) -> dict[str, Any]:
    """Digests of the pictures."""
    found = sorted((run / "figures").glob("*.png"))
    return {"figures": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}}


def compared(root: Path) -> list[dict[str, str]]:
    """The table of a comparison without its times."""
    with open(root / "compare.csv") as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def loaded(path: str = "runs/run") -> Callable[[], Any]:
    """Load a run; what it answers is the digest of its weights."""

    def load() -> str:
        digest = hashlib.sha256()
        for name, value in sorted(pyrovae.load(path).state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()

    return asked(load)


def hidden(folder: Path) -> list[str]:
    """The temporary files that are left in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))


def with_value(outcome: Outcome, value: Any) -> Outcome:
    """The outcome of a command, whose answer lies in files."""
    return Outcome(outcome.status, outcome.errors, value, outcome.left)
