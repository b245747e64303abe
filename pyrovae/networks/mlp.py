"""The multilayer perceptron."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyrovae import checks
from pyrovae.networks.network import Network


class MLP(nn.Sequential, Network):
    """h = W_L a(... a(W_1 x + b_1) ...) + b_L; gated, each hidden layer is (W x + b) * sigmoid(V x + c).

    Args:
        input_shape: event shape of x; it is flattened.
        output_shape: event shape of h.
        hidden: width of each hidden layer; () gives an affine map.
        activation: builds the nonlinearity a.
        gated: whether to use the gated layers of Tomczak & Welling (2018). The gate replaces `activation`.
        norm: whether to insert a layer norm before each nonlinearity. (A batch norm would mix the rows.)
        glorot: whether to draw the initial weights from [-a, a], a = sqrt(6 / (inputs + outputs)), with biases of 0,
            which suits tanh (Glorot & Bengio 2010); otherwise the initial values are torch's.

    Example:
        >>> import torch
        >>> from pyrovae.networks import MLP
        >>> network = MLP(input_shape=(1, 28, 28), output_shape=4, hidden=(400, 100))
        >>> network(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 4])
    """

    flattens = True

    def __init__(
        self,
        input_shape: Sequence[int] | int,
        output_shape: Sequence[int] | int,
        hidden: Sequence[int] | int = (400,),
        activation: Callable[[], nn.Module] = nn.ReLU,
        gated: bool = False,
        norm: bool = False,
        glorot: bool = False,
    ) -> None:
        super().__init__()
        self.input_shape = checks.shape("input_shape", input_shape)
        self.output_shape = checks.shape("output_shape", output_shape)
        widths = [math.prod(self.input_shape), *checks.shape("hidden", hidden, least=0)]
        for before, after in pairwise(widths):
            width = 2 * after if gated else after
            self.append(nn.Linear(before, width))
            self.extend([nn.LayerNorm(width)] if norm else [])
            self.append(nn.GLU() if gated else activation())
        self.append(nn.Linear(widths[-1], math.prod(self.output_shape)))
        for layer in self if glorot else ():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, *beside: Tensor) -> Tensor:
        """x (..., *input_shape) to h (..., *output_shape). Given several vectors, x is their concatenation."""
        if not beside:
            return super().forward(x.flatten(-len(self.input_shape))).unflatten(-1, self.output_shape)
        # Multiply each vector by its own columns of the weight: x is then multiplied once, not once for each label.
        first, *layers = self
        h: Tensor = first.bias  # type: ignore[assignment]
        weights = first.weight.split([value.shape[-1] for value in (x, *beside)], -1)  # type: ignore[operator]
        for value, weight in zip((x, *beside), weights, strict=True):
            h = h + F.linear(value, weight)
        for layer in layers:
            h = layer(h)
        return h.unflatten(-1, self.output_shape)
