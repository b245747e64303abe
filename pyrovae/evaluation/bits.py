"""Bits per dimension: the one unit in which models of grey levels and of continuous values can be compared."""

import math
from typing import TypeVar

from torch import Tensor

from pyrovae import checks
from pyrovae.likelihoods import Measure

Number = TypeVar("Number", float, Tensor)


def bits_per_dimension(log_likelihood: Number, dimensions: int, measure: Measure, dequantized: bool = False) -> Number:
    """-log2 P(x) / D of bytes: what a code needs for each value.

    A density's is an upper bound: with x = (k + u) / 256, u uniform in [0, 1), E_u[log p(x)] - D log 256 <= log P(k)
    (Theis, van den Oord & Bethge 2016).

    Args:
        log_likelihood: log p(x), in nats per datum.
        dimensions: D, the number of values of a datum.
        measure: of the likelihood, or of an evaluation.
        dequantized: the data were bytes with uniform noise, x = (k + u) / 256.

    Raises:
        ValueError: the measure has no such unit; says why.
    """
    bits = -log_likelihood / (checks.integer("dimensions", dimensions) * math.log(2))
    if measure.levels and not measure.note:
        return bits
    if measure.kind != "density" or measure.note:
        raise ValueError(f"bits per dimension: expected a mass over levels or a density, found {str(measure)!r}")
    if not dequantized:
        raise ValueError(
            f"bits per dimension: a {measure} depends on their unit, and of bytes without noise it grows for ever; "
            "expected bytes with uniform noise, x = (k + u) / 256, and dequantized=True"
        )
    return bits + 8
