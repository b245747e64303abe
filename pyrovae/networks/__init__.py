"""Networks: tensors to tensors, no distributions inside. Each is built from (input shape, output shape)."""

from pyrovae.networks.conv import Conv
from pyrovae.networks.mlp import MLP

__all__ = ["MLP", "Conv"]
