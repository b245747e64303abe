"""Values on a grid of grey levels."""

import torch
from torch import Tensor
from torch.distributions import constraints


class Levels(constraints.Constraint):
    """x = k / (levels - 1), k = 0, ..., levels - 1: the values of bytes divided by 255, for 256 levels.

    Args:
        levels: number of levels, at least 2.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import Levels
        >>> Levels(256).check(torch.tensor([0.0, 17 / 255, 0.07]))
        tensor([ True,  True, False])
    """

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.last = levels - 1
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        # Rounding moves a value by less than a hundredth of a step: k / 255 in float32 by less than 2e-5 of a step.
        k = value * self.last
        return ((k - k.round()).abs() < 0.01) & (k > -0.01) & (k < self.last + 0.01)

    def nearest(self, value: Tensor) -> Tensor:
        """The k of the level nearest to each value, as whole floats."""
        return (value * self.last).round().clamp(0, self.last)

    def values(self, like: Tensor) -> Tensor:
        """All levels, (levels,)."""
        return torch.arange(self.last + 1, dtype=like.dtype, device=like.device) / self.last

    def __repr__(self) -> str:
        return f"of the levels k/{self.last}, k = 0, ..., {self.last}"
