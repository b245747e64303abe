"""Models: one generative program a file, and its guide beside it."""

from pyrovae.models.conditional_vae import ConditionalVAE
from pyrovae.models.semi_supervised_vae import SemiSupervisedVAE
from pyrovae.models.vae import VAE

__all__ = ["VAE", "ConditionalVAE", "SemiSupervisedVAE"]
