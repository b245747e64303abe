"""Files that are never half-written, and never unpickled."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when all went well."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """The whole content or nothing, also after a power cut."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_figures(folder: Path, figures: Mapping[str, Figure | Sequence[Figure]]) -> list[Path]:
    """Each figure as folder/NAME.png, whole or not at all; several are the frames of NAME.gif, and the last its PNG."""
    folder.mkdir(exist_ok=True)
    written = []
    for name, drawn in sorted(figures.items()):
        frames = [drawn] if isinstance(drawn, Figure) else list(drawn)
        written.append(folder / f"{name}.png")
        with replacing(written[-1]) as temporary:
            frames[-1].savefig(temporary, format="png")
        if frames[1:]:
            written.append(folder / f"{name}.gif")
            write_bytes(written[-1], _gif(frames))
    return written


def _gif(frames: Sequence[Figure], dpi: int = 100, milliseconds: int = 80, held: int = 1200) -> bytes:
    """An endless animation whose last frame is held; all frames share one palette, so that nothing flickers.

    A frame that is given n times in a row stays n times as long, and is kept once.
    """
    pictures, durations = [], []
    for frame, same in groupby(frames):
        durations.append(milliseconds * len(list(same)))
        buffer = io.BytesIO()
        frame.savefig(buffer, format="png", dpi=dpi)
        pictures.append(Image.open(buffer).convert("RGB"))
    if len(sizes := {picture.size for picture in pictures}) > 1:
        raise ValueError(f"expected frames of one size, found {sorted(sizes)}")
    width, height = pictures[0].size
    some = pictures[:: max(1, len(pictures) // 8)]
    sheet = Image.new("RGB", (width, height * len(some)))
    for number, picture in enumerate(some):
        sheet.paste(picture, (0, number * height))
    palette = _palette(sheet)
    first, *others = (_indexed(picture, palette) for picture in pictures)
    buffer = io.BytesIO()
    durations[-1] = held
    first.save(buffer, format="gif", save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
    return buffer.getvalue()


def _palette(picture: Image.Image) -> np.ndarray:
    """64 greys, and 64 colours near to all that occur: not to the frequent ones, or a few dots would lose theirs.

    Greys of their own, because images of grey values would be tinted by the colours near them.
    """
    found = picture.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).getpalette() or []
    greys = np.arange(64).repeat(3) * 255 // 63
    return np.concatenate([greys, found[: 3 * 64]]).reshape(-1, 3)


def _indexed(picture: Image.Image, palette: np.ndarray) -> Image.Image:
    """The nearest colour of a palette for each pixel. Pillow's own search is approximate: white may become grey."""
    pixels = np.asarray(picture, dtype=int)
    packed, places = np.unique(pixels @ [1 << 16, 1 << 8, 1], return_inverse=True)
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1)
    nearest = np.square(colours[:, None] - palette).sum(-1).argmin(1).astype(np.uint8)
    indexed = Image.fromarray(nearest[places].reshape(pixels.shape[:2]), "P")
    indexed.putpalette(palette.astype(np.uint8).tobytes())
    return indexed


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; NaN becomes null, since JSON has none."""
    write_bytes(path, (json.dumps(_no_nan(value), indent=2, allow_nan=False) + "\n").encode())


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def write_tensors(path: Path, tensors: dict[str, Tensor], about: Any) -> None:
    """Tensors as safetensors, with what JSON can say about them and a digest of both inside."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about, sort_keys=True)
    write_bytes(path, save(tensors, {"about": text, "sha256": _digest(tensors, text)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """What `write_tensors` wrote; ValueError names a file that is missing, cut short or altered."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected a safetensors file, found a damaged one ({error})") from None
    if metadata.get("sha256") != _digest(tensors, metadata.get("about", "")):
        raise ValueError(f"{path}: its content does not agree with its digest: the file is damaged")
    return tensors, json.loads(metadata["about"])


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """The digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_line(path: Path, value: Any) -> None:
    """One more line of JSON."""
    with open(path, "a") as file:
        file.write(json.dumps(_no_nan(value), allow_nan=False) + "\n")


def read_lines(path: Path) -> list[Any]:
    """The lines of JSON; one that was cut short at the end is left out."""
    values = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return values


def keep_lines(path: Path, keep: int) -> None:
    """Cut a file of JSON lines back to its first ones."""
    kept = read_lines(path)[:keep]
    write_bytes(path, "".join(json.dumps(value) + "\n" for value in kept).encode())
