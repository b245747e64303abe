"""Grids of images."""

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.transforms import ScaledTranslation

from pyrovae.plots.given import nonempty, shaped
from pyrovae.plots.style import STYLE, styled


def tile(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Images (n, C, H, W), clipped to [0, 1], as one RGB picture with `columns` images in a row and white gaps."""
    n, c, h, w = shaped("images", images, n=1, C=1, H=1, W=1)
    images = np.clip(np.asarray(images, dtype=float), 0, 1)
    rows = -(-n // columns)
    sheet = np.ones((rows, columns, 3, h + gap, w + gap))
    sheet.reshape(-1, 3, h + gap, w + gap)[:n, :, :h, :w] = images if c == 3 else images[:, :1]
    picture = sheet.transpose(0, 3, 1, 4, 2).reshape(rows * (h + gap), columns * (w + gap), 3)
    return picture[: len(picture) - gap, : picture.shape[1] - gap]


def show(axes: Axes, images: np.ndarray, columns: int, title: str = "") -> None:
    axes.imshow(tile(images, columns), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title)


@styled
def image_grids(grids: dict[str, np.ndarray], columns: int = 8, width: float = 3.2) -> Figure:
    """Grids of images (n, C, H, W) side by side, each under its title and `width` inches wide."""
    n, _, h, w = _first(grids.values(), n=1, C=1, H=1, W=1)
    figure = Figure(figsize=(width * len(grids), width * -(-n // columns) * h / (min(n, columns) * w) + 0.3))
    for axes, (title, images) in zip(figure.subplots(1, len(grids), squeeze=False)[0], grids.items(), strict=True):
        show(axes, images, columns, title)
    return figure


@styled
def image_rows(rows: dict[str, np.ndarray]) -> Figure:
    """Rows of images (n, C, H, W), each with its label on the left."""
    n, _, h, w = _first(rows.values(), n=1, C=1, H=1, W=1)
    figure = Figure(figsize=(6.4, 6.4 / n * len(rows) * h / w + 0.1))
    for axes, (label, images) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        show(axes, images, n)
        axes.text(-0.01, 0.5, label, transform=axes.transAxes, ha="right", va="center")
    return figure


@styled
def image_table(panels: dict[str, np.ndarray], left: float = 0.05, across: float = 6.4) -> Figure:
    """Panels side by side, each (n, m, C, H, W): n rows of m images under a title. The i-th rows belong together.

    The figure is `across` inches wide, or wider if a title is wider than its images; `left` inches next to the first
    panel are white.
    """
    n, _, _, h, w = _first(panels.values(), n=1, m=1, C=1, H=1, W=1)
    counts = [images.shape[1] for images in panels.values()]
    pixels = [m * (w + 1) - 1 for m in counts]
    inch = across / (sum(pixels) + 0.4 * w * len(pixels))  # the size of one pixel
    widths = [max(each * inch, _inches(title)) for title, each in zip(panels, pixels, strict=True)]
    gap, right, top = 0.4 * w * inch, 0.05, 0.3
    width, height = left + sum(widths) + gap * (len(widths) - 1) + right, (n * (h + 1) - 1) * inch + top + right
    space = {"left": left / width, "right": 1 - right / width, "bottom": right / height, "top": 1 - top / height}
    space["wspace"] = gap * len(widths) / sum(widths)
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")  # the constrained layout cuts off titles
    grid = figure.subplots(1, len(widths), width_ratios=widths, gridspec_kw=space, squeeze=False)[0]
    for axes, (title, images), m in zip(grid, panels.items(), counts, strict=True):
        show(axes, images.reshape(n * m, *images.shape[2:]), m, title)
    return figure


@styled
def named_table(names: Sequence[str], panels: dict[str, np.ndarray], across: float = 6.4) -> Figure:
    """An `image_table` with a name to the left of each row, in one or more lines."""
    nonempty("names", names)
    figure = image_table(panels, 0.05 + max(_inches(line) for name in names for line in name.split("\n")), across)
    height, axes = next(iter(panels.values())).shape[-2] + 1, figure.axes[0]
    beside = axes.transData + ScaledTranslation(-0.08, 0, figure.dpi_scale_trans)
    for row, name in enumerate(names):
        axes.text(-0.5, (row + 0.5) * height - 1, name, ha="right", va="center", transform=beside)
    return figure


def neighbours(samples: np.ndarray, nearest: np.ndarray, distances: np.ndarray) -> Figure:
    """Samples (n, C, H, W), each next to the m nearest training images (n, m, C, H, W), at a distance (n,)."""
    names = [f"distance {distance:.2f}" for distance in distances]
    return named_table(names, {"sample": np.asarray(samples)[:, None], "nearest training images": nearest})


@styled
def image_sheet(images: np.ndarray, columns: int, title: str = "") -> Figure:
    """Images (n, C, H, W) under a title, `columns` in a row; each pixel is one or more whole pixels at dpi 100."""
    height, width = tile(images, columns).shape[:2]
    scale, top = max(1, round(110 / width)), 20
    figure = Figure(figsize=(scale * width / 100, (scale * height + top) / 100))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, scale * height / (scale * height + top)))
    show(axes, images, columns, title)
    return figure


@styled
def image_matrix(rows: dict[str, dict[str, np.ndarray]], columns: int, title: str = "") -> Figure:
    """Grids of images (n, C, H, W), `columns` in a row, each under its title and next to the name of its row.

    At dpi 100 each pixel is drawn as one or more whole pixels.
    """
    every = [images for panels in rows.values() for images in panels.values()]
    _first(every, n=1, C=1, H=1, W=1)
    height, width = tile(every[0], columns).shape[:2]
    scale, across = max(1, round(110 / width)), max(map(len, rows.values()))
    height, width, left, top, gap, lines = scale * height, scale * width, 22, 24, 16, 32  # in pixels
    size = left + across * (width + gap), top + len(rows) * (height + lines) + 4
    figure = Figure(figsize=(size[0] / 100, size[1] / 100))
    figure.set_layout_engine("none")
    for row, (name, panels) in enumerate(rows.items()):
        bottom = size[1] - top - (row + 1) * (height + lines)
        middle = (bottom + height / 2) / size[1]
        figure.text(0.35 * left / size[0], middle, name, ha="center", va="center", rotation=90, fontsize=8)
        for column, (label, images) in enumerate(panels.items()):
            place = (left + column * (width + gap)) / size[0], bottom / size[1], width / size[0], height / size[1]
            axes = figure.add_axes(place)
            show(axes, images, columns)
            axes.set_title(label, fontsize=7, pad=3)
    figure.text(0.5, 1 - 4 / size[1], title, ha="center", va="top")
    return figure


def _first(panels: Collection[np.ndarray], **least: int) -> tuple[int, ...]:
    """The shape of the first panel; all panels must have these axes."""
    nonempty("panels", panels)
    shapes = [shaped("images", images, **least) for images in panels]
    return shapes[0]


def _inches(title: str) -> float:
    """The width of a title, with a margin."""
    return TextPath((0, 0), title, size=STYLE["axes.titlesize"]).get_extents().width / 72 + 0.1 if title else 0.0
