"""Checks the content of a run's files before it is used, because a stranger, or a fault, may have written them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyrovae import checks, files

Check = Callable[[str, Any], object]
# Larger counts are invalid, and leave the range in which floats represent all integers.
MOST = 2**53


def _number(name: str, value: Any) -> None:
    """A number that a float can represent; null stands for a value that is not finite."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300):
        raise ValueError(f"{name}: expected a number or null, found {value!r:.80}")


def _real(name: str, value: Any) -> None:
    """A float, which may be infinite: the best loss is infinite before the first epoch."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: expected a number, found {value!r:.80}")


def _count(name: str, value: Any) -> None:
    checks.integer(name, value, 0, MOST)


def _text(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name}: expected text, found {value!r:.80}")


def _split(name: str, value: Any) -> None:
    checks.member(name, value, ("test", "valid", "train"))


def _each(check: Check) -> Check:
    """The check of each value of a mapping."""

    def checked(name: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name}: expected fields and values, found {value!r:.80}")
        for key, item in value.items():
            check(f"{name}.{key}", item)

    return checked


def _fields(known: Mapping[str, Check]) -> Check:
    """Check the known fields that are there; other fields are ignored."""

    def checked(name: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name}: expected fields and values, found {value!r:.80}")
        for key in known.keys() & value.keys():
            known[key](key, value[key])

    return checked


def _mean(name: str, value: Any) -> None:
    """A value and its standard error, which are null if the measure has none."""
    if value is not None:
        _each(_number)(name, value)
        if "value" not in value:
            raise ValueError(f"{name}: expected a value, found none")


_GAPS = ("amortisation_gap", "approximation_gap")
_DIAGNOSIS = {"rows": _count, "of_rows": _count, "gaps": _fields(dict.fromkeys(_GAPS, _mean))}
EVALUATION: Mapping[str, Check] = {
    **dict.fromkeys(("measure", "data", "data_sha256", "binarize", "weights", "weights_sha256"), _text),
    "split": _split,
    **dict.fromkeys(("rows", "particles", "seed"), _count),
    **dict.fromkeys(("elbo", "reconstruction", "kl", "log_likelihood", "bits_per_dimension", "accuracy"), _mean),
    **dict.fromkeys(("active_units", "latents"), _each(_count)),
    "measure_fields": _fields({**dict.fromkeys(("kind", "over", "note"), _text), "levels": _count}),
    "examination": _fields({"diagnosis": _fields(_DIAGNOSIS)}),
}
ENVIRONMENT: Mapping[str, Check] = {
    **dict.fromkeys(("parameters", "threads"), _count),
    "training_seconds": _number,
    "data_sha256": _text,
}
STATE: Mapping[str, Check] = {
    **dict.fromkeys(("epoch", "step", "best_epoch", "epochs_without_improvement", "objective_step"), _count),
    **dict.fromkeys(("best_loss", "rate"), _real),
    **dict.fromkeys(("matmul", "device", "torch", "path"), _text),
    "threads": _count,
}
RECORD: Mapping[str, Check] = dict.fromkeys(("epoch", "step"), _count)
IN_EACH = {"epoch", "step", "loss", "seconds"}


def check(path: Path, said: Any, known: Mapping[str, Check]) -> None:
    """Raise a ValueError that names the file if a field has the wrong type or range."""
    try:
        _fields(known)("the file", said)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def records(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, one for each epoch: numbers, with the same fields in all epochs."""
    found = files.read_lines(path)
    for number, record in enumerate(found, 1):
        try:
            _fields(RECORD)("the record", record)
            _each(_number)("the record", record)
            if missing := (IN_EACH | found[0].keys()) - record.keys():
                raise ValueError(f"expected {', '.join(sorted(missing))}, found none")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return found
