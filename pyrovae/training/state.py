"""The state of a training, which a checkpoint saves."""

import copy
from typing import Any, Protocol

import torch
from torch import Tensor

from pyrovae import files
from pyrovae.modes import channels_last
from pyrovae.objectives import Objective
from pyrovae.programs.pair import Programs, modules
from pyrovae.randomness import Stream
from pyrovae.training.svi import SVI, laid_out

State = tuple[dict[str, Tensor], dict[str, Any]]


class Changing(Protocol):
    """What a training has that changes in its course; beside it the counters below."""

    programs: Programs
    svi: SVI
    objective: Objective
    noise: Stream
    order: torch.Generator
    best: dict[str, Tensor]


_COUNTERS = ("epoch", "step", "best_epoch", "epochs_without_improvement", "best_loss", "rate")


def weights(training: Changing) -> dict[str, Tensor]:
    """The programs' own tensors: their modules' parameters and buffers, then their `pyro.param` sites."""
    owners = modules(training.programs)
    named = {
        f"{number}.{name}" if number else name: value
        for number, owner in enumerate(owners)
        for name, value in owner.state_dict().items()
    }
    owned = {id(parameter) for owner in owners for parameter in owner.parameters()}
    return named | {name: value for name, value in training.svi.parameters.items() if id(value) not in owned}


def state(training: Changing) -> State:
    """A copy of all that changes in training, as tensors and JSON values; `restore` accepts it."""
    optimizer = training.svi.optimizer.state_dict()
    tensors = {f"weights.{name}": value for name, value in weights(training).items()}
    tensors |= {f"best.{name}": value for name, value in training.best.items()}
    about = {name: getattr(training, name) for name in _COUNTERS}
    about |= {"objective_step": training.objective.step, "optimizer": files.apart("optimizer", optimizer, tensors)}
    tensors |= {f"noise.{device}": value for device, value in enumerate(training.noise.state)}
    tensors["order"] = training.order.get_state()
    return {name: value.detach().clone() for name, value in tensors.items()}, copy.deepcopy(about)


def restore(training: Changing, state: State) -> None:
    """Continue from a `state`, bit by bit as if there had been no interruption."""
    tensors, about = {name: value.clone() for name, value in state[0].items()}, state[1]
    copy_into(_part(tensors, "weights"), weights(training))
    training.best = _part(tensors, "best")
    optimizer = files.together(about["optimizer"], tensors)
    held = [value for group in training.svi.optimizer.param_groups for value in group["params"]]
    with channels_last(modules(training.programs)):  # the optimiser's state has the memory layout that parameters have
        kept = {
            int(index): {name: _laid_out(value, held[int(index)]) for name, value in values.items()}
            for index, values in optimizer["state"].items()
        }
    training.svi.optimizer.load_state_dict(optimizer | {"state": kept})
    training.noise.state = [value for _, value in sorted(_part(tensors, "noise").items())]
    training.order.set_state(tensors["order"])
    for name in _COUNTERS:
        setattr(training, name, about[name])
    training.objective.step = about["objective_step"]


def _laid_out(value: Any, parameter: Tensor) -> Any:
    return laid_out(value, parameter) if isinstance(value, Tensor) else value


def copy_into(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Set the tensors of the target to those of the same names in the source."""
    with torch.no_grad():
        for name in target.keys() & source.keys():
            target[name].copy_(source[name])


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
