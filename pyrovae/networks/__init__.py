"""Networks: tensors to tensors, no distributions inside. Each is built from (input shape, output shape)."""

from pyrovae.networks.conv import Conv
from pyrovae.networks.filled_in import FilledIn
from pyrovae.networks.log1p import Log1p
from pyrovae.networks.mlp import MLP
from pyrovae.networks.resnet import ResNet

__all__ = ["MLP", "Conv", "FilledIn", "Log1p", "ResNet"]
