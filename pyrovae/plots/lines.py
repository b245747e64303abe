"""Plots of curves, points and bars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyrovae.plots.given import nonempty
from pyrovae.plots.style import COLOURS, styled


@styled
def loss_curves(records: Sequence[dict[str, Any]], of: tuple[str, str] = ("", "")) -> Figure:
    """Training and validation loss over epochs, in nats per datum; below them beta, if it changes.

    The first tenth may lie above the top. `of` names the data of each loss, if the two losses are of different kinds.
    """
    nonempty("records", records)
    epochs = [record["epoch"] for record in records]
    betas = [record["beta"] for record in records]
    changes = len(set(betas)) > 1
    figure = Figure(figsize=(5, 3.8 if changes else 3))
    axes = figure.subplots(2 if changes else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 1] if changes else [1])
    drawn = (("loss", f"training{of[0]}", COLOURS[0]), ("valid_loss", f"validation{of[1]}", COLOURS[1]))
    later = []
    for key, label, colour in drawn:
        if key in records[0]:
            losses = [record[key] for record in records]
            axes[0, 0].plot(epochs, losses, color=colour, label=label, lw=1.5)
            later.append(losses[len(losses) // 10 :])
    _zoom(axes[0, 0], later)
    axes[0, 0].set_ylabel("loss (nats per datum)")
    axes[0, 0].legend()
    if changes:
        axes[1, 0].plot(epochs, betas, color="0.3", lw=1.5)
        axes[1, 0].set_ylabel(r"$\beta$")
    axes[-1, 0].set_xlabel("epoch")
    axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
    return figure


@styled
def training_curves(runs: dict[str, Sequence[tuple[Sequence[int], Sequence[float]]]], first: int = 0) -> Figure:
    """For each label its runs, (epochs, losses): a colour per label, a line per run; the first tenth may be cut off.

    `first` is the colour number of the first label; after the last colour they repeat, with dashes.
    """
    nonempty("runs", [run for several in runs.values() for run in several])
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


@styled
def curves(
    lines: dict[str, tuple[Any, ...]],
    x: str = "",
    y: str = "",
    log: str = "",
    beside: bool = False,
    below: bool = False,
) -> Figure:
    """For each label (x, y) or (x, y, errors): a line through the points, each with its error to either side.

    Errors may be None. x and y name the axes; `log` names the logarithmic ones: "x", "y" or "xy"; `beside` puts the
    labels to the right, if the lines leave no space; `below` puts them under a small figure.
    """
    figure = _narrow(len(lines)) if below else Figure(figsize=(7.4 if beside else 5.4, 3.4))
    axes = figure.subplots()
    for number, (label, (at, values, *errors)) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(at, values, *errors, color=colour, label=label, lw=1.5, marker="o", ms=3.5, capsize=2)
    _name(axes, x, y, log)
    if below:
        figure.legend(loc="outside lower center")
    elif beside:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.legend(fontsize=8)
    return figure


@styled
def rings(points: dict[str, tuple[Any, Any]], x: str = "", y: str = "", log: str = "") -> Figure:
    """For each label (x, y): points without lines, in a small figure; the axes are as in `curves`.

    The first label has dots; each further label has rings around the earlier ones, so that coinciding points are
    visible.
    """
    figure = _narrow(len(points))
    axes = figure.subplots()
    for number, (label, (at, values)) in enumerate(points.items()):
        colour, inside = COLOURS[number], COLOURS[number] if number == 0 else "none"
        axes.plot(at, values, "o", color=colour, mfc=inside, ms=4.5 + 3.5 * number, mew=1.2, label=label)
    _name(axes, x, y, log)
    axes.margins(0.08)
    figure.legend(loc="outside lower center")
    return figure


@styled
def curves_apart(lines: dict[str, tuple[Any, Any]], x: str = "", y: str = "", columns: int = 4) -> Figure:
    """For each title (x, y): a line in a separate panel with its own scale, for numbers with different units."""
    nonempty("lines", lines)
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


@styled
def rate_distortion(
    points: dict[float, tuple[float, float]], others: dict[str, tuple[float, float]] | None = None
) -> Figure:
    """For each beta (rate, distortion) in nats per datum, coloured by beta; crosses show `others`, by label.

    Along a grey line the sum of the two, which is -ELBO at beta = 1, is constant.
    """
    nonempty("points", points)
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


@styled
def roc_curves(scores: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """For each label (scores of normal data, scores of anomalies): detections against false alarms."""
    figure = Figure(figsize=(5.4, 3.4))
    axes = figure.subplots()
    for number, (label, (normal, anomalous)) in enumerate(scores.items()):
        thresholds = np.unique(np.concatenate([normal, anomalous]))
        # The share above each threshold, from all to none.
        alarms, found = (
            np.append(1, 1 - np.searchsorted(np.sort(each), thresholds, side="right") / len(each))
            for each in (normal, anomalous)
        )
        axes.plot(alarms, found, color=COLOURS[number % len(COLOURS)], label=label, lw=1.5)
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
    axes.set(xlabel="false alarms", ylabel="detections", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def auroc_bars(by_class: dict[str, dict[str, float]], x: str = "class") -> Figure:
    """A bar for each class: its `value`, with two `standard_error` to either side; .5 is chance."""
    nonempty("by_class", by_class)
    values, errors = (np.array([each[key] for each in by_class.values()]) for key in ("value", "standard_error"))
    figure = Figure(figsize=(max(3.0, 0.45 * len(values) + 0.8), 2.6))
    axes = figure.subplots()
    axes.bar(list(by_class), values - 0.5, bottom=0.5, yerr=2 * errors, color=COLOURS[0], ecolor="0.2", width=0.7)
    axes.axhline(0.5, color="0.4", lw=0.8)
    axes.set(xlabel=x, ylabel="AUROC", ylim=(min(0.5, float((values - 2 * errors).min()) - 0.02), 1.005))
    return figure


@styled
def intervals(
    numbers: dict[str, dict[str, float]], x: str, first: int = 0, size: tuple[float, float] = (5.6, 0.3)
) -> Figure:
    """For each label its `value`, with its `margin` or two `standard_error` to either side; the first is on top.

    Labels have the colours of `training_curves`; `size` is the figure's width and a label's height, in inches.
    """
    figure = Figure(figsize=(size[0], 0.8 + size[1] * len(numbers)))
    axes = figure.subplots()
    for number, (label, each) in enumerate(numbers.items()):
        colour = COLOURS[(first + number) % len(COLOURS)]
        margin = np.nan_to_num(each.get("margin", 2 * each["standard_error"]))
        axes.errorbar(each["value"], label, xerr=margin, color=colour, marker="o", ms=5, capsize=3, lw=1.5)
    axes.set(xlabel=x, ylim=(len(numbers) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    return figure


@styled
def rows_of_dots(series: dict[str, dict[str, tuple[float, float]]], x: str) -> Figure:
    """For each series a colour; for each label a row with a value and its error; the first is on top."""
    nonempty("series", series)
    labels = list(next(iter(series.values())))
    figure = Figure(figsize=(4.2, 1 + 0.3 * len(labels)))
    axes = figure.subplots()
    for (name, of), colour in zip(series.items(), COLOURS, strict=False):
        values, errors = zip(*(of[label] for label in labels), strict=True)
        axes.errorbar(values, range(len(labels)), xerr=errors, color=colour, label=name, fmt="o", ms=5, capsize=3)
    axes.set(xlabel=x, yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    figure.legend(loc="outside upper center", ncol=len(series))
    return figure


@styled
def dots(values: dict[str, Sequence[float]], y: str = "") -> Figure:
    """For each label a column of dots, one for each repetition, and a line at their mean."""
    figure = Figure(figsize=(max(3.0, 0.75 * len(values) + 0.8), 2.8))
    axes = figure.subplots()
    for place, each in enumerate(values.values()):
        axes.scatter([place] * len(each), each, s=18, lw=0, alpha=0.8, color=COLOURS[0])
        axes.hlines(np.mean(each), place - 0.25, place + 0.25, color=COLOURS[1], lw=1.8)
    axes.set(ylabel=y, xticks=range(len(values)), xticklabels=list(values), xlim=(-0.5, len(values) - 0.5))
    axes.grid(False, axis="x")
    return figure


def _narrow(labels: int) -> Figure:
    """A small figure with readable letters, with room for labels below."""
    return Figure(figsize=(3.6, 2.9 + 0.19 * labels))


def _name(axes: Axes, x: str, y: str, log: str) -> None:
    """Set the axes' names, and which of them are logarithmic."""
    axes.set(xlabel=x, ylabel=y)
    for name in log:
        axes.set(**{f"{name}scale": "log"})
        getattr(axes, f"{name}axis").set_major_formatter("{x:g}")


def _zoom(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Set the limits to show these curves, whatever else there is."""
    values = np.concatenate([np.asarray(curve, dtype=float) for curve in curves])
    values = values[np.isfinite(values)]
    if len(values) and (room := 0.05 * (values.max() - values.min())):
        axes.set_ylim(values.min() - room, values.max() + room)
