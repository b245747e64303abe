"""Finds the columns of the data that the programs take, and as which arguments."""

from collections.abc import Iterator
from inspect import Parameter, signature

import torch
from torch import Tensor

from pyrovae.data.split import Batch, Wanted, by_label
from pyrovae.programs.arguments import arguments
from pyrovae.programs.pair import Program, Programs, pair, takes_labels
from pyrovae.programs.traits import traits

# The argument of `model(n=...)`, which generates new rows, is not a column.
GENERATES = "n"


def wanted(programs: Programs) -> Wanted:
    """The columns that the data need for these programs.

    An argument y is the labels. Your own programs take the columns in the order of their arguments, which must be the
    same for model and guide, because Pyro calls both alike. A column that the programs do not take is an error. (The
    models of this package ignore labels that they do not use.)

    Raises:
        ValueError: model and guide do not take the same arguments.
    """
    first, *others = _arguments(pair(programs)[0]) or [Parameter("x", Parameter.POSITIONAL_ONLY)]
    ours = traits(programs).check is not None
    if ours or [argument.name for argument in others] == ["y"]:
        return Wanted(first.name, ("y",) if takes_labels(programs) else (), strict=not ours)
    names = tuple(argument.name for argument in others)
    _check_alike((first.name, *names), [argument.name for argument in _arguments(pair(programs)[1])])
    required = [argument.name for argument in others if argument.default is Parameter.empty]
    return Wanted(first.name, names, len(required), strict=True)


def of_labels(programs: Programs) -> bool:
    """Whether the only column besides x is labels, some of which may be missing."""
    return wanted(programs).names == ("y",)


def arguments_of(programs: Programs, *columns: Tensor) -> tuple[Tensor, ...]:
    """The arguments with which the programs are called for rows of these columns."""
    return arguments(programs, *columns, labels=of_labels(programs))


def by_kind(programs: Programs, *columns: Tensor) -> Iterator[tuple[Tensor, Batch]]:
    """Row numbers and columns of the labelled rows, then of the unlabelled rows; of all rows if there are no labels."""
    if of_labels(programs):
        return by_label(*columns)
    return iter([(torch.arange(len(columns[0])), columns)])


def _arguments(program: Program) -> list[Parameter]:
    """The arguments that can receive a column, in their order."""
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    found = signature(program).parameters.values()
    return [each for each in found if each.kind in positional and each.name != GENERATES]


def _check_alike(model: tuple[str, ...], guide: list[str]) -> None:
    """Pyro calls both programs with the same arguments: in another order, a column would go to the wrong argument."""
    for place, (ours, theirs) in enumerate(zip(model, guide, strict=False)):
        if ours != theirs and theirs in model:
            raise ValueError(
                f"expected a model and a guide that take their arguments in one order, found {ours!r} in the model and "
                f"{theirs!r} in the guide as argument {place + 1}"
            )
