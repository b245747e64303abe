"""The conditional variational autoencoder."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyrovae import checks
from pyrovae.guides import DiagonalNormal, GuideFamily
from pyrovae.likelihoods import Bernoulli, Likelihood, OneHotCategorical
from pyrovae.models.decoded import Decoded
from pyrovae.networks import MLP
from pyrovae.networks.connect import Part, build, connect, same_space
from pyrovae.priors import StandardNormal
from pyrovae.programs import importance
from pyrovae.programs.handlers import given, register, rows
from pyrovae.programs.pair import placement

AFFINE = partial(MLP, hidden=())


class ConditionalVAE(Decoded):
    """p(x, y, z) = p(y) p(z|y) p(x|z, y), with guide q(z|x, y).  (Kingma et al. 2014; Sohn, Lee & Yan 2015)

    The label y is a site of its own, observed in training. It is a class, or anything that a likelihood describes:
    numbers (`Normal`), several binary labels (`Bernoulli`), a table of both (`Columns`).

    Args:
        event_shape, latent_dim, likelihood, guide, encoder, decoder: as in `VAE`; both networks also take y.
        num_classes: number of classes, if y is a class. Then p(y) is categorical with learned logits, and y is a
            one-hot vector.
        label_shape: event shape of y, if y is not a class.
        label: the family of p(y), built from label_shape; its parameters are learned. If it is None and label_shape is
            given, the model has no p(y), and you can generate data only for a given y.
        prior: p(z).
        conditional_prior: the family of p(z|y), a guide family, which replaces p(z).
        prior_network: network from y to the parameters of p(z|y).

    Raises:
        ValueError: the shapes of two parts do not fit; neither or both of num_classes and label_shape are given.

    Example:
        >>> import torch
        >>> from pyrovae.models import ConditionalVAE
        >>> vae = ConditionalVAE(event_shape=(1, 8, 8), latent_dim=2, num_classes=10)
        >>> y = vae.encode_labels(torch.tensor([3, 7]))
        >>> vae.sample(2, y).shape
        torch.Size([2, 1, 8, 8])
        >>> vae.p_y().log_prob(y).detach()  # log(1/10) before training
        tensor([-2.3026, -2.3026])
    """

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        latent_dim: int,
        num_classes: int | None = None,
        prior: Part = StandardNormal,
        likelihood: Part = Bernoulli,
        guide: Part = DiagonalNormal,
        encoder: Part = MLP,
        decoder: Part = MLP,
        conditional_prior: Part | None = None,
        prior_network: Part = AFFINE,
        label_shape: Sequence[int] | int | None = None,
        label: Part | None = None,
    ) -> None:
        super().__init__()
        if (num_classes is None) == (label_shape is None):
            raise ValueError(f"expected num_classes or label_shape, found {num_classes} and {label_shape}")
        if num_classes is not None:
            label_shape, label = checks.integer("num_classes", num_classes), label or OneHotCategorical
        self.label_shape = checks.shape("label_shape", label_shape)
        self.build_parts(event_shape, latent_dim, prior, likelihood, guide, encoder, decoder, given=(self.label_shape,))
        self.label: Likelihood | None = (
            None if label is None else build("label", label, self.label_shape, kind=Likelihood)
        )
        if self.label is not None:
            self.h_y = nn.Parameter(torch.zeros(self.label.param_shape))  # for a class: uniform at the start
        self.conditional_prior: GuideFamily | None = None
        if conditional_prior is None:
            self.prior()  # a prior made of q(z|x) raises a ValueError here: there is no q(z|x) without y
        else:
            self.conditional_prior = build("conditional_prior", conditional_prior, self.latent_shape, kind=GuideFamily)
            same_space(self.conditional_prior, self.family)
            shape = self.conditional_prior.param_shape
            self.prior_network = connect(prior_network, [self.label_shape], shape, "prior_network")

    def p_y(self) -> dist.TorchDistribution:
        """p(y)."""
        if self.label is None:
            raise ValueError("y: expected labels, found none, and the model has no p(y) to draw them from")
        return self.label(self.h_y)

    def p_z(self, y: Tensor) -> dist.TorchDistribution:
        """p(z), or p(z|y) for y (..., *label_shape)."""
        if self.conditional_prior is not None:
            return self.conditional_prior(self.prior_network(y))
        return self.prior()

    def p_x(self, z: Tensor, y: Tensor) -> dist.TorchDistribution:
        """The likelihood p(x|z, y)."""
        return self.likelihood(self.decoder(z, y))

    def q_z(self, x: Tensor, y: Tensor) -> dist.TorchDistribution:
        """The guide q(z|x, y)."""
        return self.family(self.encoder(x, y))

    def model(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Tensor:
        """y_i ~ p(y), z_i ~ p(z|y_i), x_i ~ p(x|z_i, y_i) for the rows of x or y, or for n new rows."""
        register(self)
        with pyro.plate("data", self._rows(x, y, n)):
            y = self._y(y)
            z = pyro.sample("z", self.p_z(y))
            return pyro.sample("x", self.p_x(z, y), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> Tensor:
        """z_i ~ q(z|x_i, y_i) for the rows of x and y."""
        register(self)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.q_z(x, y))

    def _rows(self, x: Tensor | None, y: Tensor | None, n: int) -> int:
        seen = x if y is None else y
        return rows(n, z=1, x=len(self.event_shape), y=len(self.label_shape)) if seen is None else len(seen)

    def _y(self, y: Tensor | None) -> Tensor:
        """The site y: drawn from p(y), or observed; a deterministic site if the model has no p(y)."""
        if self.label is None and (y := given("y") if y is None else y) is not None:
            return pyro.deterministic("y", y, event_dim=len(self.label_shape))
        return pyro.sample("y", self.p_y(), obs=y)

    def sample(self, n: int, y: Any = None) -> Tensor:
        """n new data x ~ p(x|y) for n labels y, or x ~ p(x) if y is None, of shape (n, *event_shape)."""
        return importance.sample(self, n, y)

    def encode_labels(self, y: Tensor) -> Tensor:
        """Labels in the form of site y: classes (N,) as one-hot vectors, other labels as numbers (N, *label_shape).

        Raises:
            ValueError: a label lies outside the support of p(y).
        """
        if isinstance(self.label, OneHotCategorical) and y.ndim == 1:
            y = one_hot(y, self.label_shape[0])
        y = y.to(*placement(self))
        if y.ndim == 1 and self.label_shape == (1,):  # one number for each row
            y = y.unsqueeze(-1)
        if y.shape[1:] != self.label_shape:
            raise ValueError(f"y: expected shape (N, {', '.join(map(str, self.label_shape))}), found {tuple(y.shape)}")
        checks.finite("y", y)
        if self.label is not None:
            checks.support(y, self.p_y().support, self.label.advice, name="y")
        return y


def one_hot(y: Tensor, num_classes: int) -> Tensor:
    """Classes (N,) as one-hot vectors (N, num_classes).

    Raises:
        ValueError: y is not of an integer type, or a class is not between 0 and num_classes - 1.
    """
    if y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"y: expected classes as integers, found {y.dtype}")
    wrong = (y < 0) | (y >= num_classes)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(f"y: expected classes from 0 to {num_classes - 1}, found {int(y[row])} in row {row}")
    return F.one_hot(y.long(), num_classes)
