"""Learning-rate schedules: factors as functions of the completed share of the training."""

import math
from collections.abc import Callable
from typing import Any

from pyrovae import checks


def constant(share: float) -> float:
    """Learning rate: factor 1 throughout."""
    return 1.0


def cosine(share: float) -> float:
    """Learning rate: factor (1 + cos(pi t)) / 2 at the completed share t.  (Loshchilov & Hutter 2017)"""
    return (1 + math.cos(math.pi * share)) / 2


def stages(share: float) -> float:
    """Learning rate: factor 10^(-i/7) in stage i = 0..7 of 3^i parts each.  (Burda, Grosse & Salakhutdinov 2016)"""
    return 10 ** (-min(7, int(math.log(1 + share * (3**8 - 1), 3) + 1e-9)) / 7)


def checked(schedule: Any) -> Callable[[float], float]:
    """Return a learning-rate schedule, after a check from start to end: a negative rate would increase the loss."""
    if not callable(schedule):
        raise ValueError(f"lr_schedule: expected a function such as pyrovae.training.rates.cosine, found {schedule!r}")
    for number in range(1001):
        checks.number(f"lr_schedule at {number / 1000:g} of the training", schedule(number / 1000), 0)
    return schedule
