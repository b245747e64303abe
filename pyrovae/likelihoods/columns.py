"""The likelihood of a table with a different family for each column."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.distributions.concatenated import Concatenated, places
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import Measure


class Columns(Likelihood):
    """p(x|h) = prod_i p_i(x_i|h_i), for the columns i of a table, each with its own likelihood.  (Nazabal et al. 2020)

    Args:
        event_shape: (D,), the number of columns.
        families: D likelihoods, one for each column, as classes or functools.partial of them; for example
            [Normal, Bernoulli, partial(Normal, learn="one"), Poisson].

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import Bernoulli, Columns, Normal
        >>> likelihood = Columns(event_shape=2, families=[Normal, Bernoulli])
        >>> p = likelihood(torch.zeros(likelihood.param_shape))
        >>> round(p.log_prob(torch.tensor([0.0, 1.0])).item(), 4)  # -log(2 pi) / 2 - log 2
        -1.6121
    """

    def __init__(self, event_shape: Sequence[int] | int, families: Sequence[Callable[..., Any]] = ()) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        if self.event_shape != (len(families),):
            raise ValueError(
                f"families: expected one for each column of event_shape {self.event_shape}, found {len(families)}"
            )
        columns: list[Any] = [family((1,)) for family in families]
        self.columns = nn.ModuleList(columns)
        self.sizes = [math.prod(column.param_shape) for column in columns]
        self.param_shape = (sum(self.sizes),)
        measures = places(column.measure for column in columns)
        mixed = ", ".join(f"{measure} (columns {' '.join(where)})" for measure, where in measures.items())
        self.measure = columns[0].measure if len(measures) == 1 else Measure("mixed", mixed)
        names = [f"{i} {type(column).__name__}" for i, column in enumerate(columns)]
        self.advice = f". The last index of a position is its column: {', '.join(names)}"

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        parts = [
            column(h_i.unflatten(-1, column.param_shape)).base_dist
            for column, h_i in zip(self.columns, h.split(self.sizes, -1), strict=True)
        ]
        return Concatenated(parts).to_event(1)

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
