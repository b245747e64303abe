"""Checks of inputs; an error message says what was expected and what was found."""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints


def integer(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """Return an integer >= least (and <= most), or raise a ValueError that names it."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, found {value!r}")
    if most is not None and int(value) > most:
        raise ValueError(f"{name}: expected at most {most}, found {value!r}")
    return int(value)


def boolean(name: str, value: object) -> bool:
    """Return True or False, or raise a ValueError that names it."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, found {value!r}")
    return value


def number(name: str, value: object, least: float = -math.inf) -> float:
    """Return a finite number >= least, or raise a ValueError that names it."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" >= {least:g}"
        raise ValueError(f"{name}: expected a finite number{bound}, found {value!r}")
    return float(value)


def positive(name: str, value: object) -> float:
    """Return a finite number > 0, or raise a ValueError that names it."""
    if number(name, value) <= 0:
        raise ValueError(f"{name}: expected a number > 0, found {value!r}")
    return float(value)  # type: ignore[arg-type]


def shape(name: str, value: object, least: int = 1) -> tuple[int, ...]:
    """Return a shape of at least `least` positive integers; an integer d stands for (d,)."""
    sizes = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if len(sizes) < least:
        raise ValueError(f"{name}: expected at least {least} size, found {value!r}")
    return tuple(integer(name, size) for size in sizes)


def vector(name: str, value: object) -> int:
    """Return the size d of a shape (d,)."""
    sizes = shape(name, value)
    if len(sizes) != 1:
        raise ValueError(f"{name}: expected the shape of a vector, found {sizes}")
    return sizes[0]


def member(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a known name, or raise a ValueError that suggests a similar one."""
    known = sorted(known)
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})")


def reason(error: Exception, last: bool = False) -> str:
    """The first (or the last) line of an error message, for use inside another message."""
    while str(error).startswith("Error while computing") and error.__cause__:
        error = error.__cause__  # type: ignore[assignment] # Pyro's, around the distribution's own
    lines = [line.strip().rstrip(":") for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1 if last else 0]


def event(x: Tensor, event_shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless x has rows of the right shape, at least one."""
    expected = ", ".join(["N", *map(str, event_shape)])
    if not isinstance(x, Tensor):
        raise ValueError(f"x: expected a tensor of shape ({expected}), found {type(x).__name__}")
    if tuple(x.shape[1:]) != event_shape or x.ndim == 0:
        raise ValueError(f"x: expected shape ({expected}), found {tuple(x.shape)}")
    if len(x) == 0:
        raise ValueError(f"x: expected at least one row of shape ({expected[3:]}), found none")


def real(name: str, x: Tensor) -> None:
    """Raise a ValueError for complex numbers, because their imaginary part would be dropped silently."""
    if x.is_complex():
        raise ValueError(f"{name}: expected real numbers, found {x.dtype}")


def finite(name: str, x: Tensor, missing: bool = False) -> None:
    """Raise a ValueError for infinite values, and for NaN unless entries may be missing."""
    bad = torch.isinf(x) if missing else ~torch.isfinite(x)
    if bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        advice = "; likelihoods.Missing takes NaN for a missing entry" if x[where].isnan() else ""
        found = f"{x[where].item()} at {where}, {int(bad.sum())} in all"
        raise ValueError(f"{name}: expected finite values, found {found}{advice}")


def support(x: Tensor, constraint: Any, advice: str = "", name: str = "x", only: Tensor | None = None) -> None:
    """Raise a ValueError unless all values, or those where `only` is True, are in a distribution's support."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    outside = ~constraint.check(x)
    if only is not None:
        outside &= only
    if not bool(outside.any()):
        return
    where = tuple(outside.nonzero()[0].tolist())
    found = f"{x[where].item():.6g}" if outside.shape == x.shape else x[where].tolist()
    raise ValueError(
        f"{name}: expected values in the support {constraint}, found {found} at {where}, "
        f"{int(outside.sum())} of {outside.numel()} in all{_of_bytes(x)}{advice}"
    )


def _of_bytes(x: Tensor) -> str:
    """Advice for whole numbers from 0 to 255 as floats: a likelihood of grey values needs them divided by 255."""
    whole = x.is_floating_point() and bool(((x == x.round()) & (x >= 0) & (x <= 255)).all())
    return ". These are bytes as floats: divide them by 255, or give them as uint8" if whole and x.max() > 100 else ""
