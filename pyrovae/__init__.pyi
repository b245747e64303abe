"""The public names, for type checkers and for `__init__.py`, which loads each when it is first used."""

from . import data as data
from . import guides as guides
from . import likelihoods as likelihoods
from . import models as models
from . import networks as networks
from . import objectives as objectives
from . import priors as priors
from .comparison import compare as compare
from .evaluation import anomaly as anomaly
from .evaluation import baselines as baselines
from .evaluation import calibration as calibration
from .evaluation import clusters as clusters
from .evaluation import diagnostics as diagnostics
from .evaluation import information as information
from .evaluation import quality as quality
from .evaluation.annealing import anneal as anneal
from .evaluation.annealing import sandwich as sandwich
from .evaluation.diagnostics import diagnose as diagnose
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.evaluate import gaps as gaps
from .evaluation.examine import examine as examine
from .evaluation.nuts import posterior as posterior
from .evaluation.ranking import rank as rank
from .models import VAE as VAE
from .objectives.squared_error import squared_error as squared_error
from .programs.importance import impute as impute
from .programs.refine import refine as refine
from .runs import load as load
from .training.faults import TrainingError as TrainingError
from .training.svi import SVI as SVI
from .training.train import Training as Training
from .training.train import fit as fit

__version__: str
