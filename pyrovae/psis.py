"""Pareto k-hat: how heavy the tail of importance weights is, and so how far a mean of them can be trusted."""

import math

import torch
from torch import Tensor

# The weights' mean has a finite variance below the first, and is practically of use below the second.
GOOD, USABLE = 0.5, 0.7
# What a tail needs to be fitted, and the draws of which that many, a fifth, are the tail.
TAIL, LEAST = 5, 25
# Largest weights that differ by less, relatively, have no tail: it would be one of rounding errors.
EVEN = 1e-4


def pareto_k(log_w: Tensor) -> Tensor:
    """k-hat of the largest min(K/5, 3 sqrt K) weights: their excess over the next is as P(e > t) = (1 + kt/s)^(-1/k).

    Moments of order 1/k and beyond are infinite: above 1/2 the variance of the weights, above 1 their mean. Below .7 a
    mean of weights converges at a practical rate. -inf where the largest are equal, as those of the exact posterior
    are; inf where fewer than five are above 0, or one is no number.
    (Vehtari, Simpson, Gelman, Yao & Gabry 2024)

    Args:
        log_w: log weights (K, N), K >= 25; any constant in them changes nothing.

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
    k = torch.where(excess[-1] < EVEN, -math.inf, k)
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
