"""The style of all figures, and the notation of sites."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from matplotlib import rc_context, rcParamsDefault
from matplotlib.figure import Figure

# Start from matplotlib's defaults: a settings file in the working directory may be a stranger's, and can start LaTeX.
# So a figure is the same wherever it is drawn.
STYLE: Any = {
    **{name: value for name, value in rcParamsDefault.items() if not name.startswith(("backend", "interactive"))},
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
# Okabe & Ito 2008: eight colours that colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def symbol(site: str) -> str:
    r"""A site's name as mathematics: z is z, z1 is z_{1}, a word is \mathrm{word}."""
    if not site[1:].strip("0123456789"):
        return f"{site[0]}_{{{site[1:]}}}" if site[1:] else site
    return rf"\mathrm{{{site}}}".replace("_", r"\_")
