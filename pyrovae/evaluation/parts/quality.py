"""Are the samples new, and do they look like the data?"""

import torch

from pyrovae import plots
from pyrovae.data import Split
from pyrovae.data.split import ROWS, blocks
from pyrovae.evaluation import quality
from pyrovae.evaluation.parts.part import Figures, Line, Numbers, Part
from pyrovae.programs.importance import sample
from pyrovae.programs.pair import Programs, takes_labels
from pyrovae.randomness import seeded


class Quality(Part):
    """Samples compared with training and held-out rows, and reconstructions: `quality.assess`."""

    name = "quality"
    lines = (
        Line("memorisation.closer", "samples as near as 1 % of the test data are", "(copies: above the next)"),
        Line("memorisation.closer_of_test", "test data as near"),
        Line("memorisation.farther", "P(a sample is farther than test data)", "(as data: 0.5)"),
        Line("memorisation.c_t", "c_t (below -3: copies)"),
        *(
            Line(f"samples.{name}", f"{name} of the samples", f"(of data: {{data.{name}.value:.3f}})")
            for name in ("precision", "recall", "density", "coverage")
        ),
        Line("samples.frechet", "Fréchet distance of the {features}", "(of data: {data.frechet.value:.3f})"),
        Line("reconstructions.ssim", "SSIM of the reconstructions"),
        Line("reconstructions.psnr", "PSNR of the reconstructions", "dB"),
    )
    figures = ("neighbours",)

    def compute(
        self, programs: Programs, data: Split, train: Split | None, rows: int, seed: int
    ) -> tuple[Numbers, Figures]:
        if train is None:
            raise ValueError("quality: expected the training data, found none")
        n = min(5 * rows, len(data), len(train))
        return quality.assess(programs, train, data, n, seed=seed), _neighbours(programs, train, seed)


def _neighbours(programs: Programs, train: Split, seed: int) -> Figures:
    """Six samples next to the training rows from which they may have been copied."""
    if len(train.event_shape) != 3 or takes_labels(programs):
        return {}
    with seeded(seed, 9):
        seen, drawn = torch.cat([block for block, *_ in blocks(train, ROWS)]), sample(programs, 6).cpu()
    distances, places = quality.nearest(drawn, seen, 6)
    return {"neighbours": plots.neighbours(drawn.numpy(), seen[places].numpy(), distances[:, 0].numpy())}
