"""Calibration: is the guide the posterior for data from the model, and do the data look like data from the model?"""

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


# The smallest number of simulated data that a bin of a rank histogram needs for the chi-square test.
EXPECTED = 5

# A function from data (N, *event_shape) to one number, or to one number for each datum, (N,).
Statistic = Callable[[Tensor], Tensor]
STATISTICS: dict[str, Statistic] = {
    "mean": torch.mean,
    "variance": torch.var,
    "zeros": lambda x: (x == 0).double().mean(),
    "variance of the data's means": lambda x: x.reshape(len(x), -1).mean(1).var(),
}

Arguments = tuple[Tensor, ...]


def ranks(programs: Programs, data: Data | int, draws: int = 99, seed: int = 0) -> dict[str, Tensor]:
    """The ranks of z among L draws z_l ~ q(z|x), for (z, x) ~ p(z, x): 0, ..., L, by site (N, *latent_shape).

    All ranks are equally likely if q is the posterior. A guide that is too narrow has too many ranks at both ends, one
    that is too wide has too many in the middle, and a biased one on one side. Ties are broken at random, so that ranks
    of discrete latents work, too. (Talts et al. 2018)

    Args:
        programs: model and guide.
        data: a number of data that the model generates; or data, of which as many are generated. Labels in them are
            kept. A model that needs labels, or has no argument n, needs data.
        draws: L.
        seed: seed of the noise.
    """
    checks.integer("draws", draws)
    found: dict[str, list[Tensor]] = {}
    with no_side_effects(programs):
        for number, (args, kwargs) in enumerate(_calls(programs, data, seed)):
            with seeded(seed, 8, number):
                with using(COPIES):  # a single particle: the rows are unchanged
                    p = draw(free(pair(programs)[0], args), 1, *args, **kwargs)
                given = seen(programs, p, args)
                with laid_out(*pair(programs), *given):
                    q = draw(pair(programs)[1], draws, *given)
                check_latents(q, "ranks")
                for name, site in sites(q, False).items():
                    found.setdefault(name, []).append(_rank(site["value"], _latent(p, name)).cpu())
    return {name: torch.cat(each) for name, each in found.items()}


def _calls(programs: Programs, data: Data | int, seed: int) -> Iterator[tuple[Arguments, dict[str, int]]]:
    """The model's arguments, block by block."""
    if isinstance(data, int):
        checks.integer("data", data)
        refuse_conditional(programs, "ranks")
        for done in range(0, data, ROWS):
            yield (), {"n": min(ROWS, data - done)}
    else:
        yield from ((args, {}) for _, _, args in read(programs, data, seed))


def free(model: Program, args: Arguments) -> Program:
    """The model with its data to be drawn, at the given labels."""
    return poutine.condition(poutine.uncondition(model), dict(zip(("y",), args[1:], strict=False)))


def seen(programs: Programs, p: Trace, args: Arguments) -> Arguments:
    """The guide's arguments for data that the model has drawn."""
    x = _data(p, "x" if not args else "")[0]
    if args or not needs_labels(programs):
        return (x, *args[1:])
    return x, _latent(p, "y")[0]


def _data(p: Trace, name: str = "") -> Tensor:
    """The drawn data, (particles, N, *event_shape), at the site of this name, or at the only one that was observed."""
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
    """Histograms of `ranks`, a chi-square test of uniformity for each, and one for all together; JSON can hold it.

    p_value = min(1, number of latents x smallest p-value) (Bonferroni). It is small if the guide is not the posterior
    for data that the model generates. These differ from the training data if the model is wrong.

    Args:
        programs, data, draws, seed: as in `ranks`.
        bins: bins of a histogram, a divisor of L + 1; each needs at least five data.
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
    """The numbers of ranks (N, *latent_shape) from 0 to L in each of equal bins. (latents, bins)"""
    _enough(len(ranks), bins)
    places = ranks.reshape(len(ranks), -1).T * bins // (draws + 1)
    return torch.stack([torch.bincount(each, minlength=bins) for each in places])


def _enough(rows: int, bins: int) -> None:
    if rows < EXPECTED * bins:
        raise ValueError(f"expected at least {EXPECTED * bins} simulated data for {bins} bins, found {rows}")


def uniformity(counts: Tensor) -> list[float]:
    """p-values of the chi-square test that all bins are equally likely, for each row of counts (latents, bins)."""
    return [float(p) for p in scipy.stats.chisquare(counts.numpy(), axis=1).pvalue]


def predictive(
    programs: Programs,
    data: Data,
    statistics: Mapping[str, Statistic] = STATISTICS,
    replicates: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Predictive checks: P(T(x') >= T(x)) for replicated data x', with as many rows as x.  (Box 1980; Rubin 1984)

    posterior: x'_n ~ p(x|z_n), z_n ~ q(z|x_n), with the same latents; its p-values tend towards 1/2, because the
    latents depend on the data. prior: z_n ~ p(z), new data. A p-value near 0 means that the statistic of the data is
    larger than the model's; near 1, that it is smaller. Ties count half, and x itself counts, so p-values start at 1 /
    (2R + 2). Given labels are kept. "zeros", the share of entries that are 0, is omitted if neither data nor replicates
    have any.

    Args:
        programs: model and guide, with one observed site besides labels.
        data: a Split, a tensor, a Dataset or a DataLoader.
        statistics: T by name; a number for all data (N, *event_shape), or one for each datum, (N,).
        replicates: R.
        seed: seed of the noise.

    Raises:
        ValueError: a statistic is not a finite number, such as the mean of data with missing entries.
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
                f"statistic {name!r}: expected a finite number, or one for each of {len(x)} rows, found "
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
    """Mean and standard deviation of T(x') (R, ...), and the share of replicates that is not below T(x)."""
    p = ((made > observed).double() + (made == observed).double() / 2).sum(0).add(0.5) / (len(made) + 1)
    return {"mean": made.mean(0).tolist(), "sd": made.std(0, correction=0).tolist(), "p_value": p.tolist()}
