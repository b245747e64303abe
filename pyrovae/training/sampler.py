"""The order in which a training reads its rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data.split import known


class Sampler:
    """The rows of an epoch. Where labels are missing, each batch begins with rows that have theirs, as many in each.

    An epoch meets every row: each of the kind that lasts longer once, those of the other over and over. Whatever the
    ratio in the data, batches are of one kind, and a graph of the step is recorded once.

    Args:
        data: a Split, or anything else of which the rows are not known.
        labels: whether labels are used at all.
        size: of a batch.
        labelled_batch_size: rows of a batch that have their label; None is half of it, or as many as there are.

    Attributes:
        labelled_batch_size: the same, as found; None where every row has its label, 0 where none has.
        share: of the rows with a label in the data.

    Raises:
        ValueError: every label is missing; more labelled rows than there are, or than leave room for others; batches
            of one row, which have no room for both.
    """

    def __init__(self, data: Any, labels: bool, size: int, labelled_batch_size: int | None = None) -> None:
        y = getattr(data, "y", None)
        if labelled_batch_size is not None:
            checks.integer("labelled_batch_size", labelled_batch_size, 0)
        self.size, self.labelled_batch_size, self.share = size, labelled_batch_size, 0.0
        if y is None or not labels:
            has = isinstance(data, torch.utils.data.DataLoader) and labels
            there = torch.zeros(len(data) if hasattr(data, "x") else 0, dtype=torch.bool)
            self.labelled_batch_size = None if has else 0
        else:
            there = known(y[torch.arange(len(data))])
            self.share = there.double().mean().item()
            if self.share == 0:
                raise ValueError(f"y: expected some labels, found all {len(data)} missing")
            self.labelled_batch_size = None if self.share == 1 else self._checked(labelled_batch_size, int(there.sum()))
        self.with_label, self.others = there.nonzero()[:, 0], (~there).nonzero()[:, 0]
        if self.labelled_batch_size is None:
            self.others = torch.arange(len(there))

    def _checked(self, labelled_batch_size: int | None, there: int) -> int:
        if labelled_batch_size is None:
            if self.size == 1:
                raise ValueError("batch_size: expected at least 2 where some labels are missing, found 1")
            return min(there, self.size // 2)
        if labelled_batch_size > min(there, self.size - 1):
            raise ValueError(
                f"labelled_batch_size: expected at most {min(there, self.size - 1)} of the {self.size} rows of a batch "
                f"({there} labels are known), found {labelled_batch_size}"
            )
        return labelled_batch_size

    def __len__(self) -> int:
        """Batches in an epoch."""
        rounds = -(-len(self.others) // (self.size - (self.labelled_batch_size or 0)))
        return max(rounds, -(-len(self.with_label) // self.labelled_batch_size)) if self.labelled_batch_size else rounds

    def __call__(self, shuffle: Callable[[int], Tensor] = torch.arange) -> Tensor:
        """The rows, one batch after the other; shuffle(n) is an order of n things."""
        if not self.labelled_batch_size:
            return self.others[shuffle(len(self.others))]
        n, room = len(self), self.size - self.labelled_batch_size
        fill = len(self.others) if len(self.others) > (n - 1) * room else n * room  # only the last batch may be short
        others = _over_and_over(self.others, fill, shuffle).split(room)
        with_label = _over_and_over(self.with_label, n * self.labelled_batch_size, shuffle).split(
            self.labelled_batch_size
        )
        return torch.cat([torch.cat(batch) for batch in zip(with_label, others, strict=True)])


def _over_and_over(rows: Tensor, count: int, shuffle: Callable[[int], Tensor]) -> Tensor:
    """So many of the rows: all of them in one order, then in the next."""
    rounds = -(-count // len(rows))
    return torch.cat([rows[shuffle(len(rows))] for _ in range(rounds)])[:count]
