"""Means and differences of scores by row, and areas under the ROC curve, each with its standard error."""

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

    standard_error = √(a² + b²). a is the standard error over the data of the means over the seeds; b, with several
    seeds, is that over the seeds of the means over the data. Variation that is specific to one datum and one seed
    counts in both, so a² + b² is on average too large rather than too small. But b from few seeds is often far too
    small. So margin = √((t_N a)² + (t_S b)²), where t_n is the 97.5 % quantile of Student's t with n - 1 degrees of
    freedom (12.7 for two seeds). If the expected difference is 0, it exceeds the margin at most once in twenty times.
    """
    parts = [mean(differences.mean(0)), *([mean(differences.mean(1))] if len(differences) > 1 else [])]
    errors, sizes = [part["standard_error"] for part in parts], differences.shape[::-1]
    margins = [scipy.special.stdtrit(n - 1, 0.975) * error for n, error in zip(sizes, errors, strict=False)]
    return {"value": parts[0]["value"], "standard_error": math.hypot(*errors), "margin": math.hypot(*margins)}


def auroc(normal: Tensor, anomalous: Tensor) -> dict[str, float]:
    """P(s' > s) + P(s' = s) / 2 for scores s of normal, s' of anomalous data: the area under the ROC curve.

    The standard error is due to the rows, not to the training; it is 0 if the scores do not overlap.
    (DeLong, DeLong & Clarke-Pearson 1988)

    Args:
        normal, anomalous: scores (N,) and (M,); they may be infinite.

    Raises:
        ValueError: there are fewer than two scores of a kind; a score is NaN; the scores have several dimensions.

    Example:
        >>> import torch
        >>> from pyrovae.scores import auroc
        >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))["value"]  # (1/2 + 1 + 1 + 1) / 4
        0.875
    """
    normal, anomalous = _vector("normal", normal), _vector("anomalous", anomalous)
    above, below = _share_below(anomalous, normal), _share_below(normal, anomalous)
    error = (above.var() / len(above) + below.var() / len(below)).sqrt()
    return {"value": above.mean().item(), "standard_error": error.item()}


def _share_below(values: Tensor, scores: Tensor) -> Tensor:
    """For each value, the share of the scores below it; equal scores count half."""
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
