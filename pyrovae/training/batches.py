"""The batches of a training: which rows they contain, and how they get to the programs' device."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyrovae import checks
from pyrovae.data.split import ROWS, Batch, Split, batches, blocks, known
from pyrovae.programs.arguments import column, encoded
from pyrovae.programs.columns import by_kind, of_labels, wanted
from pyrovae.programs.pair import Programs, placement
from pyrovae.programs.traits import traits
from pyrovae.training.faults import TrainingError, check_data
from pyrovae.training.sampler import Sampler

# Data that are not in memory are read this many numbers at a time, but at most ROWS rows.
FLOATS = 2**20


class Batches:
    """The batches of an epoch, in the order of `shuffle(n)`; `read` turns each into the objective's arguments.

    Rows in memory are moved to the programs' device once. A batch is then a tensor of row numbers, and the step selects
    the rows. For other data, a batch contains their values.

    Args:
        programs: model and guide.
        data: a Split or a DataLoader that passes the programs' own checks.
        size, labelled_batch_size: `batch_size` and `labelled_batch_size` of `Training`.

    Attributes:
        size: rows of a batch; the last may have fewer.
        order: the order of the rows.
        labels: whether the data have labels.

    Raises:
        ValueError: before the first batch, if the data or the sizes are invalid.
        TrainingError: the data cannot be read.
    """

    def __init__(
        self,
        programs: Programs,
        data: Split | DataLoader[Any],
        size: int | None = None,
        labelled_batch_size: int | None = None,
    ) -> None:
        self.programs, self.wanted, self.labels = programs, wanted(programs), of_labels(programs)
        self.size = _size(size, data)
        if isinstance(data, Split):
            data = data.binarize_once()
            if self.wanted.names and data.y is not None:  # lazy columns are read only once
                every = torch.arange(len(data))
                data = replace(data, y=data.y[every], rest=tuple(column[every] for column in data.rest))
        self.data = data
        check_data(programs, data)
        if (rows := traits(programs).training_rows) and rows != (_rows(data) or rows):
            raise ValueError(f"training_rows: expected the number of training data, {_rows(data)}, found {rows}")
        self.order = Sampler(data, self.labels, self.size, labelled_batch_size)
        self.x = self._resident()
        columns = data.columns[: len(self.wanted.names)] if isinstance(data, Split) and self.x is not None else ()
        self.columns = self._beside(*columns)

    @property
    def rows(self) -> int | None:
        """The number of rows; None for a stream of unknown length."""
        return _rows(self.data)

    @property
    def number(self) -> int | None:
        """Batches in an epoch; None for a stream of unknown length."""
        try:
            return len(self.data if isinstance(self.data, DataLoader) else self.order)
        except TypeError:
            return None

    def __call__(self, shuffle: Callable[[int], Tensor] = torch.arange) -> Iterator[Batch]:
        if self.x is not None:
            return ((rows,) for rows in self.order(shuffle).to(self.x.device).split(self.size))
        return self._from_data(shuffle)

    def _from_data(self, shuffle: Callable[[int], Tensor]) -> Iterator[Batch]:
        try:
            for batch in batches(self.data, lambda n: self.order(shuffle), self.size, self.wanted):
                yield self._placed(*batch)
        except Exception as error:  # a worker's error has its own message after its traceback
            raise TrainingError(f"the data cannot be read: {checks.reason(error, last=True)}") from error

    def parts(self, data: Split) -> Iterator[Batch]:
        """Other data in their own order, in blocks; labelled rows are separate from unlabelled ones."""
        size = max(self.size, min(ROWS, FLOATS // math.prod(data.event_shape)))
        for block in blocks(data, size, self.wanted):
            for _, part in by_kind(self.programs, *block):
                yield self._placed(*part)

    def _placed(self, x: Tensor, *columns: Tensor) -> Batch:
        """Data, and labels in the form of the programs' site, on the programs' device."""
        return x.to(*placement(self.programs)), *self._beside(*columns)

    def _beside(self, *columns: Any) -> Batch:
        if self.labels:
            return tuple(map(self._encoded, columns))
        return tuple(column(value, number, *placement(self.programs)) for number, value in enumerate(columns, 2))

    def _encoded(self, y: Tensor) -> Tensor:
        """Encoded labels, with 0 for missing ones."""
        there = known(y)
        if isinstance(self.data, DataLoader) and not bool(there.all()):
            raise ValueError("y: expected a Split or a Dataset if labels are missing, found a DataLoader")
        values = encoded(self.programs, y[there].to(placement(self.programs)[0]))
        full = values.new_zeros(len(y), *values.shape[1:])
        full[there.to(full.device)] = values
        return full

    def _resident(self) -> Tensor | None:
        """Rows in memory, on the programs' device: bytes as bytes, other types as the programs' dtype."""
        x, (device, dtype) = getattr(self.data, "x", None), placement(self.programs)
        if not isinstance(x, Tensor):
            return None
        return x.to(device) if x.dtype == torch.uint8 else x.to(device, dtype)

    def read(self, x: Tensor, *columns: Tensor) -> Batch:
        """The objective's arguments for a batch: x and its columns; or x and y of labelled rows, then x of the others.

        This is a part of the step.
        """
        if self.x is not None:
            assert isinstance(self.data, Split)
            rows = x
            (x,) = self._placed(self.data.convert(self.x.index_select(0, rows), rows))
            columns = tuple(each.index_select(0, rows) for each in self.columns)
        if not self.labels or not columns:
            return x, *columns
        labelled = self.order.labelled_batch_size
        if labelled == 0:
            return (x,)
        (y,) = columns
        return (x, y) if labelled is None else (x[:labelled], y[:labelled], x[labelled:])


def _rows(data: Any) -> int | None:
    """The number of rows; None for a stream of unknown length."""
    try:
        return len(data.dataset if isinstance(data, DataLoader) else data)  # type: ignore[arg-type]
    except TypeError:
        return None


def _size(size: int | None, data: Any) -> int:
    if size is not None:
        checks.integer("batch_size", size)
    if isinstance(data, DataLoader):
        return size or 128
    if len(data) < 2:
        raise ValueError("data: expected at least 2 rows to train on, found 1")
    if size is None:
        return min(128, len(data))
    if size > len(data):
        raise ValueError(f"batch_size: expected at most the {len(data)} training rows, found {size}")
    return size
