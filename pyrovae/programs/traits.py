"""The contract of a model: its two programs, and what it may say of itself beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from pyrovae.guides import GuideFamily
from pyrovae.likelihoods import Likelihood
from pyrovae.priors import Prior
from pyrovae.programs.pair import Programs, modules


@dataclass(frozen=True)
class Traits:
    """What an object with a `model` and a `guide` may have beside these two; all of it is optional.

    Each field is the attribute of that name, None where the object has none. Two plain functions have none at all.

    Attributes:
        likelihood: the part that makes p(x|...): its `measure` says what scores are, its `missing` whether x may have
            gaps.
        prior: the part that makes p(z).
        family: the part that makes q(z|x).
        label: the likelihood of a label y that the model draws.
        check: check(x) raises a ValueError unless x (N, *event_shape) are data of the model.
        encode_labels: encode_labels(y) turns labels as data have them, such as classes (N,), into the site y,
            (N, *label_shape).
        complete: complete(x, n) draws what is unseen of x, (n, N, *event_shape).
        initialise: initialise(x) starts a part of the model from training data x, in the course of training.
        initial_rows: how many rows `initialise` needs at least.
        begins_alike: whether parts of the model are alike, and so do not train apart, until `initialise`.
        begin_at: begin_at(mean) starts the model at the mean of the training data (*event_shape), before training.
        training_rows: the number of training data that the model was built for; `fit` checks it.
        objective: builds the objective by which the model is usually trained; ELBO where it names none.
        at_draws: at_draws(draws, seed) are models at draws of the latents that all rows share; scores average over
            them.
        at: at() is the model at the mean of those latents.
        network: the one network of a model without latents.
    """

    likelihood: Likelihood | None = None
    prior: Prior | None = None
    family: GuideFamily | None = None
    label: Likelihood | None = None
    check: Callable[[Tensor], None] | None = None
    encode_labels: Callable[[Tensor], Tensor] | None = None
    complete: Callable[..., Tensor] | None = None
    initialise: Callable[[Tensor], Any] | None = None
    initial_rows: int | None = None
    begins_alike: bool | None = None
    begin_at: Callable[[Tensor], None] | None = None
    training_rows: int | None = None
    objective: Callable[..., Any] | None = None
    at_draws: Callable[[int, int], Sequence[Any]] | None = None
    at: Callable[[], Any] | None = None
    network: Any = None


NAMES = tuple(field.name for field in fields(Traits))


def traits(programs: Programs) -> Traits:
    """The traits of a pair of programs: those of the object that has both, or that the two are methods of."""
    owners = [programs, *modules(programs)]
    having = {name: getattr(owner, name) for owner in reversed(owners) for name in NAMES if hasattr(owner, name)}
    if isinstance(programs, tuple):  # two programs are asked as they stand, with the latents that all rows share
        having = {name: value for name, value in having.items() if name not in ("at", "at_draws")}
    return Traits(**having)
