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
        hidden: width of each hidden layer; () is the affine map.
        activation: builds the nonlinearity a.
        gated: the gated layers of the VampPrior's authors; the gate is the nonlinearity, and `activation` is not used.
        norm: puts a layer norm before each nonlinearity: it keeps rows apart, where a batch norm would mix them.
        glorot: draws weights from [-a, a], a = sqrt(6 / (inputs + outputs)), with biases of 0, which suits tanh; else
            both are as torch draws them.  (Glorot & Bengio 2010)
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
        """x (..., *input_shape) to h (..., *output_shape); or vectors that are x together, were they concatenated."""
        if not beside:
            return super().forward(x.flatten(-len(self.input_shape))).unflatten(-1, self.output_shape)
        # A sum of their own products: what is the same for every label is multiplied once, not once for each.
        first, *layers = self
        h: Tensor = first.bias  # type: ignore[assignment]
        weights = first.weight.split([value.shape[-1] for value in (x, *beside)], -1)  # type: ignore[operator]
        for value, weight in zip((x, *beside), weights, strict=True):
            h = h + F.linear(value, weight)
        for layer in layers:
            h = layer(h)
        return h.unflatten(-1, self.output_shape)
