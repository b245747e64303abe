"""The convolutional network, in either direction."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyrovae import checks


class Conv(nn.Sequential):
    """Strided convolutions from an image down to a vector, or transposed ones from a vector up to an image.

    Each layer halves (or doubles) height and width. H and W are arbitrary: the transposed network also restores odd
    sides.

    Args:
        input_shape, output_shape: one is an image (C, H, W), the other a vector (d,). The output may have several
            numbers for each value of an image, (..., C, H, W).
        channels: channels of each layer, starting at the image.
        hidden: width of the dense layer between the convolutions and the vector.
        activation: builds the nonlinearity.
        norm: whether to insert a group norm before each nonlinearity that follows a convolution.

    Example:
        >>> import torch
        >>> from pyrovae.networks import Conv
        >>> encoder, decoder = Conv((1, 28, 28), 4), Conv(2, (1, 28, 28))
        >>> encoder(torch.zeros(5, 1, 28, 28)).shape, decoder(torch.zeros(5, 2)).shape
        (torch.Size([5, 4]), torch.Size([5, 1, 28, 28]))
    """

    def __init__(
        self,
        input_shape: Sequence[int] | int,
        output_shape: Sequence[int] | int,
        channels: Sequence[int] | int = (32, 64),
        hidden: int = 256,
        activation: Callable[[], nn.Module] = nn.ReLU,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.input_shape = checks.shape("input_shape", input_shape)
        self.output_shape = checks.shape("output_shape", output_shape)
        channels, hidden = checks.shape("channels", channels), checks.integer("hidden", hidden)
        if (len(self.input_shape), len(self.output_shape)) == (3, 1):
            self.extend(_down(self.input_shape, channels, hidden, activation, norm))
            self.append(nn.Linear(hidden, self.output_shape[0]))
        elif len(self.input_shape) == 1 and len(self.output_shape) >= 3:
            *several, height, width = self.output_shape
            self.append(nn.Linear(self.input_shape[0], hidden))
            self.extend(_up((math.prod(several), height, width), channels, hidden, activation, norm))
        else:
            raise ValueError(
                f"{type(self).__name__}: expected an image (C, H, W) and a vector (d,), "
                f"found input_shape={self.input_shape}, output_shape={self.output_shape}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """x (..., *input_shape) to h (..., *output_shape)."""
        leading = x.shape[: x.ndim - len(self.input_shape)]
        return super().forward(x.reshape(-1, *self.input_shape)).reshape(*leading, *self.output_shape)


def _sides(image: tuple[int, ...], depth: int) -> list[tuple[int, int]]:
    """(H, W) before the first layer, after the first, ..., after the last."""
    if min(image[1:]) >> depth == 0:
        last = image[2] <= 4 < min(image[:2])
        hint = "; channels come first: x.permute(0, 3, 1, 2) turns (H, W, C) into (C, H, W)" if last else ""
        raise ValueError(f"{depth} layers need an image of at least {2**depth} x {2**depth}, found {image}{hint}")
    return [(image[1] >> i, image[2] >> i) for i in range(depth + 1)]


def _between(channels: int, activation: Callable[[], nn.Module], norm: bool) -> list[nn.Module]:
    # Not a batch norm: a row's output would depend on the other rows, and on statistics that a graph would have to
    # carry. One group, because a group of a single channel at a single pixel would be normalised to 0.
    return [nn.GroupNorm(1, channels), activation()] if norm else [activation()]


def _down(
    image: tuple[int, ...], channels: tuple[int, ...], hidden: int, activation: Callable[[], nn.Module], norm: bool
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in zip((image[0], *channels), channels, strict=False):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), *_between(after, activation, norm)]
    flat = channels[-1] * math.prod(_sides(image, len(channels))[-1])
    return [*layers, nn.Flatten(), nn.Linear(flat, hidden), activation()]


def _up(
    image: tuple[int, ...], channels: tuple[int, ...], hidden: int, activation: Callable[[], nn.Module], norm: bool
) -> list[nn.Module]:
    sides = _sides(image, len(channels))[::-1]
    inward = (image[0], *channels)[::-1]
    smallest = (channels[-1], *sides[0])
    layers: list[nn.Module] = [activation(), nn.Linear(hidden, math.prod(smallest)), nn.Unflatten(1, smallest)]
    for before, after, small, large in zip(inward, inward[1:], sides, sides[1:], strict=False):
        odd = (large[0] - 2 * small[0], large[1] - 2 * small[1])
        layers += _between(before, activation, norm)
        layers.append(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=odd))
    return layers
