"""A run is a directory: run.toml goes in, everything else comes out. Each stage reads the directory and nothing else.

run.toml                the recipe
environment.json        versions, commit, device, threads, digest of the training data, how the steps ran, seconds
metrics.jsonl           one record an epoch
tensorboard/            the same, as curves
best.safetensors        weights of the best epoch by validation loss (of the last, without validation data)
last.safetensors        weights, optimiser, generators and counters after the last epoch: what --resume goes on from
previous.safetensors    the same one epoch earlier, should the last be damaged
evaluation.json         numbers on the test data
scores.safetensors      what they are the means of: the scores of each datum, (N,), in the order of the data
figures/                pictures
"""

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pyrovae import checks, files, plots, recipe
from pyrovae.data import DATASETS, Split, Splits
from pyrovae.evaluate import scores, summary
from pyrovae.examination import FIGURES, examining
from pyrovae.figures import draw
from pyrovae.likelihoods.bits import bits_per_dimension
from pyrovae.programs import needs_labels, placement, takes_labels
from pyrovae.recipe import Recipe
from pyrovae.train import Training

OUTPUTS = (
    *("metrics.jsonl", "best.safetensors", "last.safetensors", "previous.safetensors"),
    *("evaluation.json", "scores.safetensors"),
)
# What is kept of each datum, and what scores are of: they are those of evaluation.json where it agrees in all of it.
SCORES = ("elbo", "reconstruction", "kl", "log_likelihood", "monte_carlo_error")
SCORED = ("weights_sha256", "data", "data_sha256", "split", "binarize", "rows", "particles", "seed", "measure")
# The figure that is written last: where it is, all are.
LAST_FIGURE = "loss"


def free_name(root: Path, stem: str) -> Path:
    """The first of root/stem-1, root/stem-2, ... that does not exist."""
    return next(path for number in range(1, 10**6) if not (path := root / f"{stem}-{number}").exists())


@contextmanager
def threads(count: int = 0) -> Iterator[None]:
    """Inside, torch uses so many threads (0: half of its own choice); outside, as many as before.

    Half, because threads that wait for a processor which others keep busy slow a small step down by tens of times.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_count(path: Path) -> int:
    """How many threads the run at `path` had; 0 where there is none."""
    known = path / "environment.json"
    try:
        return checks.integer("threads", json.loads(known.read_text())["threads"]) if known.exists() else 0
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{known}: expected the environment of a run, found a damaged file ({error})") from None


def prepare(path: Path, asked: Recipe, resume: bool = False) -> Training:
    """Check all that a training needs before any work: the directory, the recipe, the data, the state to go on from.

    Raises:
        ValueError: the directory holds another run, or none to resume; a recipe or data that cannot be meant.
    """
    occupied = [name for name in OUTPUTS if (path / name).exists()]
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: expected a directory, found a file")
    if occupied and not resume:
        raise ValueError(f"{path} already holds a run ({occupied[0]}): --resume goes on with it, --name starts another")
    if resume or (path.exists() and any(path.iterdir())):
        recipe.check_same(path, vars(recipe.read(path / "run.toml")), vars(asked), "--name starts another run")
    state = _last_state(path) if resume else None
    splits = asked.splits()
    # What "auto" found in the first part is what the second part uses.
    chosen = asked if state is None else replace(asked, matmul=state[1]["matmul"])
    training = chosen.training(asked.build(splits.event_shape, splits.num_classes, len(splits.train)), splits)
    if state is not None:
        same_data(path, splits, "--name starts another run")
        training.restore(state)
        _same_place(path, state[1], training)
    _make(path)
    return training


def same_data(path: Path, splits: Splits, advice: str) -> None:
    """Raise a ValueError if a run's training data, or those that it was evaluated on, are others by now.

    What an earlier version made says nothing of them.
    """
    made, found = (_said(path / name) for name in ("environment.json", "evaluation.json"))
    parts = {"trained": (made, splits.train), "evaluated": (found, getattr(splits, str(found.get("split")), None))}
    for what, (said, part) in parts.items():
        if part is not None and said.get("data_sha256", part.sha256) != part.sha256:
            raise ValueError(
                f"{path}: expected {splits.name} as it was {what} on, found other data; put those back, or {advice}"
            )


def _said(path: Path) -> dict[str, Any]:
    """What a file in JSON says; nothing where there is none, or a damaged one, which gives way to a new one."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def train(path: Path, asked: Recipe, training: Training) -> None:
    """Carry out a prepared training; after every epoch the directory holds all that is needed to go on from there."""
    if not (path / "run.toml").exists():
        recipe.write(asked, path / "run.toml")
    files.write_json(path / "environment.json", _environment(training))
    files.keep_lines(path / "metrics.jsonl", training.epoch)
    with SummaryWriter(path / "tensorboard", purge_step=training.epoch + 1) as board:
        for record in training:
            files.append_line(path / "metrics.jsonl", record)
            for name in record.keys() - {"epoch", "step"}:
                board.add_scalar(name, record[name], record["epoch"])
            if training.best_epoch == training.epoch:
                files.write_tensors(path / "best.safetensors", training.weights(), _made_for(training))
            _write_state(path, training)
    records = files.read_lines(path / "metrics.jsonl")
    seconds = sum(record["seconds"] for record in records)
    files.write_json(path / "environment.json", _environment(training) | {"training_seconds": seconds})


def _write_state(path: Path, training: Training) -> None:
    tensors, about = training.state()
    last = path / "last.safetensors"
    if last.exists():  # and will, at every moment: a copy, so that an interruption between the two loses no epoch
        with files.replacing(path / "previous.safetensors") as temporary:
            shutil.copyfile(last, temporary)
    files.write_tensors(last, tensors, about | _place(training) | _made_for(training))


def _made_for(training: Training) -> dict[str, Any]:
    """What a model is built from beside its recipe."""
    return {
        "epoch": training.epoch,
        "event_shape": training.programs.event_shape,
        "num_classes": training.num_classes,
        "training_rows": len(training.batches.data),
    }


def _last_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest state that is whole; None if no epoch was finished."""
    present = [path / name for name in ("last.safetensors", "previous.safetensors") if (path / name).exists()]
    damaged = []
    for candidate in present:
        try:
            state = files.read_tensors(candidate)
        except ValueError as error:
            damaged.append(str(error))
            continue
        for message in damaged:
            warnings.warn(f"{message}; going on from {candidate.name}, one epoch earlier", stacklevel=3)
        return state
    if damaged:
        raise ValueError(f"no state to resume from: {'; '.join(damaged)}")
    return None


def _place(training: Training) -> dict[str, Any]:
    """What else the bits of a training depend on."""
    return {
        "threads": torch.get_num_threads(),
        "device": str(placement(training.programs)[0]),
        "torch": torch.__version__,
        "path": training.svi.path,
        "matmul": training.matmul,
    }


def _same_place(path: Path, about: dict[str, Any], training: Training) -> None:
    for name, now in _place(training).items():
        if about[name] != now:
            warnings.warn(
                f"{path} was trained with {name} {about[name]}, now {now}: it goes on, but not to the same bits",
                stacklevel=3,
            )


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path / ".writable", b"")
        (path / ".writable").unlink()
        for leftover in path.glob(".[0-9]*-*.*"):  # of a process that was killed while it wrote
            leftover.unlink()
    except OSError as error:
        raise ValueError(f"{path}: expected a directory that can be written to ({error.strerror})") from None


def surroundings() -> dict[str, Any]:
    """What a result was made with: versions, commit, machine, threads."""
    packages = ("pyrovae", "torch", "torchvision", "pyro-ppl", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _environment(training: Training) -> dict[str, Any]:
    assert isinstance(training.batches.data, Split)
    return {
        **surroundings(),
        "parameters": sum(value.numel() for value in training.svi.parameters.values()),
        "data_sha256": training.batches.data.sha256,
        **_place(training),
        **training.matmul_measured,
    }


def _commit() -> str | None:
    """Of the working folder, with "-dirty" where code or recipes differ from it; what runs wrote does not count."""
    try:
        commit = _git("describe", "--always")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)*.py", ":(top)*.toml")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit + ("-dirty" if changed else "") or None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, timeout=10).stdout.strip()


def load(path: str | Path, weights: str = "best") -> Any:
    """The model of a run, in evaluation mode, on the CPU.

    Args:
        path: the run's directory.
        weights: "best" (by validation loss) or "last".

    Raises:
        ValueError: not a run, or one whose weights are missing or damaged.
    """
    checks.member("weights", weights, ("best", "last"))
    path = Path(path)
    made = recipe.read(path / "run.toml")
    tensors, about = files.read_tensors(path / f"{weights}.safetensors")
    if weights == "last":
        tensors = {name.removeprefix("weights."): x for name, x in tensors.items() if name.startswith("weights.")}
    sizes = tuple(about["event_shape"]), about.get("num_classes"), about.get("training_rows")
    model = replace(made, device="cpu").build(*sizes)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: its weights are not of the model in its run.toml ({checks.reason(error, last=True)})"
        ) from None
    return model.eval()


def evaluate(
    path: Path, particles: int = 0, split: str = "", seed: int = 0, parts: Sequence[str] = (), rows: int = 200
) -> dict[str, Any]:
    """evaluation.json: the numbers of `pyrovae.evaluate` for a run's best weights, and what they are numbers of.

    Interrupted, it goes on where it was when the same is asked again.

    Args:
        path: the run's directory.
        particles: importance samples; 0 is the recipe's number.
        split: test, valid or train; empty is the first of them that the data have.
        seed: of the noise.
        parts, rows: of an `examine`, whose numbers stand under "examination" and whose figures join the others. Parts
            examined before stay where weights, data, split, binarisation and seed are the same; else they and their
            figures go.
    """
    made = recipe.read(path / "run.toml")
    splits = made.splits()
    name, part = part_of(splits, split)
    model = load(path).to(made.torch_device())
    count = particles or made.particles
    digest = files.sha256(path / "best.safetensors")
    asked = repr((made, digest, part.sha256, name, count, seed, torch.__version__))
    keep = path / f".evaluating-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"
    table, estimator = scores(model, part, count, seed, keep=keep)
    results = {
        "schema": recipe.SCHEMA,
        "command": f"pyrovae evaluate {path.name} --particles {count} --split {name} --seed {seed}",
        "run": path.name,
        "data": made.data if made.data in DATASETS else Path(made.data).name,
        "data_sha256": part.sha256,
        "split": name,
        "binarize": made.binarize,
        "weights": "best",
        "weights_sha256": digest,
        **summary(model, part, (table, estimator), count, seed),
    }
    results["bits_per_dimension"] = _bits(results, math.prod(model.event_shape), part.binarize == "dequantize")
    results |= _examined(path, results)
    of_each = {score: table[score] for score in SCORES}
    files.write_tensors(path / "scores.safetensors", of_each, {field: results[field] for field in SCORED})
    files.write_json(path / "evaluation.json", results)
    for each in path.glob(".evaluating-*"):
        shutil.rmtree(each)
    if parts:
        results["command"] += f" --examine {','.join(parts)} --rows {rows}"
        for found, figures in examining(model, part, splits.train if name != "train" else None, parts, rows, seed):
            results["examination"] = results.get("examination", {}) | found.numbers
            files.write_json(path / "evaluation.json", results)  # after each part: the next may fail
            plots.write_figures(path / "figures", figures)
    return results


def evaluation(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `evaluate` wrote: evaluation.json, and the SCORES of each datum, none where an earlier version made it.

    Raises:
        ValueError: there is no evaluation; one of the files is damaged, or they are of two evaluations.
    """
    try:
        found = json.loads((path / "evaluation.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a run that is evaluated, found no evaluation.json") from None
    except ValueError as error:
        raise ValueError(f"{path / 'evaluation.json'}: expected JSON, found a damaged file ({error})") from None
    if not (path / "scores.safetensors").exists():
        return found, {}
    table, of = files.read_tensors(path / "scores.safetensors")
    for field in SCORED:
        one, other = found.get(field), of.get(field)
        if one != other:
            raise ValueError(f"{path}: expected scores of the {field} in evaluation.json, {one!r}, found {other!r}")
    return found, table


def effort(path: Path) -> dict[str, float]:
    """What a training took, as far as its files say: its seconds, threads and steps, and the programs' parameters."""
    made = _said(path / "environment.json")
    said = {"seconds": made.get("training_seconds")} | {name: made.get(name) for name in ("threads", "parameters")}
    said["steps"] = next((record["step"] for record in reversed(files.read_lines(path / "metrics.jsonl"))), None)
    return {name: value for name, value in said.items() if value is not None}


def _examined(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """The examination that stands beside the results in evaluation.json, if it is of the same; if not, no figure of it
    stays."""
    old = {"data_sha256": results["data_sha256"]} | _said(path / "evaluation.json")
    agree = ("weights_sha256", "data_sha256", "split", "binarize", "seed")
    same = all(old.get(name) == results[name] for name in agree)
    if same and "examination" in old:
        return {"examination": old["examination"]}
    for each in FIGURES:
        (path / "figures" / f"{each}.png").unlink(missing_ok=True)
    return {}


def _bits(results: dict[str, Any], dimensions: int, dequantized: bool) -> dict[str, float] | None:
    """The log-likelihood in bits per dimension; None where its measure has none."""
    score = results["log_likelihood"]
    try:
        value = bits_per_dimension(score["value"], dimensions, results["measure"], dequantized)
    except ValueError:
        return None
    return {"value": value, "standard_error": score["standard_error"] / (dimensions * math.log(2))}


def part_of(splits: Splits, name: str = "") -> tuple[str, Split]:
    """A part of the data and its name; without a name the first of test, valid and train that there is."""
    parts = {each: part for each in ("test", "valid", "train") if (part := getattr(splits, each))}
    name = name or next(iter(parts))
    if checks.member("split", name, ("test", "valid", "train")) not in parts:
        raise ValueError(f"split: expected one of {', '.join(parts)}, which the data have, found {name!r}")
    return name, parts[name]


def plot(path: Path) -> list[Path]:
    """figures/*.png of a run: its loss curves, what it generates, reconstructs and encodes, and its program."""
    made, model = recipe.read(path / "run.toml"), load(path)
    held_out = part_of(made.splits())[1]
    written = plots.write_figures(path / "figures", draw(model, held_out, made.seed))
    if records := files.read_lines(path / "metrics.jsonl"):
        # A known label's loss is of log p(x, y), and of q(y|x): far more than that of a row without.
        some = made.labels and takes_labels(model) and not needs_labels(model)
        of = (", some labels missing", ", all labels known") if some else ("", "")
        written += plots.write_figures(path / "figures", {LAST_FIGURE: plots.loss_curves(records, of)})
    return sorted(written)


def drawn(path: Path) -> bool:
    """Whether `plot` came to its end."""
    return (path / "figures" / f"{LAST_FIGURE}.png").exists()
