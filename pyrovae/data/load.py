"""Loads splits by name, from a folder or from a file."""

import os
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data import folders, sources
from pyrovae.data.split import Binarize, Lazy, Split, Splits, check_grey, choose, split_rows

DATASETS = {
    source.__name__: source
    for source in (sources.digits, sources.mnist, sources.fashion_mnist, sources.kmnist, sources.omniglot)
}


def load(
    name: str | Path,
    root: str | Path | None = None,
    binarize: Binarize = "dynamic",
    valid: float = 0.1,
    test: float = 0.2,
) -> Splits:
    """Load a dataset by its name, from a folder of images, or from a .npy or .npz file.

    The split has its own seed, so every run uses the same rows. Data larger than 2 GiB stay on disk.

    Args:
        name: one of DATASETS, or a path.
        root: the folder of the datasets' files: $PYROVAE_DATA if it is set, otherwise ~/.cache/pyrovae. Missing files
            are downloaded.
        binarize: how to binarise images (vectors are not changed). "dynamic": a fresh draw x' ~ Bernoulli(x) every time
            in training, one fixed draw for validation and test (Burda et al. 2016); "threshold": x' = [x > 1/2];
            "none": grey values in [0, 1]; "dequantize": (255 x + u) / 256 with fresh u ~ U(0, 1).
        valid: rows to hold out of the training part, a share below 1 or a count; 0 keeps the full training set.
        test: rows to hold out as a test part, if the dataset has none of its own.

    Raises:
        ValueError: the name is unknown; files are missing, truncated or altered; the labels do not fit the data.

    Example:
        >>> from pyrovae import data
        >>> digits = data.load("digits")  # scikit-learn's handwritten digits, which need no download
        >>> digits.event_shape, len(digits.train) + len(digits.valid) + len(digits.test)
        ((1, 8, 8), 1797)
    """
    checks.member("binarize", binarize, get_args(Binarize))
    path = Path(name).expanduser()
    if str(name) in DATASETS:
        train, own_test = DATASETS[str(name)](
            Path(root or os.environ.get("PYROVAE_DATA", "~/.cache/pyrovae")).expanduser()
        )
    elif name != "" and path.is_dir():  # Path("") is the working directory
        train, own_test = folders.folder(path)
    elif path.suffix in (".npy", ".npz"):
        train, own_test = sources.arrays(path)
    else:
        checks.member("dataset (or folder, .npy, .npz)", str(name), DATASETS)
    return _splits(str(name) if str(name) in DATASETS else path.stem, train, own_test, binarize, valid, test)


def from_arrays(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray | None = None,
    num_classes: int | None = None,
    binarize: Binarize = "dynamic",
    valid: float = 0.1,
    test: float = 0.2,
) -> Splits:
    """Splits of your own rows, with the options of `load`: vectors (N, D) or images (N, C, H, W), with labels (N,).

    Example:
        >>> import torch
        >>> from pyrovae import data
        >>> splits = data.from_arrays(torch.randn(100, 3), valid=0.1, test=20)
        >>> len(splits.train), len(splits.valid), len(splits.test)
        (70, 10, 20)
    """
    checks.member("binarize", binarize, get_args(Binarize))
    if num_classes is not None:
        checks.integer("num_classes", num_classes)
    y = None if y is None else sources.labels(np.asarray(y))
    return _splits("arrays", (sources.tensor(_numpy(x)), y), None, binarize, valid, test, num_classes)


def _numpy(x: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # numpy has no bfloat16
    return np.asarray(x)


def _splits(
    name: str,
    train: sources.Part,
    own_test: sources.Part | None,
    binarize: Binarize,
    valid: float,
    test: float,
    num_classes: int | None = None,
) -> Splits:
    for x, y in (train, own_test or train):
        if len(x) == 0 or (y is not None and y.shape[:1] != (len(x),)):
            labels = "" if y is None else f" and {len(y) if y.ndim else 'a number as'} labels"
            raise ValueError(f"{name}: expected data, with a label for each row or none, found {len(x)} rows{labels}")
        if 0 in x.shape[1:]:
            raise ValueError(f"{name}: expected rows of at least one number, found rows of shape {tuple(x.shape[1:])}")
    images = len(train[0].shape) == 4
    for x in (train[0], own_test[0] if own_test else train[0]):
        _check_values(name, x, binarize if images else "none")
        if x.shape[1:] != train[0].shape[1:]:
            raise ValueError(f"{name}: expected test rows like {tuple(train[0].shape[1:])}, found {tuple(x.shape[1:])}")
    rows = split_rows(len(train[0]), {"valid": valid} if own_test else {"test": test, "valid": valid})
    parts = {part: (choose(train[0], index), _choose(train[1], index)) for part, index in rows.items() if len(index)}
    if own_test:
        parts["test"] = own_test
    held_out = "fixed" if binarize == "dynamic" else binarize
    splits = {
        part: Split(x, y, ("none" if not images else binarize if part == "train" else held_out)).binarize_once()
        for part, (x, y) in parts.items()
    }
    return Splits(name, **splits, num_classes=_classes(name, num_classes, [y for _, y in parts.values()]))


def _choose(y: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if y is None else y[rows]


def _check_values(name: str, x: Tensor | Lazy, binarize: str) -> None:
    """Raise a ValueError unless the values are finite and this binarisation can be applied to them."""
    if not isinstance(x, Tensor):
        return
    checks.finite(name, x, missing=True)  # NaN is a missing entry, which some models accept
    if binarize == "dequantize" and x.is_floating_point() and bool(((x * 255).round() - x * 255).abs().max() > 0.01):
        raise ValueError(f"{name}: binarize='dequantize' expects bytes, or grey values k/255, found others")
    check_grey(name, x, binarize)


def _classes(name: str, num_classes: int | None, labels: list[Tensor | None]) -> int | None:
    """The number of classes, if the labels are classes."""
    known = [y for y in labels if y is not None and y.ndim == 1 and not y.is_floating_point() and y.numel()]
    if not known:
        return None
    low, high = min(int(y.min()) for y in known), max(int(y.max()) for y in known)
    if low < -1 or high >= (num_classes or high + 1):
        raise ValueError(
            f"{name}: expected labels from 0 to {(num_classes or high + 1) - 1}, or -1 where missing, "
            f"found {low} to {high}"
        )
    return num_classes or high + 1 or None
