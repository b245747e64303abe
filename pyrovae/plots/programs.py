"""The graph of two programs."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from pyrovae.plots.given import nonempty
from pyrovae.plots.style import styled, symbol


@styled
def program_graph(
    levels: dict[str, int],
    edges: Sequence[tuple[str, str]],
    inferred: Sequence[tuple[str, str]],
    observed: Sequence[str],
    n: int | str,
) -> Figure:
    """The sites of model and guide in their plate: solid arrows generate, dashed arrows infer; observed sites are grey.

    Args:
        levels: the distance of each site from the top.
        edges: (parent, child) pairs in the model.
        inferred: (parent, child) pairs in the guide.
        observed: the sites with data.
        n: size of the plate.
    """
    nonempty("levels", levels)
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
            f"${symbol(site)}$",
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
