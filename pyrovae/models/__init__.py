"""Models. Each file defines one generative program and its guide."""

from pyrovae.models.bayesian_vae import BayesianVAE
from pyrovae.models.completion_vae import Completion, CompletionVAE
from pyrovae.models.conditional_vae import ConditionalVAE
from pyrovae.models.hierarchical_vae import HierarchicalVAE
from pyrovae.models.invariant_vae import InvariantVAE
from pyrovae.models.mixture_vae import MixtureVAE
from pyrovae.models.semi_supervised_vae import SemiSupervisedVAE
from pyrovae.models.vae import VAE

__all__ = [
    "VAE",
    "BayesianVAE",
    "Completion",
    "CompletionVAE",
    "ConditionalVAE",
    "HierarchicalVAE",
    "InvariantVAE",
    "MixtureVAE",
    "SemiSupervisedVAE",
]
