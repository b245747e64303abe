"""A network for inputs with missing entries."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.networks.mlp import MLP


class FilledIn(nn.Module):
    """h = network(x', m): m_i is 1 if x_i is observed and 0 if it is missing (NaN); x' is x with 0 for missing entries.

    Use it as the encoder for `likelihoods.Missing`. (Mattei & Frellsen 2019; with the mask as an input: Ma et al. 2019)

    Args:
        input_shape: event shape of x; the inner network has twice as many input channels (columns).
        output_shape: event shape of h.
        network: builds the inner network from its shapes and the activation.
        activation: builds its nonlinearity.

    Example:
        >>> import torch
        >>> from pyrovae.networks import FilledIn
        >>> network = FilledIn(input_shape=2, output_shape=3)
        >>> network(torch.tensor([[1.0, torch.nan]])).isfinite().all()
        tensor(True)
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
