"""Decides which scores may be compared: those with one measure, on the same rows, binarised alike."""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.lazy import LazyModule

scipy = LazyModule("scipy")


Row = Mapping[str, Any]
AnyRow = TypeVar("AnyRow", bound=Row)

# The fields in which two evaluations must agree before one can be better than the other.
ALIKE = {
    # A lower bound, which rises with the particles, and as the guide gets closer to the posterior (no field shows
    # that).
    "log_likelihood": ("measure", "data", "split", "binarize", "rows", "data_sha256", "particles", "weights"),
    # Bytes as levels, and as levels with noise, are the same data.
    "bits_per_dimension": ("levels", "data", "split", "rows", "data_sha256", "particles", "weights"),
}
# Fields that earlier versions did not write: a row without one matches rows that are equal otherwise, if these agree.
LATER = "data_sha256"


def kinds(rows: Iterable[AnyRow], by: str = "log_likelihood") -> list[list[AnyRow]]:
    """Groups of scores that may be compared, each with the best first; rows without a score come last, in order."""
    return [sorted(kind, key=partial(_cost, by=by)) for kind in alike(rows, by)]


def alike(rows: Iterable[AnyRow], by: str = "log_likelihood") -> list[list[AnyRow]]:
    """Groups of rows that may be compared, in their order."""
    found: dict[tuple[Any, ...], list[AnyRow]] = {}
    for row in rows:
        found.setdefault(tuple(_of(row, field) for field in ALIKE[by] if field != LATER), []).append(row)
    return [part for kind in found.values() for part in _by_data(kind)]


def _by_data(rows: list[AnyRow]) -> list[list[AnyRow]]:
    found = list(dict.fromkeys(row.get(LATER) for row in rows))
    several = len(set(found) - {None}) > 1
    return [[row for row in rows if row.get(LATER) == each] for each in found] if several else [rows]


def rank(
    evaluations: Mapping[str, Row], by: str = "log_likelihood", scores: Mapping[str, Tensor] | None = None
) -> list[dict[str, Any]]:
    """Rank evaluations by name, the best first: name, value and standard_error.

    log p(x) by importance sampling is a lower bound on average: for the same model, a guide closer to the posterior
    gives a higher value.

    With `scores`, a row also has `behind`, the mean over the data of (best - its own) with its error, and `margin`,
    half the width of its 95 % interval (see `behind_best`). On the same rows the two errors have much in common, so the
    difference has a smaller error. It describes these trained models, not other trainings of the same kind.

    Args:
        evaluations: the results of `evaluate`, or evaluation.json. A field that both lack counts as equal; so does the
            digest of the data if one of two lacks it.
        by: "log_likelihood", highest first; or "bits_per_dimension", lowest first. evaluation.json has the latter if
            the data are bytes and the measure is a mass over their levels, or a density of bytes with noise (then it is
            an
            upper bound: see `evaluation.bits`).
        scores: log p(x) of each datum, (N,): the first result of `log_likelihood`, with the same seed for all.

    Raises:
        ValueError: two evaluations are not comparable (the message says which, and why); one is not a likelihood, not a
            number, or has no such unit.

    Example:
        >>> from pyrovae.evaluation.ranking import rank
        >>> a = {"measure": "density over real values", "log_likelihood": {"value": -9.0, "standard_error": 1.0}}
        >>> b = {**a, "log_likelihood": {"value": -8.0, "standard_error": 1.0}}
        >>> [row["name"] for row in rank({"a": a, "b": b})]
        ['b', 'a']
    """
    ordered = [row for kind in kinds(comparable(evaluations, by), by) for row in kind]
    behind = {} if scores is None else _behind(ordered, scores)
    return [{"name": row["name"], **row[by], **behind.get(row["name"], {})} for row in ordered]


def comparable(evaluations: Mapping[str, Row], by: str = "log_likelihood") -> list[dict[str, Any]]:
    """The evaluations as rows with a name; a ValueError says which is not a score, or which differ, and in what."""
    checks.member("score", by, ALIKE)
    if not isinstance(evaluations, Mapping) or not evaluations:
        raise ValueError(f"evaluations: expected one or more, as {{name: evaluate(...)}}, found {evaluations!r:.80}")
    for name, each in evaluations.items():
        if not isinstance(each, Mapping):
            raise ValueError(f"{name}: expected what evaluate gives, found {each!r:.80}")
    rows = [{"name": name} | dict(each) for name, each in evaluations.items()]
    for row in rows:
        if reason := _no_score(row, by):
            raise ValueError(f"{row['name']}: {reason}")
    for field in ALIKE[by]:
        first, *others = [row for row in rows if field != LATER or row.get(LATER)] or rows
        for row in others:
            one, other = _of(first, field), _of(row, field)
            if one != other:
                names = f"{first['name']} and {row['name']}"
                raise ValueError(
                    f"{names}: expected the same {field}, found {one!r} and {other!r}: they cannot be compared"
                )
    return rows


def is_score(row: Row, by: str = "log_likelihood") -> bool:
    """Whether a row has a number to rank."""
    return not _no_score(row, by)


def _of(row: Row, field: str) -> Any:
    return _levels(row) if field == "levels" else row.get(field)


def _levels(row: Row) -> int | str | None:
    """The number of levels of a row's codes; densities have bits per dimension only for bytes.

    A row of an earlier version has no such field: it is like the rows whose measure has the same text.
    """
    fields = row.get("measure_fields")
    return row.get("measure") if fields is None else fields.get("levels") or 256


def _is_likelihood(row: Row) -> bool:
    """Whether a row's log p(x) is the logarithm of a mass or a density."""
    measure = row.get("measure")
    # Rows without these fields are from earlier versions, or state their measure by hand.
    kind = row.get("measure_fields", {}).get("kind", "none" if "no likelihood" in str(measure) else "stated")
    return measure is not None and kind != "none"


_STATE = '; where you know it, state it: {**evaluation, "measure": "density"}'


def _no_score(row: Row, by: str) -> str:
    """The reason why a row cannot be ranked; "" if it can."""
    measure = row.get("measure")
    if not _is_likelihood(row):
        return f"expected the measure of a likelihood, found {measure!r}{'' if measure else _STATE}"
    if row.get(by) is None:
        return f"expected a {by}, found none for a {measure}, binarize={row.get('binarize')!r}"
    value = row[by]["value"]
    return "" if value is not None and value == value else f"expected a number, found a {by} of {value}"


def _cost(row: Row, by: str) -> float:
    return math.inf if _no_score(row, by) else row[by]["value"] * (-1 if by == "log_likelihood" else 1)


def _behind(rows: list[dict[str, Any]], scores: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    names, number = [row["name"] for row in rows], rows[0].get("rows")
    shapes = {name: tuple(scores[name].shape) if name in scores else None for name in names}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values())) or ()) != 1:
        raise ValueError(f"scores: expected one for each datum, (N,), for each evaluation, found shapes {shapes}")
    of_all = torch.stack([scores[name].double() for name in names])[:, None]
    if number is not None and of_all.shape[-1] != number:
        found = of_all.shape[-1]
        raise ValueError(f"scores: expected those of the {number} rows of the evaluations, found {found}")
    return {name: {"behind": each} for name, each in zip(names, behind_best(of_all, best=0), strict=True)}


def behind_best(scores: Tensor, best: int | None = None) -> list[dict[str, float]]:
    """How far each of k choices is behind the best one: value, standard_error and margin, from scores (k, S, N).

    The best is chosen after the results are seen, so among equal choices it is ahead of most others by chance. The
    margin accounts for that: among k equal choices at least one is behind by more than its margin in at most 5 % of
    tables, if the spread over the seeds is equal.  (Tukey 1949; Tukey's studentised range)

        d_b = mean of best - score_b over seeds and data,  margin = √(q(k, (k-1)(S-1))² u / 2 + q(k, N-1)² v / 2),

    where q(k, n) is the 95 % quantile of the studentised range of k values with n degrees of freedom. u is the variance
    of d_b over the seeds: 2 s² / S, with s² the mean square of the residuals of choice x seed (two-way, without
    interaction), or the variance of the pair's own differences, whichever is larger. v is the variance over the data of
    d_b's mean over the seeds. standard_error = √(u + v). With one seed u is unknown and omitted: the margin is about
    these trainings only. For two choices this is `paired`.

    Args:
        scores: scores of each choice, seed and datum; all choices have the same seeds and data.
        best: the index of the best choice; None is the one with the largest mean.
    """
    scores = scores.double()
    k, seeds, n = scores.shape
    chosen = int(scores.mean((1, 2)).argmax()) if best is None else best
    differences = scores[chosen] - scores
    over_data = differences.mean(1).var(1) / n if n > 1 else torch.full((k,), math.nan)
    margins = over_data * _range_squared(k, n - 1)
    over_seeds = torch.zeros(k)
    if seeds > 1:
        over_seeds = _over_seeds(scores.mean(2), differences.mean(2))
        over_seeds[chosen] = 0.0  # it is not behind itself
        margins = margins + over_seeds * _range_squared(k, (k - 1) * (seeds - 1))
    parts = zip(differences.mean((1, 2)), (over_data + over_seeds).sqrt(), margins.sqrt(), strict=True)
    return [dict(zip(("value", "standard_error", "margin"), map(float, each), strict=True)) for each in parts]


def _over_seeds(scores: Tensor, differences: Tensor) -> Tensor:
    """The variance over the seeds of each mean difference, from scores and differences (k, S): pooled, or its own."""
    k, seeds = scores.shape
    residuals = scores - scores.mean(1, keepdim=True) - scores.mean(0) + scores.mean()
    pooled = 2 * residuals.square().sum() / max(1, (k - 1) * (seeds - 1))
    return torch.maximum(pooled, differences.var(1)) / seeds


@lru_cache
def _range_squared(choices: int, freedom: int) -> float:
    """q² / 2: the factor from the variance of a difference to the square of its margin, among this many choices."""
    return (
        float(scipy.stats.studentized_range.ppf(0.95, choices, freedom)) ** 2 / 2
        if choices > 1 and freedom > 0
        else math.nan
    )
