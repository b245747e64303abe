"""What a figure is given: something to draw, in arrays of the shape that it takes."""

from collections.abc import Sized
from typing import Any

import numpy as np


def nonempty(name: str, values: Sized) -> None:
    """At least one, or a ValueError that names what there is none of."""
    if len(values) == 0:
        raise ValueError(f"{name}: expected at least one, found none")


def shaped(name: str, values: Any, **least: int) -> tuple[int, ...]:
    """The shape of an array that has these axes, each of at least so many, or a ValueError that names it."""
    found = tuple(np.shape(values))
    if len(found) != len(least) or any(size < bound for size, bound in zip(found, least.values(), strict=True)):
        raise ValueError(f"{name}: expected shape ({', '.join(least)}) >= {tuple(least.values())}, found {found}")
    return found
