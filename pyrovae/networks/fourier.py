"""Images as functions on the plane, which can be drawn in any pose.

A pose moves the point c of the object to the point scale R(angle) c + shift of the image: angle (..., 1), anticlockwise
in radians; shift (..., 2), to the right and up; scale (..., 1), a factor. A component of the pose that is None changes
nothing. Lengths are fractions of the image's longer side, measured from its centre; pixels are squares.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyrovae import checks
from pyrovae.networks.connect import Part, connect


class FourierDecoder(nn.Module):
    """h(c) = a_0(z) + sum_k a_k(z) cos(2 pi w_k.c) + b_k(z) sin(2 pi w_k.c): an image, at the points c of its pixels.

    This is a network of z and of a point (Bepler et al. 2019). The point enters only the last layer, as Fourier
    features (Tancik et al. 2020), so the network of z runs once for each image instead of once for each pixel. A pose
    maps waves to waves: a rotation rotates w_k, and a shift changes the phase. A wave is a product of one wave along
    the rows and one along the columns, so the sines of H + W numbers suffice, instead of H W.

    Args:
        part: the network from z (d,) to the coefficients (*k, C, 1 + 2 waves), or a callable that builds it.
        latent_shape: event shape of z.
        output_shape: shape (*k, C, H, W) of h.
        waves: number of waves; their frequencies w_k are learned.
        detail: initial standard deviation of the w_k, in cycles per side. In a coarse image the gradient shows the
            direction to the right angle or shift from further away.
        role: the network's role in its model, for error messages.

    Example:
        >>> import torch
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.networks.fourier import FourierDecoder
        >>> decoder = FourierDecoder(MLP, (2,), (1, 8, 8), waves=4)
        >>> h = decoder(torch.zeros(5, 2), angle=torch.zeros(5, 1), shift=torch.zeros(5, 2))
        >>> h.shape, torch.allclose(h, decoder(torch.zeros(5, 2)), atol=1e-5)
        (torch.Size([5, 1, 8, 8]), True)
    """

    right: Tensor
    up: Tensor

    def __init__(
        self,
        part: Part,
        latent_shape: tuple[int, ...],
        output_shape: Sequence[int],
        waves: int = 64,
        detail: float = 1.5,
        role: str = "decoder",
    ) -> None:
        super().__init__()
        shape = checks.shape("output_shape", output_shape)
        if len(shape) < 3:
            raise ValueError(f"FourierDecoder: expected an output (*k, C, H, W), found {shape}")
        *pixel, height, width = shape
        self.pixel, self.half_pixels = tuple(pixel), 2 * max(height, width)
        self.waves = checks.integer("waves", waves)
        self.network = connect(part, [latent_shape], (*pixel, 1 + 2 * self.waves), role)
        self.frequencies = nn.Parameter(torch.randn(self.waves, 2) * checks.positive("detail", detail))
        # In units of half a pixel the coordinates are integers, which are exact in every precision.
        self.register_buffer("right", torch.arange(1.0 - width, width, 2), persistent=False)
        self.register_buffer("up", torch.arange(height - 1.0, -height, -2), persistent=False)

    def forward(
        self, z: Tensor, angle: Tensor | None = None, shift: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """z (..., d) and its pose to h (..., *k, C, H, W)."""
        w = 2 * math.pi * self.frequencies
        w = w if angle is None else turned(w, angle)
        w = w if scale is None else w / scale.unsqueeze(-1)
        along, across = w.unbind(-1)
        columns = along.unsqueeze(-1) * (self.right / self.half_pixels)  # (..., waves, W)
        rows = across.unsqueeze(-2) * (self.up / self.half_pixels).unsqueeze(-1)  # (..., H, waves)
        if shift is not None:
            rows = rows - (w * shift.unsqueeze(-2)).sum(-1).unsqueeze(-2)
        cos, sin = rows.cos().unsqueeze(-3), rows.sin().unsqueeze(-3)
        coefficients = self.network(z).flatten(-1 - len(self.pixel), -2).unsqueeze(-2)  # (..., k C, 1, 1 + 2 waves)
        a_0, a, b = coefficients.split([1, self.waves, self.waves], -1)
        amplitudes = torch.cat([a * cos + b * sin, b * cos - a * sin], -1)  # (..., k C, H, 2 waves)
        h = amplitudes.flatten(-3, -2) @ torch.cat([columns.cos(), columns.sin()], -2)
        return (h.unflatten(-2, (-1, len(self.up))) + a_0).unflatten(-3, self.pixel)

    def extra_repr(self) -> str:
        return f"waves={self.waves}"


def upright(x: Tensor, angle: Tensor | None = None, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """Undo the pose of images x (..., C, H, W), by bilinear interpolation; outside the image, its edge is repeated."""
    height, width = x.shape[-2:]
    side = max(height, width)
    right, up = (torch.arange(1 - n, n, 2, dtype=x.dtype, device=x.device) / (2 * side) for n in (width, height))
    points = torch.stack(torch.meshgrid(right, -up, indexing="xy"), -1).flatten(0, 1)  # (H W, 2)
    points = points if scale is None else points * scale.unsqueeze(-1)
    points = points if angle is None else turned(points, angle)
    points = points if shift is None else points + shift.unsqueeze(-2)
    leading = torch.broadcast_shapes(x.shape[:-3], points.shape[:-2])
    # grid_sample's coordinates -1 and 1 are the image's edges.
    places = points * points.new_tensor([2 * side / width, -2 * side / height])
    places = places.expand(*leading, *places.shape[-2:]).reshape(-1, height, width, 2)
    images = x.expand(*leading, *x.shape[-3:]).reshape(-1, *x.shape[-3:])
    return F.grid_sample(images, places, padding_mode="border", align_corners=False).reshape(*leading, *x.shape[-3:])


def turned(vectors: Tensor, angle: Tensor) -> Tensor:
    """Vectors (..., n, 2), rotated by angle (..., 1)."""
    right, up = vectors.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([right * cos - up * sin, right * sin + up * cos], -1)
