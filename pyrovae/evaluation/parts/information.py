"""How much do the latents know about the data?"""

from pyrovae.data import Split, subset
from pyrovae.evaluation import information
from pyrovae.evaluation.parts.part import Figures, Line, Numbers, Part
from pyrovae.programs.pair import Programs


class Information(Part):
    """I(x; z), the aggregate posterior and the total correlation of the latents: `information.kl_decomposition`."""

    name = "information"
    lines = (
        Line("mutual_information", "I(x; z)", "nats"),
        Line("ceiling", "its ceiling, log of the rows", "nats"),
        Line("saturated", "near its ceiling, so only a lower bound"),
        Line("aggregate_kl", "KL(q(z) || p(z)) of the aggregate", "nats"),
        Line("kl", "their sum, the KL of the latents", "nats"),
        Line("total_correlation", "total correlation of the latents", "nats"),
    )

    def compute(
        self, programs: Programs, data: Split, train: Split | None, rows: int, seed: int
    ) -> tuple[Numbers, Figures]:
        return information.kl_decomposition(programs, subset(data, rows, seed), seed=seed), {}
