"""From numbers to figures. Each function takes arrays and returns a matplotlib Figure; nothing here knows a model."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.dpi": 200,
    "figure.constrained_layout.use": True,
}
# Okabe & Ito 2008: eight colours that colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def loss_curves(records: Sequence[dict[str, Any]], of: tuple[str, str] = ("", "")) -> Figure:
    """Training and validation loss over epochs, in nats per datum; beta below them where it changes.

    `of` says what data each is of, where the two are no losses of one kind.
    """
    epochs = [record["epoch"] for record in records]
    betas = [record["beta"] for record in records]
    changes = len(set(betas)) > 1
    figure = Figure(figsize=(5, 3.8 if changes else 3))
    axes = figure.subplots(2 if changes else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 1] if changes else [1])
    drawn = (("loss", f"training{of[0]}", COLOURS[0]), ("valid_loss", f"validation{of[1]}", COLOURS[1]))
    for key, label, colour in drawn:
        if key in records[0]:
            axes[0, 0].plot(epochs, [record[key] for record in records], color=colour, label=label, lw=1.5)
    axes[0, 0].set_ylabel("loss (nats per datum)")
    axes[0, 0].legend()
    if changes:
        axes[1, 0].plot(epochs, betas, color="0.3", lw=1.5)
        axes[1, 0].set_ylabel(r"$\beta$")
    axes[-1, 0].set_xlabel("epoch")
    axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
    return figure


@_styled
def training_curves(runs: dict[str, Sequence[tuple[Sequence[int], Sequence[float]]]], first: int = 0) -> Figure:
    """For each label its runs, (epochs, losses): a colour a label, a line a run; the first tenth may be above the top.

    The first label has the colour of that number; after the last colour they begin again, with dashes.
    """
    lines = -(-len(runs) // (2 if max(map(len, runs)) < 28 else 1))
    figure = Figure(figsize=(5.6, 3 + 0.17 * lines))
    axes = figure.subplots()
    for number, (label, several) in enumerate(runs.items(), first):
        colour, dashes = COLOURS[number % len(COLOURS)], ("-", "--", ":")[number // len(COLOURS) % 3]
        for run, (epochs, losses) in enumerate(several):
            axes.plot(epochs, losses, dashes, color=colour, lw=1.2, label=label if run == 0 else None)
    _zoom(axes, [losses[len(losses) // 10 :] for several in runs.values() for _, losses in several])
    axes.set(xlabel="epoch", ylabel="loss (nats per datum)")
    axes.locator_params("x", integer=True)
    figure.legend(loc="outside lower left", ncol=-(-len(runs) // lines), fontsize=8)
    return figure


@_styled
def intervals(numbers: dict[str, dict[str, float]], x: str, first: int = 0) -> Figure:
    """For each label its `value` and two `standard_error` to either side, a line a label, the first on top.

    Labels have the colours of `training_curves`.
    """
    figure = Figure(figsize=(5.6, 0.8 + 0.3 * len(numbers)))
    axes = figure.subplots()
    for number, (label, each) in enumerate(numbers.items()):
        colour, error = COLOURS[(first + number) % len(COLOURS)], np.nan_to_num(each["standard_error"])
        axes.errorbar(each["value"], label, xerr=2 * error, color=colour, marker="o", ms=5, capsize=3, lw=1.5)
    axes.set(xlabel=x, ylim=(len(numbers) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    return figure


def _zoom(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Show where these curves run, whatever else there is."""
    values = np.concatenate([np.asarray(curve, dtype=float) for curve in curves])
    values = values[np.isfinite(values)]
    if len(values) and (room := 0.05 * (values.max() - values.min())):
        axes.set_ylim(values.min() - room, values.max() + room)


def tile(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Images (n, C, H, W), values clipped to [0, 1], as one RGB picture with `columns` in a row, white between them."""
    images = np.clip(np.asarray(images, dtype=float), 0, 1)
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.ones((rows, columns, 3, h + gap, w + gap))
    sheet.reshape(-1, 3, h + gap, w + gap)[:n, :, :h, :w] = images if c == 3 else images[:, :1]
    picture = sheet.transpose(0, 3, 1, 4, 2).reshape(rows * (h + gap), columns * (w + gap), 3)
    return picture[: len(picture) - gap, : picture.shape[1] - gap]


def _show(axes: Axes, images: np.ndarray, columns: int, title: str = "") -> None:
    axes.imshow(tile(images, columns), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title)


@_styled
def image_grids(grids: dict[str, np.ndarray], columns: int = 8) -> Figure:
    """Grids of images (n, C, H, W) side by side, each under its title."""
    n, _, h, w = next(iter(grids.values())).shape
    figure = Figure(figsize=(3.2 * len(grids), 3.2 * -(-n // columns) * h / (min(n, columns) * w) + 0.3))
    for axes, (title, images) in zip(figure.subplots(1, len(grids), squeeze=False)[0], grids.items(), strict=True):
        _show(axes, images, columns, title)
    return figure


@_styled
def image_rows(rows: dict[str, np.ndarray]) -> Figure:
    """Rows of images (n, C, H, W), each with its label on the left."""
    n, _, h, w = next(iter(rows.values())).shape
    figure = Figure(figsize=(6.4, 6.4 / n * len(rows) * h / w + 0.1))
    for axes, (label, images) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        _show(axes, images, n)
        axes.text(-0.01, 0.5, label, transform=axes.transAxes, ha="right", va="center")
    return figure


@_styled
def image_table(panels: dict[str, np.ndarray], left: float = 0.05) -> Figure:
    """Panels side by side, each (n, m, C, H, W): n rows of m images under a title. Row i belongs together.

    6.4 inches wide, or more where a title is wider than its images; `left` inches are white beside the first panel.
    """
    n, _, _, h, w = next(iter(panels.values())).shape
    counts = [images.shape[1] for images in panels.values()]
    pixels = [m * (w + 1) - 1 for m in counts]
    inch = 6.4 / (sum(pixels) + 0.4 * w * len(pixels))  # of one pixel
    widths = [max(each * inch, _inches(title)) for title, each in zip(panels, pixels, strict=True)]
    gap, right, top = 0.4 * w * inch, 0.05, 0.3
    width, height = left + sum(widths) + gap * (len(widths) - 1) + right, (n * (h + 1) - 1) * inch + top + right
    space = {"left": left / width, "right": 1 - right / width, "bottom": right / height, "top": 1 - top / height}
    space["wspace"] = gap * len(widths) / sum(widths)
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")  # the constrained one cuts titles
    grid = figure.subplots(1, len(widths), width_ratios=widths, gridspec_kw=space, squeeze=False)[0]
    for axes, (title, images), m in zip(grid, panels.items(), counts, strict=True):
        _show(axes, images.reshape(n * m, *images.shape[2:]), m, title)
    return figure


def _inches(title: str) -> float:
    """The width of a title, with some white around it."""
    return TextPath((0, 0), title, size=STYLE["axes.titlesize"]).get_extents().width / 72 + 0.1 if title else 0.0


@_styled
def latent_plane(
    codes: np.ndarray, labels: np.ndarray | None, decoded: np.ndarray | None, extent: float = 3, site: str = "z"
) -> Figure:
    """Codes (N, 2) of a site coloured by label; beside them images decoded on a square grid over [-extent, extent]^2.

    `decoded` is (side, side, C, H, W), the first axis from z2 = extent down, the second from z1 = -extent up.
    """
    figure = Figure(figsize=(3.6 if decoded is None else 7, 3.3))
    axes = figure.subplots(1, 1 if decoded is None else 2, squeeze=False)[0]
    x, y = _parts(site)
    _scatter(axes[-1], codes, labels, x, y, rf"codes $E_q[{_symbol(site)}|x]$")
    if decoded is not None:
        _decoded(axes[0], decoded, extent, x, y, f"decoded mean $E[x|{_symbol(site)}]$")
    return figure


def _decoded(axes: Axes, decoded: np.ndarray, extent: float, x: str, y: str, title: str) -> None:
    sheet = tile(decoded.reshape(-1, *decoded.shape[2:]), len(decoded))
    axes.imshow(sheet, extent=(-extent, extent, -extent, extent), interpolation="nearest")
    axes.grid(False)
    axes.set(xlabel=x, ylabel=y, title=title)


@_styled
def latent_planes(
    of: dict[str, tuple[np.ndarray, np.ndarray]], labels: np.ndarray, extent: float = 3, x: str = "", y: str = ""
) -> Figure:
    """Side by side for each title (codes, decoded), as in `latent_plane`: the plane decoded, the codes below it."""
    figure = Figure(figsize=(3.4 * len(of) + 0.4, 6.6))
    for (above, below), (title, (codes, decoded)) in zip(figure.subplots(2, len(of)).T, of.items(), strict=True):
        _decoded(above, decoded, extent, x, y, title)
        _scatter(below, codes, labels, x, y, "")
        below.set_aspect("equal", adjustable="box")
        below.set(xlim=(-extent, extent), ylim=(-extent, extent))
    _one_legend(figure)
    return figure


def _one_legend(figure: Figure) -> None:
    """Panels of the same classes need but the last one's legend."""
    for axes in figure.axes[:-1]:
        if legend := axes.get_legend():
            legend.remove()


def _symbol(site: str) -> str:
    r"""A site's name in mathematics: z is z, z1 is z_{1}, a word is \mathrm{word}."""
    if not site[1:].strip("0123456789"):
        return f"{site[0]}_{{{site[1:]}}}" if site[1:] else site
    return rf"\mathrm{{{site}}}".replace("_", r"\_")


def _parts(site: str) -> list[str]:
    """The names of a site's first two latents: $z_{1}$ of z, $z_{2,1}$ of z2."""
    stem, index = (site[0], f"{site[1:]},") if site[1:].isdigit() else (_symbol(site), "")
    return [f"${stem}_{{{index}{number}}}$" for number in (1, 2)]


@_styled
def latent_pca(codes: np.ndarray, labels: np.ndarray | None, site: str = "z") -> Figure:
    """Codes (N, d) of a site on two principal components, coloured by label; axes say how much variance they carry."""
    centred = codes - codes.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    share = singular**2 / max((singular**2).sum(), 1e-300)
    names = [f"principal component {i + 1} of ${_symbol(site)}$ ({share[i]:.0%} of variance)" for i in range(2)]
    figure = Figure(figsize=(4.4, 3.6))
    _scatter(
        figure.subplots(),
        centred @ directions[:2].T,
        labels,
        names[0],
        names[1],
        rf"codes $E_q[{_symbol(site)}|x]$, {codes.shape[1]} latents",
    )
    return figure


def _scatter(axes: Axes, codes: np.ndarray, labels: np.ndarray | None, x: str, y: str, title: str) -> None:
    classes = [None] if labels is None else sorted(set(labels.tolist()))
    for number, label in enumerate(classes if len(classes) <= 20 else [None]):
        chosen = slice(None) if label is None else labels == label
        colour = COLOURS[0] if label is None else colormaps["tab10" if len(classes) <= 10 else "tab20"](number)
        axes.scatter(codes[chosen, 0], codes[chosen, 1], s=4, alpha=0.7, linewidths=0, color=colour, label=label)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.set_aspect("equal", adjustable="datalim")
    if 1 < len(classes) <= 20:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3, handletextpad=0.1)


@_styled
def marginals(data: np.ndarray, samples: np.ndarray, most: int = 12) -> Figure:
    """For the first columns of vectors (N, D): histograms of the data and of samples on common bins."""
    count = min(data.shape[1], most)
    rows = -(-count // 4)
    figure = Figure(figsize=(7, 1.7 * rows + 0.4))
    grid = figure.subplots(rows, min(4, count), squeeze=False).flatten()
    for column, axes in enumerate(grid[:count]):
        both = np.concatenate([data[:, column], samples[:, column]])
        low, high = np.quantile(both, [0.005, 0.995])
        bins = np.linspace(low, high, 31) if high > low else np.array([low - 0.5, low + 0.5])
        for values, label, colour in ((data, "data", COLOURS[0]), (samples, "samples", COLOURS[1])):
            axes.hist(values[:, column], bins, density=True, histtype="step", color=colour, label=label)
        axes.set(xlabel=f"$x_{{{column + 1}}}$", yticks=[])
    for axes in grid[count:]:
        axes.set_axis_off()
    grid[0].legend(fontsize=7)
    return figure


@_styled
def agreement(data: np.ndarray, means: np.ndarray) -> Figure:
    """Reconstructed against true values of vectors (N, D), one dot a value."""
    figure = Figure(figsize=(3.6, 3.4))
    axes = figure.subplots()
    axes.scatter(data.flatten(), means.flatten(), s=2, alpha=0.3, linewidths=0, color=COLOURS[0])
    low, high = float(data.min()), float(data.max())
    axes.plot([low, high], [low, high], color="0.4", lw=0.8)
    axes.set(xlabel="$x$", ylabel="$E[x|z]$", title="reconstructions")
    return figure


@_styled
def program_graph(
    levels: dict[str, int],
    edges: Sequence[tuple[str, str]],
    inferred: Sequence[tuple[str, str]],
    observed: Sequence[str],
    n: int | str,
) -> Figure:
    """The sites of model and guide in their plate: solid arrows generate, dashed ones infer; observed sites are grey.

    Args:
        levels: how far each site stands from the top.
        edges: (parent, child) in the model.
        inferred: the same in the guide.
        observed: the sites with data.
        n: size of the plate.
    """
    width = {level: [site for site in levels if levels[site] == level] for level in levels.values()}
    place = {
        site: (1.6 * (sites.index(site) - (len(sites) - 1) / 2), -1.5 * level)
        for level, sites in width.items()
        for site in sites
    }
    half, depth = 0.8 * max(map(len, width.values())) + 0.3, 1.5 * max(width)
    figure = Figure(figsize=(0.9 * (2 * half + 0.4), 0.9 * (depth + 2.1)))
    axes = figure.subplots()
    axes.set(xlim=(-half - 0.2, half + 0.2), ylim=(-depth - 1.2, 0.9), aspect="equal")
    axes.set_axis_off()
    axes.add_patch(FancyBboxPatch((-half, -depth - 1), 2 * half, depth + 1.7, "round,pad=0.05", fill=False, lw=0.8))
    axes.text(half, -depth - 0.95, f"data ({n})", ha="right", va="bottom", fontsize=8)
    arrows = [(edge, "-", 0.0) for edge in edges] + [(edge, "--", 0.5) for edge in inferred]
    discs = {
        site: axes.add_patch(Circle(centre, 0.35, facecolor="0.85" if site in observed else "white", edgecolor="0.2"))
        for site, centre in place.items()
    }
    for site, centre in place.items():
        axes.text(
            *centre,
            f"${_symbol(site)}$",
            ha="center",
            va="center",
            fontsize=12,
        )
    for (tail, head), line, bend in arrows:
        arrow = FancyArrowPatch(place[tail], place[head], patchA=discs[tail], patchB=discs[head], shrinkA=2, shrinkB=2)
        arrow.set(arrowstyle="-|>", mutation_scale=12, color="0.2", lw=1, ls=line)
        arrow.set_connectionstyle("arc3", rad=bend)
        axes.add_patch(arrow)
    return figure


@_styled
def roc_curves(scores: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """For each label (scores of normal data, scores of anomalies): detections against false alarms, by threshold."""
    figure = Figure(figsize=(5.4, 3.4))
    axes = figure.subplots()
    for number, (label, (normal, anomalous)) in enumerate(scores.items()):
        thresholds = np.unique(np.concatenate([normal, anomalous]))
        # The share above each threshold; from all to none.
        alarms, found = (
            np.append(1, 1 - np.searchsorted(np.sort(each), thresholds, side="right") / len(each))
            for each in (normal, anomalous)
        )
        axes.plot(alarms, found, color=COLOURS[number % len(COLOURS)], label=label, lw=1.5)
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
    axes.set(xlabel="false alarms", ylabel="detections", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@_styled
def auroc_bars(by_class: dict[str, dict[str, float]]) -> Figure:
    """A bar for each class, its `value` with two `standard_error` to either side; .5 is chance."""
    values, errors = (np.array([each[key] for each in by_class.values()]) for key in ("value", "standard_error"))
    figure = Figure(figsize=(max(3.0, 0.45 * len(values) + 0.8), 2.6))
    axes = figure.subplots()
    axes.bar(list(by_class), values - 0.5, bottom=0.5, yerr=2 * errors, color=COLOURS[0], ecolor="0.2", width=0.7)
    axes.axhline(0.5, color="0.4", lw=0.8)
    axes.set(xlabel="class", ylabel="AUROC", ylim=(min(0.5, float(values.min()) - 0.05), 1.005))
    return figure


@_styled
def named_table(names: Sequence[str], panels: dict[str, np.ndarray]) -> Figure:
    """An `image_table` with a name to the left of each row."""
    figure = image_table(panels, 0.05 + max(map(_inches, names)))
    height, axes = next(iter(panels.values())).shape[-2] + 1, figure.axes[0]
    beside = axes.transData + ScaledTranslation(-0.08, 0, figure.dpi_scale_trans)
    for row, name in enumerate(names):
        axes.text(-0.5, (row + 0.5) * height - 1, name, ha="right", va="center", transform=beside)
    return figure


@_styled
def colourings(points: np.ndarray, by: dict[str, np.ndarray], x: str = "", y: str = "") -> Figure:
    """The same points (N, 2) in panels side by side, each coloured by classes (N,) under a title.

    x and y name the axes; where they are nothing by themselves (t-SNE) they have neither names nor numbers.
    """
    figure = Figure(figsize=(3.5 * len(by) + 0.2, 3.3))
    for axes, (title, classes) in zip(figure.subplots(1, len(by), squeeze=False)[0], by.items(), strict=True):
        _scatter(axes, points, classes, x, y, title)
        if not x and not y:
            axes.set(xticks=[], yticks=[])
    return figure


@_styled
def maps(points: dict[str, np.ndarray], classes: np.ndarray) -> Figure:
    """Maps of the same data side by side, points (N, 2) under each title, coloured by classes (N,); no scales."""
    figure = Figure(figsize=(3.3 * len(points) + 0.4, 3.4))
    for axes, (title, each) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        _scatter(axes, each, classes, "", "", title)
        axes.set(xticks=[], yticks=[])
        for label in np.unique(classes):  # beside its colour, which not all readers can tell from the others
            name = axes.text(*np.median(each[classes == label], 0), str(label), ha="center", va="center", weight="bold")
            name.set_path_effects([Stroke(linewidth=2.5, foreground="white"), Normal()])
    _one_legend(figure)
    return figure


@_styled
def curves(lines: dict[str, tuple[Any, ...]], x: str = "", y: str = "", log: str = "", beside: bool = False) -> Figure:
    """For each label (x, y) or (x, y, errors): a line through the points, each with its error to either side.

    Errors may be None. x and y name the axes; log says which of them are logarithmic: "x", "y" or "xy"; `beside` puts
    the labels on the right, where lines leave them no room.
    """
    figure = Figure(figsize=(7.4 if beside else 5.4, 3.4))
    axes = figure.subplots()
    for number, (label, (at, values, *errors)) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(at, values, *errors, color=colour, label=label, lw=1.5, marker="o", ms=3.5, capsize=2)
    axes.set(xlabel=x, ylabel=y)
    for name in log:
        axes.set(**{f"{name}scale": "log"})
        getattr(axes, f"{name}axis").set_major_formatter("{x:g}")
    if beside:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.legend(fontsize=8)
    return figure


@_styled
def pareto_k(k: np.ndarray) -> Figure:
    """Pareto k-hat (N,) over the data, a dot a row, with lines at .5 and .7; triangles at the edge are infinite."""
    figure = Figure(figsize=(5.4, 2.8))
    axes = figure.subplots()
    finite = k[np.isfinite(k)]
    low, high = min([0.0, *finite]) - 0.1, max([1.0, *finite]) + 0.1
    places, rows = np.clip(k, low, high), np.arange(len(k))
    bands = ((k <= 0.5, "good"), ((k > 0.5) & (k <= 0.7), "usable"), (~(k <= 0.7), "unusable"))
    for (chosen, label), colour in zip(bands, (COLOURS[0], COLOURS[4], COLOURS[1]), strict=True):
        label = f"{label} ({chosen.mean():.0%})"
        axes.scatter(rows[chosen], places[chosen], s=8, lw=0, color=colour, label=label)
    for infinity, marker in ((-np.inf, "v"), (np.inf, "^")):
        axes.scatter(rows[k == infinity], places[k == infinity], s=30, lw=0, marker=marker, color="0.2")
    for line in (0.5, 0.7):
        axes.axhline(line, color="0.4", lw=0.8, ls="--")
    axes.set(xlabel="datum", ylabel=r"Pareto $\hat k$", ylim=(low - 0.05, high + 0.05))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@_styled
def rank_histograms(counts: dict[str, np.ndarray], most: int = 20) -> Figure:
    """Rank histograms (latents, bins) by site, of the first latents; the band holds 99 % of uniform bins.

    Full at both ends: the guide is too narrow; in the middle: too wide; on one side: biased.
    """
    panels = [(f"{site} {i + 1}", row) for site, rows in counts.items() for i, row in enumerate(np.asarray(rows))][
        :most
    ]
    columns = min(5, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(1.5 * columns, 3) + 0.4, 1.2 * lines + 0.6))
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, (title, row) in zip(grid, panels, strict=False):
        share = 1 / len(row)
        centre, half = row.sum() * share, 2.576 * np.sqrt(row.sum() * share * (1 - share))
        axes.axhspan(centre - half, centre + half, color="0.85", lw=0, zorder=0.5)
        for line in (centre - half, centre, centre + half):
            axes.axhline(line, color="0.5", lw=0.6)
        axes.bar((np.arange(len(row)) + 0.5) * share, row, width=share, color=COLOURS[0])
        axes.set_title(title)
        axes.set(xlim=(0, 1), xticks=[0, 1], ylim=(0, 1.05 * max(each.max() for _, each in panels)))
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.tick_params(labelbottom=True)
    figure.suptitle("grey band: 99 % of uniform bins", fontsize=9)
    figure.supxlabel("rank among the guide's draws", fontsize=9)
    figure.supylabel("data", fontsize=9)
    return figure


def neighbours(samples: np.ndarray, nearest: np.ndarray, distances: np.ndarray) -> Figure:
    """Samples (n, C, H, W), each beside the m training images (n, m, C, H, W) nearest to it, at a distance (n,)."""
    names = [f"distance {distance:.2f}" for distance in distances]
    return named_table(names, {"sample": np.asarray(samples)[:, None], "nearest training images": nearest})


@_styled
def posterior_plane(
    posterior: np.ndarray, guide: np.ndarray, density: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
) -> Figure:
    """Draws of p(z|x) (n, 2) beside draws of q(z|x) (m, 2) on the same axes, and the guide's density over both.

    `density` is (z1, z2, q): q on the grid of z1 (a,) and z2 (b,), of shape (b, a), drawn as the lines where it is
    1/2, 1/10 and 1/100 of its highest value.
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


@_styled
def rate_distortion(
    points: dict[float, tuple[float, float]], others: dict[str, tuple[float, float]] | None = None
) -> Figure:
    """For each beta (rate, distortion) in nats per datum, coloured by beta; crosses are `others`, by their labels.

    Along a grey line the sum of the two, which is -ELBO at beta = 1, is the same.
    """
    figure = Figure(figsize=(5.4, 3.8))
    axes = figure.subplots()
    beta, (rate, distortion) = np.array(list(points)), np.array(list(points.values())).T
    axes.plot(rate, distortion, color="0.75", lw=0.8)
    dots = axes.scatter(rate, distortion, c=beta, norm="log", cmap="viridis", s=26, zorder=3)
    for label, place in (others or {}).items():
        axes.plot(*place, "x", color=COLOURS[1], ms=8, mew=1.8, label=label, zorder=4, ls="none")
    axes.set(xlabel="rate: KL (nats)", ylabel=r"distortion: $-E_q[\log p(x|z)]$ (nats)")
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    for total in MaxNLocator(6).tick_values(min(rate + distortion), axes.get_ylim()[1] + axes.get_xlim()[0]):
        axes.axline((0, total), slope=-1, color="0.7", lw=0.8, ls=":", zorder=1)
    axes.plot([], [], color="0.7", lw=0.8, ls=":", label=r"equal ELBO at $\beta = 1$")
    axes.legend()
    figure.colorbar(dots, label=r"$\beta$", format="{x:g}")
    return figure


@_styled
def image_sheet(images: np.ndarray, columns: int, title: str = "") -> Figure:
    """Images (n, C, H, W) under a title, `columns` in a row, each of their pixels one or more whole ones at dpi 100."""
    height, width = tile(images, columns).shape[:2]
    scale, top = max(1, round(110 / width)), 20
    figure = Figure(figsize=(scale * width / 100, (scale * height + top) / 100))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, scale * height / (scale * height + top)))
    _show(axes, images, columns, title)
    return figure


@_styled
def image_matrix(rows: dict[str, dict[str, np.ndarray]], columns: int, title: str = "") -> Figure:
    """Grids of images (n, C, H, W), `columns` in each row of theirs, each under its title and beside its row's name.

    Each of their pixels is one or more whole ones at dpi 100.
    """
    some = next(iter(rows.values()))
    height, width = tile(next(iter(some.values())), columns).shape[:2]
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
            _show(axes, images, columns)
            axes.set_title(label, fontsize=7, pad=3)
    figure.text(0.5, 1 - 4 / size[1], title, ha="center", va="top")
    return figure


@_styled
def posteriors(
    images: np.ndarray,
    draws: np.ndarray,
    guides: dict[str, Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, str]]],
) -> Figure:
    """A row for each datum: its image (C, H, W), then for each guide the same draws of p(z|x) under its density.

    Args:
        images: (n, C, H, W).
        draws: of the true posterior. (n, m, 2)
        guides: for each of them n of (z1, z2, q, note): q on the grid of z1 (a,) and z2 (b,), of shape (b, a), drawn
            as the lines where it is 1/2, 1/10 and 1/100 of its highest value.
    """
    figure = Figure(figsize=(1.75 * len(guides) + 1.4, 1.75 * len(images) + 0.35))
    grid = figure.subplots(len(images), 1 + len(guides), squeeze=False, width_ratios=[0.6] + [1] * len(guides))
    for row, image in enumerate(images):
        _show(grid[row, 0], image[None], 1)
        for axes, (title, panels) in zip(grid[row, 1:], guides.items(), strict=True):
            z1, z2, q, note = panels[row]
            axes.scatter(*draws[row].T, s=1.5, alpha=0.25, linewidths=0, color=COLOURS[0], rasterized=True)
            axes.contour(z1, z2, q / q.max(), levels=[0.01, 0.1, 0.5], colors=COLOURS[1], linewidths=1.1)
            axes.set_title(f"{title}\n{note}" if row == 0 else note)
            axes.set(xlim=(z1[0], z1[-1]), ylim=(z2[0], z2[-1]), xticks=[], yticks=[])
            axes.spines[["top", "right"]].set_visible(True)
    grid[0, 0].set_title("x")
    return figure


@_styled
def dots(values: dict[str, Sequence[float]], y: str = "") -> Figure:
    """For each label a column of dots, its repetitions, and a line at their mean."""
    figure = Figure(figsize=(max(3.0, 0.75 * len(values) + 0.8), 2.8))
    axes = figure.subplots()
    for place, each in enumerate(values.values()):
        axes.scatter([place] * len(each), each, s=18, lw=0, alpha=0.8, color=COLOURS[0])
        axes.hlines(np.mean(each), place - 0.25, place + 0.25, color=COLOURS[1], lw=1.8)
    axes.set(ylabel=y, xticks=range(len(values)), xticklabels=list(values), xlim=(-0.5, len(values) - 0.5))
    axes.grid(False, axis="x")
    return figure


@_styled
def curves_apart(lines: dict[str, tuple[Any, Any]], x: str = "", y: str = "", columns: int = 4) -> Figure:
    """For each title (x, y) a line in a panel of its own, with its own scale: numbers of unlike units."""
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(1.9 * columns, 1.7 * rows + 0.3))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for axes, (title, (at, values)) in zip(grid, lines.items(), strict=False):
        axes.plot(at, values, color=COLOURS[0], lw=1.5)
        axes.set_title(title)
        axes.tick_params(labelsize=8)
    for axes in grid[len(lines) :]:
        axes.set_axis_off()
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure
