"""Bits per dimension: the unit in which models of grey levels and of continuous values can be compared."""

import math
from typing import TypeVar

from torch import Tensor

from pyrovae import checks
from pyrovae.likelihoods import Measure

Number = TypeVar("Number", float, Tensor)


def bits_per_dimension(log_likelihood: Number, dimensions: int, measure: Measure, dequantized: bool = False) -> Number:
    """-log2 P(x) / D for bytes: the code length of each value.

    For a density it is an upper bound: with x = (k + u) / 256, u uniform in [0, 1), E_u[log p(x)] - D log 256 <= log
    P(k) (Theis, van den Oord & Bethge 2016).

    Args:
        log_likelihood: log p(x), in nats per datum.
        dimensions: D, the number of values of a datum.
        measure: the measure of the likelihood, or of an evaluation.
        dequantized: whether the data were bytes with uniform noise, x = (k + u) / 256.

    Raises:
        ValueError: the measure has no such unit; the message gives the reason.

    Example:
        >>> import math
        >>> from pyrovae.evaluation.bits import bits_per_dimension
        >>> from pyrovae.likelihoods.measure import grey_levels
        >>> bits_per_dimension(-3 * math.log(256), dimensions=3, measure=grey_levels(256))  # uniform bytes
        8.0
    """
    bits = -log_likelihood / (checks.integer("dimensions", dimensions) * math.log(2))
    if measure.levels and not measure.note:
        return bits
    if measure.kind != "density" or measure.note:
        raise ValueError(f"bits per dimension: expected a mass over levels or a density, found {str(measure)!r}")
    if not dequantized:
        raise ValueError(
            f"bits per dimension: a {measure} depends on their unit, and for bytes without noise it is unbounded; "
            "expected bytes with uniform noise, x = (k + u) / 256, and dequantized=True"
        )
    return bits + 8
