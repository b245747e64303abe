"""Finds the fault in data before training, and in programs after a failed step."""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.data.split import ROWS, blocks, known
from pyrovae.likelihoods.measure import COUNTS
from pyrovae.programs.arguments import check, encoded
from pyrovae.programs.columns import arguments_of, by_kind, of_labels, wanted
from pyrovae.programs.handlers import own_parameters
from pyrovae.programs.pair import Programs, modules, needs_labels, no_side_effects, pair
from pyrovae.programs.traits import traits
from pyrovae.randomness import seeded


class TrainingError(RuntimeError):
    """A loss or gradient was not finite, or the data were unreadable; the last good state has been restored."""


def check_data(programs: Programs, part: Any) -> None:
    """Check all rows in memory. If rows are read lazily, or binarised when read, check the first ones."""
    labels = of_labels(programs)
    with seeded(0), no_side_effects(programs):
        if labels and isinstance(y := getattr(part, "y", None), Tensor):
            there = known(y)
            encoded(programs, y[there])
            if needs_labels(programs) and not bool(there.all()):
                raise ValueError(f"y: expected the labels of all {len(y)} rows, found {int((~there).sum())} missing")
        x = getattr(part, "x", None)
        every = isinstance(x, Tensor) and (x.dtype != torch.uint8 or part.binarize == "none")
        for batch in blocks(part, ROWS if every else 2, wanted(programs)):
            for _, rows in by_kind(programs, *batch):
                arguments_of(programs, *rows)
            if not every:
                break


def advice(programs: Programs, x: Tensor) -> str:
    """What may be wrong with data on which training fails; "" if their values are of order 1."""
    most = x.nan_to_num().abs().max().item()
    if most <= 100:
        return ""
    likelihood = traits(programs).likelihood
    counts = likelihood is not None and likelihood.measure.over == COUNTS.over
    cure = "give the encoder their logarithms (networks.Log1p)" if counts else "standardise it"
    return f" (x is as large as {most:.3g}: if it is not of order 1, {cure})"


NOTHING = "all sites are finite on that batch: a gradient, or another batch, is not"


def first_fault(programs: Programs, *args: Tensor) -> str:
    """The first parameter, datum, site's value or site's log-probability that is not valid; "" if there is none."""
    model, guide = pair(programs)
    for module in modules(programs):
        for name, parameter in module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                return f"parameter {name!r} is not finite"
    try:
        check(programs, args[0])
    except ValueError as fault:
        return f"the data: {fault}"
    # Validation would stop at the distribution, which does not know the name of its site.
    with pyro.validation_enabled(False), torch.no_grad(), own_parameters():
        q = poutine.trace(guide).get_trace(*args)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*args)
        for trace, program in ((q, "guide"), (p, "model")):
            trace.compute_log_prob()
            for name, site in trace.nodes.items():
                # The data were checked above, and may have missing entries.
                parts = ("log_prob",) if site.get("is_observed") else ("value", "log_prob")
                found: Any = site
                for part in parts if site["type"] == "sample" else ():
                    if not bool(torch.isfinite(found[part]).all()):
                        return f"first at site {name!r} of the {program}, whose {part} is not finite"
    return ""
