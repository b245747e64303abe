"""Questions to any (model, guide): samples, reconstructions, importance weights, log p(x)."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyrovae import checks
from pyrovae.data.split import Data, blocks
from pyrovae.programs import Program, Programs, answering, check, pair, placement
from pyrovae.randomness import Stream, seeded
from pyrovae.traces import closed_mean, log_mean_exp, log_weight, over, traces

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
        p_x: Any = traces(model, guide, 1, x)[1].nodes["x"]["fn"]
        return p_x.mean[0]


def expectation(distribution: Any, draws: int = 100) -> Tensor:
    """E[z] of any distribution: its own mean, or the mean of draws where it has no closed one (flows)."""
    mean = closed_mean(distribution)
    return distribution.sample((draws,)).mean(0) if mean is None else mean


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


def impute(programs: Programs, x: Tensor, particles: int = 100, seed: int = 0) -> Tensor:
    """x with every missing entry (NaN) replaced by its E[x_i | what is there], by importance sampling.

    E[x_i|z_k] is averaged over z_k ~ q(z|x) with weights p(x, z_k) / q(z_k|x).  (Mattei & Frellsen 2019)

    Args:
        programs: a model with a likelihood of missing entries (`likelihoods.Missing`), and its guide.
        x: data (N, *event_shape).
        particles: draws z_k.
        seed: of the noise.
    """
    filled = []
    for n, drawn in importance(programs, x, particles, seed):
        likelihoods: list[tuple[Tensor, Any]] = [(log_weight(q, p), p.nodes["x"]["fn"]) for q, p in drawn]
        share = torch.cat([log_w for log_w, _ in likelihoods]).softmax(0)
        means = torch.cat([p_x.mean for _, p_x in likelihoods])
        filled.append((over(share, means) * means).sum(0)[:n].cpu())
    return torch.where(torch.isnan(x), torch.cat(filled).to(x), x)


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
            drawn = traces(model, guide, min(chunk, particles - done), x)
        yield drawn
