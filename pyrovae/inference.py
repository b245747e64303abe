"""Questions to any (model, guide): samples, reconstructions, importance weights, log p(x)."""

import math
from collections.abc import Iterator
from itertools import count
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyrovae import checks
from pyrovae.data.split import Data, blocks
from pyrovae.programs import Program, Programs, answering, check, pair, placement
from pyrovae.randomness import Stream, seeded

# Noise is drawn for fixed blocks of rows and of particles, so that a datum's score depends on the seed and its place
# alone, not on how the data came; the second number bounds the memory of one value in the program (16 MiB in float32).
ROWS, FLOATS = 128, 2**22


def sample(programs: Programs, n: int) -> Tensor:
    """n new data, x ~ p(x): the model run with nothing observed. (n, *event_shape)"""
    with answering(programs):
        return pair(programs)[0](n=checks.integer("n", n))


def reconstruct(programs: Programs, x: Tensor) -> Tensor:
    """E[x'|z] at one draw z ~ q(z|x) for each row of x. (N, *event_shape)"""
    model, guide = pair(programs)
    with answering(programs):
        p_x: Any = traces(model, guide, x, 1)[1].nodes["x"]["fn"]
        return p_x.mean[0]


def traces(model: Program, guide: Program, x: Tensor, particles: int) -> tuple[Trace, Trace]:
    """The guide run `particles` times at once, and the model on its latents; every site scored, (particles, N)."""
    with pyro.plate("particles", particles, dim=-2):
        q = poutine.trace(guide).get_trace(x)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
    q, p = prune_subsample_sites(q), prune_subsample_sites(p)
    for trace in (q, p):
        _check_per_datum(trace)
    q.compute_log_prob()
    p.compute_log_prob()
    return q, p


def _check_per_datum(trace: Trace) -> None:
    """Every site must have one score for each row: what is shared, scaled, hidden or subsampled has none."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and (found := _not_per_datum(site)):
            raise ValueError(f'site {name!r}: expected one unscaled score a row, in plate "data" alone, found {found}')


def _not_per_datum(site: Any) -> str:
    plates = {frame.name: frame for frame in site["cond_indep_stack"]}
    if plates.keys() != {"particles", "data"}:
        return f"plates {sorted(plates.keys() - {'particles'})}"
    if plates["data"].full_size not in (None, plates["data"].size):
        return f"{plates['data'].size} of {plates['data'].full_size} rows"
    if isinstance(site["scale"], Tensor) or site["scale"] != 1:
        return f"scale {site['scale']}"
    return "a mask" if site["mask"] is not None and not site["is_observed"] else ""


def log_prob(trace: Trace, observed: bool) -> Tensor:
    """The sum of the observed (or of the latent) sites' log-probabilities. (particles, N)"""
    return sum(
        site["log_prob"]
        for site in trace.nodes.values()
        if site["type"] == "sample" and site["is_observed"] == observed
    )  # type: ignore[return-value]


def log_weight(q: Trace, p: Trace) -> Tensor:
    """log p(x, z) - log q(z|x) of two scored traces. (particles, N)"""
    return log_prob(p, True) + log_prob(p, False) - log_prob(q, False)


def log_weights(model: Program, guide: Program, x: Tensor, particles: int) -> Tensor:
    """log p(x, z) - log q(z|x) at z ~ q(z|x). (particles, N), in nats; differentiable."""
    return log_weight(*traces(model, guide, x, particles))


def log_mean_exp(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """log of the mean weight over particles (K, N), and its standard error by the delta method: two (N,)."""
    k = len(log_w)
    log_mean = log_w.logsumexp(0) - math.log(k)
    if k == 1:
        return log_mean, torch.full_like(log_mean, math.nan)
    return log_mean, (log_w - log_mean).exp().std(0) / math.sqrt(k)


def log_likelihood(programs: Programs, data: Data, particles: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
    """log p(x) ~ log 1/K sum_k p(x, z_k) / q(z_k|x), z_k ~ q(z|x): per datum, and its standard error. Two (N,), nats.

    In the mean it is a lower bound, which rises with K (Burda, Grosse & Salakhutdinov 2016).
    """
    estimates = []
    for n, drawn in importance(programs, data, particles, seed):
        log_w = torch.cat([log_weight(q, p) for q, p in drawn])
        estimates.append(torch.stack(log_mean_exp(log_w))[:, :n].cpu())
    value, error = torch.cat(estimates, -1)
    return value, error


def importance(
    programs: Programs, data: Data, particles: int, seed: int
) -> Iterator[tuple[int, Iterator[tuple[Trace, Trace]]]]:
    """For each block of rows: how many there are, and the traces of its particles, chunk by chunk.

    The last block is filled up with copies of its last row: each row meets the noise of its place.
    """
    checks.integer("particles", particles)
    model, guide = pair(programs)
    device, dtype = placement(programs)
    with answering(programs):
        reading, drawn = Stream(seed), blocks(data, ROWS)
        for number in count():
            with reading():  # a dynamic binarisation draws, too
                x = next(drawn, None)
            if x is None:
                return
            check(programs, x := x.to(device, dtype))
            full = torch.cat([x, x[-1:].expand(ROWS - len(x), *x.shape[1:])])
            yield len(x), _chunks(model, guide, full, particles, (seed, number))


def _chunks(
    model: Program, guide: Program, x: Tensor, particles: int, seed: tuple[int, int]
) -> Iterator[tuple[Trace, Trace]]:
    chunk = max(1, FLOATS // x.numel())
    for number, done in enumerate(range(0, particles, chunk)):
        with seeded(*seed, number):
            drawn = traces(model, guide, x, min(chunk, particles - done))
        yield drawn
