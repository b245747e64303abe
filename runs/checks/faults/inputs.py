"""Bad input: each is refused in one line that names the option or the file, before any work is done.

Most are asked for in one process, one after the other; some on the command line, in processes of their own.
"""

import io
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import made
import numpy as np
import planting
import torch
from campaign import Case
from forking import fork
from judge import REFUSED, Outcome, disaster, refusal
from PIL import Image

import pyrovae
from pyrovae.__main__ import main
from pyrovae.runs.recipe import Recipe

API, MAIN, SHELL = "bad input: Python", "bad input: main() in one process", "bad input: command line"
SECONDS = 60  # for one of them, after which it hangs
# What follows `pyrovae train --data x.npy --likelihood normal ...`, and what the line must name.
TRAIN: list[tuple[str, str]] = [
    ("--beta -1", "beta"),
    ("--beta nan", "beta"),
    ("--beta inf", "beta"),
    ("--beta one", "--beta"),
    ("--epochs 0", "epochs"),
    ("--epochs -3", "epochs"),
    ("--epochs 1.5", "--epochs"),
    ("--epochs 10000000000000", "epochs"),
    ("--batch-size 0", "batch_size"),
    ("--batch-size -1", "batch_size"),
    ("--latent-dim 0", "latent_dim"),
    ("--latent-dim 100000000000000", "too large"),
    ("--learning-rate 0", "learning_rate"),
    ("--learning-rate -0.1", "learning_rate"),
    ("--learning-rate nan", "learning_rate"),
    ("--particles 0", "particles"),
    ("--seed -1", "seed"),
    ("--seed x", "--seed"),
    ("--threads -1", "threads"),
    ("--threads 100000", "threads"),
    ("--clip -1", "clip"),
    ("--patience -1", "patience"),
    ("--valid -0.1", "valid"),
    ("--valid 2.5", "valid"),
    ("--valid 0.999999", "valid"),
    ("--test 1000", "test"),
    ("--test nan", "test"),
    ("--num-labels -1", "num_labels"),
    ("--num-labels 0.5", "num_labels"),
    ("--labelled-batch-size 3", "labelled_batch_size"),
    ("--beta-warmup -1", "beta_warmup"),
    ("--beta-warmup 0.0001", "beta_warmup"),
    ("--beta-cycles 100", "beta_cycles"),
    ("--beta-cycles 2 --beta-warmup 1", "beta_warmup"),
    ("--beta 0 --beta-warmup 1", "beta_warmup"),
    ("--clusters-after 1", "clusters_after"),
    ("--dtype float16", "dtype"),
    ("--device tpu", "device"),
    ("--device meta", "device"),
    ("--compile maybe", "compile"),
    ("--matmul low", "matmul"),
    ("--binarize often", "binarize"),
    ("--begin there", "begin"),
    ("--activation cubic", "activation"),
    ("--lr-schedule steps", "lr_schedule"),
    ("--optimizer lbfgs", "optimizer"),
    ("--optimizer adam(lr=1)", "optimizer"),
    ("--optimizer adam(betas=(1,))", "optimizer"),
    ("--optimizer adam(betas=(2,2))", "optimizer"),
    ("--objective elboo", "objective"),
    ("--objective iwae(particles=0)", "objective"),
    ("--objective iwae --beta 2", "beta"),
    ("--prior normal", "prior"),
    ("--prior mixture(components=0)", "components"),
    ("--prior vamp-prior(components=-1)", "components"),
    ("--guide gaussian", "guide"),
    ("--guide iaf(steps=0)", "guide"),
    ("--likelihood bernouli", "likelihood"),
    ("--likelihood bernoulli", "x"),
    ("--likelihood poisson", "x"),
    ("--likelihood normal(scale=-1)", "scale"),
    ("--likelihood normal(size=1)", "likelihood"),
    ("--likelihood os:system", "likelihood"),
    ("--likelihood nowhere:Part", "nowhere"),
    ("--likelihood normal(", "likelihood"),
    ("--likelihood normal(scale=__import__('os'))", "likelihood"),
    ("--network mlp(hidden=[])x", "network"),
    ("--network mlp(hidden=[-4])", "hidden"),
    ("--network mlp(hidden=[0])", "hidden"),
    ("--network mlp(hidden=4.5)", "hidden"),
    ("--network conv", "Conv"),
    ("--network conv --encoder mlp --decoder mlp", "network"),
    ("--model vaee", "model"),
    ("--model semi-supervised-vae", "label"),
    ("--model conditional-vae", "label"),
    ("--data nowhere.npy", "nowhere.npy"),
    ("--data nowhere", "nowhere"),
    ("--data empty.npy", "empty"),
    ("--data one.npy", "data"),
    ("--data no-columns.npy", "no-columns"),
    ("--data inf.npy", "inf"),
    ("--data nan.npy", "nan"),
    ("--data text.npy", "text.npy"),
    ("--data complex.npy", "complex.npy"),
    ("--data objects.npy", "objects.npy"),
    ("--data scalar.npy", "scalar"),
    ("--data line.npy", "line"),
    ("--data five.npy", "five"),
    ("--data unlike.npz", "unlike"),
    ("--data no-x.npz", "no-x.npz"),
    ("--data negative.npz", "negative"),
    ("--data letter.npy", "letter.npy"),
    ("--data letter.npz", "letter.npz"),
    ("--data huge.npy", "huge.npy"),
    ("--data sizes", "sizes"),
    ("--data nothing", "nothing"),
    ("--data letters", "letters"),
    ("--data loose", "loose"),
    ("--data mnist --data-root nothing-here", "nothing-here"),
    ("--data-root nothing", "data_root"),
    ("--name a/b --root runs --resume", "runs/a/b"),
    ("--root x.npy", "x.npy"),
    ("--examine everything", "part"),
    ("--rows 5", "--rows"),
    ("--examine diagnosis --rows 0", "rows"),
    ("--resume", "run"),
    ("--epoch 3", "--epoch"),
    ("--trust a..b", "trust"),
]
# Other commands.
OTHERS: list[tuple[str, str]] = [
    ("", "COMMAND"),
    ("trian", "COMMAND"),
    ("evaluate", "RUN"),
    ("evaluate nowhere", "nowhere"),
    ("evaluate x.npy", "x.npy"),
    ("evaluate runs/run --particles -1", "particles"),
    ("evaluate runs/run --particles x", "--particles"),
    ("evaluate runs/run --split half", "split"),
    ("evaluate runs/run --seed -1", "seed"),
    ("evaluate runs/run --examine x", "part"),
    ("plot nowhere", "nowhere"),
    ("plot runs/run --figures loss", "--figures"),
    ("train nowhere", "nowhere"),
    ("train nowhere --resume", "nowhere"),
    ("train runs/run", "runs/run"),
    ("train runs/run --resume --beta 3", "--beta"),
    ("train runs/run --resume --data x.npz", "--data"),
    ("train runs/run --root elsewhere", "--root"),
    ("train runs/run --resume --name other", "--name"),
    ("compare", "--priors"),
    ("compare nowhere", "nowhere"),
    ("compare --betas 1,1", "twice"),
    ("compare --betas 1,x", "beta"),
    ("compare --betas 1 --seeds 0", "seeds"),
    ("compare --betas 1 --seeds 5000", "seeds"),
    ("compare --betas 1 --jobs -1", "jobs"),
    ("compare --betas 1 --beta 1", "beta"),
    ("compare --priors nobody", "prior"),
    ("compare --priors mixture( --data x.npy", "prior"),
    ("compare cmp --root other", "--root"),
    ("compare wrong-grid", "wrong-grid"),
    ("compare other-option", "other-option"),
    ("compare no-schema", "no-schema"),
    ("experiment nothing-like-it", "NAME/experiment.py"),
    ("experiment --list --seeds 2", "--seeds"),
]
ON_THE_SHELL = 20
FILES: dict[str, Any] = {
    "empty.npy": np.zeros((0, 3), np.float32),
    "one.npy": np.zeros((1, 3), np.float32),
    "no-columns.npy": np.zeros((20, 0), np.float32),
    "inf.npy": np.full((20, 3), np.inf, np.float32),
    "nan.npy": np.full((20, 3), np.nan, np.float32),
    "text.npy": np.array([["a", "b"]] * 20),
    "complex.npy": np.ones((20, 3), complex),
    "objects.npy": np.array([[{}, 1]] * 20, object),
    "scalar.npy": np.float32(3.0),
    "line.npy": np.zeros(20, np.float32),
    "five.npy": np.zeros((20, 1, 2, 2, 2), np.float32),
}
ARCHIVES: dict[str, dict[str, Any]] = {
    "unlike.npz": {"x": np.zeros((20, 3), np.float32), "y": np.zeros(19, int)},
    "no-x.npz": {"z": np.zeros((20, 3), np.float32)},
    "negative.npz": {"x": np.zeros((20, 3), np.float32), "y": np.full(20, -5)},
}
GRIDS = {
    "wrong-grid": "schema = 1\nbetas = 3\n",
    "other-option": 'schema = 1\nbetas = ["1"]\nwonder = 1\n',
    "no-schema": 'betas = ["1"]\n',
}


def prepare(here: Path) -> None:
    """The files that these commands name."""
    for name, array in FILES.items():
        np.save(here / name, array, allow_pickle=True)
    for name, arrays in ARCHIVES.items():
        np.savez(here / name, **arrays)
    for name in ("letter.npy", "letter.npz"):
        (here / name).write_text("Dear reader")
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 3), }"
    (here / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + (len(head) + 1).to_bytes(2, "little") + head + b"\n")
    for name in ("sizes", "nothing", "letters", "loose/class"):
        (here / name).mkdir(parents=True)
    for number, size in enumerate((4, 5, 4)):
        Image.new("L", (size, size)).save(here / "sizes" / f"{number}.png")
    (here / "letters/1.png").write_text("Dear reader")
    for name in ("loose/1.png", "loose/class/1.png"):
        Image.new("L", (4, 4)).save(here / name)
    for name, text in GRIDS.items():
        (here / name).mkdir()
        (here / name / "compare.toml").write_text(text)


X = np.zeros((20, 3), np.float32)
IMAGES = np.zeros((20, 1, 4, 4), np.float32)


def _vae(**options: Any) -> Any:
    return pyrovae.VAE(3, 2, **{"likelihood": pyrovae.likelihoods.Normal} | options)


def _fit(x: Any = X, vae: Any = None, **options: Any) -> Any:
    return pyrovae.fit(vae or _vae(), x, **{"epochs": 1, "compile": False} | options)


def _data(x: Any, y: Any = None, **options: Any) -> Any:
    return pyrovae.data.from_arrays(x, y, **options)


CALLS: list[tuple[str, Callable[[], Any]]] = [
    ("x", lambda: _fit(np.full((20, 3), np.inf))),
    ("event", lambda: _vae().__class__(0, 2)),
    ("latent_dim", lambda: pyrovae.VAE(3, 0)),
    ("epochs", lambda: _fit(epochs=0)),
    ("epochs", lambda: _fit(epochs="3")),
    ("batch_size", lambda: _fit(batch_size=0)),
    ("learning_rate", lambda: _fit(learning_rate=-1)),
    ("compile", lambda: _fit(compile="sometimes")),
    ("x", lambda: _fit(np.zeros((20, 4), np.float32))),
    ("x", lambda: _fit(np.zeros((0, 3), np.float32))),
    ("x", lambda: _fit(None)),
    ("x", lambda: _fit("x.npy")),
    ("arrays", lambda: _data(np.zeros((0, 3)))),
    ("arrays", lambda: _data(X, np.zeros(19, int))),
    ("arrays", lambda: _data(X, np.array(3))),
    ("arrays", lambda: _data(X, np.full(20, 7), num_classes=3)),
    ("num_classes", lambda: _data(X, np.zeros(20, int), num_classes=0)),
    ("binarize", lambda: _data(IMAGES, binarize="yes")),
    ("arrays", lambda: _data(IMAGES + 5)),
    ("arrays", lambda: _data(IMAGES + 0.123, binarize="dequantize")),
    ("valid", lambda: _data(X, valid=-1)),
    ("valid", lambda: _data(X, valid=30)),
    ("test", lambda: _data(X, test=float("nan"))),
    ("binarize", lambda: pyrovae.data.load("digits", binarize="maybe")),
    ("dataset", lambda: pyrovae.data.load("digitz")),
    ("dataset", lambda: pyrovae.data.load("")),
    ("weights", lambda: pyrovae.load("runs/run", weights="worst")),
    ("nowhere", lambda: pyrovae.load("nowhere")),
    ("trust", lambda: pyrovae.load("runs/run", trust="my_module")),
    ("particles", lambda: pyrovae.evaluate(_vae(), torch.zeros(4, 3), particles=0)),
    ("x", lambda: pyrovae.evaluate(_vae(), torch.zeros(4, 5))),
    ("beta", lambda: Recipe(beta=-1.0)),
    ("epochs", lambda: Recipe(epochs=True)),
    ("seed", lambda: Recipe(seed=-1)),
    ("option", lambda: pyrovae.compare("cmp-bad", betas=[1], wonder=[1])),
    ("betas", lambda: pyrovae.compare("cmp-bad", betas=3)),
    ("betas", lambda: pyrovae.compare("cmp-bad", betas=[])),
    ("priors", lambda: pyrovae.compare("cmp-bad", priors=[3])),
    ("seeds", lambda: pyrovae.compare("cmp-bad", betas=[1], seeds=0)),
]


class Hang(BaseException):
    """What a call is ended with that takes too long."""


def _late(number: int, frame: Any) -> None:
    raise Hang


def _words(words: str) -> list[str]:
    """A command line; that of a training begins with what is right in it."""
    head, _, rest = words.partition(" ")
    return ["train", "--name", "bad", *made.OPTIONS, *rest.split()] if head == "train..." else words.split()


def _main(words: str) -> Callable[[], Any]:
    return lambda: main(_words(words))


def _call(function: Callable[[], Any]) -> Callable[[], int]:
    """As on the command line: a ValueError is one line and status 2."""

    def call() -> int:
        try:
            function()
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    return call


def outcome(function: Callable[[], int]) -> Outcome:
    """How a call ends in this process."""
    errors, status = io.StringIO(), None
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        try:
            status = function()
        except Hang:
            pass
        except SystemExit as ended:
            status = int(ended.code or 0)
        except BaseException:
            status = 1
            traceback.print_exc()
    signal.alarm(0)
    return Outcome(status, errors.getvalue())


def verdict(ended: Outcome, name: str, before: set[str]) -> str:
    """REFUSED, or what is wrong: bad input must be refused, and before anything is made."""
    made_now = _there() - before
    came = disaster(ended) or ("accepted" if ended.status == 0 else refusal(ended, [name]))
    return came or (f"made {', '.join(sorted(made_now))}" if made_now else REFUSED)


def _there() -> set[str]:
    return {str(path) for folder in (".", "runs") for path in Path(folder).iterdir()}


def _in_one_process(asked: Sequence[tuple[str, str, Callable[[], int]]]) -> Callable[[], dict[str, str]]:
    """The verdict on each, by what is asked for."""

    def call() -> dict[str, str]:
        found = {}
        for shown, name, function in asked:
            before = _there()
            Path("../last").write_text(shown)
            found[shown] = verdict(outcome(function), name, before)
        return found

    return call


def _case(template: Path, asked: Sequence[tuple[str, str, Callable[[], int]]]) -> Callable[[Path], Any]:
    def carry_out(here: Path) -> Any:
        made.bring(template / "whole", here, "x.npy", "x.npz", "runs/run", "cmp")
        prepare(here)
        ended = fork(_in_one_process(asked), here, 600)
        if fault := disaster(ended):
            return f"at {here.with_name('last').read_text()}: {fault}"
        return ended.value

    return carry_out


def _alone(template: Path, words: str, name: str) -> Callable[[Path], str]:
    """A command line in a new process."""

    def run() -> int:
        return subprocess.run([sys.executable, "-m", "pyrovae", *_words(words)], stdout=subprocess.DEVNULL).returncode

    def carry_out(here: Path) -> str:
        made.bring(template / "whole", here, "x.npy", "x.npz", "runs/run", "cmp")
        prepare(here)
        ended = fork(lambda: sys.exit(run()), here)
        return disaster(ended) or ("accepted" if ended.status == 0 else refusal(ended, [name])) or REFUSED

    return carry_out


def cases(template: Path, seed: int) -> Iterator[Case]:
    asked = [(f"train... {words}", name) for words, name in TRAIN] + OTHERS
    on_shell = asked[:: len(asked) // ON_THE_SHELL][:ON_THE_SHELL]
    for words, name in on_shell:
        yield Case(SHELL, f"pyrovae {words}", _alone(template, words, name))
    rest = [(words, name, _main(words)) for words, name in asked if (words, name) not in on_shell]
    calls = [(f"{number}: {name}", name, _call(function)) for number, (name, function) in enumerate(CALLS)]
    yield Case(MAIN, "all", _case(template, rest))
    yield Case(API, "all", _case(template, calls))
    for row, fault, function in (
        (API, "a TypeError", _call(lambda: len(3))),  # type: ignore[arg-type]
        (API, "bad input is accepted", _call(lambda: 3)),
        (
            MAIN,
            "the line names nothing",
            planting.patched(_main("evaluate nowhere"), reason=lambda *args, **options: "no"),
        ),
    ):
        yield Case(row, f"planted: {fault}", _planted(template, function), True)
    yield Case(SHELL, "planted: good input", _alone(template, "plot runs/run", "nothing"), True)


def _planted(template: Path, function: Callable[[], int]) -> Callable[[Path], str]:
    def carry_out(here: Path) -> str:
        (came,) = _case(template, [("planted", "nowhere", function)])(here).values()
        return came

    return carry_out
