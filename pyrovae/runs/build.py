"""From the options of a recipe to the objects that they name: data, model, objective, training."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import checks, guides, likelihoods, models, networks, objectives, priors
from pyrovae.data import Split, Splits, load, with_labels
from pyrovae.data.split import ROWS, blocks, how_many
from pyrovae.models.completion_vae import quadrants
from pyrovae.objectives import ELBO, Constant, Cyclic, Objective, WarmUp
from pyrovae.objectives.schedules import Late, Schedule
from pyrovae.programs.traits import traits
from pyrovae.randomness import seeded
from pyrovae.runs import effects
from pyrovae.runs.names import member, members
from pyrovae.runs.recipe import COMPILE, DTYPES, Recipe
from pyrovae.training import rates, train

_OF_BETA = ("beta_cycles", "beta_warmup", "beta")
OPTIMIZERS = {
    name.lower(): optimizer
    for name, optimizer in vars(torch.optim).items()
    # LBFGS needs a closure, SparseAdam sparse gradients, and Optimizer is a base class.
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
# The members that a model's options may name; if two have one name, it is the guide family.
_PARTS_OF_MODELS = members(networks) | members(likelihoods) | members(guides) | {"quadrants": quadrants}
MODELS = members(models)
LR_SCHEDULES = {"constant": rates.constant, "cosine": rates.cosine, "stages": rates.stages}


def splits(recipe: Recipe) -> Splits:
    """The data."""
    where, binarize = recipe.data_root or None, recipe.binarize
    whole = load(recipe.data, where, binarize, recipe.valid, recipe.test)  # type: ignore[arg-type]
    return with_kept_labels(recipe, whole)


def with_kept_labels(recipe: Recipe, splits: Splits) -> Splits:
    """The data, with only those labels that are kept."""
    return with_labels(splits, recipe.num_labels, recipe.seed) if recipe.num_labels else splits


def model(
    recipe: Recipe,
    event_shape: tuple[int, ...],
    num_classes: int | None = None,
    training_rows: int | None = None,
) -> Any:
    """The model with its initial weights, which the seed determines."""
    activation = ACTIVATIONS[checks.member("activation", recipe.activation, ACTIVATIONS)]
    network = partial(_network, activation=activation)
    with seeded(recipe.seed), _affordable():
        parts: dict[str, Any] = {
            "prior": member("prior", members(priors), recipe.prior, reserved=["event_shape"], makes=nn.Module),
            "likelihood": member("likelihood", members(likelihoods), recipe.likelihood, makes=nn.Module),
            "guide": member("guide", members(guides), recipe.guide, makes=nn.Module),
            "encoder": network(recipe.encoder or recipe.network),
            "decoder": network(recipe.decoder or recipe.network),
            "network": network(recipe.network),
            "latent_dim": recipe.latent_dim,
        }
        reserved = [*parts, "training_rows"]
        kind = member("model", MODELS, recipe.model, reserved, _PARTS_OF_MODELS, makes=nn.Module)
        takes, given = inspect.signature(kind).parameters, getattr(kind, "keywords", {})
        for name in parts.keys() - takes.keys() - {"network"}:
            if getattr(recipe, name) != getattr(Recipe, name):
                raise ValueError(f"{name}: expected none, because {recipe.model} has no such option, found one")
        if not {"num_classes", "label_shape"} & given.keys():
            parts["num_classes"] = num_classes
        parts["training_rows"] = training_rows
        built = kind(event_shape, **{name: parts[name] for name in parts.keys() & takes.keys()})
    return built.to(device(recipe), DTYPES[recipe.dtype])


def initialise(recipe: Recipe, model: Any, splits: Splits) -> None:
    """Initialise a prior, and the decoder's bias, from training data; the seed determines the rows."""
    if recipe.begin:
        if (begin_at := traits(model).begin_at) is None:
            raise ValueError(f"begin: expected a model with a decoder of x alone (vae, ...), found {recipe.model}")
        with seeded(recipe.seed, 6):
            begin_at(_mean(splits.train))
    prior = traits(model).prior
    if prior is not None and not prior.ready:
        with seeded(recipe.seed, 5):
            rows = torch.randperm(len(splits.train))[: prior.initial_rows]
            prior.initialise(splits.train[rows].to(next(prior.parameters())))


def training(recipe: Recipe, model: Any, splits: Splits) -> train.Training:
    """The training of a model on data."""
    effects.check(recipe, splits, model, ACTIVATIONS[recipe.activation])
    initialise(recipe, model, splits)
    steps = -(-len(splits.train) // recipe.batch_size)
    return train.Training(
        model,
        splits,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        objective=objective(recipe, steps, model),
        labelled_batch_size=recipe.labelled_batch_size or None,
        optimizer=_optimizer(recipe.optimizer),
        learning_rate=recipe.learning_rate,
        lr_schedule=LR_SCHEDULES[checks.member("lr_schedule", recipe.lr_schedule, LR_SCHEDULES)],
        clip=recipe.clip or None,
        patience=recipe.patience or None,
        initialise=before_clusters(recipe, model),
        seed=recipe.seed,
        compile=COMPILE[recipe.compile],  # type: ignore[arg-type]
        matmul=recipe.matmul,
        autocast=recipe.dtype == "bfloat16",
    )


def objective(recipe: Recipe, steps_per_epoch: int, model: Any) -> Objective:
    """The objective; its schedules count steps."""
    beta, unasked = _schedule(recipe, steps_per_epoch), Constant(1.0)
    usual: Any = traits(model).objective or ELBO
    build = member("objective", OBJECTIVES, recipe.objective, makes=Objective) if recipe.objective else usual
    known, given = inspect.signature(build).parameters.get("beta"), getattr(build, "keywords", {})
    if beta != unasked and (known is None or "beta" in given):
        has = "has none" if known is None else "has its own"
        asked = next(name for name in _OF_BETA if getattr(recipe, name) != getattr(Recipe, name))
        raise ValueError(f"{asked}: {recipe.objective} {has}; expected 1 and no schedule, found {beta}")
    if known is None or "beta" in given:
        return build()
    if beta == unasked != Constant(known.default):
        raise ValueError(f"objective: expected {recipe.objective} with a beta, as '(beta=6)', found none")
    before = before_clusters(recipe, model)
    return build(beta=Late(before * steps_per_epoch, beta) if before else beta)


def before_clusters(recipe: Recipe, model: Any) -> int:
    """The epoch after which equal clusters are initialised from data; 0 is never."""
    if traits(model).begins_alike:
        return how_many("clusters_after", recipe.clusters_after, recipe.epochs)
    if recipe.clusters_after != Recipe.clusters_after:
        raise ValueError(f"clusters_after: expected none, because {recipe.model} has no clusters, found one")
    return 0


def _schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    steps, warmup = recipe.epochs * steps_per_epoch, round(recipe.beta_warmup * steps_per_epoch)
    if recipe.beta_cycles and recipe.beta_warmup:
        raise ValueError(f"beta_warmup: expected none beside beta_cycles={recipe.beta_cycles}, found a second schedule")
    schedule = "beta_cycles" if recipe.beta_cycles else "beta_warmup"
    if recipe.beta == 0 != getattr(recipe, schedule):
        raise ValueError(f"{schedule}: expected none at beta = 0, found {getattr(recipe, schedule)}")
    if recipe.beta_cycles > steps // 2:
        raise ValueError(
            f"beta_cycles: expected at least 2 of {steps} steps for each, found {recipe.beta_cycles} cycles"
        )
    if recipe.beta_warmup and not warmup:
        raise ValueError(
            f"beta_warmup: expected at least a step of {steps_per_epoch} an epoch, found {recipe.beta_warmup}"
        )
    if recipe.beta_cycles:
        return Cyclic(steps // recipe.beta_cycles, final=recipe.beta)
    return WarmUp(warmup, recipe.beta) if warmup else Constant(recipe.beta)


def device(recipe: Recipe) -> torch.device:
    """The torch device of this machine for the option `device`."""
    name = recipe.device if recipe.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros((), device=name)
        probe.item()  # fails on "meta", a device that holds no values
        return probe.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device: expected auto, cpu or a GPU of this machine, found {name!r} ({checks.reason(error)})"
        ) from None


@contextmanager
def _affordable() -> Iterator[None]:
    """Report a size that exceeds the memory, or an integer, as a ValueError."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise ValueError(f"the networks are too large: {checks.reason(error)}") from None


def _mean(part: Split) -> Tensor:
    """The mean of all rows as a model takes them; rows on disk are read in blocks. (*event_shape)"""
    return torch.stack([x.double().sum(0) for (x,) in blocks(part, ROWS)]).sum(0) / len(part)


def _network(text: str, activation: Callable[..., Any]) -> Callable[..., Any]:
    reserved = ["activation"]
    return member("network", members(networks), text, reserved, makes=nn.Module, activation=activation)


def _optimizer(text: str) -> Callable[..., torch.optim.Optimizer]:
    """A torch optimiser; if an option's default is a tuple of numbers, its value must have the same length."""
    built = member("optimizer", OPTIMIZERS, text, reserved=["lr"], makes=torch.optim.Optimizer)
    for name, value in built.keywords.items():
        usual = inspect.signature(built.func).parameters[name].default
        if isinstance(usual, tuple) and not (isinstance(value, Sequence) and len(value) == len(usual)):
            needed = f"{len(usual)} numbers for {name}, as {usual}"
            raise ValueError(f"optimizer: {text}: expected {needed}, found {value!r}")
    return built
