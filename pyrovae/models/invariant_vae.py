"""The variational autoencoder that separates what an image shows from its pose."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.distributions import Circular, UniformAngle
from pyrovae.guides import DiagonalNormal
from pyrovae.likelihoods import Bernoulli
from pyrovae.models.vae import VAE
from pyrovae.networks import MLP
from pyrovae.networks.connect import Part, connect, takes_missing
from pyrovae.networks.fourier import FourierDecoder, turned, upright
from pyrovae.priors import StandardNormal
from pyrovae.programs.handlers import register, rows


class InvariantVAE(VAE):
    """p(x, z, pose) = p(z) p(angle) p(shift) p(scale) p(x|z, pose), with guide q(pose|x) q(z|x, pose).

    z describes the object, an image f(z, c) at each point c of the plane. The pose describes its position: rotated by
    `angle` (..., 1), anticlockwise in radians; shifted by `shift` (..., 2), to the right and up, in units of the
    image's longer side; magnified by `scale` (..., 1). The likelihood's parameters are
    h(c) = f(z, R(-angle) (c - shift) / scale) at the pixels c.
    (spatial-VAE: Bepler et al. 2019; with a scale, in Pyro: pyroVED, Ziatdinov et al. 2021)

    The guide first infers the pose, and then encodes the image after undoing that pose (as in AIR: Eslami et al. 2016).
    A q(z|x) of the original image would have to undo an unknown pose: it would learn to encode the rotation in z, and
    the angle would stay unused.

    Args:
        event_shape: (C, H, W).
        latent_dim, prior, likelihood, guide: as in `VAE`.
        encoder: network from the image, with its pose undone, to the parameters of q(z|x, pose).
        decoder: network from z to the coefficients of f; see `FourierDecoder`.
        angle: scale of p(angle), a normal, in radians; inf for a uniform p(angle); None for no rotation.
        shift: scale of p(shift), a normal, in units of the image's longer side; None for no shift.
        scale: scale of p(log scale), a normal; None for no scale.
        pose_encoder: network from the image to the parameters of q(angle|x), q(shift|x) and q(scale|x).
        looks: number of rotations that the pose encoder averages over if p(angle) is uniform; see `RotationAverage`.
        waves, detail: as in `FourierDecoder`.

    Raises:
        ValueError: the shapes of two parts do not fit; x is not an image; angle, shift and scale are all None.

    Example:
        >>> import math, torch
        >>> from pyrovae.models import InvariantVAE
        >>> vae = InvariantVAE(event_shape=(1, 8, 8), latent_dim=2, waves=4)
        >>> z, quarter = torch.zeros(2), torch.tensor([math.pi / 2])
        >>> torch.allclose(vae.p_x(z, angle=quarter).mean, vae.p_x(z).mean.rot90(dims=(-2, -1)), atol=1e-4)
        True
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        prior: Part = StandardNormal,
        likelihood: Part = Bernoulli,
        guide: Part = DiagonalNormal,
        encoder: Part = MLP,
        decoder: Part = MLP,
        angle: float | None = math.inf,
        shift: float | None = 0.1,
        scale: float | None = None,
        pose_encoder: Part = MLP,
        looks: int = 8,
        waves: int = 64,
        detail: float = 1.5,
    ) -> None:
        if len(shape := checks.shape("event_shape", event_shape)) != 3:
            raise ValueError(f"event_shape: expected that of an image (C, H, W), found {shape}")
        drawn = partial(FourierDecoder, decoder, waves=waves, detail=detail)
        super().__init__(event_shape, latent_dim, prior, likelihood, guide, encoder, drawn)
        self.pose: Any = nn.ModuleDict()
        if angle is not None:
            self.pose["angle"] = AnyAngle() if angle == math.inf else Deviation(1, checks.positive("angle", angle))
        if shift is not None:
            self.pose["shift"] = Deviation(2, checks.positive("shift", shift))
        if scale is not None:
            self.pose["scale"] = Deviation(1, checks.positive("scale", scale), dist.LogNormal)
        if not self.pose:
            raise ValueError("expected an angle, a shift or a scale, found none: use a VAE")
        parts: Any = self.pose.values()
        self.sizes = [2 * part.vectors for part in parts] + [part.numbers for part in parts]
        self.pose_encoder = connect(pose_encoder, [self.event_shape], (sum(self.sizes),), "pose_encoder")
        if self.likelihood.missing:
            takes_missing(self.pose_encoder, [self.event_shape])
        if angle == math.inf:
            self.pose_encoder = RotationAverage(self.pose_encoder, sum(part.vectors for part in parts), looks)

    def p_pose(self) -> dict[str, dist.TorchDistribution]:
        """The priors p(angle), p(shift), p(scale), keyed by site."""
        return {site: part.prior() for site, part in self.pose.items()}

    def p_x(self, z: Tensor, **pose: Tensor) -> dist.TorchDistribution:
        """The likelihood p(x|z, pose), for z (..., *latent_shape); upright if no pose is given."""
        return self.likelihood(self.decoder(z, **pose))

    def q_pose(self, x: Tensor) -> dict[str, dist.TorchDistribution]:
        """The guides q(angle|x), q(shift|x), q(scale|x), keyed by site, for x (..., *event_shape)."""
        h = self.pose_encoder(x).split(self.sizes, -1)
        params = zip(h[: len(self.pose)], h[len(self.pose) :], strict=True)
        return {site: part(*param) for (site, part), param in zip(self.pose.items(), params, strict=True)}

    def q_z(self, x: Tensor, **pose: Tensor) -> dist.TorchDistribution:
        """The guide q(z|x, pose), for x (..., *event_shape); at the mean of q(pose|x) if no pose is given."""
        pose = pose or {site: q.mean for site, q in self.q_pose(x).items()}
        return self.family(self.encoder(upright(x, **pose)))

    def model(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """angle, shift, scale, z ~ p, x ~ p(x|z, pose) for the rows of x, or for n new rows if x is None."""
        register(self)
        event_dims = dict.fromkeys(self.pose, 1) | {"z": len(self.latent_shape), "x": 3}
        with pyro.plate("data", rows(n, **event_dims) if x is None else len(x)):
            pose = {site: pyro.sample(site, p) for site, p in self.p_pose().items()}
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(z, **pose), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """angle, shift, scale ~ q(pose|x), z ~ q(z|x, pose) for the rows of x."""
        register(self)
        with pyro.plate("data", len(x)):
            pose = {site: pyro.sample(site, q) for site, q in self.q_pose(x).items()}
            return pyro.sample("z", self.q_z(x, **pose))


class RotationAverage(nn.Module):
    """h(x) = 1/R sum_r T_r g(T_r^-1 x): the average of g over R rotations; T_r rotates by 2 pi r / R.

    h is equivariant to rotations by multiples of 2 pi / R: its vectors rotate with the image, its other numbers do not
    change. (A group average, as in Puny et al. 2022.) So all rotations of one image have the same upright pose.

    Args:
        network: g, from an image to vectors, followed by numbers.
        vectors: how many vectors.
        looks: R.
    """

    def __init__(self, network: nn.Module, vectors: int, looks: int) -> None:
        super().__init__()
        self.network, self.vectors, self.looks = network, vectors, checks.integer("looks", looks)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C, H, W) to h (..., 2 vectors + numbers)."""
        angle = torch.arange(self.looks, dtype=x.dtype, device=x.device).unsqueeze(-1) * (2 * math.pi / self.looks)
        vectors, numbers = self.network(upright(x.unsqueeze(-4), angle)).tensor_split([2 * self.vectors], -1)
        vectors = turned(vectors.unflatten(-1, (self.vectors, 2)), angle).flatten(-2)
        return torch.cat([vectors, numbers], -1).mean(-2)

    def extra_repr(self) -> str:
        return f"looks={self.looks}"


# Each q of a pose starts narrow. Averaged over a broad q, every image is a disc, which looks the same in every pose.


class AnyAngle(nn.Module):
    """p(angle) = 1 / 2 pi, q(angle|v, r) = Circular(angle; direction of v, 50 e^r).

    A density on the circle has no end points; a q on the line would have to jump from -pi to pi.
    """

    vectors, numbers = 1, 1
    zero: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(1), persistent=False)

    def prior(self) -> dist.TorchDistribution:
        return UniformAngle(self.zero).to_event(1)

    def forward(self, v: Tensor, r: Tensor) -> dist.TorchDistribution:
        right, up = v.split(1, -1)
        return Circular(torch.atan2(up, right), 50 * r.exp()).to_event(1)


class Deviation(nn.Module):
    """p(d) = Normal(d; 0, s^2 I), q(d|m, v) = Normal(d; s m, (s/4)^2 e^v I), for a shift or a single number d.

    Args:
        size: size of d; 2 is a vector, which rotates with the image.
        scale: s.
        density: Normal; LogNormal applies the same to log d.
    """

    s: Tensor

    def __init__(self, size: int, scale: float, density: Any = dist.Normal) -> None:
        super().__init__()
        self.size, self.density = size, density
        self.vectors, self.numbers = (1, 1) if size == 2 else (0, 1 + size)
        self.register_buffer("s", torch.full((size,), scale), persistent=False)

    def prior(self) -> dist.TorchDistribution:
        return self.density(torch.zeros_like(self.s), self.s).to_event(1)

    def forward(self, *h: Tensor) -> dist.TorchDistribution:
        m, v = torch.cat(h, -1).split([self.size, 1], -1)
        return self.density(self.s * m, self.s / 4 * (v / 2).exp()).to_event(1)
