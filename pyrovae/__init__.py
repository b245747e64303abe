"""Variational autoencoders as explicit Pyro programs."""

from importlib.metadata import version

from pyrovae import data, guides, likelihoods, models, networks, objectives, priors
from pyrovae.comparison import compare
from pyrovae.evaluation import anomaly, baselines, calibration, clusters, diagnostics, information, quality
from pyrovae.evaluation.annealing import anneal, sandwich
from pyrovae.evaluation.diagnostics import diagnose
from pyrovae.evaluation.evaluate import evaluate, gaps
from pyrovae.evaluation.examine import examine
from pyrovae.evaluation.nuts import posterior
from pyrovae.evaluation.ranking import rank
from pyrovae.models import VAE
from pyrovae.objectives.squared_error import squared_error
from pyrovae.programs.importance import impute
from pyrovae.programs.refine import refine
from pyrovae.runs import load
from pyrovae.training.faults import TrainingError
from pyrovae.training.svi import SVI
from pyrovae.training.train import Training, fit

__all__ = [
    "SVI",
    "VAE",
    "Training",
    "TrainingError",
    "anneal",
    "anomaly",
    "baselines",
    "calibration",
    "clusters",
    "compare",
    "data",
    "diagnose",
    "diagnostics",
    "evaluate",
    "examine",
    "fit",
    "gaps",
    "guides",
    "impute",
    "information",
    "likelihoods",
    "load",
    "models",
    "networks",
    "objectives",
    "posterior",
    "priors",
    "quality",
    "rank",
    "refine",
    "sandwich",
    "squared_error",
]
__version__ = version("pyrovae")
