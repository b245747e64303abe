"""A run as text: run.toml, the options of the command line, and the objects that they name."""

import inspect
import os
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor, nn

from pyrovae import checks, files, guides, likelihoods, models, networks, objectives, priors
from pyrovae.data import DATASETS, Split, Splits, load, with_labels
from pyrovae.data.split import ROWS, blocks, how_many
from pyrovae.models.completion_vae import quadrants
from pyrovae.objectives import ELBO, Constant, Cyclic, Objective, WarmUp
from pyrovae.objectives.schedules import Late, Schedule
from pyrovae.programs.traits import traits
from pyrovae.randomness import seeded
from pyrovae.runs import effects
from pyrovae.runs.names import member, members
from pyrovae.runs.trust import flags, modules_of
from pyrovae.training import rates, train
from pyrovae.training.matmul import MATMULS

SCHEMA = 1
# Epochs, or particles, beyond which no run would end.
MOST = 10**6
# Threads beyond which torch may end the process.
MOST_THREADS = 1024
# The options that name members, which may be "module:Class".
PARTS = ("model", "prior", "likelihood", "guide", "network", "encoder", "decoder", "objective", "optimizer")


def option(default: Any, help: str) -> Any:
    """A field of the recipe, with its line of help."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """All that determines a run. In run.toml each option is one line; on the command line `--latent-dim 2`.

    A member of the library is written as its class in kebab-case, with options as in a call: "normal(scale=0.1)".
    """

    data: str = option("digits", "dataset (digits, mnist, fashion_mnist, kmnist, omniglot), folder, .npy or .npz")
    data_root: str = option("", "folder of the dataset's files; empty: $PYROVAE_DATA, else ~/.cache/pyrovae")
    binarize: str = option("dynamic", "of images: dynamic, threshold, none, or dequantize (greys with uniform noise)")
    valid: float = option(0.1, "validation rows held out of training, a share or a count")
    test: float = option(0.2, "the same for a test part, where the dataset has none")
    num_labels: float = option(0.0, "training labels that are kept, a share or a count, drawn by the seed; 0: all")
    model: str = option("vae", "the generative program, e.g. conditional-vae, semi-supervised-vae or hierarchical-vae")
    latent_dim: int = option(2, "number of latents")
    prior: str = option("standard-normal", "p(z)")
    likelihood: str = option("bernoulli", "p(x|z), e.g. bernoulli or 'normal(scale=0.1)'")
    guide: str = option("diagonal-normal", "the family of q(z|x)")
    network: str = option("mlp", "encoder and decoder, e.g. conv or 'mlp(hidden=[400, 400])'")
    encoder: str = option("", "encoder where it differs from network")
    decoder: str = option("", "decoder where it differs from network")
    begin: str = option(
        "", "decoder's last bias: mean (it starts at the training data's mean); empty: as torch draws it"
    )
    activation: str = option("relu", "of the networks: relu, tanh, softplus, elu, gelu, ...")
    objective: str = option(
        "", "what is minimised, e.g. elbo, 'iwae(k=5)'; empty: what the model is usually trained by"
    )
    beta: float = option(1.0, "weight of the KL, where the objective has one and does not name it")
    beta_warmup: float = option(0.0, "epochs in which beta rises from 0")
    beta_cycles: int = option(0, "cycles of beta over the training, instead of one warm-up")
    epochs: int = option(100, "passes over the training data")
    clusters_after: float = option(
        0.6, "epochs, a share or a count, at a beta of 0.1 until mixture-vae finds its clusters; 0: it finds none"
    )
    batch_size: int = option(128, "rows a step")
    labelled_batch_size: int = option(
        0, "of them with a label, where some labels are missing; 0: half, or as many as there are"
    )
    optimizer: str = option("adam", "of torch.optim, e.g. adamw or 'adam(betas=[0.9, 0.99])'")
    learning_rate: float = option(1e-3, "of the optimiser")
    lr_schedule: str = option("constant", "of the learning rate: constant, cosine, or stages (Burda et al. 2016)")
    clip: float = option(0.0, "largest norm of the gradient; 0: any")
    patience: int = option(0, "stop after so many epochs without a better validation loss; 0: never")
    particles: int = option(100, "importance samples for log p(x) in the evaluation")
    seed: int = option(0, "of initial weights, order and noise")
    device: str = option("auto", "auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    dtype: str = option("float32", "float32, float64, or bfloat16: float32 parameters, programs under torch.autocast")
    matmul: str = option("highest", "precision of float32 products: highest, high, medium, or auto, which measures")
    compile: str = option("auto", "the training step with Inductor: yes, no (eagerly), or auto, where it will pay")
    threads: int = option(0, "of torch on the CPU; 0: half of torch's own choice")
    tracker: str = option("", "also write the curves for tensorboard; empty: metrics.jsonl alone")

    def __post_init__(self) -> None:
        for given in fields(self):
            value, kind = getattr(self, given.name), given.type
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, given.name, float(value))
            elif type(value) is not kind:
                raise ValueError(f"{given.name}: expected {kind.__name__}, found {value!r}")  # type: ignore[union-attr]
        for name in ("beta", "beta_warmup", "clip", "valid", "test", "num_labels", "clusters_after"):
            checks.number(name, getattr(self, name), 0)
        for name in ("patience", "seed", "threads", "beta_cycles", "labelled_batch_size"):
            checks.integer(name, getattr(self, name), 0)
        checks.integer("threads", self.threads, 0, MOST_THREADS)
        for name in ("latent_dim", "batch_size"):
            checks.integer(name, getattr(self, name))
        for name in ("epochs", "particles"):
            checks.integer(name, getattr(self, name), most=MOST)
        checks.positive("learning_rate", self.learning_rate)
        checks.member("dtype", self.dtype, _DTYPES)
        checks.member("matmul", self.matmul, MATMULS)
        checks.member("compile", self.compile, _COMPILE)
        checks.member("begin", self.begin, ("", "mean"))

    def modules(self) -> list[str]:
        """The modules outside of pyrovae whose code it needs: those of its parts "module:Class"."""
        return modules_of(getattr(self, name) for name in PARTS)

    def splits(self) -> Splits:
        """The data."""
        return self.with_kept_labels(load(self.data, self.data_root or None, self.binarize, self.valid, self.test))  # type: ignore

    def with_kept_labels(self, splits: Splits) -> Splits:
        """The data with those labels only that are kept."""
        return with_labels(splits, self.num_labels, self.seed) if self.num_labels else splits

    def build(
        self, event_shape: tuple[int, ...], num_classes: int | None = None, training_rows: int | None = None
    ) -> Any:
        """The model with its initial weights, which the seed determines."""
        activation = ACTIVATIONS[checks.member("activation", self.activation, ACTIVATIONS)]
        network = partial(_network, activation=activation)
        with seeded(self.seed), _affordable():
            parts: dict[str, Any] = {
                "prior": member("prior", members(priors), self.prior, reserved=["event_shape"], makes=nn.Module),
                "likelihood": member("likelihood", members(likelihoods), self.likelihood, makes=nn.Module),
                "guide": member("guide", members(guides), self.guide, makes=nn.Module),
                "encoder": network(self.encoder or self.network),
                "decoder": network(self.decoder or self.network),
                "network": network(self.network),
                "latent_dim": self.latent_dim,
            }
            reserved = [*parts, "training_rows"]
            kind = member("model", MODELS, self.model, reserved, _PARTS_OF_MODELS, makes=nn.Module)
            takes, given = inspect.signature(kind).parameters, getattr(kind, "keywords", {})
            for name in parts.keys() - takes.keys() - {"network"}:
                if getattr(self, name) != getattr(Recipe, name):
                    raise ValueError(f"{name}: expected no such option, which {self.model} has not, found one")
            if not {"num_classes", "label_shape"} & given.keys():
                parts["num_classes"] = num_classes
            parts["training_rows"] = training_rows
            model = kind(event_shape, **{name: parts[name] for name in parts.keys() & takes.keys()})
        return model.to(self.torch_device(), _DTYPES[self.dtype])

    def initialise(self, model: Any, splits: Splits) -> None:
        """Let a prior that starts from data take its rows, which the seed determines, and the decoder their mean."""
        if self.begin:
            if (begin_at := traits(model).begin_at) is None:
                raise ValueError(f"begin: expected a model with a decoder of x alone (vae, ...), found {self.model}")
            with seeded(self.seed, 6):
                begin_at(_mean(splits.train))
        prior = traits(model).prior
        if prior is not None and not prior.ready:
            with seeded(self.seed, 5):
                rows = torch.randperm(len(splits.train))[: prior.initial_rows]
                prior.initialise(splits.train[rows].to(next(prior.parameters())))

    def training(self, model: Any, splits: Splits) -> train.Training:
        """The training of a model on data."""
        effects.check(self, splits, model, ACTIVATIONS[self.activation])
        self.initialise(model, splits)
        steps = -(-len(splits.train) // self.batch_size)
        return train.Training(
            model,
            splits,
            epochs=self.epochs,
            batch_size=self.batch_size,
            objective=self.objective_for(steps, model),
            labelled_batch_size=self.labelled_batch_size or None,
            optimizer=_optimizer(self.optimizer),
            learning_rate=self.learning_rate,
            lr_schedule=LR_SCHEDULES[checks.member("lr_schedule", self.lr_schedule, LR_SCHEDULES)],
            clip=self.clip or None,
            patience=self.patience or None,
            initialise=self._before_clusters(model),
            seed=self.seed,
            compile=_COMPILE[self.compile],  # type: ignore[arg-type]
            matmul=self.matmul,
            autocast=self.dtype == "bfloat16",
        )

    def objective_for(self, steps_per_epoch: int, model: Any) -> Objective:
        """What is minimised; schedules count steps."""
        beta, unasked = self._schedule(steps_per_epoch), Constant(1.0)
        usual: Any = traits(model).objective or ELBO
        build = member("objective", OBJECTIVES, self.objective, makes=Objective) if self.objective else usual
        known, given = inspect.signature(build).parameters.get("beta"), getattr(build, "keywords", {})
        if beta != unasked and (known is None or "beta" in given):
            has = "has none" if known is None else "has its own"
            asked = next(name for name in _OF_BETA if getattr(self, name) != getattr(Recipe, name))
            raise ValueError(f"{asked}: {self.objective} {has}; expected 1 and no schedule, found {beta}")
        if known is None or "beta" in given:
            return build()
        if beta == unasked != Constant(known.default):
            raise ValueError(f"objective: expected {self.objective} with a beta, as '(beta=6)', found none")
        before = self._before_clusters(model)
        return build(beta=Late(before * steps_per_epoch, beta) if before else beta)

    def _before_clusters(self, model: Any) -> int:
        """Epochs after which clusters that begin alike are found in the data; 0 is never."""
        if traits(model).begins_alike:
            return how_many("clusters_after", self.clusters_after, self.epochs)
        if self.clusters_after != Recipe.clusters_after:
            raise ValueError(f"clusters_after: expected no such option, of which {self.model} has no use, found one")
        return 0

    def _schedule(self, steps_per_epoch: int) -> Schedule:
        steps, warmup = self.epochs * steps_per_epoch, round(self.beta_warmup * steps_per_epoch)
        if self.beta_cycles and self.beta_warmup:
            raise ValueError(
                f"beta_warmup: expected none beside beta_cycles={self.beta_cycles}, found a second schedule"
            )
        if (schedule := "beta_cycles" if self.beta_cycles else "beta_warmup") and self.beta == 0 != getattr(
            self, schedule
        ):
            raise ValueError(f"{schedule}: expected none at beta = 0, found {getattr(self, schedule)}")
        if self.beta_cycles > steps // 2:
            raise ValueError(
                f"beta_cycles: expected at least 2 of {steps} steps for each, found {self.beta_cycles} cycles"
            )
        if self.beta_warmup and not warmup:
            raise ValueError(
                f"beta_warmup: expected at least a step of {steps_per_epoch} an epoch, found {self.beta_warmup}"
            )
        if self.beta_cycles:
            return Cyclic(steps // self.beta_cycles, final=self.beta)
        return WarmUp(warmup, self.beta) if warmup else Constant(self.beta)

    def torch_device(self) -> torch.device:
        """The device that `device` stands for on this machine."""
        name = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            probe = torch.zeros((), device=name)
            probe.item()  # "meta" is a device, but holds no values
            return probe.device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"device: expected auto, cpu or a GPU of this machine, found {name!r} ({checks.reason(error)})"
            ) from None


@contextmanager
def _affordable() -> Iterator[None]:
    """What does not fit into memory, or into an integer, is a size that cannot be meant."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise ValueError(f"the networks are too large: {checks.reason(error)}") from None


def _mean(part: Split) -> Tensor:
    """The mean of all rows as a model takes them; of rows on disk a block at a time. (*event_shape)"""
    return torch.stack([x.double().sum(0) for (x,) in blocks(part, ROWS)]).sum(0) / len(part)


_OF_BETA = ("beta_cycles", "beta_warmup", "beta")
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
_COMPILE = {"auto": "auto", "yes": True, "no": False}
OPTIMIZERS = {
    name.lower(): optimizer
    for name, optimizer in vars(torch.optim).items()
    # LBFGS needs a closure, SparseAdam sparse gradients, and Optimizer is not one.
    if isinstance(optimizer, type) and name not in ("Optimizer", "LBFGS", "SparseAdam")
}
ACTIVATIONS = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky-relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
OBJECTIVES = {
    name: found
    for name, found in members(objectives).items()
    if isinstance(found, type) and issubclass(found, Objective) and found is not Objective
}
# What the options of a model may name; where two of these have one name, it is the guide family.
_PARTS_OF_MODELS = members(networks) | members(likelihoods) | members(guides) | {"quadrants": quadrants}
MODELS = members(models)
LR_SCHEDULES = {"constant": rates.constant, "cosine": rates.cosine, "stages": rates.stages}


def _network(text: str, activation: Callable[..., Any]) -> Callable[..., Any]:
    reserved = ["activation"]
    return member("network", members(networks), text, reserved, makes=nn.Module, activation=activation)


def _optimizer(text: str) -> Callable[..., torch.optim.Optimizer]:
    """A torch optimiser; where its default is a tuple of numbers, what is given must be as many."""
    built = member("optimizer", OPTIMIZERS, text, reserved=["lr"], makes=torch.optim.Optimizer)
    for name, value in built.keywords.items():
        usual = inspect.signature(built.func).parameters[name].default
        if isinstance(usual, tuple) and not (isinstance(value, Sequence) and len(value) == len(usual)):
            needed = f"{len(usual)} numbers for {name}, as {usual}"
            raise ValueError(f"optimizer: {text}: expected {needed}, found {value!r}")
    return built


def write(recipe: Recipe, path: Path) -> None:
    """run.toml: every option with its line of help. Paths are written relative to its folder."""
    command = " ".join(["pyrovae train", path.parent.name, *flags(recipe.modules())])
    head = f"# `{command}`, from the folder above, reproduces this run."
    write_toml(path, [head, *lines(recipe, path.parent)])


def lines(recipe: Recipe, folder: Path, without: Collection[str] = ()) -> Iterator[str]:
    """The options in TOML, each with its line of help; paths relative to the folder."""
    for each in fields(recipe):
        value = getattr(recipe, each.name)
        if each.name in ("data", "data_root") and os.path.isabs(value):
            value = os.path.join(os.curdir, os.path.relpath(value, folder.resolve()))
        if each.name not in without:
            yield f"{tomli_w.dumps({each.name: value}).strip():40} # {each.metadata['help']}"


def write_toml(path: Path, lines: Sequence[str]) -> None:
    """A comment that says what the file is for, the schema, and the other lines."""
    files.write_bytes(path, "\n".join([lines[0], f"schema = {SCHEMA}", *lines[1:], ""]).encode())


def read(path: Path) -> Recipe:
    """A run.toml; ValueError names the file, and what is wrong in it."""
    if not path.exists():
        raise ValueError(f"{path.parent} is not a run: there is no {path.name} in it")
    with in_toml(path) as values:
        return locate(from_options(values), path.parent)


@contextmanager
def in_toml(path: Path) -> Iterator[dict[str, Any]]:
    """What is written in a TOML file of ours; ValueErrors about it name the file."""
    try:
        values = tomllib.loads(files.read_text(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected TOML, found a damaged file ({error})") from None
    if values.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path}: expected schema = {SCHEMA}; it was written by another version of pyrovae")
    try:
        yield values
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_same(path: Path, recorded: Mapping[str, Any], asked: Mapping[str, Any], advice: str) -> None:
    """Raise a ValueError that names the first option that differs, as a flag of the command line."""
    for name in {**asked, **recorded}:
        was, now = recorded.get(name), asked.get(name)
        if was != now:
            flag = "--" + name.replace("_", "-")
            made = "without" if was is None else f"with {was!r}"
            raise ValueError(f"{flag}: {path} was made {made}, found {'none' if now is None else repr(now)}; {advice}")


def from_options(values: dict[str, Any], start: Recipe | None = None) -> Recipe:
    """A recipe with these options, and the others as in `start`."""
    for name in values:
        checks.member("option", name, [each.name for each in fields(Recipe)])
    return replace(start or Recipe(), **values)


def locate(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its paths made absolute, from where they were relative to."""
    places: dict[str, Any] = {}
    for name in ("data", "data_root"):
        value = getattr(recipe, name)
        if value and value not in DATASETS and (os.sep in value or (folder / value).exists()):
            places[name] = os.path.abspath(folder / Path(value).expanduser())
    return replace(recipe, **places)
