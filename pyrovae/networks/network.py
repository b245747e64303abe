"""The contract of a network."""

from torch import nn


class Network(nn.Module):
    """h = f(x): tensors to tensors. Any `nn.Module` from (N, *input_shape) to (N, *output_shape) is one.

    A class that is built by a model takes the input shape and the output shape as its first two arguments. To be a
    subclass of this one is only needed for what follows.

    Attributes:
        flattens: whether the network sees x as a vector; then a label stands beside it as more of its values, and else
            as one more channel of an image.
    """

    flattens: bool = False
