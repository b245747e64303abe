"""Means over seeds and test rows, with their errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import mean, stdev

import torch
from torch import Tensor

from pyrovae.experiments.findings import Number
from pyrovae.scores import paired


def repeated(scores: Iterable[Tensor]) -> dict[str, float]:
    """The mean of scores (N,) of the same data in each repetition, with its standard error: see `scores.paired`."""
    return paired(torch.stack(list(scores)))


def with_error(scores: Iterable[Tensor], digits: int = 2) -> Number:
    """The same as a number with its error."""
    over = repeated(scores)
    return Number(over["value"], over["standard_error"], digits)


def spread(values: Sequence[float], digits: int = 2) -> Number:
    """Mean and standard deviation over repetitions; a single repetition has no deviation."""
    return Number(mean(values), stdev(values) if len(values) > 1 else None, digits)


def rate(values: Sequence[float], rows: int, digits: int = 3) -> Number:
    """The mean of accuracies on the same test rows, one for each seed, with `rate_error`."""
    return Number(mean(values), rate_error(values, rows), digits)


def rate_error(values: Sequence[float], rows: int) -> float:
    """√(s² + p (1 - p) / rows) for accuracies p: s over the seeds (0 for one), and the binomial error."""
    return _combined(values, [math.sqrt(value * (1 - value) / rows) for value in values])


def with_test_error(values: Sequence[float], errors: Sequence[float], digits: int = 3) -> Number:
    """The mean over seeds ± √(s² + e²), with s over the seeds and e the test set's own error (root mean square)."""
    return Number(mean(values), _combined(values, errors), digits)


def _combined(values: Sequence[float], errors: Sequence[float]) -> float:
    over_seeds = stdev(values) if len(values) > 1 else 0.0
    return math.sqrt(over_seeds**2 + mean(error**2 for error in errors))
