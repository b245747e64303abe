"""The first stage: from run.toml to weights and curves."""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae import checks, files
from pyrovae.data import Split, Splits
from pyrovae.programs.pair import placement
from pyrovae.runs import build, recipe, trackers, values
from pyrovae.runs.provenance import surroundings
from pyrovae.runs.recipe import Recipe
from pyrovae.runs.ties import METRICS, check_metrics, check_tie, keep_records, metrics_tie, records, tie
from pyrovae.runs.trust import trusting
from pyrovae.training.faults import check_data
from pyrovae.training.train import Training

OUTPUTS = (
    *(METRICS, "best.safetensors", "last.safetensors", "previous.safetensors"),
    *("evaluation.json", "scores.safetensors"),
)
# The output folders of a run: a link in their place would lead out of it.
FOLDERS = ("figures", *trackers.TRACKERS)


def prepare(path: Path, asked: Recipe, resume: bool = False) -> Training:
    """Check everything that a training needs before any work: directory, recipe, data, and the state to continue from.

    Raises:
        ValueError: the directory contains another run, or none to resume; the recipe or the data are invalid.
    """
    trackers.check(asked.tracker)
    files.check_folder(path)
    for name in FOLDERS:
        files.check_no_link(path / name)
    occupied = [name for name in OUTPUTS if (path / name).exists()]
    if occupied and not resume:
        raise ValueError(f"{path} already holds a run ({occupied[0]}): --resume continues it, --name starts another")
    if resume or _begun(path):
        recipe.check_same(path, vars(recipe.read(path / "run.toml")), vars(asked), "--name starts another run")
    state = _last_state(path, asked) if resume else None
    splits = build.splits(asked)
    # A resumed training uses the choices that "auto" made in the first part.
    chosen = asked if state is None else replace(asked, matmul=state[1]["matmul"])
    model = build.model(asked, splits.event_shape, splits.num_classes, len(splits.train))
    training = build.training(chosen, model, splits)
    if splits.test is not None:
        check_data(training.programs, splits.test)
    if state is not None:
        check_tie(path / "best.safetensors", files.read_tensors(path / "best.safetensors")[1], asked)
        same_data(path, splits, "--name starts another run", state[1])
        try:
            training.restore(state)
        except KeyError as error:
            said = f"expected the state of a training, found none of its {error}: another version of pyrovae wrote it"
            raise ValueError(f"{path}: {said}; --name starts another run") from None
        except (TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
            said = f"expected the state of this training, found another ({checks.reason(error)})"
            raise ValueError(f"{path}: {said}; --name starts another run") from None
        _same_place(path, state[1], training)
    _make(path)
    return training


def _begun(path: Path) -> bool:
    """Whether a folder contains files of a run; hidden files are locks, or were left by a killed process."""
    return path.exists() and any(not each.name.startswith(".") for each in path.iterdir())


def same_data(path: Path, splits: Splits, advice: str, state: Mapping[str, Any] | None = None) -> None:
    """Raise a ValueError if a run's training data, or the data of its evaluation, have changed.

    Files of earlier versions do not contain their digests.

    Args:
        path: the run's directory.
        splits: the present data.
        advice: the alternative, for the message.
        state: the metadata of the state from which the training continues.
    """
    made, found = (files.read_json(path / name) for name in ("environment.json", "evaluation.json"))
    values.check(path / "environment.json", made, values.ENVIRONMENT)
    values.check(path / "evaluation.json", found, values.EVALUATION)
    evaluated: Split | None = getattr(splits, str(found.get("split")), None)
    parts = (
        *(("trained", said, splits.train) for said in (made, state or {})),
        ("evaluated", found, evaluated),
    )
    for what, said, part in parts:
        if part is not None and said.get("data_sha256", part.sha256) != part.sha256:
            raise ValueError(
                f"{path}: expected {splits.name} as it was {what} on, found other data; put those back, or {advice}"
            )


def check_data_of(path: Path, splits: Splits) -> None:
    """Raise a ValueError if the training rows of a run have changed.

    With other training rows, held-out rows may be rows that were trained on. If only the rows of the evaluation have
    changed, there is a warning.
    """
    trained_on = files.read_about(path / "best.safetensors").get("data_sha256", splits.train.sha256)
    if trained_on != splits.train.sha256:
        raise ValueError(
            f"{path}: expected {splits.name} as it was trained on, found other data; put those back, or train another "
            "run on these"
        )
    found = files.read_json(path / "evaluation.json")
    evaluated = getattr(splits, str(found.get("split")), None)
    if isinstance(evaluated, Split) and found.get("data_sha256", evaluated.sha256) != evaluated.sha256:
        said = f"the {found['split']} rows of {splits.name} are not those of evaluation.json"
        warnings.warn(f"{path}: {said}", stacklevel=3)


def train(path: Path, asked: Recipe, training: Training) -> None:
    """Run a prepared training; after every epoch the directory contains everything that is needed to continue.

    Raises:
        StorageError: a file cannot be written; earlier files are kept.
    """
    try:
        _train(path, asked, training)
    except files.StorageError as error:
        raise files.StorageError(f"{error}; then continue with: pyrovae train {path} --resume") from error


def _train(path: Path, asked: Recipe, training: Training) -> None:
    if not (path / "run.toml").exists():
        recipe.write(asked, path / "run.toml")
    files.write_json(path / "environment.json", _environment(training))
    keep_records(path, training.epoch)
    with trackers.curves(asked.tracker, path, training.epoch + 1) as add:
        for record in training:
            files.append_line(path / METRICS, record)
            add(record["epoch"], {name: record[name] for name in record.keys() - {"epoch", "step"}})
            if training.best_epoch == training.epoch:
                files.write_tensors(path / "best.safetensors", training.weights(), _made_for(training, asked))
            _write_state(path, training, asked)
    files.write_json(path / "environment.json", _environment(training) | _seconds(path))


def _seconds(path: Path) -> dict[str, float]:
    """The duration of all epochs; {} if some records are lost."""
    made = records(path)
    return {"training_seconds": sum(record["seconds"] for record in made)} if made and made[0]["epoch"] == 1 else {}


def _write_state(path: Path, training: Training, asked: Recipe) -> None:
    tensors, about = training.state()
    last, about = path / "last.safetensors", about | {"metrics": metrics_tie(path)}
    if _whole(last):  # and stays so: a copy, so that an interruption between the two loses no epoch
        with files.replacing(path / "previous.safetensors") as temporary:
            shutil.copyfile(last, temporary)
    files.write_tensors(last, tensors, about | _place(training) | _made_for(training, asked))


def _whole(path: Path) -> bool:
    try:
        files.read_tensors(path)
    except ValueError:
        return False
    return True


def _made_for(training: Training, asked: Recipe) -> dict[str, Any]:
    """The arguments from which the model was built, and other facts about its weights."""
    return {
        "epoch": training.epoch,
        "event_shape": training.programs.event_shape,
        "num_classes": training.num_classes,
        "training_rows": len(training.batches.data),
        "data_sha256": _data(training).sha256,
        "recipe": tie(asked),
    }


def _data(training: Training) -> Split:
    assert isinstance(training.batches.data, Split)
    return training.batches.data


def _last_state(path: Path, asked: Recipe) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest undamaged state, which must match this recipe and these records; None if no epoch was finished."""
    present = [path / name for name in ("last.safetensors", "previous.safetensors") if (path / name).exists()]
    damaged = []
    for candidate in present:
        try:
            state = files.read_tensors(candidate)
            values.check(candidate, state[1], values.STATE)
        except ValueError as error:
            damaged.append(str(error))
            continue
        for message in damaged:
            warnings.warn(f"{message}; continuing from {candidate.name}, one epoch earlier", stacklevel=3)
        check_tie(candidate, state[1], asked)
        check_metrics(path, state[1])
        return state
    if damaged:
        raise ValueError(f"no state to resume from: {'; '.join(damaged)}")
    return None


def _place(training: Training) -> dict[str, Any]:
    """Other facts on which the exact result of a training depends."""
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
                f"{path} was trained with {name} {about[name]}, now {now}: the result will not be bit-identical",
                stacklevel=3,
            )


def _make(path: Path) -> None:
    files.make_folder(path)
    files.check_writable(path)
    files.sweep(path)


def _environment(training: Training) -> dict[str, Any]:
    return {
        **surroundings(),
        "parameters": sum(value.numel() for value in training.svi.parameters.values()),
        "data_sha256": _data(training).sha256,
        **_place(training),
        **training.matmul_measured,
    }


def load(path: str | Path, weights: str = "best", trust: Sequence[str] = ()) -> Any:
    """The model of a run, in evaluation mode, on the CPU.

    Args:
        path: the run's directory.
        weights: "best" (by validation loss) or "last".
        trust: exact names of modules whose code may run, for parts "module:Class". By default a run is only data, and
            no code of it is run.

    Raises:
        ValueError: it is not a run; its weights are missing or damaged; it needs a module that is not trusted.
    """
    checks.member("weights", weights, ("best", "last"))
    path = Path(path)
    made = recipe.read(path / "run.toml")
    tensors, about = files.read_tensors(path / f"{weights}.safetensors")
    check_tie(path / f"{weights}.safetensors", about, made)
    if weights == "last":
        tensors = {name.removeprefix("weights."): x for name, x in tensors.items() if name.startswith("weights.")}
    sizes = _sizes(path / f"{weights}.safetensors", about)
    with trusting(trust):
        model = build.model(replace(made, device="cpu"), *sizes)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: its weights are not of the model in its run.toml ({checks.reason(error, last=True)})"
        ) from None
    return model.eval()


def _sizes(file: Path, about: Any) -> tuple[tuple[int, ...], int | None, int | None]:
    """The arguments of the model that `_made_for` wrote: event_shape, num_classes, training_rows."""
    about = about if isinstance(about, dict) else {}
    try:
        shape = checks.shape("event_shape", about.get("event_shape"))
        counts = [about.get(name) for name in ("num_classes", "training_rows")]
        classes, rows = (None if count is None else checks.integer("a count", count) for count in counts)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return shape, classes, rows


def effort(path: Path) -> dict[str, float]:
    """The cost of a training, as far as its files say: seconds, threads, steps, and the number of parameters."""
    made = files.read_json(path / "environment.json")
    values.check(path / "environment.json", made, values.ENVIRONMENT)
    said = {"seconds": made.get("training_seconds")} | {name: made.get(name) for name in ("threads", "parameters")}
    said["steps"] = next((record["step"] for record in reversed(metrics(path))), None)
    return {name: value for name, value in said.items() if value is not None}


def metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a training, one for each epoch; none if there is no metrics.jsonl.

    Raises:
        ValueError: records that existed when the last state was written are lost or altered.
    """
    if (path / METRICS).exists() and (about := files.read_about(path / "last.safetensors")):
        check_metrics(path, about)
    return values.records(path / METRICS)
