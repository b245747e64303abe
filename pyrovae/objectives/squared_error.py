"""Squared error and KL, as tutorials add them, in the words of a model: a scale and a beta."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pyrovae import checks


@dataclass(frozen=True)
class SquaredError:
    """The `Normal` likelihood and the ELBO that a loss of squared errors is.

    Args:
        scale: s, to be used with `beta`.
        beta: the weight of the KL.
        scale_at_beta_one: the s whose plain ELBO has the same minimum.
    """

    scale: float
    beta: float
    scale_at_beta_one: float


def squared_error(
    event_shape: Sequence[int] | int,
    latent_dim: int,
    squares: Literal["sum", "half-sum", "mean"] = "sum",
    kl: Literal["sum", "mean", "mean-per-value"] = "sum",
    averaged: Literal["both", "squares", "kl"] = "both",
    batch_size: int = 1,
) -> SquaredError:
    """c sum_i r_i^2 + k KL = -log Normal(x; m, s^2) + beta KL + constant, with s^2 = 1/(2c), beta = k.

    Divided by k it is the ELBO at beta = 1 with s^2 = k/(2c). The sum of squares has s^2 = 1/2, the mean over the
    784 pixels of a digit 392: hence its blurred images, and latents that carry nothing.

    Args:
        event_shape: event shape of x.
        latent_dim: number of latents.
        squares: how the squared errors of a datum are put together: their "sum" (c = 1), "half-sum" (1/2), or "mean"
            over its values (1/D).
        kl: how the KLs of the latents are: their "sum" (k = 1), "mean" (1 / latent_dim), or the sum divided by the
            number of values of x, as a mean of squares is ("mean-per-value": 1/D).
        averaged: what is a mean over the batch, and no sum. "both", or neither, makes no difference; where only the
            "squares" are, c is divided by `batch_size`, and where only the "kl" is, k.
        batch_size: of the loss.
    """
    values = math.prod(checks.shape("event_shape", event_shape))
    weights = {"sum": 1.0, "half-sum": 0.5, "mean": 1 / values}
    c = weights[checks.member("choice of squares", squares, weights)]
    kls = {"sum": 1.0, "mean": 1 / checks.integer("latent_dim", latent_dim), "mean-per-value": 1 / values}
    k = kls[checks.member("choice of kl", kl, kls)]
    checks.member("choice of averaged", averaged, ("both", "squares", "kl"))
    share = 1 / checks.integer("batch_size", batch_size)
    c, k = (c * share if averaged == "squares" else c), (k * share if averaged == "kl" else k)
    return SquaredError(scale=math.sqrt(1 / (2 * c)), beta=k, scale_at_beta_one=math.sqrt(k / (2 * c)))
