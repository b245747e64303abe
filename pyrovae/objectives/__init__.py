"""Objectives: losses in nats per datum, which SVI minimises; you can pass each as `loss=` to pyro.infer.SVI.

A beta (or a capacity) is a number or a schedule: `Constant`, `WarmUp`, `Cyclic` or `Geometric`.
"""

from pyrovae.objectives.capacity import Capacity
from pyrovae.objectives.elbo import ELBO, KL, Reconstruction
from pyrovae.objectives.free_bits import FreeBits
from pyrovae.objectives.iwae import IWAE, Renyi
from pyrovae.objectives.mmd import MMD
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.schedules import Constant, Cyclic, Geometric, WarmUp
from pyrovae.objectives.semi_supervised import SemiSupervised
from pyrovae.objectives.total_correlation import TotalCorrelation
from pyrovae.objectives.wake_sleep import ReweightedWakeSleep

__all__ = [
    "ELBO",
    "IWAE",
    "KL",
    "MMD",
    "Capacity",
    "Constant",
    "Cyclic",
    "FreeBits",
    "Geometric",
    "Objective",
    "Reconstruction",
    "Renyi",
    "ReweightedWakeSleep",
    "SemiSupervised",
    "TotalCorrelation",
    "WarmUp",
]
