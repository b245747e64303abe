"""Data where they live (in memory, or read when asked for), and the order in which they are read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyrovae import checks

# Rows that are read at a time where nobody asks for fewer.
ROWS = 1024

Binarize = Literal["dynamic", "threshold", "none", "dequantize"]


class Lazy(Protocol):
    """Rows read when they are asked for: x[rows] is a tensor (len(rows), *event_shape); `workers` processes read."""

    shape: tuple[int, ...]
    workers: int

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a dataset: `split.x` as it is stored, `split[rows]` as a model takes it.

    Args:
        x: grey levels 0..255 as uint8, or real values as floats. (N, *event_shape)
        y: labels (N,), or None.
        binarize: how x (in [0, 1] after division by 255) becomes what a model takes:
            "dynamic": x' ~ Bernoulli(x), a fresh draw each time it is read;
            "fixed": the same draw each time, which depends on the row alone;
            "threshold": x' = [x > 1/2];
            "none": x' = x;
            "dequantize": x' = (255 x + u) / 256, u ~ U(0, 1), a fresh draw each time: densities of x' are worth
                bits per dimension (Theis, van den Oord & Bethge 2016).
    """

    x: Tensor | Lazy
    y: Tensor | None = None
    binarize: Literal["dynamic", "fixed", "threshold", "none", "dequantize"] = "none"

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Tensor:
        index = torch.arange(len(self))[rows]
        if index.ndim != 1:
            raise ValueError(f"rows: expected a slice or a list of rows, found {rows!r}")
        return self.convert(self.x[index], index)

    def convert(self, x: Tensor, rows: Tensor) -> Tensor:
        """Stored values of these rows, as a model takes them."""
        return _BINARIZE[self.binarize](_values(x), rows)

    def settled(self) -> "Split":
        """The same values, with a binarisation that never changes done once and for all."""
        if self.binarize in ("dynamic", "none", "dequantize") or not isinstance(self.x, Tensor):
            return self
        return Split((self[:] * 255).to(torch.uint8), self.y)


def _values(x: Tensor) -> Tensor:
    """Bytes are grey levels, in 255ths; other numbers are what they are."""
    return x / 255 if x.dtype == torch.uint8 else x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _fixed(x: Tensor, rows: Tensor) -> Tensor:
    draws = [np.random.default_rng((2016, row)).random(x.shape[1:], np.float32) for row in rows.tolist()]
    return (torch.from_numpy(np.stack(draws)) < x).to(x.dtype) if draws else x


def _dequantize(x: Tensor, rows: Tensor) -> Tensor:
    """u on a grid that float32 holds exactly beside 255 levels, so that x' never rounds to 0 or 1."""
    u = ((torch.rand_like(x) * 2**15).floor() + 0.5) / 2**15
    return (x * 255 + u) / 256


_BINARIZE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dynamic": lambda x, rows: torch.bernoulli(x),
    "fixed": _fixed,
    "threshold": lambda x, rows: (x > 0.5).to(x.dtype),
    "none": lambda x, rows: x,
    "dequantize": _dequantize,
}


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset: train, valid (possibly None) and test (possibly None), of one event shape."""

    name: str
    train: Split
    valid: Split | None = None
    test: Split | None = None
    num_classes: int | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.train.event_shape


class _Chosen:
    """Some of the rows that are read when they are asked for."""

    def __init__(self, x: Lazy, rows: Tensor) -> None:
        self.x, self.rows = x, rows
        self.shape, self.workers = (len(rows), *x.shape[1:]), x.workers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.x[self.rows[rows]]


def choose(x: Tensor | Lazy, rows: Tensor) -> Tensor | Lazy:
    """Some rows, read now or when they are asked for, as x is."""
    return x[rows] if isinstance(x, Tensor) else _Chosen(x, rows)


class _DatasetRows:
    """A torch Dataset, read row by row; of (x, y, ...) tuples the first entry."""

    workers = 0

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset
        self.shape = (len(self), *_first(dataset[0]).shape) if len(self) else (0,)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.stack([_first(self.dataset[row]) for row in rows.tolist()])


def _first(item: Any) -> Tensor:
    return torch.as_tensor(item[0] if isinstance(item, tuple | list) else item)


# What can be trained on or evaluated: a DataLoader is read in its own order, anything else in ours.
Data = Split | Tensor | Dataset[Any] | DataLoader[Any]


def as_split(data: Data) -> Split | DataLoader[Any]:
    """Any data as a Split, or a DataLoader as it is; empty data are refused."""
    if isinstance(data, DataLoader):
        return data
    if not isinstance(data, Split):
        if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
            raise ValueError(
                f"expected data.load(...), a tensor, a Dataset or a DataLoader, found {type(data).__name__}"
            )
        data = Split(data if isinstance(data, Tensor) else _DatasetRows(data))
    if len(data) == 0:
        raise ValueError("expected data, found none: there are 0 rows")
    return data


def batches(data: Split | DataLoader[Any], order: Callable[[int], Tensor], size: int) -> Iterator[Tensor]:
    """The data in batches of `size` (the last may be smaller), in the order that order(N) gives."""
    if isinstance(data, DataLoader):
        yield from (_values(_first(item)) for item in data)
        return
    rows = order(len(data)).split(size)
    # The noise of a dynamic binarisation is drawn here, not by the workers, which have random numbers of their own.
    for x, index in zip(_stored(data.x, rows), rows, strict=True):
        yield data.convert(x, index)


def _stored(x: Tensor | Lazy, rows: Sequence[Tensor]) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        return map(x.__getitem__, rows)
    return iter(DataLoader(x, None, sampler=rows, num_workers=x.workers, generator=torch.Generator()))  # type: ignore


def blocks(data: Data, size: int) -> Iterator[Tensor]:
    """The data in their own order, in blocks of `size`, whatever the batches they come in."""
    held: list[Tensor] = []
    for x in batches(as_split(data), torch.arange, size):
        held.append(x)
        while sum(map(len, held)) >= size:
            joined = torch.cat(held)
            yield joined[:size]
            held = [joined[size:]]
    if not held:
        raise ValueError("expected data, found none: there are 0 rows")
    if sum(map(len, held)):
        yield torch.cat(held)


def _whole(part: float) -> float:
    return int(part) if float(part).is_integer() else part


def split_rows(n: int, parts: dict[str, float]) -> dict[str, Tensor]:
    """Disjoint random rows for each named part (a share of n below 1, a count from 1 up), then the rest as "train".

    The seed is the library's own, not the run's: every run on a dataset trains and tests on the same rows.
    """
    order = torch.from_numpy(np.random.default_rng(0).permutation(n))
    taken = {}
    for name, part in parts.items():
        count = round(checks.number(name, part, 0) * n) if part < 1 else checks.integer(name, _whole(part))
        taken[name], order = order[:count].sort().values, order[count:]
    if len(order) == 0:
        raise ValueError(f"expected rows left to train on, found {n} rows for {parts}")
    return {**taken, "train": order.sort().values}
