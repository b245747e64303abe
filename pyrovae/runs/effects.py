"""Refuses options of a recipe that have no effect in combination with its other options, before any training."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from pyrovae.data import DATASETS, Splits
from pyrovae.data.split import how_many, known
from pyrovae.programs.pair import takes_labels
from pyrovae.programs.traits import traits


def check(recipe: Any, splits: Splits, model: Any, activation: type[nn.Module]) -> None:
    """Raise a ValueError that names the first option of the recipe without effect for these data and this model.

    Args:
        recipe: a `Recipe`; options at their defaults are not checked.
        splits: its data.
        model: its model.
        activation: the class of its `activation`.
    """
    for name, needed, found in (*_of_data(recipe, splits), *_of_model(recipe, splits, model, activation)):
        if getattr(recipe, name) != getattr(type(recipe), name):
            raise ValueError(f"{name}: it has no effect here: expected {needed}, found {found}; leave it out")


# Each of these yields the name of an option without effect, what the option needs, and what there is instead.
Idle = Iterator[tuple[str, str, str]]


def _of_data(recipe: Any, splits: Splits) -> Idle:
    if recipe.data not in DATASETS or recipe.data == "digits":
        yield "data_root", "a dataset with files of its own (mnist, ...)", recipe.data
    if len(splits.event_shape) == 1 and recipe.binarize != "none":
        yield "binarize", "images, because vectors are not binarised", f"vectors of {splits.event_shape[0]} values"
    if _has_own_test(recipe, splits):
        yield "test", "data without a test part", f"{recipe.data}, which has one of its own"


def _has_own_test(recipe: Any, splits: Splits) -> bool:
    """Whether the test part is not held out by the option `test`."""
    sizes = [0 if part is None else len(part) for part in (splits.train, splits.valid, splits.test)]
    return sizes[2] > 0 and (recipe.test == 0 or sizes[2] != how_many("test", recipe.test, sum(sizes)))


def _of_model(recipe: Any, splits: Splits, model: Any, activation: type[nn.Module]) -> Idle:
    labels = takes_labels(model)
    if not labels:
        yield "num_labels", "a model that takes labels (conditional-vae, semi-supervised-vae)", recipe.model
    y = splits.train.y
    if not labels or not isinstance(y, Tensor) or bool(known(y).all()):
        yield (
            "labelled_batch_size",
            "training data of which some labels are missing",
            "none missing" if labels else recipe.model,
        )
    if recipe.encoder and recipe.decoder and traits(model).network is None:
        yield "network", "an encoder or a decoder that is not named", f"{recipe.encoder} and {recipe.decoder}"
    if not any(isinstance(part, activation) for part in model.modules()):
        yield "activation", "a network with an activation", f"{recipe.network}, which has none"
