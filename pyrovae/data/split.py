"""Data in memory or on disk, and the order in which they are read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import NoneType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyrovae import checks, files
from pyrovae.randomness import seeded

# Rows that are read at a time by default.
ROWS = 1024

Binarize = Literal["dynamic", "threshold", "none", "dequantize"]


class Lazy(Protocol):
    """Rows read when they are needed: x[rows] is a tensor (len(rows), *event_shape); `workers` processes read them."""

    shape: tuple[int, ...]
    workers: int

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a dataset: `split.x` is the stored data, `split[rows]` the data as a model takes them.

    Args:
        x: grey levels 0..255 as uint8, or real values as floats. (N, *event_shape)
        y: labels, or None: classes (N,) as integers, or numbers (N, ...). A missing label is -1, or NaN.
        binarize: how x (in [0, 1] after division by 255) is converted to the model's data x':
            "dynamic": x' ~ Bernoulli(x), a fresh draw each time it is read;
            "fixed": one draw for each row, the same each time;
            "threshold": x' = [x > 1/2];
            "none": x' = x;
            "dequantize": x' = (255 x + u) / 256, u ~ U(0, 1), a fresh draw each time. A log-density of x' converts to
                bits per dimension (Theis, van den Oord & Bethge 2016).
        rest: further columns, for your own programs. (N, ...) each

    Example:
        >>> import torch
        >>> from pyrovae.data.split import Split
        >>> split = Split(torch.tensor([[0, 51, 255]], dtype=torch.uint8), binarize="none")
        >>> split[:]
        tensor([[0.0000, 0.2000, 1.0000]])
    """

    x: Tensor | Lazy
    y: Tensor | Lazy | None = None
    binarize: Literal["dynamic", "fixed", "threshold", "none", "dequantize"] = "none"
    rest: tuple[Tensor | Lazy, ...] = ()

    def __post_init__(self) -> None:
        numbered = [(f"column {number}", part) for number, part in enumerate(self.rest, 3)]
        for name, part in (("x", self.x), ("y", self.y), *numbered):
            lazy = hasattr(part, "shape") and hasattr(part, "workers")
            if not (isinstance(part, Tensor) or lazy or (part is None and name == "y")):
                raise ValueError(
                    f"{name}: expected a tensor, as torch.as_tensor({name}) is, found {type(part).__name__}"
                )
            if isinstance(part, Tensor):
                checks.real(name, part)
        checks.member("binarize", self.binarize, _BINARIZE)
        if self.y is not None and len(self.y) != len(self.x):
            raise ValueError(f"y: expected a label for each of {len(self.x)} rows, found {len(self.y)}")
        for name, part in numbered:
            if len(part) != len(self.x):
                raise ValueError(f"{name}: expected a value for each of {len(self.x)} rows, found {len(part)}")

    @property
    def columns(self) -> tuple[Tensor | Lazy, ...]:
        """The columns besides x."""
        return () if self.y is None else (self.y, *self.rest)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @cached_property
    def sha256(self) -> str:
        """A digest of the stored x and y; for data on disk, of ROWS rows, evenly spaced."""
        stored = {name: part for name, part in (("x", self.x), ("y", self.y)) if part is not None}
        some = torch.linspace(0, len(self) - 1, min(len(self), ROWS), dtype=torch.float64).long()
        read = {name: part if isinstance(part, Tensor) else part[some] for name, part in stored.items()}
        return files.digest({name: part.cpu() for name, part in read.items()}, f"{len(self)} rows")

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Tensor:
        index = torch.arange(len(self))[rows]
        if index.ndim != 1:
            raise ValueError(f"rows: expected a slice or a list of rows, found {rows!r}")
        return self.checked(self.x[index], index)

    def checked(self, x: Tensor, rows: Tensor) -> Tensor:
        """Like `convert`, but raise a ValueError if these values cannot be made binary."""
        check_grey("x", x, self.binarize)
        return self.convert(x, rows)

    def convert(self, x: Tensor, rows: Tensor) -> Tensor:
        """Stored values of these rows, as a model takes them. Recorded in a step: it cannot inspect values."""
        return _BINARIZE[self.binarize](_values(x), rows)

    def binarize_once(self) -> "Split":
        """The same data; a binarisation that never changes is applied once and for all."""
        if self.binarize in ("dynamic", "none", "dequantize") or not isinstance(self.x, Tensor):
            return self
        return Split((self[:] * 255).to(torch.uint8), self.y, rest=self.rest)


def _values(x: Tensor) -> Tensor:
    """Bytes are grey levels and are divided by 255; other numbers are not changed."""
    return x / 255 if x.dtype == torch.uint8 else x if x.is_floating_point() else x.to(torch.get_default_dtype())


def check_grey(name: str, x: Tensor, binarize: str) -> None:
    """Raise a ValueError unless x are bytes, or values in [0, 1]: only these are probabilities of a binary draw."""
    if binarize == "none" or x.dtype == torch.uint8 or not x.numel():
        return
    low, high = (float(each) for each in x.aminmax())
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"{name}: binarize={binarize!r} expects bytes or grey values in [0, 1], found values from {low:.6g} to "
            f"{high:.6g}; rescale them or choose binarize='none'"
        )


def _fixed(x: Tensor, rows: Tensor) -> Tensor:
    draws = [np.random.default_rng((2016, row)).random(x.shape[1:], np.float32) for row in rows.tolist()]
    return (torch.from_numpy(np.stack(draws)) < x).to(x.dtype) if draws else x


def _dequantize(x: Tensor, rows: Tensor) -> Tensor:
    """u lies on a grid that float32 represents exactly next to 255 levels, so that x' never rounds to 0 or 1."""
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
    """A dataset: train, valid (possibly None) and test (possibly None), of one event shape.

    Example:
        >>> import torch
        >>> from pyrovae.data.split import Split, Splits
        >>> splits = Splits("noise", train=Split(torch.randn(80, 3)), test=Split(torch.randn(20, 3)))
        >>> splits.event_shape
        (3,)
    """

    name: str
    train: Split
    valid: Split | None = None
    test: Split | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        for name, other in (("train", DataLoader), ("valid", NoneType), ("test", NoneType)):
            if not isinstance(part := getattr(self, name), Split | other):
                advice = f"; Split({name}) is one" if isinstance(part, Tensor) else ""
                raise ValueError(f"{name}: expected a Split, found {type(part).__name__}{advice}")
        if self.num_classes is not None:
            checks.integer("num_classes", self.num_classes)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.train.event_shape


class _Chosen:
    """Some of the rows of data that are read when they are needed."""

    def __init__(self, x: Lazy, rows: Tensor) -> None:
        self.x, self.rows = x, rows
        self.shape, self.workers = (len(rows), *x.shape[1:]), x.workers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.x[self.rows[rows]]


def choose(x: Tensor | Lazy, rows: Tensor) -> Tensor | Lazy:
    """Some of the rows, read now or when they are needed, as for x."""
    return x[rows] if isinstance(x, Tensor) else _Chosen(x, rows)


class Wanted(NamedTuple):
    """The columns that are read, and the names of the program's arguments for them.

    Args:
        first: the argument for x.
        names: the arguments for further columns.
        required: how many further columns the data must have.
        strict: whether more columns are an error; otherwise they are ignored.
    """

    first: str = "x"
    names: tuple[str, ...] = ()
    required: int = 0
    strict: bool = False

    def check(self, count: int) -> int:
        """How many of `count` columns are read; a ValueError if the program needs more, or cannot take as many."""
        takes = ", ".join((self.first, *self.names))
        if count < 1 + self.required:
            raise ValueError(f"expected a column of data for each argument of the model({takes}), found {count}")
        if self.strict and count > 1 + len(self.names):
            raise ValueError(f"expected columns that the model({takes}) takes, found {count}: pass only these columns")
        return min(count, 1 + len(self.names))

    def keys(self, columns: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the columns in the order of the program's arguments."""
        takes = (self.first, *self.names)
        keys = tuple(name for name in takes if name in columns)
        if unknown := sorted(columns.keys() - set(takes)):
            raise ValueError(
                f"expected columns {', '.join(takes)}, as the model's arguments, found also {unknown[0]!r}"
            )
        if missing := [name for name in takes[: len(keys)] if name not in keys]:
            raise ValueError(f"expected a column {missing[0]!r} before {keys[-1]!r}, as in the model, found none")
        return keys


ALONE, LABELS = Wanted(), Wanted("x", ("y",))


class _DatasetRows:
    """A torch Dataset, read row by row: x or another column of rows (x, y, ...), or of rows that are dicts, by name."""

    workers = 0

    def __init__(self, dataset: Dataset[Any], entry: int | str = 0) -> None:
        self.dataset, self.entry = dataset, entry
        self.shape = (len(self), *_entry(dataset[0], entry).shape) if len(self) else (0,)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.stack([_entry(self.dataset[row], self.entry) for row in rows.tolist()])


def _entry(item: Any, entry: int | str = 0) -> Tensor:
    found: Any = item[entry] if isinstance(item, tuple | list | Mapping) else item  # type: ignore[index]
    try:
        read = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"expected rows x, or (x, y), of numbers, found {type(found).__name__}") from None
    checks.real(entry if isinstance(entry, str) else "xy"[entry] if entry < 2 else f"column {entry + 1}", read)
    return read


def _entries(item: Any, wanted: Wanted) -> tuple[int | str, ...]:
    """The positions, or the names, of the columns to read from a row or a batch."""
    if isinstance(item, Mapping):
        keys = wanted.keys(item)
        return keys[: wanted.check(len(keys))]
    return tuple(range(wanted.check(len(item) if isinstance(item, tuple | list) else 1)))


ARRAYS = Tensor | np.ndarray

# Anything that can be trained on or evaluated. A DataLoader is read in its own order, other data in ours.
Data = Split | Tensor | Dataset[Any] | DataLoader[Any] | Mapping[str, Tensor] | tuple[Tensor, ...]


def as_split(data: Data, wanted: Wanted = LABELS) -> Split | DataLoader[Any]:
    """Any data as a Split; a DataLoader is returned unchanged; empty data are refused.

    The wanted columns are read in their order: by position from a tuple of arrays or of rows, by name from a dict of
    arrays or from rows that are dicts.
    """
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, Mapping) or (isinstance(data, tuple) and all(isinstance(each, ARRAYS) for each in data)):
        read = [_entry(data, entry) for entry in _entries(data, wanted)]
        if read and len(read[0]) == 0:
            raise ValueError("expected data, found none: there are 0 rows")
        return _split(read)
    rows = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str)
    if not isinstance(data, Split) and not rows:
        found = f"{data!r}; read it by data.load({data!r})" if isinstance(data, str) else type(data).__name__
        raise ValueError(f"expected data.load(...), a tensor, a Dataset or a DataLoader, found {found}")
    if len(data) == 0:  # type: ignore[arg-type]
        raise ValueError("expected data, found none: there are 0 rows")
    if isinstance(data, Split):
        wanted._replace(strict=wanted.strict and bool(data.rest)).check(1 + len(data.columns))
        return data
    if isinstance(data, Tensor):
        wanted.check(1)
        return Split(data)
    return _split([_DatasetRows(data, entry) for entry in _entries(data[0], wanted)])  # type: ignore[arg-type]


def _split(columns: Sequence[Tensor | Lazy]) -> Split:
    return Split(columns[0], columns[1] if len(columns) > 1 else None, rest=tuple(columns[2:]))


def choosable(data: Data) -> Split:
    """The data as a Split whose rows can be chosen. A DataLoader has its own order, so it is refused."""
    found = as_split(data)
    if isinstance(found, DataLoader):
        raise ValueError("expected data.load(...), a tensor or a Dataset, whose rows can be chosen, found a DataLoader")
    return found


Batch = tuple[Tensor, ...]  # (x,), (x, y), or with more columns


def batches(
    data: Split | DataLoader[Any], order: Callable[[int], Tensor], size: int, wanted: Wanted = ALONE
) -> Iterator[Batch]:
    """The wanted columns in batches of `size` (the last may be smaller), in the order that order(N) gives."""
    if isinstance(data, DataLoader):
        for item in data:
            first, *others = (_entry(item, entry) for entry in _entries(item, wanted))
            yield _values(first), *others
        return
    columns = data.columns[: len(wanted.names)]
    rows = order(len(data)).split(size)
    # The noise of a dynamic binarisation is drawn here and not by the workers, which have their own random numbers.
    for x, index in zip(_stored(data.x, rows), rows, strict=True):
        yield data.checked(x, index), *(column[index] for column in columns)


def _stored(x: Tensor | Lazy, rows: Sequence[Tensor]) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        return map(x.__getitem__, rows)
    return iter(DataLoader(x, None, sampler=rows, num_workers=x.workers, generator=torch.Generator()))  # type: ignore


def blocks(data: Data, size: int, wanted: Wanted = ALONE) -> Iterator[Batch]:
    """The wanted columns in their own order, in blocks of `size`, whatever the batch size of the data."""
    held: list[Batch] = []
    for batch in batches(as_split(data, wanted), torch.arange, size, wanted):
        held.append(batch)
        while sum(len(x) for x, *_ in held) >= size:
            joined = [torch.cat(column) for column in zip(*held, strict=True)]
            yield tuple(column[:size] for column in joined)
            held = [tuple(column[size:] for column in joined)]
    if not held:
        raise ValueError("expected data, found none: there are 0 rows")
    if sum(len(x) for x, *_ in held):
        yield tuple(torch.cat(column) for column in zip(*held, strict=True))


def known(y: Tensor) -> Tensor:
    """Whether each row has its label: a class other than -1, or numbers without NaN. (N,)"""
    there = ~y.isnan() if y.is_floating_point() else y.long() != -1
    return there.flatten(1).all(1) if y.ndim > 1 else there


def by_label(x: Tensor, y: Tensor | None = None) -> Iterator[tuple[Tensor, Batch]]:
    """Row numbers and (x, y) of the labelled rows, then row numbers and (x,) of the others, if there are any."""
    labelled = x.new_zeros(len(x), dtype=torch.bool) if y is None else known(y)
    for rows in (labelled.nonzero()[:, 0], (~labelled).nonzero()[:, 0]):
        if len(rows):
            yield rows, (x[rows], y[rows]) if y is not None and labelled[rows[0]] else (x[rows],)


def at_random(n: int, count: int) -> Tensor:
    """`count` of n row numbers at random, ascending; all of them if there are no more.

    The first rows of a dataset are not a random sample: folders are sorted by class. The choice depends only on n and
    on the library's own seed, so equal counts give the same rows, and a smaller count gives a subset of a larger one.
    """
    order = np.random.default_rng((n, 7)).permutation(n)
    return torch.from_numpy(order[: checks.integer("rows", count)]).sort().values


def subset(data: Split, rows: int, seed: int = 0) -> Split:
    """Rows chosen by `at_random`, with all columns, as a model takes them; the seed is for a random binarisation."""
    few = at_random(len(data), rows)
    with seeded(seed, 12):
        y, rest = None if data.y is None else data.y[few], tuple(column[few] for column in data.rest)
        return Split(data[few], y, rest=rest)


def _whole(part: float) -> float:
    return int(part) if float(part).is_integer() else part


def how_many(name: str, part: float, n: int) -> int:
    """The number of rows: a share of n if it is below 1, a count otherwise."""
    part = checks.number(name, part, 0)
    return round(part * n) if part < 1 else checks.integer(name, _whole(part))


def split_rows(n: int, parts: dict[str, float]) -> dict[str, Tensor]:
    """Disjoint random rows for each named part (a share of n below 1, or a count from 1 up), and the rest as "train".

    The seed belongs to the library, not to the run: every run on a dataset trains and tests on the same rows.
    """
    order = torch.from_numpy(np.random.default_rng(0).permutation(n))
    taken = {}
    for name, part in parts.items():
        count = how_many(name, part, n)
        taken[name], order = order[:count].sort().values, order[count:]
    if len(order) == 0:
        raise ValueError(f"expected rows left to train on, found {n} rows for {parts}")
    return {**taken, "train": order.sort().values}


def with_labels(splits: Splits, keep: float, seed: int = 0) -> Splits:
    """The same data with labels of some training rows only: equally many of each class; the other labels become -1.

    Args:
        splits: data whose labels are classes.
        keep: a share of the training rows below 1, or a count from 1 up.
        seed: seed of the choice of rows.

    Raises:
        ValueError: the data have no classes; the count is below one label for each class, or above the number of
            labels.
    """
    y = splits.train.y
    if splits.num_classes is None or not isinstance(y, Tensor):
        raise ValueError(f"num_labels: expected data with classes, found none in {splits.name}")
    y = y.long()
    count = how_many("num_labels", keep, len(y))
    if not splits.num_classes <= count <= int(known(y).sum()):
        raise ValueError(
            f"num_labels: expected from {splits.num_classes} (one of each class) to {int(known(y).sum())}, "
            f"found {count}"
        )
    # Rows in random order, dealt out by turns over the classes: the n-th row of each class comes before every (n+1)-th.
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    order = order[known(y)[order]]
    turns = torch.stack([(y[order] == label).long().cumsum(0) for label in range(splits.num_classes)])
    kept = order[turns.gather(0, y[order][None])[0].argsort(stable=True)[:count]]
    fewer = torch.full_like(y, -1)
    fewer[kept] = y[kept]
    return replace(splits, train=replace(splits.train, y=fewer))
