"""Plots of latents: codes, planes of codes, and posteriors."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from pyrovae.plots.given import nonempty, shaped
from pyrovae.plots.images import show, tile
from pyrovae.plots.style import COLOURS, styled, symbol


@styled
def latent_plane(
    codes: np.ndarray, labels: np.ndarray | None, decoded: np.ndarray | None, extent: float = 3, site: str = "z"
) -> Figure:
    """Codes (N, 2) of a site, coloured by label, next to images decoded on a square grid over [-extent, extent]^2.

    `decoded` is (side, side, C, H, W): the first axis goes down from z2 = extent, the second to the right from z1 =
    -extent.
    """
    figure = Figure(figsize=(3.6 if decoded is None else 7, 3.3))
    axes = figure.subplots(1, 1 if decoded is None else 2, squeeze=False)[0]
    x, y = _parts(site)
    _scatter(axes[-1], codes, labels, x, y, rf"codes $E_q[{symbol(site)}|x]$")
    if decoded is not None:
        _decoded(axes[0], decoded, extent, x, y, f"decoded mean $E[x|{symbol(site)}]$")
    return figure


@styled
def latent_planes(
    of: dict[str, tuple[np.ndarray, np.ndarray]], labels: np.ndarray, extent: float = 3, x: str = "", y: str = ""
) -> Figure:
    """Panels (codes, decoded) as in `latent_plane`, side by side for each title: the decoded plane above the codes."""
    nonempty("of", of)
    figure = Figure(figsize=(3.4 * len(of) + 0.4, 6.6))
    grid = figure.subplots(2, len(of), squeeze=False)
    for above, below, (title, (codes, decoded)) in zip(*grid, of.items(), strict=True):
        _decoded(above, decoded, extent, x, y, title)
        _scatter(below, codes, labels, x, y, "")
        below.set_aspect("equal", adjustable="box")
        below.set(xlim=(-extent, extent), ylim=(-extent, extent))
    _one_legend(figure)
    return figure


@styled
def latent_pca(codes: np.ndarray, labels: np.ndarray | None, site: str = "z") -> Figure:
    """Codes (N, d) of a site on two principal components, coloured by label; axes show the share of variance."""
    shaped("codes", codes, N=1, d=2)
    centred = codes - codes.mean(0)
    # A single row has only one direction; repeating it gives two.
    _, singular, directions = np.linalg.svd(centred if len(codes) > 1 else centred.repeat(2, 0), full_matrices=False)
    share = singular**2 / ((singular**2).sum() or 1)
    names = [f"principal component {i + 1} of ${symbol(site)}$ ({share[i]:.0%} of variance)" for i in range(2)]
    figure = Figure(figsize=(4.4, 3.6))
    _scatter(
        figure.subplots(),
        centred @ directions[:2].T,
        labels,
        names[0],
        names[1],
        rf"codes $E_q[{symbol(site)}|x]$, {codes.shape[1]} latents",
    )
    return figure


@styled
def maps(points: dict[str, np.ndarray], classes: np.ndarray) -> Figure:
    """Maps of the same data side by side: points (N, 2) under each title, coloured by classes (N,), without scales."""
    nonempty("points", points)
    figure = Figure(figsize=(3.3 * len(points) + 0.4, 3.4))
    for axes, (title, each) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        _scatter(axes, each, classes, "", "", title)
        axes.set(xticks=[], yticks=[])
    _one_legend(figure)
    return figure


@styled
def colourings(points: np.ndarray, by: dict[str, np.ndarray], x: str = "", y: str = "") -> Figure:
    """The same points (N, 2) in panels side by side, each coloured by classes (N,) under a title.

    x and y name the axes; axes without meaning (t-SNE) have neither names nor numbers.
    """
    nonempty("by", by)
    figure = Figure(figsize=(3.5 * len(by) + 0.2, 3.3))
    for axes, (title, classes) in zip(figure.subplots(1, len(by), squeeze=False)[0], by.items(), strict=True):
        _scatter(axes, points, classes, x, y, title)
        if not x and not y:
            axes.set(xticks=[], yticks=[])
    return figure


@styled
def posterior_plane(
    posterior: np.ndarray, guide: np.ndarray, density: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
) -> Figure:
    """Draws from p(z|x) (n, 2) next to draws from q(z|x) (m, 2) on the same axes, and the guide's density over both.

    `density` is (z1, z2, q): q on the grid of z1 (a,) and z2 (b,), with shape (b, a), drawn as contours at 1/2, 1/10
    and 1/100 of its highest value.
    """
    figure = Figure(figsize=(7, 3.3))
    grid = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, points, title in zip(
        grid, (posterior, guide), ("true posterior $p(z|x)$", "guide $q(z|x)$"), strict=True
    ):
        _scatter(axes, points, None, "$z_1$", "$z_2$", title)
        axes.set_aspect("equal", adjustable="box")
        if density is not None:
            z1, z2, q = density
            axes.contour(z1, z2, q / q.max(), levels=[0.01, 0.1, 0.5], colors=COLOURS[1], linewidths=0.8)
    return figure


@styled
def posteriors(
    images: np.ndarray, z: np.ndarray, p: np.ndarray, guides: dict[str, tuple[np.ndarray, Sequence[str]]]
) -> Figure:
    """A row for each datum: its image, then for each guide the density p(z|x) in blue, and the guide's contours.

    Args:
        images: (n, C, H, W).
        z: the grid along both axes. (a,)
        p: the true posterior on the grid, up to a factor; the first axis is z2. (n, a, a)
        guides: for each guide q on the same grid (n, a, a), drawn as contours at 1/2, 1/10 and 1/100 of its highest
            value, and a note for each datum.
    """
    shaped("images", images, n=1, C=1, H=1, W=1)
    nonempty("guides", guides)
    figure = Figure(figsize=(1.75 * len(guides) + 1.4, 1.75 * len(images) + 0.35))
    grid = figure.subplots(len(images), 1 + len(guides), squeeze=False, width_ratios=[0.6] + [1] * len(guides))
    for row, image in enumerate(images):
        show(grid[row, 0], image[None], 1, "" if row else "x")
        lines = np.stack([q[row] / q[row].max() for q, _ in guides.values()])
        there = np.maximum(p[row] / p[row].max(), lines.max(0)) > 0.005
        limits = [z[np.flatnonzero(there.any(axis))[[0, -1]]] for axis in (0, 1)]
        for axes, line, (title, (_, notes)) in zip(grid[row, 1:], lines, guides.items(), strict=True):
            axes.pcolormesh(z, z, p[row], cmap="Blues", shading="nearest", rasterized=True)
            axes.contour(z, z, line, levels=[0.01, 0.1, 0.5], colors=COLOURS[1], linewidths=1.1)
            axes.set_title(notes[row] if row else f"{title}\n{notes[row]}")
            axes.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[])
            axes.spines[["top", "right"]].set_visible(True)
    return figure


def _decoded(axes: Axes, decoded: np.ndarray, extent: float, x: str, y: str, title: str) -> None:
    sheet = tile(decoded.reshape(-1, *decoded.shape[2:]), len(decoded))
    axes.imshow(sheet, extent=(-extent, extent, -extent, extent), interpolation="nearest")
    axes.grid(False)
    axes.set(xlabel=x, ylabel=y, title=title)


def _scatter(axes: Axes, codes: np.ndarray, labels: np.ndarray | None, x: str, y: str, title: str) -> None:
    n, _ = shaped("codes", codes, N=1, d=2)
    if labels is not None and labels.shape != (n,):
        raise ValueError(f"labels: expected shape ({n},) for as many codes, found {tuple(labels.shape)}")
    classes = [None] if labels is None else sorted(set(labels.tolist()))
    for number, label in enumerate(classes if len(classes) <= 20 else [None]):
        chosen = slice(None) if label is None else labels == label
        colour = COLOURS[0] if label is None else colormaps["tab10" if len(classes) <= 10 else "tab20"](number)
        axes.scatter(codes[chosen, 0], codes[chosen, 1], s=4, alpha=0.7, linewidths=0, color=colour, label=label)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.set_aspect("equal", adjustable="datalim")
    if 1 < len(classes) <= 20:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3, handletextpad=0.1)
        for label in classes:  # a text next to its colour, which some readers cannot distinguish
            place = np.median(codes[labels == label], 0)
            name = axes.text(place[0], place[1], str(label), ha="center", va="center", weight="bold")
            name.set_path_effects([Stroke(linewidth=2.5, foreground="white"), Normal()])


def _one_legend(figure: Figure) -> None:
    """Keep only the last legend of panels with the same classes."""
    for axes in figure.axes[:-1]:
        if legend := axes.get_legend():
            legend.remove()


def _parts(site: str) -> list[str]:
    """The names of a site's first two latents: $z_{1}$ for z, $z_{2,1}$ for z2."""
    stem, index = (site[0], f"{site[1:]},") if site[1:].isdigit() else (symbol(site), "")
    return [f"${stem}_{{{index}{number}}}$" for number in (1, 2)]
