"""Means, differences and areas of scores by row, each with its standard error."""

import math

import torch
from torch import Tensor

from pyrovae.lazy import LazyModule

scipy = LazyModule("scipy")


def mean(values: Tensor) -> dict[str, float]:
    """The mean over the data, and its standard error."""
    n = len(values)
    return {"value": values.mean().item(), "standard_error": values.std().item() / math.sqrt(n) if n > 1 else math.nan}


def paired(differences: Tensor) -> dict[str, float]:
    """The mean of differences (S seeds, N data) of two scores of the same data: value, standard_error and margin.

    standard_error = √(a² + b²), a that over the data of the means over the seeds, b that over the seeds, where there
    are several, of the means over the data. What a datum is for one seed alone counts in both: a² + b² is in the mean
    too large rather than too small. Yet b of few seeds is often far too small. margin = √((t_N a)² + (t_S b)²) allows
    for that, t_n the 97.5 % quantile of Student's t with n - 1 degrees of freedom (12.7 of two seeds): a difference
    whose expectation is nothing is larger once in twenty times, or more seldom.
    """
    parts = [mean(differences.mean(0)), *([mean(differences.mean(1))] if len(differences) > 1 else [])]
    errors, sizes = [part["standard_error"] for part in parts], differences.shape[::-1]
    margins = [scipy.special.stdtrit(n - 1, 0.975) * error for n, error in zip(sizes, errors, strict=False)]
    return {"value": parts[0]["value"], "standard_error": math.hypot(*errors), "margin": math.hypot(*margins)}


def auroc(normal: Tensor, anomalous: Tensor) -> dict[str, float]:
    """P(s' > s) + P(s' = s) / 2 for scores s of normal, s' of anomalous data: the area under the ROC curve.

    The standard error is of the rows, not of the training; 0 where no two scores overlap.
    (DeLong, DeLong & Clarke-Pearson 1988)

    Args:
        normal, anomalous: scores (N,) and (M,); infinite ones have their order.

    Raises:
        ValueError: fewer than two scores of a kind; NaN among them; not one dimension.
    """
    normal, anomalous = _vector("normal", normal), _vector("anomalous", anomalous)
    above, below = _share_below(anomalous, normal), _share_below(normal, anomalous)
    error = (above.var() / len(above) + below.var() / len(below)).sqrt()
    return {"value": above.mean().item(), "standard_error": error.item()}


def _share_below(values: Tensor, scores: Tensor) -> Tensor:
    """For each value the share of the scores below it, equal ones counted half."""
    ordered = scores.sort().values
    below, not_above = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + not_above).double() / (2 * len(scores))


def _vector(name: str, values: Tensor) -> Tensor:
    values = torch.as_tensor(values).detach().cpu().double().contiguous()
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"{name}: expected at least 2 scores of shape (N,), found shape {tuple(values.shape)}")
    if bool(values.isnan().any()):
        raise ValueError(f"{name}: expected numbers, found {int(values.isnan().sum())} NaN of {len(values)} scores")
    return values
