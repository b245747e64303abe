"""Variational autoencoders as explicit Pyro programs."""

from pyrovae import (
    anomaly,
    baselines,
    calibration,
    clusters,
    data,
    diagnostics,
    guides,
    information,
    likelihoods,
    models,
    networks,
    objectives,
    priors,
    quality,
)
from pyrovae.annealing import anneal, sandwich
from pyrovae.comparison import compare
from pyrovae.diagnostics import diagnose
from pyrovae.evaluate import evaluate, gaps
from pyrovae.examination import examine
from pyrovae.faults import TrainingError
from pyrovae.inference import impute
from pyrovae.likelihoods.squared_error import squared_error
from pyrovae.models import VAE
from pyrovae.posterior import posterior
from pyrovae.ranking import rank
from pyrovae.refine import refine
from pyrovae.runs import load
from pyrovae.svi import SVI
from pyrovae.train import Training, fit

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
__version__ = "0.1.0"
