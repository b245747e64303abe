"""A network whose input has missing entries."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.networks.mlp import MLP


class FilledIn(nn.Module):
    """h = network(x', m): m_i = 1 where x_i is there, 0 where it is missing (NaN); x' is x with 0 where it is missing.

    The encoder for `likelihoods.Missing`. (Mattei & Frellsen 2019; the mask beside the data: Ma et al. 2019)

    Args:
        input_shape: event shape of x; the network sees twice as many channels (columns).
        output_shape: event shape of h.
        network: builds the network from its shapes and the activation.
        activation: builds its nonlinearity.
    """

    def __init__(
        self,
        input_shape: Sequence[int] | int,
        output_shape: Sequence[int] | int,
        network: Callable[..., nn.Module] = MLP,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        first, *rest = self.input_shape = checks.shape("input_shape", input_shape)
        self.network = network((2 * first, *rest), output_shape, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., *input_shape) to h (..., *output_shape)."""
        there = ~torch.isnan(x)
        return self.network(torch.cat([torch.where(there, x, 0), there.to(x)], -len(self.input_shape)))
