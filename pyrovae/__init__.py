"""Variational autoencoders as explicit Pyro programs."""

from pyrovae import data, guides, likelihoods, models, networks, objectives, priors
from pyrovae.evaluate import evaluate
from pyrovae.models import VAE
from pyrovae.runs import load
from pyrovae.svi import SVI
from pyrovae.train import Training, TrainingError, fit

__all__ = [
    "SVI",
    "VAE",
    "Training",
    "TrainingError",
    "data",
    "evaluate",
    "fit",
    "guides",
    "likelihoods",
    "load",
    "models",
    "networks",
    "objectives",
    "priors",
]
__version__ = "0.1.0"
