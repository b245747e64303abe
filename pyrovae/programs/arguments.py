"""The arguments of the programs: rows of data and their labels, checked and moved to the right device."""

from functools import partial

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.programs.pair import Programs, needs_labels, placement, takes_labels
from pyrovae.programs.traits import traits


def check(programs: Programs, x: Tensor) -> None:
    """Raise a ValueError unless x are data of these programs: finite, and accepted by their own `check`."""
    (traits(programs).check or partial(checks.finite, "x"))(x)


def encoded(programs: Programs, y: Tensor) -> Tensor:
    """Labels in the form of site y, by the model's `encode_labels`, which refuses unknown labels."""
    if (encode := traits(programs).encode_labels) is not None:
        return encode(y)
    checks.finite("y", y)
    return y


def arguments(
    programs: Programs, x: Tensor, y: Tensor | None = None, *rest: Tensor, labels: bool = True
) -> tuple[Tensor, ...]:
    """The arguments of the programs for rows x and their labels: checked, encoded, on the programs' device.

    Args:
        programs: model and guide.
        x, y, rest: columns of the data.
        labels: whether y is the labels; otherwise it is an ordinary column.
    """
    device, dtype = placement(programs)
    check(programs, x := x.to(device, dtype))
    if not labels:
        others = [value for value in (y, *rest) if value is not None]
        return x, *(column(value, number, device, dtype) for number, value in enumerate(others, 2))
    if not takes_labels(programs):
        return (x,)
    if y is None:
        if needs_labels(programs):
            raise ValueError("y: expected labels, found none; pass data with labels as Split(x, y) or rows (x, y)")
        return (x,)
    y = encoded(programs, y.to(device))
    if len(y) != len(x):
        raise ValueError(f"y: expected a label for each of {len(x)} rows, found {len(y)}")
    return x, y


def column(value: Tensor, number: int, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    """A column besides x, on the programs' device. It must be finite: programs cannot take missing values."""
    checks.finite(f"column {number}", value)
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)
