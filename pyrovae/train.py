"""Training: one loop, for any programs, data and objective."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from pyrovae import checks
from pyrovae.data import Splits
from pyrovae.data.split import Data, as_split, batches, blocks
from pyrovae.handlers import own_parameters
from pyrovae.modes import mode
from pyrovae.objectives import ELBO
from pyrovae.programs import Programs, answering, check, modules, pair, placement
from pyrovae.randomness import Stream, seeded
from pyrovae.svi import SVI

Record = dict[str, Any]
State = tuple[dict[str, Tensor], dict[str, Any]]


class TrainingError(RuntimeError):
    """Training met a loss or a gradient that is not finite; the programs hold the last good state."""


def constant(share: float) -> float:
    """Learning rate: factor 1 throughout."""
    return 1.0


def cosine(share: float) -> float:
    """Learning rate: factor (1 + cos(pi t)) / 2 at the share t of training.  (Loshchilov & Hutter 2017)"""
    return (1 + math.cos(math.pi * share)) / 2


def fit(programs: Programs, data: Splits | Data, **options: Any) -> list[Record]:
    """Train a model's two programs by SVI; returns one record an epoch, losses in nats per datum.

    With `patience` the programs end with the parameters of the best epoch, else with those of the last.

    Args:
        programs: an object with a model and a guide (`VAE`), or your own pair (model, guide) with a plate "data".
        data: `data.load(...)`, a tensor (N, *event_shape), a torch Dataset or a DataLoader.
        options: those of `Training`.
    """
    return list(Training(programs, data, **options))


class Training:
    """One training, as an iterator over its epochs: whoever iterates may save its state between two of them.

    Args:
        programs, data: as in `fit`.
        epochs: passes over the training data.
        batch_size: rows a step; None is 128, or all rows where there are fewer. The last batch may be smaller.
        objective: None is `ELBO()`.
        optimizer: builds a torch optimiser from (parameters, lr=...).
        learning_rate: its lr.
        lr_schedule: factor on it, a function of the share of training done (`constant`, `cosine`).
        clip: largest norm of a gradient, None for any.
        patience: stop after so many epochs without a better validation loss, counted from the end of the warm-up.
        seed: of the order of the rows and of all noise.

    Raises:
        ValueError: before the first step, where an argument or the data cannot be meant.
        TrainingError: a loss or gradient that is not finite.
    """

    def __init__(
        self,
        programs: Programs,
        data: Splits | Data,
        *,
        epochs: int = 100,
        batch_size: int | None = None,
        objective: ELBO | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        learning_rate: float = 1e-3,
        lr_schedule: Callable[[float], float] = constant,
        clip: float | None = None,
        patience: int | None = None,
        seed: int = 0,
    ) -> None:
        splits = data if isinstance(data, Splits) else Splits("data", as_split(data))  # type: ignore[arg-type]
        self.programs: Any = programs
        self.train, self.valid = as_split(splits.train), splits.valid
        self.epochs = checks.integer("epochs", epochs)
        self.batch_size = _batch_size(batch_size, self.train)
        self.patience = None if patience is None else checks.integer("patience", patience)
        if patience is not None and self.valid is None:
            raise ValueError("patience: expected validation data to watch, found none")
        self.learning_rate, self.lr_schedule = checks.positive("learning_rate", learning_rate), lr_schedule
        self.seed = checks.integer("seed", seed, 0)
        self.objective = objective or ELBO()
        self.objective.step = 0
        if clip is not None:
            checks.positive("clip", clip)
        _check_data(programs, [self.train, *([self.valid] if self.valid else [])])
        self.svi = SVI(*pair(programs), lambda p: optimizer(p, lr=learning_rate), self.objective, clip)
        with mode(modules(programs), training=False):  # a first look must not move a running mean
            with seeded(self.seed):
                first = next(blocks(self.train, 2))
            self.svi.prepare(self._place(first))
        self.noise, self.order = Stream(self.seed, 1), torch.Generator().manual_seed(self.seed)
        self.epoch = self.step = self.best_epoch = self.stale = 0
        self.best_loss, self.rate = math.inf, self.learning_rate

    def __iter__(self) -> Iterator[Record]:
        best: dict[str, Tensor] | None = None
        total = None if self.steps_per_epoch is None else self.epochs * self.steps_per_epoch
        with tqdm(total=total, initial=self.step, unit="step", disable=None, dynamic_ncols=True) as bar:
            while not self.finished:
                record = self._epoch(bar)
                bar.set_postfix_str(_summary(record))
                if self.patience is not None and self.best_epoch == self.epoch:
                    best = {name: value.detach().clone() for name, value in self.weights().items()}
                yield record
        if best is not None:
            _copy(best, self.weights())

    @property
    def finished(self) -> bool:
        """All epochs done, or no better validation loss for `patience` of them."""
        return self.epoch >= self.epochs or (self.patience is not None and self.stale >= self.patience)

    @property
    def steps_per_epoch(self) -> int | None:
        """None for a stream that does not know its length."""
        try:
            return len(self.train) if isinstance(self.train, DataLoader) else -(-len(self.train) // self.batch_size)
        except TypeError:
            return None

    def _epoch(self, bar: Any) -> Record:
        start, good, total, rows, number = time.perf_counter(), self.state(), 0.0, 0, 0
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Encountered")  # Pyro's, of what is reported whole below
                with self.noise(), mode(modules(self.programs), training=True):
                    for x in self._batches():
                        total += self._step(x, number) * len(x)
                        number, rows = number + 1, rows + len(x)
                        bar.update()
                valid_loss = self._validate()
        except (FloatingPointError, ValueError) as fault:
            raise TrainingError(self._explain(fault, good, number)) from fault
        self.epoch += 1
        record = {"epoch": self.epoch, "step": self.step, "loss": total / rows}
        record |= {} if valid_loss is None else {"valid_loss": valid_loss}
        self._note_best(valid_loss)
        settings = {"beta": self.objective.beta, "learning_rate": self.rate}
        return record | settings | {"seconds": time.perf_counter() - start}

    def _batches(self) -> Iterator[Tensor]:
        shuffled = batches(self.train, lambda n: torch.randperm(n, generator=self.order), self.batch_size)
        return map(self._place, shuffled)

    def _place(self, x: Tensor) -> Tensor:
        return x.to(*placement(self.programs))

    def _step(self, x: Tensor, number: int) -> float:
        share = (self.epoch + number / (self.steps_per_epoch or math.inf)) / self.epochs
        self.rate = self.learning_rate * self.lr_schedule(share)
        for group in self.svi.optimizer.param_groups:
            group["lr"] = self.rate
        loss = self.svi.step(x)
        if self.svi.skipped:
            raise FloatingPointError(f"the loss is {loss}" if not math.isfinite(loss) else "a gradient is not finite")
        self.step += 1
        return loss

    def _validate(self) -> float | None:
        """The loss on the validation data, at the beta that the schedule leads to and with the same noise always."""
        if not all(bool(torch.isfinite(value).all()) for value in self.svi.parameters.values()):
            raise FloatingPointError("a parameter is not finite")
        if self.valid is None:
            return None
        total = rows = 0.0
        with seeded(self.seed, 2), answering(self.programs):
            for x in map(self._place, blocks(self.valid, self.batch_size)):
                total += self.objective.final_loss(*pair(self.programs), x) * len(x)
                rows += len(x)
        if not math.isfinite(total):
            raise FloatingPointError(f"the validation loss is {total / rows}")
        return total / rows

    def _note_best(self, valid_loss: float | None) -> None:
        if valid_loss is None or valid_loss < self.best_loss:
            self.best_loss = math.inf if valid_loss is None else valid_loss
            self.best_epoch, self.stale = self.epoch, 0
        elif self.step > self.objective.schedule.settled:
            self.stale += 1

    def weights(self) -> dict[str, Tensor]:
        """The programs' own tensors: their modules' parameters and buffers, then their `pyro.param` sites."""
        owners = modules(self.programs)
        named = {
            f"{number}.{name}" if number else name: value
            for number, owner in enumerate(owners)
            for name, value in owner.state_dict().items()
        }
        owned = {id(parameter) for owner in owners for parameter in owner.parameters()}
        return named | {name: value for name, value in self.svi.parameters.items() if id(value) not in owned}

    def state(self) -> State:
        """A copy of all that changes in training, as tensors and as what JSON can say; `restore` takes it back."""
        optimizer = self.svi.optimizer.state_dict()
        tensors = {f"weights.{name}": value for name, value in self.weights().items()}
        for index, values in optimizer["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items() if value is not None}
        tensors |= {f"noise.{device}": value for device, value in enumerate(self.noise.state)}
        tensors["order"] = self.order.get_state()
        about = {name: getattr(self, name) for name in _COUNTERS}
        about |= {"objective_step": self.objective.step, "param_groups": optimizer["param_groups"]}
        return {name: value.detach().clone() for name, value in tensors.items()}, copy.deepcopy(about)

    def restore(self, state: State) -> None:
        """Go on from a `state`, to the same bits as if there had been no interruption."""
        tensors, about = state
        _copy({name: tensors[f"weights.{name}"] for name in self.weights()}, self.weights())
        kept: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                kept.setdefault(int(index), {})[name] = value
        self.svi.optimizer.load_state_dict({"state": kept, "param_groups": copy.deepcopy(about["param_groups"])})
        self.noise.state = [value.clone() for name, value in sorted(tensors.items()) if name.startswith("noise.")]
        self.order.set_state(tensors["order"])
        for name in _COUNTERS:
            setattr(self, name, about[name])
        self.objective.step, self.svi.skipped = about["objective_step"], 0

    def _explain(self, fault: Exception, good: State, number: int) -> str:
        """Replay the epoch from its start to the step that failed, and look at each site there."""
        epoch, step, rate = self.epoch + 1, self.step + 1, self.rate
        what = str(fault).splitlines()[0].rstrip(":")
        self.restore(good)
        with self.noise(), mode(modules(self.programs), training=True):
            remaining = self._batches()
            x = next(remaining)
            for done in range(number):
                self._step(x, done)
                x = next(remaining, x)  # where it was the validation that failed, the last batch again
            where = first_fault(self.programs, x)
        self.restore(good)
        return (
            f"step {step} (epoch {epoch}): {what}; {where}. Usual causes: a learning rate that is too high "
            f"(here {rate:g}; try a tenth of it, or clip=1), a learned scale that vanishes on constant data, "
            f"data outside the likelihood's support. The state at the end of epoch {epoch - 1} is kept"
        )


_COUNTERS = ("epoch", "step", "best_epoch", "stale", "best_loss", "rate")


def first_fault(programs: Programs, x: Tensor) -> str:
    """The first parameter, site's value or site's log-probability that is not finite, in words."""
    model, guide = pair(programs)
    for module in modules(programs):
        for name, parameter in module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                return f"parameter {name!r} is not finite"
    # Validation would stop at the distribution, which does not know its site's name.
    with pyro.validation_enabled(False), torch.no_grad(), own_parameters():
        q = poutine.trace(guide).get_trace(x)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
        for trace, program in ((q, "guide"), (p, "model")):
            trace.compute_log_prob()
            for name, site in trace.nodes.items():
                for part in ("value", "log_prob"):
                    found: Any = site.get(part)
                    if site["type"] == "sample" and not bool(torch.isfinite(found).all()):
                        return f"first at site {name!r} of the {program}, whose {part} is not finite"
    return "every site is finite on that batch: a gradient, or another batch, is not"


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(source[name])


def _batch_size(batch_size: int | None, data: Any) -> int:
    if isinstance(data, DataLoader):
        return 128
    if len(data) < 2:
        raise ValueError("expected at least 2 rows to train on, found 1")
    if batch_size is None:
        return min(128, len(data))
    if checks.integer("batch_size", batch_size) > len(data):
        raise ValueError(f"batch_size: expected at most the {len(data)} training rows, found {batch_size}")
    return batch_size


def _check_data(programs: Programs, parts: list[Any]) -> None:
    """Check all rows in memory, and the first rows of what is read later."""
    with seeded(0), answering(programs):
        for part in parts:
            resident = isinstance(getattr(part, "x", None), Tensor)
            for x in blocks(part, 1024 if resident else 2):
                check(programs, x.to(*placement(programs)))
                if not resident:
                    break


def _summary(record: Record) -> str:
    """What the progress bar says of an epoch."""
    valid = f", valid {record['valid_loss']:.2f}" if "valid_loss" in record else ""
    return f"epoch {record['epoch']}, loss {record['loss']:.2f}{valid} nats"
