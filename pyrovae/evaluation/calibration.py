"""Calibration: is the guide the posterior over what the model generates, and are the data what it generates?"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyrovae import checks
from pyrovae.data.split import Data
from pyrovae.lazy import LazyModule
from pyrovae.programs.assumptions import laid_out
from pyrovae.programs.importance import FLOATS, ROWS, read, refuse_conditional
from pyrovae.programs.pair import Program, Programs, needs_labels, no_side_effects, pair
from pyrovae.programs.particles import COPIES, using
from pyrovae.programs.traces import check_latents, draw, model_at, sites
from pyrovae.randomness import seeded

scipy = LazyModule("scipy")


# Simulated data that a bin of a rank histogram expects at least, for the chi-square test to hold.
EXPECTED = 5

# A number of a set of data (N, *event_shape), or one of each datum, (N,).
Statistic = Callable[[Tensor], Tensor]
STATISTICS: dict[str, Statistic] = {
    "mean": torch.mean,
    "variance": torch.var,
    "zeros": lambda x: (x == 0).double().mean(),
    "variance of the data's means": lambda x: x.reshape(len(x), -1).mean(1).var(),
}

Arguments = tuple[Tensor, ...]


def ranks(programs: Programs, data: Data | int, draws: int = 99, seed: int = 0) -> dict[str, Tensor]:
    """How many of L draws z_l ~ q(z|x) are below z, for (z, x) ~ p(z, x): 0, ..., L, by site (N, *latent_shape).

    Equally likely each where q is the posterior: guides too narrow have too many ranks at both ends, too wide ones in
    the middle, a bias on one side. Of equal values a part drawn at random counts as below, so that discrete latents
    have ranks, too. (Talts et al. 2018)

    Args:
        programs: model and guide.
        data: a number of data that the model generates, or data, for as many. Labels in them are kept, and a model that
            needs them, or that has no argument n, takes data.
        draws: L.
        seed: of the noise.
    """
    checks.integer("draws", draws)
    found: dict[str, list[Tensor]] = {}
    with no_side_effects(programs):
        for number, (args, kwargs) in enumerate(_calls(programs, data, seed)):
            with seeded(seed, 8, number):
                with using(COPIES):  # of one particle: the rows as they are
                    p = draw(free(pair(programs)[0], args), 1, *args, **kwargs)
                given = seen(programs, p, args)
                with laid_out(*pair(programs), *given):
                    q = draw(pair(programs)[1], draws, *given)
                check_latents(q, "ranks")
                for name, site in sites(q, False).items():
                    found.setdefault(name, []).append(_rank(site["value"], _latent(p, name)).cpu())
    return {name: torch.cat(each) for name, each in found.items()}


def _calls(programs: Programs, data: Data | int, seed: int) -> Iterator[tuple[Arguments, dict[str, int]]]:
    """What the model is called with, block by block."""
    if isinstance(data, int):
        checks.integer("data", data)
        refuse_conditional(programs, "ranks")
        for done in range(0, data, ROWS):
            yield (), {"n": min(ROWS, data - done)}
    else:
        yield from ((args, {}) for _, _, args in read(programs, data, seed))


def free(model: Program, args: Arguments) -> Program:
    """The model with its data to be drawn, at the labels that are given."""
    return poutine.condition(poutine.uncondition(model), dict(zip(("y",), args[1:], strict=False)))


def seen(programs: Programs, p: Trace, args: Arguments) -> Arguments:
    """What the guide is called with for data that the model has drawn."""
    x = _data(p, "x" if not args else "")[0]
    if args or not needs_labels(programs):
        return (x, *args[1:])
    return x, _latent(p, "y")[0]


def _data(p: Trace, name: str = "") -> Tensor:
    """The data drawn, (particles, N, *event_shape), at the site of this name, or the only one that was observed."""
    names = [name] if name else [each for each, site in sites(p, False).items() if "was_observed" in site["infer"]]
    if len(names) != 1 or names[0] not in p.nodes:
        raise ValueError(f"expected one observed site, found {names if not name else list(sites(p, False))}")
    return sites(p, False)[names[0]]["value"]


def _latent(p: Trace, name: str) -> Tensor:
    if name not in p.nodes:
        raise ValueError(f"expected the guide's latents in the model, found none called {name!r}")
    return sites(p, False)[name]["value"]


def _rank(draws: Tensor, value: Tensor) -> Tensor:
    below, equal = (draws < value).sum(0), (draws == value).sum(0)
    return below + (torch.rand(equal.shape, device=equal.device) * (equal + 1)).long()


def simulation_based(
    programs: Programs, data: Data | int = 1000, draws: int = 99, bins: int = 20, seed: int = 0
) -> dict[str, Any]:
    """Histograms of `ranks`, a chi-square test of each for uniformity, and of all together: what JSON can hold.

    p_value = min(1, latents x the least of p_values) (Bonferroni): small where the guide is not the posterior, on data
    that the model generates; these are other data than those it was trained on, where the model is wrong.

    Args:
        programs, data, draws, seed: as in `ranks`.
        bins: of a histogram, which divide the L + 1 ranks; at least five data for each.
    """
    if (checks.integer("draws", draws) + 1) % checks.integer("bins", bins, 2):
        raise ValueError(f"bins: expected a divisor of draws + 1 = {draws + 1}, found {bins}")
    if isinstance(data, int):
        _enough(data, bins)
    found = ranks(programs, data, draws, seed)
    counts = {name: histograms(each, draws, bins) for name, each in found.items()}
    p_values = {name: uniformity(each) for name, each in counts.items()}
    every = [p for each in p_values.values() for p in each]
    return {
        "rows": len(next(iter(found.values()))),
        "draws": draws,
        "bins": bins,
        "seed": seed,
        "p_value": min(1.0, len(every) * min(every)),
        "p_values": p_values,
        "counts": {name: each.tolist() for name, each in counts.items()},
    }


def histograms(ranks: Tensor, draws: int, bins: int) -> Tensor:
    """How many of the ranks (N, *latent_shape) from 0 to L are in each of equal bins. (latents, bins)"""
    _enough(len(ranks), bins)
    places = ranks.reshape(len(ranks), -1).T * bins // (draws + 1)
    return torch.stack([torch.bincount(each, minlength=bins) for each in places])


def _enough(rows: int, bins: int) -> None:
    if rows < EXPECTED * bins:
        raise ValueError(f"expected at least {EXPECTED * bins} simulated data for {bins} bins, found {rows}")


def uniformity(counts: Tensor) -> list[float]:
    """p-values of the chi-square test that all bins are equally likely, for each row of counts (latents, bins)."""
    # A second to import, for all who use pyrovae.
    return [float(p) for p in scipy.stats.chisquare(counts.numpy(), axis=1).pvalue]


def predictive(
    programs: Programs,
    data: Data,
    statistics: Mapping[str, Statistic] = STATISTICS,
    replicates: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Predictive checks: P(T(x') >= T(x)) for data x' that the model replicates, as many as x.  (Box 1980; Rubin 1984)

    posterior: x'_n ~ p(x|z_n), z_n ~ q(z|x_n): the same latents, drawn again; its p-values lean to 1/2, since the
    latents have seen the data. prior: z_n ~ p(z): new data. Near 0 the data's statistic is above what the model makes,
    near 1 below; ties count half, x itself too: from 1 / (2R + 2) up. Given labels are kept. "zeros", the share of
    entries that are 0, is left out where there are none, in data or replicates.

    Args:
        programs: model and guide, one observed site beside labels.
        data: a Split, a tensor, a Dataset or a DataLoader.
        statistics: T by name; a number of all data (N, *event_shape), or one of each datum, (N,).
        replicates: R.
        seed: of the noise.

    Raises:
        ValueError: a statistic that is no number, as a mean is of data with missing entries.
    """
    checks.integer("replicates", replicates)
    with no_side_effects(programs):
        parts = [(rows, args) for _, rows, args in read(programs, data, seed)]
        place = torch.cat([rows for rows, _ in parts]).argsort()
        x = torch.cat([args[0].cpu() for _, args in parts])[place]
        observed = _statistics(statistics, x)
        found: dict[str, Any] = {name: {"observed": value.tolist()} for name, value in observed.items()}
        chunk = max(1, FLOATS // x.numel())
        for kind in ("posterior", "prior"):
            made = []
            for done in range(0, replicates, chunk):
                with seeded(seed, 9, done, len(kind)):
                    count = min(chunk, replicates - done)
                    drawn = torch.cat([_replicates(programs, args, kind, count).cpu() for _, args in parts], 1)
                made += [_statistics(statistics, each.masked_fill(x.isnan(), math.nan)) for each in drawn[:, place]]
            for name, value in observed.items():
                found[name][kind] = _compare(torch.stack([each[name] for each in made]), value)
    if statistics is STATISTICS and not _any_zeros(**found["zeros"]):
        del found["zeros"]
    return {"rows": len(x), "replicates": replicates, "seed": seed, "statistics": found}


def _any_zeros(observed: float, posterior: dict[str, Any], prior: dict[str, Any]) -> bool:
    return any(share > 0 for share in (observed, posterior["mean"], prior["mean"]))


def _statistics(statistics: Mapping[str, Statistic], x: Tensor) -> dict[str, Tensor]:
    found = {name: torch.as_tensor(statistic(x)).double() for name, statistic in statistics.items()}
    for name, value in found.items():
        if value.shape not in ((), (len(x),)) or not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"statistic {name!r}: expected a finite number, or one of each of {len(x)} rows, found "
                f"shape {tuple(value.shape)} with {int((~torch.isfinite(value)).sum())} that are not finite"
            )
    return found


def _replicates(programs: Programs, args: Arguments, kind: str, count: int) -> Tensor:
    """x' (count, N, *event_shape)."""
    model, guide = free(pair(programs)[0], args), pair(programs)[1]
    with laid_out(*pair(programs), *args):
        if kind == "prior":
            return _data(draw(model, count, *args))
        return _data(model_at(model, draw(guide, count, *args), count, *args))


def _compare(made: Tensor, observed: Tensor) -> dict[str, Any]:
    """Mean and standard deviation of T(x') (R, ...), and the share of them that is not below T(x)."""
    p = ((made > observed).double() + (made == observed).double() / 2).sum(0).add(0.5) / (len(made) + 1)
    return {"mean": made.mean(0).tolist(), "sd": made.std(0, correction=0).tolist(), "p_value": p.tolist()}
