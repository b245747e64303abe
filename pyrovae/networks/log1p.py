"""A network for counts."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyrovae import checks
from pyrovae.networks.mlp import MLP


class Log1p(nn.Module):
    """h = network(log(1 + x)), with -log(1 - x) for x < 0: the encoder for counts, which differ by factors.

    Args:
        input_shape: event shape of x.
        output_shape: event shape of h.
        network: builds the inner network from its shapes and the activation.
        activation: builds its nonlinearity.

    Example:
        >>> import torch
        >>> from pyrovae.networks import Log1p
        >>> network = Log1p(input_shape=1, output_shape=1)
        >>> x = torch.tensor([[0.0], [10.0]])
        >>> torch.allclose(network(x), network.network(torch.log(1 + x)))
        True
    """

    def __init__(
        self,
        input_shape: Sequence[int] | int,
        output_shape: Sequence[int] | int,
        network: Callable[..., nn.Module] = MLP,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.network = network(checks.shape("input_shape", input_shape), output_shape, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., *input_shape) to h (..., *output_shape)."""
        return self.network(x.sign() * x.abs().log1p())
