"""The order in which a training reads its rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data.split import known


class Sampler:
    """The rows of an epoch. If labels are missing, each batch begins with a fixed number of labelled rows.

    An epoch reads every row. Of the two kinds, the one that needs more batches is read once, the other repeatedly. So
    all batches have the same composition, whatever the ratio in the data, and the graph of a step is recorded once.

    Args:
        data: a Split, or other data whose rows are not known.
        labels: whether labels are used at all.
        size: rows of a batch.
        labelled_batch_size: labelled rows of a batch; None is half the batch, or as many as there are.

    Attributes:
        labelled_batch_size: the resulting number; None if every row has its label, 0 if none has.
        share: the share of labelled rows in the data.

    Raises:
        ValueError: every label is missing; there are not as many labelled rows, or no room for others; the batch size
            is 1, with no room for both kinds.
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
                raise ValueError("batch_size: expected at least 2 if some labels are missing, found 1")
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
        """The rows, one batch after the other; shuffle(n) returns an order of n items."""
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
    """`count` rows: all of them in one order, then all in the next order, and so on."""
    rounds = -(-count // len(rows))
    return torch.cat([rows[shuffle(len(rows))] for _ in range(rounds)])[:count]
