"""Ties the files of a run together, so that a file of another run, or a lost line, is refused by name."""

import hashlib
import warnings
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from pyrovae import files
from pyrovae.runs.recipe import Recipe

# Options of where and how a run is executed: they may change between its stages.
PLACE = ("data", "data_root", "device", "threads", "compile", "matmul", "tracker")
METRICS = "metrics.jsonl"


def tie(made: Recipe) -> dict[str, Any]:
    """The options that determine a run's weights and numbers; each of its files contains them."""
    return {name: value for name, value in vars(made).items() if name not in PLACE}


def check_tie(path: Path, about: Mapping[str, Any], made: Recipe) -> None:
    """Raise a ValueError if a file of a run belongs to another recipe than its run.toml.

    Args:
        path: the file.
        about: the metadata in the file.
        made: the recipe in run.toml.
    """
    if not isinstance(about, Mapping) or not isinstance(about.get("recipe", {}), Mapping):
        raise ValueError(f"{path}: expected what it says about itself, found {about!r:.80}")
    if "recipe" not in about:
        said = "an earlier version of pyrovae made it, without a recipe in it: it is used unchecked"
        warnings.warn(f"{path}: {said}", stacklevel=3)
        return
    for name, now in tie(made).items():
        if about["recipe"].get(name, now) != now:
            raise ValueError(
                f"{path}: expected a file of the recipe in run.toml, with {name} = {now!r}, found one with "
                f"{about['recipe'][name]!r}: one of the two is damaged or of another run"
            )


def weights_digest(path: Path) -> str:
    """The digest of the weights in a file, independent of their order and of its other content."""
    return files.digest(files.read_tensors(path)[0], "")


def check_weights(path: Path, said: Mapping[str, Any]) -> None:
    """Raise a ValueError if the numbers in evaluation.json do not belong to the weights in best.safetensors, if any.

    Earlier versions stored the digest of the file.
    """
    best = path / "best.safetensors"
    if "weights_sha256" not in said or not best.exists():
        return
    if said["weights_sha256"] not in (weights_digest(best), files.sha256(best)):
        raise ValueError(
            f"{path / 'evaluation.json'}: expected the numbers of the weights in best.safetensors, found those of "
            f"others; `pyrovae evaluate {path}` computes them again"
        )


def metrics_tie(path: Path) -> dict[str, Any]:
    """The digest of metrics.jsonl as it is now, for a state."""
    content = (path / METRICS).read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def check_metrics(path: Path, about: Mapping[str, Any]) -> None:
    """Raise a ValueError if metrics.jsonl lacks records that existed when a state was written.

    Records of later epochs may follow. For a state of an earlier version, only the epochs are checked.
    """
    file, epochs, kept = path / METRICS, about["epoch"], about.get("metrics")
    files.check_file(file)
    if not file.exists():
        warnings.warn(f"{file}: there is no such file; the curves begin after epoch {epochs}", stacklevel=3)
        return
    if kept is None:
        whole = [record["epoch"] for record in records(path)][:epochs] == list(range(1, epochs + 1))
    else:
        if not isinstance(kept, Mapping) or type(kept.get("bytes")) is not int or "sha256" not in kept:
            raise ValueError(f"{path}: expected a state with a digest of metrics.jsonl, found {kept!r:.80}")
        content = file.read_bytes()[: max(0, kept["bytes"])]
        whole = hashlib.sha256(content).hexdigest() == kept["sha256"]
    if not whole:
        raise ValueError(
            f"{file}: expected the records of all epochs to {epochs} as they were written, found some lost or "
            "altered; put the file back, or delete it to continue without them"
        )


def records(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, one for each epoch, up to an invalid line."""
    return list(takewhile(_is_record, files.read_lines(path / METRICS)))


def _is_record(line: Mapping[str, Any]) -> bool:
    return all(type(line.get(name)) in (int, float) for name in ("epoch", "step", "seconds"))


def keep_records(path: Path, epochs: int) -> None:
    """Truncate metrics.jsonl to the records of the first epochs."""
    files.write_lines(path / METRICS, [record for record in records(path) if record["epoch"] <= epochs])
