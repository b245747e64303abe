"""Densities of binary data with exact log p(x): baselines for models with an importance-sampling estimate."""

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.randomness import seeded

ROWS = 256  # rows for which all components are scored at once


class BernoulliMixture:
    """p(x) = sum_k w_k prod_i m_ki^x_i (1 - m_ki)^(1 - x_i), for x in {0, 1}^D.

    Args:
        weights: w, which sum to 1. (K,)
        means: m, above 0 and below 1. (K, *event_shape)
    """

    def __init__(self, weights: Tensor, means: Tensor) -> None:
        self.weights, self.means = weights, means

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), in nats. (N,)"""
        _check(x)
        return torch.cat([self._joint(rows).logsumexp(1) for rows in x.split(ROWS)])

    def marginal(self, seen: Tensor) -> "BernoulliMixture":
        """p(s) of the values s = x[seen], for a mask of the event shape: log p(u|s) = log p(x) - log p(s)."""
        return BernoulliMixture(self.weights, self.means[:, seen])

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k|x). (N, K)"""
        return torch.cat([self._joint(rows).softmax(1) for rows in x.split(ROWS)])

    def sample(self, n: int) -> Tensor:
        """n draws x ~ p(x), (n, *event_shape)."""
        return torch.bernoulli(self.means[torch.multinomial(self.weights, n, replacement=True)])

    def _joint(self, x: Tensor) -> Tensor:
        """log w_k + log p(x|k), linear in x, by one matrix product. (N, K)"""
        means = self.means.flatten(1)
        return x.flatten(1) @ means.logit().T + (-means).log1p().sum(1) + self.weights.log()


def pixels(x: Tensor) -> BernoulliMixture:
    """Independent values: m_i = (sum_n x_ni + 1) / (N + 2), the posterior mean under a uniform prior of m_i."""
    _check(x)
    return BernoulliMixture(x.new_ones(1), (x.sum(0, keepdim=True) + 1) / (len(x) + 2))


def mixture(x: Tensor, components: int, steps: int = 30, seed: int = 0) -> BernoulliMixture:
    """A mixture by expectation maximisation; each mean has one more 0 and one more 1 than its data.

    Args:
        x: binary data (N, *event_shape).
        components: K.
        steps: steps of EM.
        seed: seed of the choice of rows from which the means start.
    """
    _check(x)
    if checks.integer("components", components) > len(x):
        raise ValueError(f"components: expected at most one for each datum, {len(x)}, found {components}")
    with seeded(seed):
        begin = x[torch.randperm(len(x))[:components]]
    found = BernoulliMixture(x.new_full((components,), 1 / components), 0.25 + begin / 2)
    for _ in range(checks.integer("steps", steps)):
        share = found.responsibilities(x)
        counts = share.sum(0)
        sums = (share.T @ x.flatten(1)).unflatten(1, x.shape[1:])
        means = (sums + 1) / (counts.reshape(-1, *[1] * (x.ndim - 1)) + 2)
        found = BernoulliMixture((counts + 1) / (len(x) + components), means)
    return found


def windows(
    x: Tensor, valid: Tensor, rates: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)
) -> BernoulliMixture:
    """Parzen windows: each datum with its values flipped at one rate, which maximises the likelihood of `valid`.

    Args:
        x: binary data (N, *event_shape).
        valid: held-out binary data.
        rates: the rates to choose from.
    """
    _check(x)
    weights = x.new_full((len(x),), 1 / len(x))
    best = max(rates, key=lambda rate: _turned(x, weights, rate).log_prob(valid).mean().item())
    return _turned(x, weights, best)


def _turned(x: Tensor, weights: Tensor, rate: float) -> BernoulliMixture:
    return BernoulliMixture(weights, x.clamp(rate, 1 - rate))


def _check(x: Tensor) -> None:
    if not len(x) or not ((x == 0) | (x == 1)).all():
        found = f"values such as {x[(x != 0) & (x != 1)][0].item():.3g}" if len(x) else "none"
        raise ValueError(f"expected data of zeros and ones, found {found}")
