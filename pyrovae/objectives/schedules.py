"""Schedules: beta as a function of the step."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pyrovae import checks


@runtime_checkable
class Schedule(Protocol):
    """beta at a step, counted from 0. `final` is the last value; `settled` is the first step by which it is reached."""

    @property
    def final(self) -> float: ...
    @property
    def settled(self) -> int: ...
    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """beta(t) = final.

    Example:
        >>> from pyrovae.objectives import Constant
        >>> [Constant(0.5)(step) for step in (0, 10)]
        [0.5, 0.5]
    """

    final: float = 1.0
    settled = 0

    def __post_init__(self) -> None:
        checks.number("beta", self.final, 0)

    def __call__(self, step: int) -> float:
        return self.final


@dataclass(frozen=True)
class WarmUp:
    """beta(t) = final min(t / steps, 1): a linear rise from 0.  (Bowman et al. 2016; Sonderby et al. 2016)

    Args:
        steps: optimiser steps until `final` is reached.
        final: the last value, which beta keeps.

    Example:
        >>> from pyrovae.objectives import WarmUp
        >>> [WarmUp(steps=10, final=4.0)(step) for step in (0, 5, 10, 20)]
        [0.0, 2.0, 4.0, 4.0]
    """

    steps: int
    final: float = 1.0

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps)
        checks.number("beta", self.final, 0)

    @property
    def settled(self) -> int:
        return self.steps

    def __call__(self, step: int) -> float:
        return self.final * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cyclic:
    """beta(t) = final min((t mod period) / (rise period), 1): a repeated warm-up.  (Fu et al. 2019)

    Args:
        period: optimiser steps in a cycle.
        rise: share of each cycle in which beta rises from 0; beta is `final` in the rest of the cycle.
        final: the highest value.

    Example:
        >>> from pyrovae.objectives import Cyclic
        >>> [Cyclic(period=10, rise=0.5)(step) for step in (0, 4, 9, 10)]
        [0.0, 0.8, 1.0, 0.0]
    """

    period: int
    rise: float = 0.5
    final: float = 1.0

    def __post_init__(self) -> None:
        checks.integer("period", self.period)
        checks.number("beta", self.final, 0)
        if not 0 < checks.number("rise", self.rise) <= 1:
            raise ValueError(f"rise: expected a share in (0, 1], found {self.rise}")

    @property
    def settled(self) -> int:
        return self.period

    def __call__(self, step: int) -> float:
        return self.final * min((step % self.period) / (self.rise * self.period), 1.0)


@dataclass(frozen=True)
class Geometric:
    """beta(t) = first (final / first)^min(max(t - hold, 0) / steps, 1): equal steps of log beta.

    If beta changes slowly, one training passes through the optima for all betas between `first` and `final`.

    Args:
        steps: optimiser steps from `first` to `final`.
        first: the first value.
        final: the last value, which beta keeps.
        hold: optimiser steps at `first` before beta changes.

    Example:
        >>> from pyrovae.objectives import Geometric
        >>> [round(Geometric(steps=2, first=0.01)(step), 4) for step in (0, 1, 2)]
        [0.01, 0.1, 1.0]
    """

    steps: int
    first: float
    final: float = 1.0
    hold: int = 0

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps)
        checks.integer("hold", self.hold, 0)
        for beta in (self.first, self.final):
            checks.positive("beta", beta)

    @property
    def settled(self) -> int:
        return self.hold + self.steps

    def __call__(self, step: int) -> float:
        share = min(max(step - self.hold, 0) / self.steps, 1.0)
        return self.first ** (1 - share) * self.final**share


@dataclass(frozen=True)
class Late:
    """beta(t) = before for t < steps, then(t - steps). A small beta at first lets encodings of different data part."""

    steps: int
    then: Schedule
    before: float = 0.1

    @property
    def final(self) -> float:
        return self.then.final

    @property
    def settled(self) -> int:
        return self.steps + self.then.settled

    def __call__(self, step: int) -> float:
        return self.before if step < self.steps else self.then(step - self.steps)
