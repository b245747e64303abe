"""The residual convolutional network, in either direction."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyrovae import checks
from pyrovae.networks.conv import Conv


class ResNet(Conv):
    """`Conv` with residual blocks x + f(x) at every size of the image.  (He et al. 2016, pre-activation)

    Args:
        input_shape, output_shape: one is an image (C, H, W), the other a vector (d,).
        channels: channels at each size, starting at the image.
        hidden: width of the dense layer between the convolutions and the vector.
        activation: builds the nonlinearity.
        depth: number of residual blocks at each size.

    Example:
        >>> import torch
        >>> from pyrovae.networks import ResNet
        >>> network = ResNet((1, 8, 8), 4, channels=(2, 2), hidden=16)
        >>> network(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        input_shape: Sequence[int] | int,
        output_shape: Sequence[int] | int,
        channels: Sequence[int] | int = (32, 64),
        hidden: int = 256,
        activation: Callable[[], nn.Module] = nn.ReLU,
        depth: int = 1,
    ) -> None:
        super().__init__(input_shape, output_shape, channels, hidden, activation, norm=True)
        depth = checks.integer("depth", depth)
        for index, norm in reversed(list(enumerate(self))):
            if isinstance(norm, nn.GroupNorm):
                for _ in range(depth):
                    self.insert(index, _Residual(norm.num_channels, activation))


class _Residual(nn.Sequential):
    """x + W_2 a(n(W_1 a(n(x)))), with the shape of x."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        for _ in range(2):
            self.append(nn.GroupNorm(1, channels)).append(activation())
            self.append(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)
