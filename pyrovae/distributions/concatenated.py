"""Values side by side, each with its own distribution."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Side(constraints.Constraint):
    """The value in column i satisfies the i-th constraint."""

    def __init__(self, columns: Sequence[constraints.Constraint]) -> None:
        self.columns = columns
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        return any(column.is_discrete for column in self.columns)

    def check(self, value: Tensor) -> Tensor:
        return torch.cat([c.check(value[..., i : i + 1]) for i, c in enumerate(self.columns)], -1)

    def __repr__(self) -> str:
        return "; ".join(f"{kind} in column {', '.join(where)}" for kind, where in places(self.columns).items())


def places(columns: Iterable[object]) -> dict[str, list[str]]:
    """The column numbers of each kind of column, keyed by the kind as text."""
    found: dict[str, list[str]] = {}
    for i, column in enumerate(columns):
        found.setdefault(str(column), []).append(str(i))
    return found


class Concatenated(dist.TorchDistribution):
    """log p(x)_i = log p_i(x_i): independent values along the last batch dimension.

    Args:
        columns: distributions of numbers, each of batch shape (..., 1).

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyrovae.distributions import Concatenated
        >>> p = Concatenated([dist.Normal(torch.zeros(1), 1.0), dist.Bernoulli(torch.tensor([0.5]))])
        >>> p.log_prob(torch.tensor([0.0, 1.0]))  # -log(2 pi) / 2 and -log 2
        tensor([-0.9189, -0.6931])
    """

    arg_constraints: ClassVar = {}

    def __init__(self, columns: Sequence[Any], validate_args: bool | None = None) -> None:
        self.columns = columns
        leading = torch.broadcast_shapes(*(column.batch_shape for column in columns))
        super().__init__(torch.Size([*leading[:-1], len(columns)]), validate_args=validate_args)

    @constraints.dependent_property(event_dim=0)
    def support(self) -> Side:
        return Side([column.support for column in self.columns])

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.cat([column.log_prob(value[..., i : i + 1]) for i, column in enumerate(self.columns)], -1)

    @property
    def mean(self) -> Tensor:
        return torch.cat([column.mean for column in self.columns], -1)

    @property
    def variance(self) -> Tensor:
        return torch.cat([column.variance for column in self.columns], -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.cat([column.sample(sample_shape) for column in self.columns], -1)
