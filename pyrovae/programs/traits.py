"""The contract of a model: its two programs, and its optional attributes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from pyrovae.likelihoods import Likelihood
from pyrovae.priors import Prior
from pyrovae.programs.pair import Programs, modules


@dataclass(frozen=True)
class Traits:
    """The optional attributes of an object with a `model` and a `guide`.

    Each field is the attribute of that name; it is None if the object does not have it. Two plain functions have none.

    Attributes:
        likelihood: the part that makes p(x|...). Its `measure` is the kind of the scores; its `missing` says whether x
            may have missing values.
        prior: the part that makes p(z).
        label: the likelihood of a label y that the model draws.
        check: check(x) raises a ValueError unless x (N, *event_shape) are data of the model.
        encode_labels: encode_labels(y) converts labels as stored in the data, such as classes (N,), to the site y,
            (N, *label_shape).
        complete: complete(x, n) draws the unseen part of x, (n, N, *event_shape).
        initialise: initialise(x) initialises a part of the model from training data x, during training.
        initial_rows: the smallest number of rows that `initialise` accepts.
        begins_alike: whether parts of the model are equal, and so are not trained separately, until `initialise`.
        begin_at: begin_at(mean) sets the model's mean to that of the training data (*event_shape), before training.
        training_rows: the number of training data that the model was built for; `fit` checks it.
        objective: builds the default objective of the model; ELBO if it is None.
        at_draws: at_draws(draws, seed) returns models at draws of the latents that all rows share; scores average over
            them.
        at: at() returns the model at the mean of those latents.
        network: the only network of a model without latents.

    Example:
        >>> from pyrovae.models import VAE
        >>> from pyrovae.programs.traits import traits
        >>> str(traits(VAE(event_shape=6, latent_dim=2)).likelihood.measure)
        'mass over binary values'
    """

    likelihood: Likelihood | None = None
    prior: Prior | None = None
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
    """The traits of a pair of programs: the attributes of the object that has both, or whose methods they are."""
    owners = [programs, *modules(programs)]
    having = {name: getattr(owner, name) for owner in reversed(owners) for name in NAMES if hasattr(owner, name)}
    if isinstance(programs, tuple):  # a pair is used as it is, including the latents that all rows share
        having = {name: value for name, value in having.items() if name not in ("at", "at_draws")}
    return Traits(**having)
