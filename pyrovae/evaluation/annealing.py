"""Annealed importance sampling: log p(x) if the guide is a poor proposal, and an interval that contains it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from itertools import pairwise
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyrovae import checks
from pyrovae.data.split import Data
from pyrovae.evaluation.bridge import STARTS, Bridge
from pyrovae.evaluation.pareto_k import effective_sample_size
from pyrovae.programs.importance import chunks, in_order, places
from pyrovae.programs.pair import Programs, pair
from pyrovae.programs.particles import COPIES, using
from pyrovae.programs.traces import draw, log_mean_exp, log_mean_exp_bias, sites
from pyrovae.randomness import seeded
from pyrovae.scores import mean

# Rows of a block. Fewer than for importance sampling: a row that only fills up a block costs as much as its chains.
ROWS = 32

# The pilot run: the chains that measure a step's acceptance, the target acceptance (Neal 2011), the change of log step
# for each unit of missed acceptance, the first step, and the smallest total number of moves.
PILOT, TARGET, GAIN, STEP, MOVES = 8, 0.65, 0.5, 0.3, 50

# The last entry of the noise's seed; importance sampling has no such entry.
FORWARD, ADAPTATION, SIMULATION, REVERSE = 1, 2, 3, 4

# With fewer effective chains than these, or than this share of them, the error of their mean is unknown: if one chain
# has nearly all the weight, more chains may find much larger weights.
FEW, SHARE = 10, 0.75

# The slope at the middle of the sigmoid path, as in Grosse et al.
DELTA = 4.0


class Annealed(NamedTuple):
    """An estimate for each datum, each (N,)."""

    value: Tensor  # log p(x), nats
    standard_error: Tensor  # from the chains' weights (jackknife); inf if too few of them count
    acceptance: Tensor  # share of the moves that were accepted
    ess: Tensor  # effective number of chains, (sum w)^2 / sum w^2
    spread: Tensor  # standard deviation of log w between the chains, nats
    bias: Tensor  # expected difference from log p(x), estimated by the jackknife; neither value nor error contains it

    @property
    def few(self) -> Tensor:
        """Whether too few chains count for an error; such a value may be wrong by nats."""
        return self.standard_error.isinf()

    @property
    def verdict(self) -> str:
        """Whether there are enough chains, in a sentence."""
        count, rows = int(self.few.sum()), len(self.value)
        if bool(self.standard_error.isnan().all()):
            return "one chain: its error is unknown"
        if not count:
            return "enough chains for all rows"
        spread, ess = (f"{each[self.few].median():.1f}" for each in (self.spread, self.ess))
        return (
            f"too few chains for {count} of {rows} rows: in the median {ess} count, their log w differ by {spread} "
            "nats; log p(x) may be wrong by nats: use more temperatures, or more chains"
        )


class Sandwich(NamedTuple):
    """Bounds on log p(x) for simulated data: E[lower.value] <= log p(x) <= E[upper.value]."""

    data: tuple[Tensor, ...]  # x, or x and labels if all have them, as the programs take them
    lower: Annealed
    upper: Annealed

    def summary(self) -> dict[str, Any]:
        """lower, upper and gap = upper - lower in nats per datum, with the standard errors of these means over data."""
        gap = self.upper.value - self.lower.value
        rows = {"lower": self.lower.value, "upper": self.upper.value, "gap": gap}
        return {"rows": len(gap), "unit": "nats per datum"} | {name: mean(each) for name, each in rows.items()}


def linear(temperatures: int) -> list[float]:
    """b_t = t / (T - 1)."""
    return [t / (temperatures - 1) for t in range(temperatures)]


def sigmoid(temperatures: int) -> list[float]:
    """b_t = (s_t - s_0) / (s_T-1 - s_0), s_t = sigmoid(8 t / (T - 1) - 4): slow at both ends.  (Grosse et al. 2015)"""
    s = [1 / (1 + math.exp(DELTA * (1 - 2 * t))) for t in linear(temperatures)]
    return [(each - s[0]) / (s[-1] - s[0]) for each in s]


SCHEDULES: dict[str, Callable[[int], list[float]]] = {"sigmoid": sigmoid, "linear": linear}


def anneal(
    programs: Programs,
    data: Data,
    chains: int = 16,
    temperatures: int = 500,
    leapfrog: int = 10,
    start: str = "guide",
    schedule: str = "sigmoid",
    seed: int = 0,
) -> Annealed:
    """log p(x) ~ log 1/K sum_k w_k, w = prod_t [p(x, z_t) / f_0(z_t)]^(b_t+1 - b_t), by annealed importance sampling.

    z_0 ~ f_0, and z_t is a Hamiltonian move from z_t-1 that leaves f_0(z)^(1 - b_t) p(x, z)^b_t invariant. The mean of
    w is p(x) for any moves, so on average the estimate is a lower bound. It rises with the number of temperatures; with
    two it is importance sampling. The moves have a step size for each datum and temperature, which a pilot run of
    separate chains determines; steps that adapted to the chains that they move would bias w.
    (Neal 2001; Wu et al. 2017)

    The error is unknown, inf, if the chains' effective sample size is below 10, or below three quarters of few chains;
    `verdict` gives the number of such rows. 95 % intervals use Student's t with K - 1 degrees of freedom.

    Args:
        programs: model and guide. Continuous latents are sampled, as reals; those that the guide enumerates are summed
            out.
        data: as in `evaluate`; the result does not depend on the batch size.
        chains: K.
        temperatures: number of b_t, from 0 to 1.
        leapfrog: steps of each move; 0 gives no moves, and the weights of importance sampling from f_0.
        start: f_0, "guide" or "prior". A guide is closer: for a trained VAE of MNIST the gap of `sandwich` is a tenth
            of the prior's with as many temperatures. The prior covers the whole posterior: chains from there find a
            mode that the guide misses, and that importance sampling misses with it.
        schedule: "sigmoid" or "linear".
        seed: seed of the noise.

    Raises:
        ValueError: there are no latents; a discrete latent is drawn; a support is not an image of the reals (a sphere);
            for this start, the guide has no density at every z (a point, a planar flow).

    Example:
        >>> import torch
        >>> from pyrovae.evaluation.annealing import anneal
        >>> from pyrovae.models import VAE
        >>> vae = VAE(event_shape=6, latent_dim=2)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x) = 2^-6
        >>> anneal(vae, torch.ones(2, 6), chains=4, temperatures=3, leapfrog=1).value.float()  # -6 log 2
        tensor([-4.1589, -4.1589])
    """
    path = _path(chains, temperatures, leapfrog, start, schedule, seed)
    found, order = [], []
    for place, rows, args in places(programs, data, seed, ROWS):
        bridge = Bridge(programs, args, start)
        found.append(_forward(bridge, path, _pilot(bridge, path, place), place))
        order.append(rows)
    return _joined(found, order)


def sandwich(
    programs: Programs,
    data: Data,
    chains: int = 16,
    temperatures: int = 500,
    leapfrog: int = 10,
    start: str = "guide",
    schedule: str = "sigmoid",
    seed: int = 0,
) -> Sandwich:
    """E[log w] <= log p(x) <= E[-log w'], x ~ p(x): bidirectional Monte Carlo, an interval instead of a point.

    If z, x ~ p(z) p(x|z), then z is an exact draw from p(z|x). Annealing backwards from there gives weights w' with
    mean 1/p(x), and so an upper bound on average. The gap on simulated data shows how far `anneal`, with the same
    options, is off; on real data that the model fits badly the error may be larger. (Grosse et al. 2015)

    All reverse chains of a datum begin at its single z, so its `upper.standard_error` is due to the moves alone. The
    error of the means over data, in `summary`, is complete.

    Args:
        programs, chains, temperatures, leapfrog, start, schedule, seed: as in `anneal`.
        data: one row for each datum to simulate. Their values are used only where the model does not generate them
            (labels without a p(y), seen entries).

    Raises:
        ValueError: as in `anneal`; an observed site is not an argument of the model; the guide has no density at a
            simulated z.

    Example:
        >>> import torch
        >>> from pyrovae.evaluation.annealing import sandwich
        >>> from pyrovae.models import VAE
        >>> vae = VAE(event_shape=6, latent_dim=2)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x) = 2^-6
        >>> gap = sandwich(vae, torch.ones(2, 6), chains=4, temperatures=3, leapfrog=1).summary()["gap"]["value"]
        >>> abs(gap) < 1e-5
        True
    """
    path = _path(chains, temperatures, leapfrog, start, schedule, seed)
    lower, upper, simulated, order = [], [], [], []
    for place, rows, given in places(programs, data, seed, ROWS):
        with seeded(seed, place, 0, SIMULATION):
            args, exact = simulate(programs, given)
        bridge = Bridge(programs, args, start)
        there = bridge.unconstrain(exact)
        bridge.check_start(there)
        steps = _pilot(bridge, path, place)
        lower.append(_forward(bridge, path, steps, place))
        upper.append(_reverse(bridge, path, steps, place, there))
        simulated.append([a[: len(rows)].cpu() for a in args])
        order.append(rows)
    # With labels only if all rows have them.
    columns = tuple(in_order(column, order) for column in zip(*simulated, strict=False))
    return Sandwich(columns, _joined(lower, order), _joined(upper, order))


def simulate(programs: Programs, args: Sequence[Tensor]) -> tuple[list[Tensor], Trace]:
    """z ~ p(z), x ~ p(x|z) for each row: the arguments with x inserted, and the trace that contains z, (1, N)."""
    model = pair(programs)[0]
    names = list(signature(model).parameters)[: len(args)]
    with using(COPIES):  # a single particle: the rows are unchanged
        seen, trace = sites(draw(model, 1, *args), True), draw(poutine.uncondition(model), 1, *args)
    for name, site in seen.items():
        if name not in names and not site["infer"].get("_deterministic"):
            raise ValueError(f"expected observed sites that are arguments {names} of the model, found {name!r}")
    drawn: Any = trace.nodes
    named = zip(names, args, strict=True)
    return [drawn[name]["value"][0] if name in seen else given for name, given in named], trace


@dataclass(frozen=True)
class _Path:
    """The options that all blocks share."""

    temperatures: list[float]
    chains: int
    leapfrog: int
    seed: int


def _path(chains: int, temperatures: int, leapfrog: int, start: str, schedule: str, seed: int) -> _Path:
    checks.integer("chains", chains)
    checks.integer("temperatures", temperatures, 2)
    checks.integer("leapfrog", leapfrog, 0)
    checks.member("start", start, STARTS)
    heights = SCHEDULES[checks.member("schedule", schedule, SCHEDULES)]
    return _Path(heights(temperatures), chains, leapfrog, seed)


def _forward(bridge: Bridge, path: _Path, steps: Tensor, place: int) -> Annealed:
    """From f_0 to p(x, z): weights with mean p(x)."""
    return _estimated(*_weights(bridge, path, path.temperatures, steps, bridge.draw, (place, FORWARD)))


def _estimated(log_w: Tensor, acceptance: Tensor) -> Annealed:
    value, error = log_mean_exp(log_w)
    ess = effective_sample_size(log_w)
    error = torch.where(ess < min(FEW, SHARE * len(log_w)), math.inf, error)
    spread = log_w.std(0) if len(log_w) > 1 else torch.full_like(value, math.nan)
    return Annealed(value, error, acceptance, ess, spread, log_mean_exp_bias(log_w))


def _reverse(bridge: Bridge, path: _Path, steps: Tensor, place: int, exact: Tensor) -> Annealed:
    """From draws of p(z|x) to f_0, by the same moves in reverse order: weights with mean 1/p(x)."""
    begin = partial(_repeated, exact)
    found = _estimated(*_weights(bridge, path, path.temperatures[::-1], steps.flip(0), begin, (place, REVERSE)))
    return found._replace(value=-found.value, bias=-found.bias)


def _repeated(u: Tensor, chains: int) -> Tensor:
    return u.expand(chains, *u.shape[1:])


def _weights(
    bridge: Bridge,
    path: _Path,
    temperatures: list[float],
    steps: Tensor,
    begin: Callable[[int], Tensor],
    noise: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """log w of each chain, (K, N), in double precision; and the share of accepted moves, (N,)."""
    place, kind = noise
    parts = []
    for number, size in chunks(bridge.args, path.chains):
        with seeded(path.seed, place, number, kind):
            parts.append(_annealed(bridge, begin(size), temperatures, steps, path.leapfrog))
    log_w, accepted = (torch.cat(column) for column in zip(*parts, strict=True))
    return log_w, accepted.mean(0)


def _annealed(
    bridge: Bridge, u: Tensor, temperatures: list[float], steps: Tensor, leapfrog: int
) -> tuple[Tensor, Tensor]:
    """log w = sum_t (b_t+1 - b_t) log p(x, z_t) / f_0(z_t), and the mean acceptance: two (K, N).

    There is one move for each temperature between the ends, with its step size in `steps`.
    """
    log_w, accepted = u.new_zeros(u.shape[:-1], dtype=torch.double), u.new_zeros(u.shape[:-1])
    for number, (before, b) in enumerate(pairwise(temperatures)):
        here = point(bridge, u, b)
        log_w = log_w + (b - before) * here.log_ratio
        if number < len(steps):
            u, acceptance = move(bridge, here, b, steps[number], leapfrog)
            accepted = accepted + acceptance / len(steps)
    return log_w, accepted


def _pilot(bridge: Bridge, path: _Path, place: int) -> Tensor:
    """A step size for each temperature between the ends and each datum, from a run whose chains are dropped."""
    between, steps = path.temperatures[1:-1], []
    with seeded(path.seed, place, 0, ADAPTATION):
        u = bridge.draw(PILOT)
        log_step = u.new_full((u.shape[1],), math.log(STEP))
        for b in between:
            for _ in range(math.ceil(MOVES / len(between)) if path.leapfrog else 0):
                u, acceptance = move(bridge, point(bridge, u, b), b, log_step.exp(), path.leapfrog)
                log_step = log_step + GAIN * (acceptance.mean(0) - TARGET)
            steps.append(log_step.exp())
    return torch.stack(steps) if steps else u.new_zeros(0, u.shape[1])


class Point(NamedTuple):
    """The positions of the chains, and f_b there."""

    u: Tensor  # (K, N, D)
    log_f: Tensor  # log f_b(u), (K, N)
    log_ratio: Tensor  # log p(x, z) / f_0(z), (K, N)
    slope: Tensor  # d log f_b / du, (K, N, D)


def point(bridge: Bridge, u: Tensor, b: float) -> Point:
    """log f_b(u) = (1 - b) log f_0(z) + b log p(x, z) + log |dz/du|, with its slope."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        first, joint, log_det = bridge(u)
        log_f = (1 - b) * first + b * joint + log_det
        (slope,) = torch.autograd.grad(log_f.sum(), u)
    return Point(u.detach(), log_f.detach(), (joint - first).detach(), slope)


def move(bridge: Bridge, here: Point, b: float, step: Tensor, leapfrog: int) -> tuple[Tensor, Tensor]:
    """A Hamiltonian move of every chain that leaves f_b invariant: the new u, and its acceptance probability, (K, N).

    Leapfrog steps from (u, r), r ~ N(0, I), to (u', r'), accepted or rejected by Metropolis' rule.  (Duane et al. 1987)
    """
    start, half = torch.randn_like(here.u), step[:, None] / 2
    there, r = here, start
    with pyro.validation_enabled(False):  # a diverging path is rejected below, instead of an error here
        for _ in range(leapfrog):
            r = r + half * there.slope
            there = point(bridge, there.u + 2 * half * r, b)
            r = r + half * there.slope
    log_accept = accept(here.log_f - start.square().sum(-1) / 2, there.log_f - r.square().sum(-1) / 2)
    taken = torch.rand_like(log_accept).log() < log_accept
    return torch.where(taken[..., None], there.u, here.u), log_accept.exp()


def accept(before: Tensor, after: Tensor) -> Tensor:
    """log min(1, f(u', r') / f(u, r)), Metropolis' rule; NaN counts as density 0."""
    return (after - before).nan_to_num(-math.inf, math.inf, -math.inf).clamp(max=0)


def _joined(blocks: Sequence[Annealed], rows: Sequence[Tensor]) -> Annealed:
    """The blocks' estimates in the order of the data, without the rows that only filled up a block."""
    few = [[each[: len(there)].cpu() for each in block] for block, there in zip(blocks, rows, strict=True)]
    return Annealed(*(in_order(column, rows) for column in zip(*few, strict=True)))
