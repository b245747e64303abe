"""Networks: functions from tensors to tensors, without distributions. Each is built from its input and output shape."""

from pyrovae.networks.conv import Conv
from pyrovae.networks.filled_in import FilledIn
from pyrovae.networks.log1p import Log1p
from pyrovae.networks.mlp import MLP
from pyrovae.networks.resnet import ResNet

__all__ = ["MLP", "Conv", "FilledIn", "Log1p", "ResNet"]
