"""A generative `model` and its variational `guide`: the two Pyro programs that everything here is asked of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.handlers import own_parameters
from pyrovae.modes import mode

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


def modules(programs: Programs) -> list[nn.Module]:
    """The modules that the programs visibly belong to: the object itself, or what the two are methods of."""
    owners = [programs, *(getattr(program, "__self__", program) for program in pair(programs))]
    return list({id(owner): owner for owner in owners if isinstance(owner, nn.Module)}.values())


@contextmanager
def answering(programs: Programs) -> Iterator[None]:
    """Ask, and change nothing: no gradients, evaluation mode, no parameter left behind in Pyro's store."""
    store = pyro.get_param_store()
    before = set(store.keys())
    try:
        with mode(modules(programs), training=False), torch.no_grad(), own_parameters():
            yield
    finally:
        for name in set(store.keys()) - before:
            del store[name]


def check(programs: Programs, x: Tensor) -> None:
    """Raise a ValueError unless x are data of these programs: finite, and what their own `check` asks for."""
    own_check = getattr(programs, "check", None)
    if own_check is None:
        checks.finite("x", x)
    else:
        own_check(x)


def placement(programs: Programs) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and dtype of the programs' parameters; None where their modules are not to be seen."""
    for module in modules(programs):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return parameter.device, parameter.dtype
    return None, None
