"""The contract of a network."""

from torch import nn


class Network(nn.Module):
    """h = f(x): a function from tensors to tensors. Any `nn.Module` from (N, *input_shape) to (N, *output_shape) works.

    If a model has to build your network, its class takes the input shape and the output shape as its first two
    arguments. Derive it from this class only to set the following attribute.

    Attributes:
        flattens: whether the network sees x as a vector. Then a label is appended to this vector; otherwise it is
            appended as one more channel of an image.

    Example:
        >>> import torch
        >>> from pyrovae.networks.network import Network
        >>> class Affine(Network):
        ...     flattens = True
        ...
        ...     def __init__(self, input_shape, output_shape):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(*input_shape, *output_shape)
        ...
        ...     def forward(self, x):
        ...         return self.layer(x)
        >>> Affine((6,), (2,))(torch.zeros(5, 6)).shape
        torch.Size([5, 2])
    """

    flattens: bool = False
