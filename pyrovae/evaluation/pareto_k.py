"""Pareto k-hat: how heavy the tail of importance weights is, and so how far a mean of them can be trusted."""

import math

import torch
from torch import Tensor

from pyrovae import checks

# The weights' mean has a finite variance below the first, and is practically of use below the second where there are
# many draws; of few, `usable` says what they allow.
GOOD, USABLE = 0.5, 0.7
# What a tail needs to be fitted, and the draws of which that many, a fifth, are the tail.
TAIL, LEAST = 5, 25
# Largest weights that differ by less, relatively, have no tail: it would be one of rounding errors. So would it be
# where they differ by fewer roundings of log w than these: a sum over the values of a datum rounds more than once.
EVEN, ROUNDINGS = 1e-4, 8


def usable(draws: int) -> float:
    """k-hat up to which a mean of so many weights can be trusted: min(1 - 1 / log10 K, .7).  (Vehtari et al. 2024)"""
    return min(1 - 1 / math.log10(checks.integer("draws", draws, LEAST)), USABLE)


def good(draws: int) -> float:
    """k-hat up to which it is well behaved, too: .5, or `usable` where that is less."""
    return min(GOOD, usable(draws))


def k_hat(log_w: Tensor, magnitude: Tensor | None = None) -> Tensor:
    """k-hat of the largest min(K/5, 3 sqrt K) weights: their excess over the next is as P(e > t) = (1 + kt/s)^(-1/k).

    Moments of order 1/k and beyond are infinite: above 1/2 the variance of the weights, above 1 their mean. Below
    `usable` a mean of K weights converges at a practical rate. -inf where the largest are equal, or the effective
    sample size is K, but for rounding, as with the exact posterior; inf where fewer than five are above 0, or one is no
    number. (Vehtari, Simpson, Gelman, Yao & Gabry 2024)

    Args:
        log_w: log weights (K, N), K >= 25, in the dtype in which they were computed, whose rounding is not a tail.
        magnitude: of the terms that were summed to log w, (N,), which rounding errors are relative to; None takes the
            largest |log w|, right where the terms are of one sign.

    Returns:
        k-hat (N,).

    Raises:
        ValueError: another shape; fewer draws.
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
    unequal = 1 - effective_sample_size(log_w.double()) / len(log_w)  # about the relative variance of the weights
    k = torch.where((excess[-1] < even) | (unequal < even.square()), -math.inf, k)
    fitted = torch.isfinite(top[-TAIL:]).all(0) & ~log_w.isnan().any(0)
    return torch.where(fitted, k, math.inf)


def fit_pareto(x: Tensor) -> tuple[Tensor, Tensor]:
    """k and s of the generalised Pareto density p(x) = (1 + kx/s)^(-1/k - 1) / s that columns of x were drawn from.

    The posterior mean of t = -k/s under a prior that the data scale, by quadrature; given t, k is at the maximum of the
    likelihood, mean log(1 - tx) (Zhang & Stephens 2009). k is then drawn to 1/2 as by ten more data (Vehtari et al.
    2024, appendix G).

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
    # At t = 0, the exponential, this is 0 / 0; its neighbours speak for it.
    log_likelihood = (n * ((-t / k).log() - k - 1)).nan_to_num(-math.inf)
    t = (log_likelihood.softmax(0) * t).sum(0)
    k = _shape(x, t)
    return (k * n + 5) / (n + 10), -k / t


def _shape(x: Tensor, t: Tensor) -> Tensor:
    return torch.log1p(-t * x).mean(0)


def effective_sample_size(log_w: Tensor) -> Tensor:
    """(sum_k w_k)^2 / sum_k w_k^2, from 1 to K; 0 where all weights are, or one is no number. (K, N) to (N,)"""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp().nan_to_num(0, 0)
