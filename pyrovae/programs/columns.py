"""Which columns of the data the programs take, and as which arguments."""

from collections.abc import Iterator
from inspect import Parameter, signature

import torch
from torch import Tensor

from pyrovae.data.split import Batch, Wanted, by_label
from pyrovae.programs.arguments import arguments
from pyrovae.programs.pair import Program, Programs, pair, takes_labels
from pyrovae.programs.traits import traits

# What `model(n=...)` generates new rows by: no column.
GENERATES = "n"


def wanted(programs: Programs) -> Wanted:
    """The columns that data have for these programs.

    An argument y is the labels. Other programs of one's own take the columns in the order of their arguments, model and
    guide alike, as Pyro calls them; and a column that neither takes is a mistake. (The models of this package leave
    labels alone that they have no use for.)

    Raises:
        ValueError: model and guide do not take the same arguments.
    """
    first, *others = _arguments(pair(programs)[0]) or [Parameter("x", Parameter.POSITIONAL_ONLY)]
    ours = traits(programs).check is not None
    if ours or [each.name for each in others] == ["y"]:
        return Wanted(first.name, ("y",) if takes_labels(programs) else (), strict=not ours)
    names = tuple(each.name for each in others)
    _check_alike((first.name, *names), [each.name for each in _arguments(pair(programs)[1])])
    required = [each.name for each in others if each.default is Parameter.empty]
    return Wanted(first.name, names, len(required), strict=True)


def of_labels(programs: Programs) -> bool:
    """Whether the only column beside x is labels, of which some may be missing."""
    return wanted(programs).names == ("y",)


def arguments_of(programs: Programs, *columns: Tensor) -> tuple[Tensor, ...]:
    """What the programs are called with for rows of these columns."""
    return arguments(programs, *columns, labels=of_labels(programs))


def by_kind(programs: Programs, *columns: Tensor) -> Iterator[tuple[Tensor, Batch]]:
    """Row numbers and columns of the rows with a label, then those of the others; of all, where there are no labels."""
    if of_labels(programs):
        return by_label(*columns)
    return iter([(torch.arange(len(columns[0])), columns)])


def _arguments(program: Program) -> list[Parameter]:
    """The arguments that a column may be given to, in their order."""
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    found = signature(program).parameters.values()
    return [each for each in found if each.kind in positional and each.name != GENERATES]


def _check_alike(model: tuple[str, ...], guide: list[str]) -> None:
    """Pyro calls both with the same arguments: an order of its own would give a column to the wrong one."""
    for place, (ours, theirs) in enumerate(zip(model, guide, strict=False)):
        if ours != theirs and theirs in model:
            raise ValueError(
                f"expected a model and a guide that take their arguments in one order, found {ours!r} in the model and "
                f"{theirs!r} in the guide as argument {place + 1}"
            )
