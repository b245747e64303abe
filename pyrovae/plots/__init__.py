"""From numbers to figures. Each function takes arrays and returns a matplotlib Figure; nothing here knows a model."""

from pyrovae.plots.codes import colourings, latent_pca, latent_plane, latent_planes, maps, posterior_plane, posteriors
from pyrovae.plots.disk import gif, write_figures
from pyrovae.plots.images import (
    image_grids,
    image_matrix,
    image_rows,
    image_sheet,
    image_table,
    named_table,
    neighbours,
    tile,
)
from pyrovae.plots.lines import (
    auroc_bars,
    curves,
    curves_apart,
    dots,
    intervals,
    loss_curves,
    rate_distortion,
    rings,
    roc_curves,
    rows_of_dots,
    training_curves,
)
from pyrovae.plots.programs import program_graph
from pyrovae.plots.samples import agreement, marginals, pareto_k, rank_histograms
from pyrovae.plots.style import COLOURS, STYLE

__all__ = [
    "COLOURS",
    "STYLE",
    "agreement",
    "auroc_bars",
    "colourings",
    "curves",
    "curves_apart",
    "dots",
    "gif",
    "image_grids",
    "image_matrix",
    "image_rows",
    "image_sheet",
    "image_table",
    "intervals",
    "latent_pca",
    "latent_plane",
    "latent_planes",
    "loss_curves",
    "maps",
    "marginals",
    "named_table",
    "neighbours",
    "pareto_k",
    "posterior_plane",
    "posteriors",
    "program_graph",
    "rank_histograms",
    "rate_distortion",
    "rings",
    "roc_curves",
    "rows_of_dots",
    "tile",
    "training_curves",
    "write_figures",
]
