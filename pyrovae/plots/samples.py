"""Plots of distributions of numbers: data next to samples, and diagnostics."""

import numpy as np
from matplotlib.figure import Figure

from pyrovae.plots.given import nonempty, shaped
from pyrovae.plots.style import COLOURS, styled


@styled
def marginals(data: np.ndarray, samples: np.ndarray, most: int = 12) -> Figure:
    """For the first columns of vectors (N, D): histograms of the data and of samples on common bins."""
    count = min(shaped("data", data, N=1, D=1)[1], most)
    shaped("samples", samples, N=1, D=count)
    rows = -(-count // 4)
    figure = Figure(figsize=(7, 1.7 * rows + 0.4))
    grid = figure.subplots(rows, min(4, count), squeeze=False).flatten()
    for column, axes in enumerate(grid[:count]):
        both = np.concatenate([data[:, column], samples[:, column]])
        # Use values that occur: a value between a single row and a single sample would have neither in its bin.
        low, high = np.quantile(both, 0.005, method="lower"), np.quantile(both, 0.995, method="higher")
        bins = np.linspace(low, high, 31) if high > low else np.array([low - 0.5, low + 0.5])
        for values, label, colour in ((data, "data", COLOURS[0]), (samples, "samples", COLOURS[1])):
            axes.hist(values[:, column], bins, density=True, histtype="step", color=colour, label=label)
        axes.set(xlabel=f"$x_{{{column + 1}}}$", yticks=[])
    for axes in grid[count:]:
        axes.set_axis_off()
    grid[0].legend(fontsize=7)
    return figure


@styled
def agreement(data: np.ndarray, means: np.ndarray) -> Figure:
    """Reconstructed against true values of vectors (N, D), one dot for each value."""
    nonempty("data", data)
    figure = Figure(figsize=(3.6, 3.4))
    axes = figure.subplots()
    axes.scatter(data.flatten(), means.flatten(), s=2, alpha=0.3, linewidths=0, color=COLOURS[0])
    low, high = float(data.min()), float(data.max())
    axes.plot([low, high], [low, high], color="0.4", lw=0.8)
    axes.set(xlabel="$x$", ylabel="$E[x|z]$", title="reconstructions")
    return figure


@styled
def pareto_k(k: np.ndarray, usable: float = 0.7) -> Figure:
    """Pareto k-hat (N,) over the data, a dot a row, with lines at .5 and `usable`; triangles are infinite values.

    `usable` is `pareto_k.usable` for the number of draws of k-hat; if it is below .5 it is the only line.
    """
    nonempty("k", k)
    figure = Figure(figsize=(5.4, 2.8))
    axes = figure.subplots()
    finite = k[np.isfinite(k)]
    low, high = min([0.0, *finite]) - 0.1, max([1.0, *finite]) + 0.1
    places, rows = np.clip(k, low, high), np.arange(len(k))
    good = min(0.5, usable)
    bands = ((k <= good, "good"), ((k > good) & (k <= usable), "usable"), (~(k <= usable), "unusable"))
    for (chosen, label), colour in zip(bands, (COLOURS[0], COLOURS[4], COLOURS[1]), strict=True):
        label = f"{label} ({chosen.mean():.0%})"
        axes.scatter(rows[chosen], places[chosen], s=8, lw=0, color=colour, label=label)
    for infinity, marker in ((-np.inf, "v"), (np.inf, "^")):
        axes.scatter(rows[k == infinity], places[k == infinity], s=30, lw=0, marker=marker, color="0.2")
    for line in (good, usable):
        axes.axhline(line, color="0.4", lw=0.8, ls="--")
    axes.set(xlabel="datum", ylabel=r"Pareto $\hat k$", ylim=(low - 0.05, high + 0.05))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def rank_histograms(counts: dict[str, np.ndarray], most: int = 20) -> Figure:
    """Rank histograms (latents, bins) by site, for the first latents; the band contains 99 % of uniform bins.

    Too many ranks at both ends: the guide is too narrow; in the middle: too wide; on one side: biased.
    """
    nonempty("counts", counts)
    for rows in counts.values():
        shaped("counts", rows, latents=1, bins=1)
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
