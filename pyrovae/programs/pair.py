"""A generative `model` and its variational `guide`: the two Pyro programs that everything here is asked of."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from pyrovae.modes import mode
from pyrovae.programs.handlers import own_parameters, store_unchanged

Program = Callable[..., Any]


class HasPrograms(Protocol):
    """Anything with a `model` and a `guide`."""

    @property
    def model(self) -> Program: ...
    @property
    def guide(self) -> Program: ...


Programs = HasPrograms | tuple[Program, Program]


def pair(programs: Programs) -> tuple[Program, Program]:
    """(model, guide), from an object that has both or from the pair itself."""
    both = programs if isinstance(programs, tuple) else (getattr(programs, "model", 0), getattr(programs, "guide", 0))
    found: tuple[Program, Program] = both  # type: ignore[assignment]
    if len(found) != 2 or not all(map(callable, found)):
        raise ValueError(f"expected an object with a model and a guide, or a pair (model, guide), found {programs!r}")
    return found


def owner(program: Program) -> Any:
    """What a program is a method of, or the program itself."""
    return getattr(program, "__self__", program)


def modules(programs: Programs) -> list[nn.Module]:
    """The modules that the programs visibly belong to: the object itself, or what the two are methods of."""
    owners = [programs, *map(owner, pair(programs))]
    return list({id(each): each for each in owners if isinstance(each, nn.Module)}.values())


@contextmanager
def no_side_effects(programs: Programs) -> Iterator[None]:
    """Inside, programs are run without gradients and in evaluation mode, and leave no parameter in Pyro's store."""
    with store_unchanged(), mode(modules(programs), training=False), torch.no_grad(), own_parameters():
        yield


def takes_labels(programs: Programs) -> bool:
    """Whether the model has an argument y: then data come with their labels."""
    return "y" in inspect.signature(pair(programs)[0]).parameters


def needs_labels(programs: Programs) -> bool:
    """Whether the guide cannot do without y."""
    return _defaults_of_y(programs) == [inspect.Parameter.empty]


def classifies(programs: Programs) -> bool:
    """Whether the guide draws y where there is no label: it has one, and can do without."""
    return _defaults_of_y(programs) == [None]


def _defaults_of_y(programs: Programs) -> list[Any]:
    """The default of the guide's argument y, `Parameter.empty` where it has none; nothing where there is no y."""
    parameters = inspect.signature(pair(programs)[1]).parameters.values()
    return [each.default for each in parameters if each.name == "y"]


def placement(programs: Programs) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and dtype of the programs' parameters; None where their modules are not to be seen."""
    for module in modules(programs):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return parameter.device, parameter.dtype
    return None, None
