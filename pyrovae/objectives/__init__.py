"""Objectives: what SVI minimises, in nats per datum; each serves as `loss=` of pyro.infer.SVI."""

from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.schedules import Constant, Cyclic, WarmUp

__all__ = ["ELBO", "Constant", "Cyclic", "WarmUp"]
