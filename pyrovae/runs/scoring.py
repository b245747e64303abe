"""The second stage: from the weights of a run to evaluation.json and the scores of each datum."""

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae import checks, files, plots
from pyrovae.data import DATASETS, Split, Splits
from pyrovae.evaluation.bits import bits_per_dimension
from pyrovae.evaluation.evaluate import scores, summary
from pyrovae.evaluation.examine import examining
from pyrovae.evaluation.parts import PARTS
from pyrovae.likelihoods import Measure
from pyrovae.runs import build, recipe, values
from pyrovae.runs.ties import check_tie, check_weights, tie, weights_digest
from pyrovae.runs.training import check_data_of, load
from pyrovae.runs.trust import flags

# The scores that are kept for each datum, and the fields in which they must agree with evaluation.json.
SCORES = ("elbo", "reconstruction", "kl", "log_likelihood", "monte_carlo_error")
SCORED = ("weights_sha256", "data", "data_sha256", "split", "binarize", "rows", "particles", "seed", "measure")


def evaluate(
    path: Path,
    particles: int = 0,
    split: str = "",
    seed: int = 0,
    parts: Sequence[str] = (),
    rows: int = 200,
    trust: Sequence[str] = (),
) -> dict[str, Any]:
    """Write evaluation.json: the results of `pyrovae.evaluate` for a run's best weights, and how they were computed.

    After an interruption, the same call continues where it stopped.

    Args:
        path: the run's directory.
        particles: importance samples; 0 is the recipe's number.
        split: test, valid or train; empty is the first of these that exists.
        seed: seed of the noise.
        parts, rows: options of an `examine`. Its numbers are stored under "examination", and its figures with the
            others. Earlier parts stay if weights, data, split, binarisation and seed are the same; otherwise they and
            their figures are removed.
        trust: as in `load`.
    """
    files.check_no_link(path / "figures")
    made = recipe.read(path / "run.toml")
    files.sweep(path)
    splits = build.splits(made)
    name, part = part_of(splits, split)
    check_data_of(path, splits)
    model = load(path, trust=trust).to(build.device(made))
    count = particles or made.particles
    digest = weights_digest(path / "best.safetensors")
    asked = repr((made, digest, part.sha256, name, count, seed, torch.__version__))
    keep = path / f".evaluating-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"
    for each in (keep, *keep.rglob("*")):
        files.check_no_link(each)
    table, estimator = scores(model, part, count, seed, keep=keep)
    results = {
        "schema": recipe.SCHEMA,
        "command": " ".join(
            [f"pyrovae evaluate {path.name} --particles {count} --split {name} --seed {seed}", *flags(made.modules())]
        ),
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
    about = {field: results[field] for field in SCORED} | {"recipe": tie(made)}
    files.write_tensors(path / "scores.safetensors", of_each, about)
    files.write_json(path / "evaluation.json", results)
    for each in path.glob(".evaluating-*"):
        files.remove(each)
    if parts:
        results["command"] += f" --examine {','.join(parts)} --rows {rows}"
        for found, figures in examining(model, part, splits.train if name != "train" else None, parts, rows, seed):
            results["examination"] = results.get("examination", {}) | found.numbers
            files.write_json(path / "evaluation.json", results)  # after each part, because the next may fail
            plots.write_figures(path / "figures", figures)
    return results


def evaluation(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the results of `evaluate`: evaluation.json, and the SCORES of each datum (none from an earlier version).

    Raises:
        ValueError: there is no evaluation; a file is damaged, or the files belong to two evaluations, to another recipe
            than run.toml, or to other weights than best.safetensors.
    """
    try:
        found = json.loads(files.read_text(path / "evaluation.json"))
    except FileNotFoundError:
        raise ValueError(f"{path}: expected an evaluated run, found no evaluation.json") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path / 'evaluation.json'}: expected JSON, found a damaged file ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path / 'evaluation.json'}: expected fields and values, found a {type(found).__name__}")
    values.check(path / "evaluation.json", found, values.EVALUATION)
    check_weights(path, found)
    if not (path / "scores.safetensors").exists():
        return found, {}
    table, of = files.read_tensors(path / "scores.safetensors")
    for field in SCORED:
        one, other = found.get(field), of.get(field)
        if one != other:
            raise ValueError(f"{path}: expected scores of the {field} in evaluation.json, {one!r}, found {other!r}")
    if (path / "run.toml").exists():
        check_tie(path / "scores.safetensors", of, recipe.read(path / "run.toml"))
    return found, table


def _examined(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """The earlier examination in evaluation.json, if it has the same weights and data; else remove its figures."""
    old = {"data_sha256": results["data_sha256"]} | _earlier(path / "evaluation.json")
    if old.get("weights_sha256") == files.sha256(path / "best.safetensors"):  # as earlier versions wrote it
        old["weights_sha256"] = results["weights_sha256"]
    agree = ("weights_sha256", "data_sha256", "split", "binarize", "seed")
    same = all(old.get(name) == results[name] for name in agree)
    if same and "examination" in old:
        return {"examination": old["examination"]}
    with files.storing(path / "figures"):
        for each in [name for part in PARTS.values() for name in part.figures]:
            (path / "figures" / f"{each}.png").unlink(missing_ok=True)
    return {}


def _earlier(path: Path) -> dict[str, Any]:
    """The content of evaluation.json; {} if it is damaged or invalid."""
    found = files.read_json(path)
    with suppress(ValueError):
        values.check(path, found, values.EVALUATION)
        return found
    return {}


def _bits(results: dict[str, Any], dimensions: int, dequantized: bool) -> dict[str, float] | None:
    """The log-likelihood in bits per dimension; None if its measure has none."""
    score, fields = results["log_likelihood"], results["measure_fields"]
    if not fields:  # the model does not say what its log p(x) measures
        return None
    try:
        value = bits_per_dimension(score["value"], dimensions, Measure(**fields), dequantized)
    except ValueError:
        return None
    return {"value": value, "standard_error": score["standard_error"] / (dimensions * math.log(2))}


def part_of(splits: Splits, name: str = "") -> tuple[str, Split]:
    """A part of the data and its name; without a name the first of test, valid and train that exists."""
    parts = {each: part for each in ("test", "valid", "train") if (part := getattr(splits, each))}
    name = name or next(iter(parts))
    if checks.member("split", name, ("test", "valid", "train")) not in parts:
        raise ValueError(f"split: expected one of {', '.join(parts)}, found {name!r}")
    return name, parts[name]
