"""Pareto k-hat: how heavy the tail of importance weights is, and so how reliable their mean is."""

import math

import torch
from torch import Tensor

from pyrovae import checks

# Below the first value the mean of the weights has a finite variance. Below the second it is usable in practice with
# many draws; `usable` gives the value for few.
GOOD, USABLE = 0.5, 0.7
# The smallest number of weights in a fitted tail, and the number of draws of which a fifth are that many.
TAIL, LEAST = 5, 25
# If the largest weights differ by less than this, relatively, the tail is only rounding error. The same holds if they
# differ by fewer roundings of log w than this: a sum over the values of a datum rounds more than once.
EVEN, ROUNDINGS = 1e-4, 8


def usable(draws: int) -> float:
    """The largest k-hat for which a mean of K weights is reliable: min(1 - 1 / log10 K, .7).  (Vehtari et al. 2024)"""
    return min(1 - 1 / math.log10(checks.integer("draws", draws, LEAST)), USABLE)


def good(draws: int) -> float:
    """The largest k-hat for which it also has a finite variance: .5, or `usable` if that is less."""
    return min(GOOD, usable(draws))


def k_hat(log_w: Tensor, magnitude: Tensor | None = None) -> Tensor:
    """k-hat of the largest min(K/5, 3 sqrt K) weights: their excess over the next is as P(e > t) = (1 + kt/s)^(-1/k).

    Moments of order 1/k and above are infinite: above 1/2 the variance of the weights, above 1 their mean. Below
    `usable` a mean of K weights converges at a practical rate. The result is -inf if the largest weights are equal, or
    the effective sample size is K, up to rounding, as with the exact posterior; it is inf if fewer than five weights
    are above 0, or one is NaN. (Vehtari, Simpson, Gelman, Yao & Gabry 2024)

    Args:
        log_w: log weights (K, N), K >= 25, in the dtype in which they were computed, so that rounding is not taken for
            a tail.
        magnitude: the size of the terms that were summed to log w, (N,), to which rounding errors are relative; None
            uses the largest |log w|, which is right if all terms have the same sign.

    Returns:
        k-hat (N,).

    Raises:
        ValueError: log_w has another shape, or fewer draws.
    """
    if log_w.ndim != 2 or len(log_w) < LEAST:
        raise ValueError(
            f"log_w: expected shape (K, N) with K >= {LEAST}, so that {TAIL} are a tail, found {tuple(log_w.shape)}"
        )
    length = math.ceil(min(len(log_w) / 5, 3 * math.sqrt(len(log_w))))
    top = log_w.double().topk(length + 1, dim=0).values.flip(0)
    relative = (top - top[-1]).exp()
    excess = relative[1:] - relative[0]
    k, _ = fit_pareto(excess)
    size = log_w.nan_to_num(0, 0, 0).abs().amax(0) if magnitude is None else magnitude
    even = (ROUNDINGS * torch.finfo(log_w.dtype).eps * size.double()).clamp(min=EVEN)
    unequal = 1 - effective_sample_size(log_w.double()) / len(log_w)  # about the weights' relative variance
    k = torch.where((excess[-1] < even) | (unequal < even.square()), -math.inf, k)
    fitted = torch.isfinite(top[-TAIL:]).all(0) & ~log_w.isnan().any(0)
    return torch.where(fitted, k, math.inf)


def fit_pareto(x: Tensor) -> tuple[Tensor, Tensor]:
    """k and s of the generalised Pareto density p(x) = (1 + kx/s)^(-1/k - 1) / s, fitted to each column of x.

    t = -k/s is its posterior mean under a prior that depends on the data, by quadrature; k is the maximum-likelihood
    value given t, mean log(1 - tx) (Zhang & Stephens 2009). k is then shrunk to 1/2 as if by ten more data (Vehtari et
    al. 2024, appendix G).

    Args:
        x: draws above 0, (n, N), n >= 5.

    Returns:
        k and s, two (N,).
    """
    if x.ndim != 2 or len(x) < TAIL:
        raise ValueError(f"x: expected shape (n, N) with n >= {TAIL}, found {tuple(x.shape)}")
    n, points = len(x), 30 + math.isqrt(len(x))
    x = x.double().clamp(min=1e-300).sort(0).values  # a weight that underflows is small, but not 0
    places = 1 - (points / (torch.arange(1, points + 1).to(x) - 0.5)).sqrt()
    t = 1 / x[-1] + places[:, None] / (3 * x[int(n / 4 + 0.5) - 1])
    k = torch.stack([_shape(x, each) for each in t])
    # At t = 0, the exponential distribution, this is 0 / 0; the neighbouring values of t suffice.
    log_likelihood = (n * ((-t / k).log() - k - 1)).nan_to_num(-math.inf)
    t = (log_likelihood.softmax(0) * t).sum(0)
    k = _shape(x, t)
    return (k * n + 5) / (n + 10), -k / t


def _shape(x: Tensor, t: Tensor) -> Tensor:
    return torch.log1p(-t * x).mean(0)


def effective_sample_size(log_w: Tensor) -> Tensor:
    """(sum_k w_k)^2 / sum_k w_k^2, from 1 to K; 0 if all weights are 0, or one is NaN. (K, N) to (N,)"""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp().nan_to_num(0, 0)
