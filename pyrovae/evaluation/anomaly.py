"""Anomaly scores of data under a model, and how well they separate two sets."""

import math
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pyrovae import checks
from pyrovae.data import Split, Splits
from pyrovae.data.split import Data, blocks, choose, known
from pyrovae.evaluation.evaluate import POINT, scores
from pyrovae.programs.importance import ROWS
from pyrovae.programs.pair import Programs
from pyrovae.programs.traits import traits
from pyrovae.randomness import seeded
from pyrovae.scores import auroc

# A score for each row, higher for stranger data, such as `partial(surprisal, vae)` with a function below.
Score = Callable[[Data], Tensor]
# From normal data to a score of other data; it trains whatever it needs.
Detector = Callable[[Splits], Score]


def surprisal(programs: Programs, data: Data, particles: int = 100, seed: int = 0) -> Tensor:
    """-log p(x), by importance sampling. (N,), in nats.

    A given label is observed, too: then the score is -log p(x, y). The noise depends on the row's position.

    Args:
        programs: model and guide.
        data: a Split, a tensor, a Dataset or a DataLoader.
        particles, seed: as in `evaluate`.
    """
    return -_scored(programs, data, particles, seed, "log_likelihood")


def negative_elbo(programs: Programs, data: Data, particles: int = 100, seed: int = 0) -> Tensor:
    """KL(q(z|x) || p(z)) - E_q[log p(x|z)] >= -log p(x). (N,), in nats."""
    return -_scored(programs, data, particles, seed, "elbo")


def distortion(programs: Programs, data: Data, particles: int = 100, seed: int = 0) -> Tensor:
    """-E_q[log p(x|z)], the reconstruction term of -ELBO; a guide of one point has no other score. (N,), in nats."""
    return -_scored(programs, data, particles, seed, "reconstruction")


def atypicality(programs: Programs, data: Data, normal: Data, particles: int = 100, seed: int = 0) -> Tensor:
    """|-log p(x) - H|, where H is the mean of -log p over normal data: too likely is also strange. (N,), in nats.

    The typicality test for single data.  (Nalisnick et al. 2019b)

    Args:
        programs, data, particles, seed: as in `surprisal`.
        normal: the training data; use held-out data if the model has overfitted.
    """
    typical = surprisal(programs, normal, particles, seed).mean()
    return (surprisal(programs, data, particles, seed) - typical).abs()


def background_ratio(
    programs: Programs, data: Data, background: Programs, particles: int = 100, seed: int = 0
) -> Tensor:
    """log p0(x) - log p(x): a datum that a background model p0 explains as well is not strange. (N,), in nats.

    (Ren et al. 2019)

    Args:
        programs, data, particles, seed: as in `surprisal`.
        background: any other model and guide, such as the same model trained on `mutated` data.
    """
    likelihoods = [traits(pair).likelihood for pair in (programs, background)]
    here, there = (None if part is None else part.measure for part in likelihoods)
    if here is not None and there is not None and here != there:
        raise ValueError(f"background: expected a {here}, found a {there}")
    return surprisal(programs, data, particles, seed) - surprisal(background, data, particles, seed)


def mutated(x: Tensor, rate: float = 0.2, levels: int = 256, seed: int = 0) -> Tensor:
    """x with each value replaced, with probability `rate`, by one of `levels` equidistant values from 0 to 1."""
    if not 0 <= checks.number("rate", rate) <= 1:
        raise ValueError(f"rate: expected a probability, found {rate}")
    if not x.is_floating_point():
        raise ValueError(f"x: expected values from 0 to 1, found {x.dtype}")
    with seeded(seed):
        other = torch.randint(checks.integer("levels", levels, 2), x.shape, device=x.device) / (levels - 1)
        return torch.where(torch.rand(x.shape, device=x.device) < rate, other.to(x), x)


def png(image: Tensor) -> int:
    """The number of bits of the PNG of an image (C, H, W), with C = 1 or 3 and values in [0, 1], in 256 levels."""
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not 0 <= float(image.min()) <= float(image.max()) <= 1:
        raise ValueError(
            f"png: expected images (1 or 3, H, W) with values in [0, 1], found shape {tuple(image.shape)} "
            f"and values from {image.min():.6g} to {image.max():.6g}"
        )
    pixels = (image * 255).round().byte().movedim(0, -1).cpu().numpy()
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG", optimize=True)
    return 8 * file.tell()


def complexity_ratio(
    programs: Programs, data: Data, bits: Callable[[Tensor], int] = png, particles: int = 100, seed: int = 0
) -> Tensor:
    """-log p(x) - L(x) log 2: a compressor of L bits as the background, p0(x) = 2^-L(x). (N,), in nats.

    (Serra et al. 2020)

    Args:
        programs, data, particles, seed: as in `surprisal`.
        bits: the compressed length L of one datum.
    """
    with seeded(seed):  # read as for scoring: with the same draws of a dynamic binarisation
        lengths = [bits(image) for x, *_ in blocks(data, ROWS) for image in x]
    return surprisal(programs, data, particles, seed) - math.log(2) * torch.tensor(lengths, dtype=torch.float64)


def _scored(programs: Programs, data: Data, particles: int, seed: int, name: str) -> Tensor:
    table, estimator = scores(programs, data, particles, seed)
    if estimator == POINT and name != "reconstruction":
        raise ValueError("expected a guide with a density, found a point: for a point use the score `distortion`")
    return table[name]


def one_class(detector: Detector, splits: Splits) -> dict[str, Any]:
    """AUROC by class: one class is normal and used for training; the test data of the other classes are anomalies.

    `auroc` is the mean over the classes; its standard error is due to the rows only.

    Args:
        detector: from normal training and validation rows, with their labels, to a score, which gets no labels.
        splits: data with classes and a test part.
    """
    return _by_class(detector, splits, torch.eq)


def leave_one_class_out(detector: Detector, splits: Splits) -> dict[str, Any]:
    """AUROC by class: one class is the anomaly; all others are normal. Arguments as in `one_class`."""
    return _by_class(detector, splits, torch.ne)


def _by_class(detector: Detector, splits: Splits, is_normal: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
    if splits.num_classes is None or splits.test is None or splits.test.y is None:
        raise ValueError(f"expected data with classes and a test part, found none in {splits.name}")
    y = _labels(splits.test)
    found = {}
    for each in y[known(y)].unique():
        train = _normal(splits.train, is_normal, each)
        valid = _normal(splits.valid, is_normal, each) if splits.valid else None
        score = detector(replace(splits, train=train, valid=valid or None, test=None))  # an empty part becomes None
        values, normal = score(replace(splits.test, y=None)), is_normal(y, each)
        if values.shape != y.shape:
            raise ValueError(f"score: expected shape {tuple(y.shape)}, found {tuple(values.shape)}")
        found[str(int(each))] = auroc(values[normal & known(y)], values[~normal & known(y)])
    values, errors = (torch.tensor([each[name] for each in found.values()]) for name in ("value", "standard_error"))
    mean = {"value": values.mean().item(), "standard_error": (errors.square().sum().sqrt() / len(errors)).item()}
    return {"auroc": mean, "auroc_by_class": found}


def _labels(split: Split) -> Tensor:
    assert split.y is not None
    return split.y[torch.arange(len(split))]


def _normal(split: Split, is_normal: Callable[[Tensor, Tensor], Tensor], each: Tensor) -> Split:
    """The rows with a known and normal label."""
    y = _labels(split)
    rows = (known(y) & is_normal(y, each)).nonzero()[:, 0]
    return replace(split, x=choose(split.x, rows), y=y[rows])
