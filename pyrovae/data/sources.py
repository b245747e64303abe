"""A function for each dataset: it returns (training x, y) and, if the dataset has a test part, (test x, y)."""

import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyrovae import checks, files
from pyrovae.data.split import Lazy
from pyrovae.lazy import LazyModule

torchvision = LazyModule("torchvision")
sklearn = LazyModule("sklearn")


Part = tuple[Tensor | Lazy, Tensor | None]
Parts = tuple[Part, Part | None]

# Larger arrays are read from disk when their rows are needed, instead of being kept in memory.
RESIDENT_BYTES = 2**31


def digits(root: Path) -> Parts:
    """1797 handwritten digits, 8 x 8, 17 grey levels (scikit-learn's; no download)."""
    loaded = sklearn.datasets.load_digits()
    x = torch.from_numpy(loaded.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    return (x, torch.from_numpy(loaded.target).long()), None


def mnist(root: Path) -> Parts:
    """70000 handwritten digits, 28 x 28 (LeCun et al. 1998)."""
    return _idx("MNIST", root)


def fashion_mnist(root: Path) -> Parts:
    """70000 pieces of clothing, 28 x 28 (Xiao et al. 2017)."""
    return _idx("FashionMNIST", root)


def kmnist(root: Path) -> Parts:
    """70000 cursive Japanese characters, 28 x 28 (Clanuwat et al. 2018)."""
    return _idx("KMNIST", root)


def omniglot(root: Path) -> Parts:
    """32460 characters of 50 alphabets, resized to 28 x 28, white on black (Lake et al. 2015).

    The checksums of the single pictures are not known here: a picture that was replaced by another is not detected.
    """
    kind = torchvision.datasets.Omniglot
    train, test = (_offline_first(partial(kind, root, background), root) for background in (True, False))
    try:
        return _omniglot_part(train), _omniglot_part(test)
    except Exception as error:  # Pillow's decoders raise a dozen kinds
        raise ValueError(
            f"{root}: expected Omniglot's pictures, found a damaged one ({checks.reason(error)})"
        ) from None


def _omniglot_part(dataset: Any) -> Part:
    pictures, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    small = [np.asarray(picture.convert("L").resize((28, 28), Image.Resampling.BOX)) for picture in pictures]
    return 255 - torch.from_numpy(np.stack(small)).unsqueeze(1), torch.tensor(labels)


# torchvision checks neither of these: it would silently load a truncated or replaced file.
_LENGTHS = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
# Checksums of the unpacked files; the archives' MD5 sums are stated by their publishers. The other files of KMNIST have
# no known checksum here: they are refused only if they are files of another dataset.
_SHA256 = {
    "MNIST": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "KMNIST": {
        "train-labels-idx1-ubyte": "2a16eeae62da984b8bd24fa32e31d47291f01dac3fe84d5594f304f71e7d374b",
    },
}


def _idx(name: str, root: Path) -> Parts:
    kind, raw = getattr(torchvision.datasets, name), root / name / "raw"
    downloads = not all((raw / file).exists() for file in _LENGTHS)
    _check_files(raw, name)
    train, test = (_offline_first(partial(kind, root, train), root) for train in (True, False))
    if downloads:
        _check_files(raw, name)
    return (train.data.unsqueeze(1), train.targets), (test.data.unsqueeze(1), test.targets)


def _check_files(folder: Path, dataset: str) -> None:
    there = {name: folder / name for name in _LENGTHS if (folder / name).exists()}
    for name, path in there.items():
        files.check_file(path)
        if path.stat().st_size != _LENGTHS[name]:
            raise ValueError(f"{path}: expected {_LENGTHS[name]} bytes, found {path.stat().st_size}")
    for name, path in there.items():
        found, known = files.sha256(path), _SHA256[dataset].get(name)
        if known is not None and found != known:
            raise ValueError(f"{path}: its content is not {dataset}'s (expected sha256 {known})")
        if others := [other for other in _SHA256 if other != dataset and _SHA256[other].get(name) == found]:
            raise ValueError(f"{path}: its content is not {dataset}'s, but {others[0]}'s")


def _offline_first(dataset: Callable[..., Any], root: Path) -> Any:
    """The dataset from local files, else downloaded, else a ValueError that says where the files were expected."""
    try:
        return dataset(download=False)
    except RuntimeError:
        pass
    except (AssertionError, EOFError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"{root}: expected the dataset's files, found damaged ones ({checks.reason(error)})") from None
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return dataset(download=True)
    except (OSError, RuntimeError, AssertionError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = checks.reason(error)
        raise ValueError(
            f"{root}: expected the dataset's files here, found none, and the download failed ({reason}); "
            "give their folder with --data-root (root=...) or PYROVAE_DATA"
        ) from None


_X, _Y = ("x", "images", "data"), ("y", "labels", "targets")


def arrays(path: Path) -> Parts:
    """.npy: rows. .npz: x (or images, data) and y (or labels, targets); or x_train, y_train, x_test, y_test."""
    files.check_file(path)
    try:
        large = path.suffix == ".npy" and path.stat().st_size > RESIDENT_BYTES
        _check_size(path)
        loaded = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
        if large:
            return (Mapped(loaded), None), None
        found = _named(path, loaded)
    except Exception as error:  # numpy and zipfile raise a dozen kinds, even AssertionError and tokenize's errors
        reason = checks.reason(error)
        raise ValueError(f"{path}: expected numbers in numpy's format, found {reason}") from None
    try:
        for ending in ("_train", ""):
            if train := _part(found, ending):
                return train, _part(found, "_test")
    except (ValueError, MemoryError) as error:
        raise ValueError(f"{path}: {checks.reason(error)}") from None
    raise ValueError(f"{path}: expected an array named x, images or data, found {', '.join(found) or 'none'}")


def _named(path: Path, loaded: Any) -> dict[str, np.ndarray]:
    """The arrays in a file, keyed by name; the array in a .npy file is x."""
    if isinstance(loaded, np.ndarray):
        if path.suffix != ".npy":
            raise ValueError("one array; the name of such a file ends in .npy")
        return {"x": loaded}
    with loaded:
        if path.suffix == ".npy":
            raise ValueError("a zip file; the name of a zip file of arrays ends in .npz")
        return {key: loaded[key] for key in loaded.files}


def _check_size(path: Path) -> None:
    """Raise a ValueError if the headers announce arrays that exceed the memory, or the file."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            size = path.stat().st_size
            _check_array(file, size, math.inf if size > RESIDENT_BYTES else _memory())
            return
    with zipfile.ZipFile(path) as archive:
        room = _memory()
        for member in archive.infolist():
            if member.file_size > room:
                raise ValueError(f"{member.filename} of {member.file_size} bytes, for {room:.0f} of memory")
            if member.filename.endswith(".npy"):
                with archive.open(member) as file:
                    room -= _check_array(file, member.file_size, room)


def _check_array(file: IO[bytes], size: int, room: float) -> int:
    """The size in bytes of the array in a file of this size, according to its header."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    needed = math.prod(shape) * dtype.itemsize
    if needed > room:
        raise ValueError(f"an array of {needed} bytes, for {room:.0f} of memory")
    if needed > size and not dtype.hasobject:
        raise ValueError(f"{size} bytes for an array of {needed}")
    return needed


def _memory() -> float:
    """The memory of this machine in bytes, if the system reports it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _part(found: dict[str, np.ndarray], ending: str) -> Part | None:
    xs = [found[name + ending] for name in _X if name + ending in found]
    ys = [found[name + ending] for name in _Y if name + ending in found]
    return (tensor(xs[0]), labels(ys[0]) if ys else None) if xs else None


def labels(array: np.ndarray) -> Tensor:
    """Labels unchanged, if they are numbers. Types that torch can store but not compare become int64."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"labels: expected numbers, found {array.dtype}; number the classes from 0")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.size and array.max() >= 2**63:
            raise ValueError(f"labels: expected numbers < 2**63, found {array.max()}")
        array = array.astype(np.int64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


class Mapped:
    """A numpy array on disk; its rows are read when they are needed."""

    workers = 0

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = (len(array), *tensor(np.array(array[:1])).shape[1:])

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return tensor(np.array(self.array[rows.numpy()]), whole=False)


def tensor(array: np.ndarray, whole: bool = True) -> Tensor:
    """Vectors (N, D); images (N, H, W), (N, C, H, W) or (N, H, W, C), as (N, C, H, W). Bytes stay bytes.

    If the rows are the whole data, columns that float32 cannot represent are refused: their values could become equal.
    """
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255 if array.ndim > 2 else array.astype(np.float32)
    if array.ndim not in (2, 3, 4) or array.dtype.kind not in "uif":
        raise ValueError(
            "expected numbers of shape (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C), "
            f"found {array.dtype} of shape {array.shape}"
        )
    if whole and array.ndim == 2 and not np.can_cast(array.dtype, np.float32):
        _check_rounding(array)
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3):
        if array.shape[3] not in (1, 3):
            raise ValueError(f"expected images of 1 or 3 channels, found an array of shape {array.shape}")
        array = array.transpose(0, 3, 1, 2)
    bytes_kept = array.dtype == np.uint8 and array.ndim == 4
    return torch.from_numpy(np.ascontiguousarray(array if bytes_kept else array.astype(np.float32)))


def _check_rounding(array: np.ndarray) -> None:
    """Raise a ValueError if float32 loses more than a thousandth of a column's standard deviation."""
    for i, column in enumerate(array.T):
        seen = column[np.isfinite(column)].astype(np.float64)
        # A deviation within float64's own rounding errors is not data: such a column is constant.
        if not seen.size or (deviation := seen.std()) <= 1e-14 * np.abs(seen).max():
            continue
        with np.errstate(over="ignore"):
            lost = np.abs(seen - seen.astype(np.float32)).max()
        if lost > deviation / 1000:
            raise ValueError(
                f"column {i}: expected values that float32 can distinguish, found a mean of {seen.mean():.6g} and a "
                f"deviation of {deviation:.3g}, of which {lost:.2g} is lost; subtract its mean, or divide by its scale"
            )
