"""A generative `model` and its variational `guide`: the two Pyro programs with which everything here works."""

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
    """The object whose method a program is, or the program itself."""
    return getattr(program, "__self__", program)


def modules(programs: Programs) -> list[nn.Module]:
    """The modules to which the programs belong: the object itself, or the objects whose methods they are."""
    owners = [programs, *map(owner, pair(programs))]
    return list({id(each): each for each in owners if isinstance(each, nn.Module)}.values())


@contextmanager
def no_side_effects(programs: Programs) -> Iterator[None]:
    """Inside, programs are run without gradients and in evaluation mode, and leave no parameter in Pyro's store."""
    with store_unchanged(), mode(modules(programs), training=False), torch.no_grad(), own_parameters():
        yield


def takes_labels(programs: Programs) -> bool:
    """Whether the model has an argument y, so that the data need labels."""
    return "y" in inspect.signature(pair(programs)[0]).parameters


def needs_labels(programs: Programs) -> bool:
    """Whether the guide needs y."""
    return _defaults_of_y(programs) == [inspect.Parameter.empty]


def classifies(programs: Programs) -> bool:
    """Whether the guide draws y if there is no label: it has an argument y, and does not need it."""
    return _defaults_of_y(programs) == [None]


def _defaults_of_y(programs: Programs) -> list[Any]:
    """The default of the guide's argument y, `Parameter.empty` if it has no default; an empty list if it has no y."""
    parameters = inspect.signature(pair(programs)[1]).parameters.values()
    return [each.default for each in parameters if each.name == "y"]


def placement(programs: Programs) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and dtype of the programs' parameters; None if their modules are unknown."""
    for module in modules(programs):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return parameter.device, parameter.dtype
    return None, None
