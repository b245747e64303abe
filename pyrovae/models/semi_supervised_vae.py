"""The semi-supervised variational autoencoder, M2."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyrovae.guides import DiagonalNormal
from pyrovae.likelihoods import Bernoulli, Likelihood
from pyrovae.models.conditional_vae import ConditionalVAE
from pyrovae.networks import MLP
from pyrovae.networks.connect import Part, connect, takes_missing
from pyrovae.objectives import SemiSupervised
from pyrovae.priors import StandardNormal
from pyrovae.programs.handlers import register


class SemiSupervisedVAE(ConditionalVAE):
    """p(x, y, z) = p(y) p(z) p(x|z, y), with guide q(y|x) q(z|x, y) if y is missing.  (Kingma et al. 2014, M2)

    If y is known, the guide is q(z|x, y). A missing class is enumerated: objectives with estimator="enumerated", and
    all scores, sum over its values.

    Args:
        event_shape, latent_dim, prior, likelihood, guide, encoder, decoder: as in `VAE`.
        num_classes, label_shape, label: as in `ConditionalVAE`; a label that may be missing needs a p(y).
        classifier: network from x to the parameters of q(y|x), which has the same family as p(y).

    Example:
        >>> import torch
        >>> from pyrovae.models import SemiSupervisedVAE
        >>> vae = SemiSupervisedVAE(event_shape=6, latent_dim=2, num_classes=4)
        >>> x = torch.ones(3, 6)
        >>> vae.q_y(x).probs.shape, vae.guide(x).shape  # the guide draws y, then z
        (torch.Size([3, 4]), torch.Size([3, 2]))
    """

    label: Likelihood
    objective = SemiSupervised  # the default objective

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
        classifier: Part = MLP,
        label_shape: Sequence[int] | int | None = None,
        label: Part | None = None,
    ) -> None:
        super().__init__(
            event_shape,
            latent_dim,
            num_classes,
            prior,
            likelihood,
            guide,
            encoder,
            decoder,
            label_shape=label_shape,
            label=label,
        )
        if self.label is None:
            raise ValueError("label: expected the family of p(y), which draws missing labels, found none")
        self.classifier = connect(classifier, [self.event_shape], self.label.param_shape, "classifier")
        if self.likelihood.missing:
            takes_missing(self.classifier, [self.event_shape], "classifier")

    def q_y(self, x: Tensor) -> dist.TorchDistribution:
        """The guide's classifier q(y|x)."""
        return self.label(self.classifier(x))

    def guide(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """y_i ~ q(y|x_i) if y is None, then z_i ~ q(z|x_i, y_i), for the rows of x."""
        register(self)
        with pyro.plate("data", len(x)):
            if y is None:
                q_y = self.q_y(x)
                y = pyro.sample("y", q_y, infer={"enumerate": "parallel"} if q_y.has_enumerate_support else {})
            return pyro.sample("z", self.q_z(x, y))
