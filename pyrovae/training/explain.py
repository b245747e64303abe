"""Which step of an epoch failed, at which site, and what the usual causes are."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from pyrovae.data.split import Batch
from pyrovae.programs.pair import Programs
from pyrovae.training.batches import Batches
from pyrovae.training.faults import NOTHING, TrainingError, advice, first_fault
from pyrovae.training.state import State


class Replayable(Protocol):
    """A training whose epoch can be run again from its start."""

    programs: Programs
    batches: Batches
    epoch: int
    step: int
    rate: float

    def restore(self, saved: State) -> None: ...
    def stepping(self) -> AbstractContextManager[None]: ...
    def shuffle(self, n: int) -> Tensor: ...
    def take_step(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]: ...
    def calls(self, batch: Batch) -> list[Any]: ...


def explained(training: Replayable, what: str, good: State, number: int) -> TrainingError:
    """Replay the epoch from its start to the failed step, and look at each site there."""
    training.restore(good)
    with training.stepping():
        remaining = training.batches(training.shuffle)
        batch = next(remaining)
        for done in range(number):
            training.take_step(batch, done)
            batch = next(remaining, batch)  # if the last step spoilt a parameter, use its batch again
        calls = training.calls(batch)
        where = next((text for call in calls if (text := first_fault(training.programs, *call))), NOTHING)
    fault = failure(
        training,
        f"{what}; {where}",
        training.step + min(number + 1, training.batches.number or number + 1),
        calls[0][0],
    )
    training.restore(good)
    return fault


def failure(training: Replayable, what: str, step: int, x: Tensor) -> TrainingError:
    """The error that names the failed step, the quantity that was not finite, and the usual causes."""
    return TrainingError(
        f"step {step} (epoch {training.epoch + 1}): {what}{advice(training.programs, x)}. Usual causes: a learning "
        f"rate that is too high (here {training.rate:g}; try a tenth of it, or clip=1), a learned scale that vanishes "
        "on constant data, data outside the likelihood's support. "
        f"The state at the end of epoch {training.epoch} is kept"
    )
