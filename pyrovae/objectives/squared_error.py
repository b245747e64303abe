"""The likelihood scale and the beta that correspond to a loss "squared error + KL"."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pyrovae import checks


@dataclass(frozen=True)
class SquaredError:
    """The scale s of a `Normal` likelihood and the beta of an ELBO that equal a loss "squared error + KL".

    Args:
        scale: s, for use with `beta`.
        beta: the weight of the KL.
        scale_at_beta_one: the s for which the ELBO with beta = 1 has the same minimum.

    Example:
        >>> from pyrovae.objectives.squared_error import squared_error
        >>> squared_error(event_shape=2, latent_dim=2, squares="half-sum")  # s = 1
        SquaredError(scale=1.0, beta=1.0, scale_at_beta_one=1.0)
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

    Divided by k, the loss is the ELBO at beta = 1 with s^2 = k/(2c). The sum of squares corresponds to s^2 = 1/2. The
    mean over the 784 pixels of a digit corresponds to s^2 = 392, which explains blurred images and unused latents.

    Args:
        event_shape: event shape of x.
        latent_dim: number of latents.
        squares: how your loss reduces the squared errors of one datum: "sum" (c = 1), "half-sum" (c = 1/2), or the
            "mean" over its D values (c = 1/D).
        kl: how your loss reduces the KLs of the latents: "sum" (k = 1), "mean" (k = 1 / latent_dim), or
            "mean-per-value", the sum divided by the number of values of x (k = 1/D).
        averaged: the terms that your loss averages over the batch instead of summing. Use "both" if it treats both
            terms alike. If it averages only the "squares", c is divided by `batch_size`; if only the "kl", k is.
        batch_size: batch size of your loss.

    Example:
        >>> from pyrovae.objectives.squared_error import squared_error
        >>> round(squared_error(event_shape=784, latent_dim=2, squares="mean").scale_at_beta_one ** 2, 4)  # s^2 = D/2
        392.0
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
