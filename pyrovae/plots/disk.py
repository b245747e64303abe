"""Writes figures to disk, still or animated."""

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from pyrovae.files import check_no_link, replacing, storing, write_bytes
from pyrovae.plots.given import nonempty
from pyrovae.plots.style import STYLE


def write_figures(folder: Path, figures: Mapping[str, Figure | Sequence[Figure]]) -> list[Path]:
    """Write each figure to folder/NAME.png; a sequence becomes the animation NAME.gif, its middle frame NAME.png."""
    several = {name: [drawn] if isinstance(drawn, Figure) else list(drawn) for name, drawn in sorted(figures.items())}
    for name, frames in several.items():
        nonempty(name, frames)
    check_no_link(folder)
    with storing(folder):
        folder.mkdir(exist_ok=True)
    written = []
    for name, frames in several.items():
        written.append(folder / f"{name}.png")
        with replacing(written[-1]) as temporary, rc_context(STYLE):
            frames[len(frames) // 2].savefig(temporary, format="png")
        if frames[1:]:
            written.append(folder / f"{name}.gif")
            write_bytes(written[-1], gif(frames))
    return written


def gif(frames: Sequence[Figure], dpi: int = 100, milliseconds: int = 80, held: int = 1200) -> bytes:
    """An endless animation that holds its last frame. All frames share one palette, so that nothing flickers.

    A frame that is repeated n times is shown n times as long, and stored once.
    """
    nonempty("frames", frames)
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
    """64 greys, and 64 colours close to all that occur. Frequency does not count, so that a few dots keep their colour.

    The greys are separate, because nearby colours would tint images of grey values.
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
