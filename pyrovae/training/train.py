"""Training: one loop, for any programs, data and objective."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae import checks
from pyrovae.data import Splits
from pyrovae.data.split import Batch, Data, Split, as_split
from pyrovae.modes import channels_last, mode
from pyrovae.objectives import ELBO, Objective
from pyrovae.objectives.semi_supervised import PartlyLabelled
from pyrovae.programs.assumptions import check_training
from pyrovae.programs.columns import wanted
from pyrovae.programs.pair import Programs, modules, no_side_effects, pair, placement
from pyrovae.programs.traits import traits
from pyrovae.randomness import Stream, seeded
from pyrovae.training import rates, state
from pyrovae.training.batches import Batches
from pyrovae.training.explain import explained, failure
from pyrovae.training.faults import TrainingError, advice, check_data, first_fault
from pyrovae.training.matmul import chosen, matmul_precision
from pyrovae.training.rates import constant
from pyrovae.training.state import State
from pyrovae.training.svi import SVI

Record = dict[str, Any]

# The number of rows for `initialise`: enough for some dozens of clusters.
INITIAL = 10_000


def fit(
    programs: Programs,
    data: Splits | Data,
    *,
    epochs: int = 100,
    batch_size: int | None = None,
    objective: Objective | None = None,
    labelled_batch_size: int | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    learning_rate: float = 1e-3,
    lr_schedule: Callable[[float], float] = constant,
    clip: float | None = None,
    patience: int | None = None,
    initialise: int = 0,
    seed: int = 0,
    compile: bool | Literal["auto"] = "auto",
    matmul: str = "highest",
    autocast: bool = False,
) -> list[Record]:
    """Train a model's two programs by SVI. Returns one record for each epoch, with losses in nats per datum.

    With `patience` the programs end with the parameters of the best epoch, otherwise with those of the last.

    Args:
        programs: an object with a model and a guide (`VAE`), or your own pair (model, guide) with a plate "data".
        data: `data.load(...)`, a tensor (N, *event_shape), a torch Dataset or a DataLoader.

    The other arguments are the options of `Training`, which documents them.

    Example:
        >>> import torch
        >>> import pyrovae
        >>> records = pyrovae.fit(pyrovae.VAE(event_shape=6, latent_dim=2), torch.ones(32, 6), epochs=2, compile=False)
        >>> [record["epoch"] for record in records], records[1]["loss"] < records[0]["loss"]
        ([1, 2], True)
    """
    return list(Training(**locals()))  # locals() are the arguments above, and nothing else at this point


class Training:
    """A training, as an iterator over its epochs. You can save its state between two epochs.

    Args:
        programs, data: as in `fit`.
        epochs: passes over the training data.
        batch_size: rows of a step; None is 128, or all rows if there are fewer. The last batch may be smaller.
        objective: None is the model's default objective, or `ELBO()` if it has none.
        labelled_batch_size: if some labels are missing, the number of labelled rows in each batch; they are read
            repeatedly, and the loss weights both kinds by their numbers in the data. None is half the batch, or as many
            as there are.
        optimizer: builds a torch optimiser from (parameters, lr=...).
        learning_rate: the optimiser's lr.
        lr_schedule: factor on the learning rate, a function of the completed share (`constant`, `cosine`, `stages`).
        clip: largest norm of a gradient; None for no limit.
        patience: stop after this many epochs without a better validation loss, counted from the end of the warm-up.
        initialise: the epoch after which the model's own `initialise` is called with training rows (`MixtureVAE` finds
            its clusters); the optimiser and the search for the best epoch then start again. 0 is never.
        seed: seed of the order of the rows and of all noise.
        compile: whether to compile the step, as in `SVI`: "auto" compiles it if that pays off over all steps.
        matmul: precision of float32 matrix products, in torch's terms: "highest"; "high" and "medium" may be faster;
            "auto" measures speed and error of "medium" on this machine, and uses it if it is as exact and faster.
        autocast: run the programs in bfloat16 where torch.autocast considers it safe; parameters stay in float32.

    Raises:
        ValueError: before the first step, if an argument or the data are invalid.
        TrainingError: a loss or gradient is not finite, or the data cannot be read.

    Example:
        >>> import torch
        >>> import pyrovae
        >>> vae = pyrovae.VAE(event_shape=6, latent_dim=2)
        >>> training = pyrovae.Training(vae, torch.ones(32, 6), epochs=3, batch_size=8, compile=False)
        >>> [record["epoch"] for record in training], training.step
        ([1, 2, 3], 12)
    """

    def __init__(
        self,
        programs: Programs,
        data: Splits | Data,
        *,
        epochs: int = 100,
        batch_size: int | None = None,
        objective: Objective | None = None,
        labelled_batch_size: int | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        learning_rate: float = 1e-3,
        lr_schedule: Callable[[float], float] = constant,
        clip: float | None = None,
        patience: int | None = None,
        initialise: int = 0,
        seed: int = 0,
        compile: bool | Literal["auto"] = "auto",
        matmul: str = "highest",
        autocast: bool = False,
    ) -> None:
        splits = data if isinstance(data, Splits) else Splits("data", as_split(data, wanted(programs)))  # type: ignore[arg-type]
        self.programs: Any = programs
        self.valid, self.num_classes = splits.valid, splits.num_classes
        self.epochs = checks.integer("epochs", epochs)
        self.patience = None if patience is None else checks.integer("patience", patience)
        if patience is not None and self.valid is None:
            raise ValueError("patience: expected validation data to watch, found none")
        self.learning_rate, self.lr_schedule = (
            checks.positive("learning_rate", learning_rate),
            rates.checked(lr_schedule),
        )
        self.seed = checks.integer("seed", seed, 0)
        if self.seed >= 2**63:
            raise ValueError(f"seed: expected an integer < 2**63, found {seed}")
        self.objective = _objective(programs, objective)
        self.batches = Batches(programs, as_split(splits.train, wanted(programs)), batch_size, labelled_batch_size)
        self.initialise = _initialise_after(programs, initialise, self.epochs, self.batches)
        if self.valid is not None:
            check_data(programs, self.valid)
        if self.batches.order.labelled_batch_size:
            self.objective = PartlyLabelled(self.objective, self.batches.order.share)
        self.objective.step = 0
        if not callable(optimizer):
            found = repr(optimizer) if isinstance(optimizer, str) else f"an object of class {type(optimizer).__name__}"
            raise ValueError(f"optimizer: expected a class such as torch.optim.Adam, found {found}")
        built = partial(optimizer, lr=learning_rate)
        dtype, steps = torch.bfloat16 if checks.boolean("autocast", autocast) else None, self.steps or 0
        self.svi = SVI(*pair(programs), built, self.objective, clip, compile, steps, self.batches.read, dtype)
        if isinstance(self.objective.number, Tensor):
            self.objective.number = self.objective.number.to(placement(programs)[0])
        seen = [value for module in modules(programs) for value in module.parameters()]
        self.matmul, self.matmul_measured = chosen(matmul, seen, self.batches.size)
        self._prepare()
        self.fresh = copy.deepcopy(self.svi.optimizer.state_dict())
        self.noise, self.order = Stream(self.seed, 1), torch.Generator().manual_seed(self.seed)
        self.epoch = self.step = self.best_epoch = self.epochs_without_improvement = 0
        self.best_loss, self.rate = math.inf, self.learning_rate
        self.best: dict[str, Tensor] = {}

    def _prepare(self) -> None:
        """Record a step, so that programs that cannot be trained are refused before the first one."""
        with seeded(self.seed, 4), self._training():
            try:
                self._record(*next(self.batches()))
            except TrainingError as error:
                raise ValueError(str(error)) from error

    def _record(self, *batch: Tensor) -> None:
        try:
            for args in self.calls(batch):
                check_training(*pair(self.programs), args, self.batches.rows)
            self.svi.prepare(*batch)
        except (TrainingError, ValueError) as error:
            x, *_ = self.batches.read(*batch)
            raise ValueError(f"{checks.reason(error)}{advice(self.programs, x)}") from error

    def __iter__(self) -> Iterator[Record]:
        with tqdm(total=self.steps, initial=self.step, unit="step", disable=None, dynamic_ncols=True) as bar:
            while not self.finished:
                record = self._epoch(bar)
                bar.set_postfix_str(_summary(record))
                yield record
        if self.best:
            state.copy_into(self.best, self.weights())

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` epochs passed without a better validation loss."""
        return self.epoch >= self.epochs or (
            self.patience is not None and self.epochs_without_improvement >= self.patience
        )

    @property
    def steps(self) -> int | None:
        """The number of steps in all epochs; None for a stream of unknown length."""
        return None if self.batches.number is None else self.epochs * self.batches.number

    def _epoch(self, bar: Any) -> Record:
        start, good = time.perf_counter(), self.state()
        try:
            loss = self._pass(good, bar)
            valid_loss = self._validate()
        except TrainingError:
            self.restore(good)
            raise
        self.epoch += 1
        record = {"epoch": self.epoch, "step": self.step, "loss": loss}
        record |= {} if valid_loss is None else {"valid_loss": valid_loss}
        self._note_best(valid_loss)
        if self.epoch == self.initialise:
            self._initialise()
        settings = {self.objective.scheduled: self.objective.now, "learning_rate": self.rate}
        return record | settings | {"seconds": time.perf_counter() - start}

    def _pass(self, good: State, bar: Any) -> float:
        """Take one step for each batch; returns the mean loss of a row. It waits for the device only at the end."""
        losses: list[Tensor] = []
        taken: list[Tensor] = []
        sizes: list[int] = []  # if some labels are missing, the unlabelled rows: the number of labelled ones is fixed
        fault: ValueError | None = None
        with self.stepping():
            for batch in self.batches(self.shuffle):
                try:
                    loss, was_taken = self.take_step(batch, len(sizes))
                except ValueError as error:  # Pyro's validation, if a step runs eagerly
                    fault = error
                    break
                losses.append(loss)
                taken.append(was_taken)
                sizes.append(len(batch[0]) - (self.batches.order.labelled_batch_size or 0))
                bar.update()
        flags = torch.stack(taken).tolist() if taken else []
        if not all(flags):
            number = flags.index(False)
            loss = losses[number]
            what = "a gradient is not finite" if loss.isfinite() else f"the loss is {loss.item()}"
            raise explained(self, what, good, number)
        if fault is not None:
            raise explained(self, checks.reason(fault), good, len(sizes)) from fault
        self.step += len(sizes)
        if not all(bool(torch.isfinite(value).all()) for value in self.svi.parameters.values()):
            raise explained(self, "a parameter is not finite", good, len(sizes))
        weights = torch.tensor(sizes, dtype=torch.float64)
        return (torch.stack(losses).cpu().double() @ weights / weights.sum()).item()

    @contextmanager
    def _training(self) -> Iterator[None]:
        """The modes in which steps are recorded and taken."""
        owners = modules(self.programs)
        with mode(owners, training=True), channels_last(owners), matmul_precision(self.matmul):
            yield

    @contextmanager
    def stepping(self) -> Iterator[None]:
        with warnings.catch_warnings(), self.noise(), self._training():
            warnings.filterwarnings("ignore", "Encountered")  # Pyro's warning; the error below reports it in full
            yield

    def shuffle(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.order)

    def take_step(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        share = (self.epoch + number / (self.batches.number or math.inf)) / self.epochs
        self.rate = self.learning_rate * self.lr_schedule(share)
        for group in self.svi.optimizer.param_groups:
            group["lr"] = self.rate
        return self.svi.step_async(*batch)

    def _validate(self) -> float | None:
        """The loss on the validation data, at the schedule's final beta and always with the same noise."""
        if self.valid is None:
            return None
        total = rows = 0.0
        with seeded(self.seed, 2), no_side_effects(self.programs), matmul_precision(self.matmul):
            for args in self.batches.parts(self.valid):
                try:
                    loss = self.objective.final_loss(*pair(self.programs), *args)
                    what = "" if math.isfinite(loss) else f"the validation loss is {loss}"
                except ValueError as fault:
                    what = checks.reason(fault)
                if what:
                    raise failure(
                        self, f"{what} in validation; {first_fault(self.programs, *args)}", self.step, args[0]
                    )
                total, rows = total + loss * len(args[0]), rows + len(args[0])
        return total / rows

    def _note_best(self, valid_loss: float | None) -> None:
        if valid_loss is None or valid_loss < self.best_loss:
            self.best_loss = math.inf if valid_loss is None else valid_loss
            self.best_epoch, self.epochs_without_improvement = self.epoch, 0
            if self.patience is not None:
                self.best = {name: value.detach().clone() for name, value in self.weights().items()}
        elif self.step > self.objective.schedule.settled:
            self.epochs_without_improvement += 1

    def _initialise(self) -> None:
        with seeded(self.seed, 5):
            some = islice(self.batches(torch.randperm), -(-INITIAL // self.batches.size))
            initialise = traits(self.programs).initialise
            assert initialise is not None, "_initialise_after checks this"
            initialise(torch.cat([self.batches.read(*batch)[0] for batch in some]))
        self.svi.optimizer.load_state_dict(self.fresh)
        self.best_loss, self.best_epoch, self.epochs_without_improvement, self.best = math.inf, self.epoch, 0, {}

    def weights(self) -> dict[str, Tensor]:
        """The programs' own tensors: their modules' parameters and buffers, then their `pyro.param` sites."""
        return state.weights(self)

    def state(self) -> State:
        """A copy of all that changes in training, as tensors and JSON values; `restore` accepts it."""
        return state.state(self)

    def restore(self, saved: State) -> None:
        """Continue from a `state`, bit by bit as if there had been no interruption."""
        state.restore(self, saved)

    def calls(self, batch: Batch) -> list[Batch]:
        """The arguments of the programs for a batch; if some labels are missing, the programs are called twice."""
        args = self.batches.read(*batch)
        return [args[:2], args[2:]] if self.batches.order.labelled_batch_size else [args]


def _objective(programs: Programs, option: Objective | None) -> Objective:
    objective = (traits(programs).objective or ELBO)() if option is None else option
    if not isinstance(objective, Objective):
        raise ValueError(f"objective: expected one of pyrovae.objectives, found {type(objective).__name__}")
    return objective


def _initialise_after(programs: Programs, asked: int, epochs: int, batches: Batches) -> int:
    found = checks.integer("initialise", asked, 0)
    if found > epochs or (found and traits(programs).initialise is None):
        raise ValueError(f"initialise: expected a model with `initialise`, and at most {epochs} epochs, found {asked}")
    if found and isinstance(batches.data, Split) and len(batches.data) < (least := traits(programs).initial_rows or 1):
        raise ValueError(f"initialise: expected at least {least} rows of training data, found {len(batches.data)}")
    return found


def _summary(record: Record) -> str:
    """The progress bar's text for an epoch."""
    valid = f", valid {record['valid_loss']:.2f}" if "valid_loss" in record else ""
    return f"epoch {record['epoch']}, loss {record['loss']:.2f}{valid} nats"
