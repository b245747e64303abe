"""Folders of images, optionally with one sub-folder for each class."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyrovae import checks, files
from pyrovae.data import sources
from pyrovae.data.split import Lazy

_ENDINGS = Image.registered_extensions()
# Formats that Pillow reads by itself. For PostScript it would start Ghostscript, whatever the file's name ends with.
FORMATS = sorted(set(_ENDINGS.values()) & set(Image.OPEN) - {"EPS", "PDF", "MPO"})
IMAGE_ENDINGS = frozenset(ending for ending, kind in _ENDINGS.items() if kind in FORMATS)
_GREY = ("L", "1", "LA")


def folder(path: Path) -> sources.Parts:
    """Images of one size. train/ and test/ are the parts, if they exist; other sub-folders are the classes."""
    if (path / "train").is_dir():
        test = path / "test"
        classes = _classes(path / "train")
        if others := _others(path, ["train", "test"]):
            raise ValueError(
                f"{path}: expected images in no folder but the parts train and test, found some in {others}"
            )
        if test.is_dir() and classes and (others := _others(test, classes)):
            raise ValueError(f"{test}: expected the {len(classes)} classes of train, found others: {others}")
        return _folder_part(path / "train", classes), (_folder_part(test, classes) if test.is_dir() else None)
    return _folder_part(path, _classes(path)), None


def _classes(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


def _others(path: Path, known: Sequence[str]) -> str:
    """The folders that contain images and are not among the known ones."""
    return ", ".join(name for name in _classes(path) if name not in known and _images(path / name))


def _images(path: Path) -> list[Path]:
    """The images below a folder. A StorageError names a FIFO, a device or a broken link among them."""
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and not p.is_dir())
    for each in found:
        files.check_file(each)
    return found


def _folder_part(path: Path, classes: Sequence[str]) -> sources.Part:
    paths = _images(path)
    if not paths:
        raise ValueError(f"{path}: expected images, found none with a known ending")
    x: Lazy = ImageFiles(paths)
    loose = [each for each in paths if each.parent == path]
    if 0 < len(loose) < len(paths):
        raise ValueError(f"{loose[0]}: expected all images in folders, their classes, or none, found some beside them")
    y = None if loose else torch.tensor([classes.index(each.relative_to(path).parts[0]) for each in paths])
    large = len(x) * int(np.prod(x.shape[1:])) > sources.RESIDENT_BYTES
    return (x if large else x[torch.arange(len(x))]), y


def _decoded(path: Path) -> Image.Image:
    """An image, fully read."""
    files.check_file(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise a dozen kinds: zlib, struct, AssertionError, MemoryError
        raise ValueError(f"{path}: expected an image, found a damaged file ({checks.reason(error)})") from None
    return image


class ImageFiles:
    """Images of one size on disk, as uint8 (N, C, H, W), decoded when their rows are read."""

    workers = min(4, os.cpu_count() or 1) - 1

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        first = _decoded(self.paths[0])
        self.mode = "L" if first.mode in _GREY else "RGB"
        self.size = first.size
        self.shape: tuple[int, ...] = (len(self.paths), len(self.mode), self.size[1], self.size[0])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.stack([self._read(self.paths[row]) for row in rows.tolist()])

    def _read(self, path: Path) -> Tensor:
        image = _decoded(path)
        if image.mode[0] in "IF":
            raise ValueError(
                f"{path}: expected 8 bits a channel, found mode {image.mode!r}; keep deeper images as an array (.npy)"
            )
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise ValueError(f"{path}: expected opaque pixels, found transparent ones; choose a background first")
        if self.mode == "L" and image.mode not in _GREY and np.ptp(np.asarray(image.convert("RGB")), 2).any():
            raise ValueError(
                f"{path}: expected grey pixels like {self.paths[0].name}, found coloured ones; "
                "convert all images to one mode first"
            )
        pixels = np.asarray(image.convert(self.mode))
        if pixels.shape[:2] != self.size[::-1]:
            raise ValueError(
                f"{path}: expected {self.size[0]} x {self.size[1]} pixels like {self.paths[0].name}, "
                f"found {pixels.shape[1]} x {pixels.shape[0]}; resize all images to one size first"
            )
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).copy())
