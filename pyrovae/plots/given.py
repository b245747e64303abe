"""Checks the inputs of a figure: something to draw, in arrays of the right shape."""

from collections.abc import Sized
from typing import Any

import numpy as np


def nonempty(name: str, values: Sized) -> None:
    """Raise a ValueError if there are no values."""
    if len(values) == 0:
        raise ValueError(f"{name}: expected at least one, found none")


def shaped(name: str, values: Any, **least: int) -> tuple[int, ...]:
    """Return the shape of an array with these axes and least sizes, or raise a ValueError that names it."""
    found = tuple(np.shape(values))
    if len(found) != len(least) or any(size < bound for size, bound in zip(found, least.values(), strict=True)):
        raise ValueError(f"{name}: expected shape ({', '.join(least)}) >= {tuple(least.values())}, found {found}")
    return found
