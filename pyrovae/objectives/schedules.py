"""beta as a function of the step."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pyrovae import checks


@runtime_checkable
class Schedule(Protocol):
    """beta at a step counted from 0; `final`, where it leads; `settled`, the first step at which it has been there."""

    @property
    def final(self) -> float: ...
    @property
    def settled(self) -> int: ...
    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """beta(t) = final."""

    final: float = 1.0
    settled = 0

    def __post_init__(self) -> None:
        checks.number("beta", self.final, 0)

    def __call__(self, step: int) -> float:
        return self.final


@dataclass(frozen=True)
class WarmUp:
    """beta(t) = final min(t / steps, 1): from 0 in a straight line.  (Bowman et al. 2016; Sonderby et al. 2016)

    Args:
        steps: optimiser steps until `final` is reached.
        final: the value it stays at.
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
    """beta(t) = final min((t mod period) / (rise period), 1): warm-up again and again.  (Fu et al. 2019)

    Args:
        period: optimiser steps in a cycle.
        rise: share of each cycle in which beta rises from 0; it stays at `final` for the rest.
        final: the highest value.
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
    """beta(t) = first (final / first)^min(max(t - hold, 0) / steps, 1): as far in each step, on a logarithmic scale.

    Raised slowly, one training passes through the optima of all betas between the two.

    Args:
        steps: optimiser steps from `first` to `final`.
        first: the value it begins at.
        final: the value it stays at.
        hold: optimiser steps at `first` before.
    """

    steps: int
    first: float
    final: float = 1.0
    hold: int = 0

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps)
        checks.integer("hold", self.hold, 0)
        for each in (self.first, self.final):
            checks.positive("beta", each)

    @property
    def settled(self) -> int:
        return self.hold + self.steps

    def __call__(self, step: int) -> float:
        share = min(max(step - self.hold, 0) / self.steps, 1.0)
        return self.first ** (1 - share) * self.final**share


@dataclass(frozen=True)
class Late:
    """beta(t) = before for t < steps, then(t - steps): where beta is large, encodings that differ do not keep apart."""

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
