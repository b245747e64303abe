"""Whether a model's densities integrate to one, and whether its samples follow its densities; it needs no guide."""

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from pyro.distributions import Delta, ImproperUniform, MaskedDistribution, Unit
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent

from pyrovae import checks
from pyrovae.data.split import Data, Split, choosable, subset
from pyrovae.distributions import Clamped, Concatenated, NaNMasked
from pyrovae.evaluation.calibration import Arguments, free, seen, uniformity
from pyrovae.evaluation.quadrature import Law, law, pair_law
from pyrovae.lazy import LazyModule
from pyrovae.programs.importance import read, refuse_conditional
from pyrovae.programs.pair import Programs, no_side_effects, pair
from pyrovae.programs.particles import COPIES, Folded, samples, using
from pyrovae.programs.traces import draw, replayed, sites
from pyrovae.programs.traits import traits
from pyrovae.randomness import seeded

scipy = LazyModule("scipy")


# The law is at fault if the integral is off by more than this, or if the p-value of the draws is below that.
OFF, REJECTED = 1e-3, 1e-4
# Rows to generate (fewer if each has many values); bins of the chi-square test.
ROWS, VALUES, BINS = 50, 10000, 20
# Distributions that cannot be checked: factors, constants, and priors that are not distributions.
NO_LAW = {Unit: "a factor", Delta: "a single point", ImproperUniform: "improper", MaskedDistribution: "masked"}
# Event shapes for which a likelihood is rebuilt: at most two values are integrated jointly.
SHAPES = ((2,), (1, 1, 2), (1,))
# Rows for which two values are integrated jointly, on a square grid.
PAIRS = 4


def check(programs: Programs, data: Data, entries: int = 50, draws: int = 200, seed: int = 0) -> dict[str, Any]:
    """For each site of the model: does its density integrate to 1, and do its draws follow that density?

    If a site is a product of distributions of single numbers, exp(log_prob) of `entries` of them is summed or
    integrated: entries at random, with parameters from the decoder at draws of the prior. Draws are mapped through the
    distribution function F, and have to be uniform (the probability integral transform), by a chi-square and a
    Kolmogorov-Smirnov test. Two numbers that are drawn jointly are integrated jointly. A likelihood of more values is
    rebuilt for two, if its class allows it. A site that cannot be checked gives the reason: `unchecked`.

    A model(n=...) draws its data, and model(x) scores them: at the same latents and data, both must give every site the
    same log-probability.

    A model with latents that all rows share is checked at a draw of them.

    Args:
        programs: model and guide; the guide is not used.
        data: rows for a model that cannot generate data by itself; otherwise only their number matters.
        entries: number of distributions of a site.
        draws: draws from each.
        seed: seed of the noise.
    """
    checks.integer("entries", entries, 2)
    checks.integer("draws", draws, BINS)
    if (at_draws := traits(programs).at_draws) is not None:
        programs = at_draws(1, seed)[0]
    rows = choosable(data)
    count = max(4, min(ROWS, VALUES // math.prod(rows.event_shape)))
    with no_side_effects(programs), seeded(seed, 13):
        args = _arguments(programs, rows, count, seed)
        p, few = (_generated(programs, args, rows) for rows in (count, PAIRS))
        found = {name: _site(programs, site, few.nodes[name], entries, draws) for name, site in _random(p)}
        try:
            alike = {} if args else _scored_alike(programs, p)
        except ValueError as error:  # for example, more than one observed site
            alike = {}
            found["model(n=...)"] = {"unchecked": f"{checks.reason(error)}, to score its draws by model(x)"}
    return _summary(found, alike, {"entries": entries, "draws": draws, "seed": seed})


def _arguments(programs: Programs, rows: Split, count: int, seed: int) -> Arguments:
    """The model's arguments: only n, if it generates its data by itself."""
    with suppress(ValueError):
        refuse_conditional(programs, "law")
        return ()
    return next(args for _, _, args in read(programs, subset(rows, count, seed), seed))


def _generated(programs: Programs, args: Arguments, rows: int) -> Trace:
    some = tuple(each[:rows] for each in args)
    with using(COPIES):  # a single particle: the rows are unchanged, for any program
        p = draw(free(pair(programs)[0], some), 1, *some, **({} if args else {"n": rows}))
    for site in samples(p).values():
        site["fn"] = site["fn"].base_dist if isinstance(site["fn"], Folded) else site["fn"]
    return p


def _random(p: Trace) -> Iterator[tuple[str, Any]]:
    """The sites that have a distribution: all except deterministic ones."""
    for observed in (False, True):
        for name, site in sites(p, observed).items():
            if not site["infer"].get("_deterministic"):
                yield name, site


def _site(programs: Programs, site: Any, few: Any, entries: int, draws: int) -> dict[str, Any]:
    try:
        how, law_of = _law(programs, site, few, entries, draws)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        return {"unchecked": checks.reason(error)}
    total = law_of.total
    return {
        "checked": how,
        "entries": len(total),
        "smallest_integral": total.min().item(),
        "largest_integral": total.max().item(),
        "p_value": _p_value(law_of.pit.flatten()),
    }


def _law(programs: Programs, site: Any, few: Any, entries: int, draws: int) -> tuple[str, Law]:
    fn = site["fn"]
    if site["mask"] is not None:
        raise ValueError("masked")
    _refuse(fn)
    size = math.prod(fn.event_shape)
    if isinstance(fn, Independent) or size < 2 or fn.support.is_discrete:
        return "each value", _each(fn, entries, draws)
    if size == 2:
        return "two values together", _pair(few["fn"], entries * draws)
    fn = _rebuilt(programs, site)
    size = math.prod(fn.event_shape)
    found = _each(fn, entries, draws) if isinstance(fn, Independent) or size < 2 else _pair(fn, entries * draws)
    return f"built anew at an event of {size} values", found


def _refuse(fn: Any) -> None:
    while isinstance(fn, Independent | ExpandedDistribution):
        fn = fn.base_dist
    for kind, reason in NO_LAW.items():
        if isinstance(fn, kind):
            raise ValueError(f"{reason}, not a distribution to draw from" if kind is not MaskedDistribution else reason)


def _pair(fn: Any, draws: int) -> Law:
    return pair_law(fn, fn((-(-draws // math.prod(fn.batch_shape)),)))


def _rebuilt(programs: Programs, site: Any) -> Any:
    """The likelihood of the site for one or two values, at normal parameters."""
    size, likelihood = math.prod(site["fn"].event_shape), traits(programs).likelihood
    reason = f"{size} values are drawn together ({type(site['fn']).__name__})"
    if likelihood is None or not (site["is_observed"] or "was_observed" in site["infer"] or site["name"] == "x"):
        raise ValueError(reason)
    for shape in SHAPES:
        try:
            few = type(likelihood)(shape).to(site["value"])
            return few(torch.randn(PAIRS, *few.param_shape).to(site["value"]))
        except (TypeError, ValueError, RuntimeError, AttributeError):
            continue
    raise ValueError(f"{reason}, and {type(likelihood).__name__} cannot be built for two")


def _each(fn: Any, entries: int, draws: int) -> Law:
    """The law of a product of single numbers: entries from all its parts."""
    parts = list(_parts(fn, fn((draws,))))
    found = []
    for p, drawn, kept in parts:
        places = torch.arange(math.prod(p.batch_shape)) if kept is None else kept.flatten().nonzero()[:, 0].cpu()
        at = places[torch.randperm(len(places))[: -(-entries // len(parts))]]
        found.append(law(p, drawn, at))
    return Law(torch.cat([each.total for each in found]), torch.cat([each.pit.flatten() for each in found]))


def _parts(p: Any, drawn: Tensor, kept: Tensor | None = None) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
    """The distributions of single numbers in p, their draws, and the mask of values that are not given."""
    shape = drawn.shape[1:]
    inner = p.base_dist if isinstance(p, Independent | ExpandedDistribution) else p
    if isinstance(inner, NaNMasked):
        yield from _parts(inner.whole.expand(shape), drawn, kept)
    elif isinstance(inner, Clamped):
        yield from _parts(inner.whole.expand(shape), drawn, ~inner.seen.expand(shape))
    elif isinstance(inner, Concatenated):
        for i, column in enumerate(inner.columns):
            yield from _parts(column.expand((*shape[:-1], 1)), drawn[..., i : i + 1])
    elif isinstance(p, Independent) or isinstance(inner, Independent):
        yield from _parts(inner, drawn, kept)
    else:
        yield p, drawn, kept


def _p_value(u: Tensor) -> float:
    """Twice the smaller p-value of two tests that u is uniform; 0 if a draw is outside the support and has no F."""
    if bool(u.isnan().any()):
        return 0.0
    (chi,) = uniformity(torch.histc(u, BINS, 0, 1)[None])
    return min(1.0, 2 * min(chi, float(scipy.stats.kstest(u.cpu().numpy(), "uniform").pvalue)))


def _scored_alike(programs: Programs, p: Trace) -> dict[str, float]:
    """By site, the largest difference between log_prob in model(n=...) and in model(x) at the same values."""
    with using(COPIES):
        q = replayed(pair(programs)[0], p, 1, *seen(programs, p, ()))
    off = {}
    for name, site in _random(p):
        if name in q.nodes:
            one, other = site["log_prob"].double(), q.nodes[name]["log_prob"].double()
            rounding = 64 * torch.finfo(site["log_prob"].dtype).eps * (1 + one.abs())
            off[name] = ((one - other).abs() - rounding).nan_to_num(math.inf).clamp(min=0).max().item()
    return off


def _summary(found: dict[str, Any], alike: dict[str, float], asked: dict[str, Any]) -> dict[str, Any]:
    done = {name: site for name, site in found.items() if "checked" in site}
    faults = [
        f"the density of {name!r} does not integrate to one ({_range(site)})"
        for name, site in done.items()
        if _off(site)
    ]
    p = {name: site["p_value"] for name, site in done.items()}
    faults += [f"the sampler of {name!r} is not its density (p = {p[name]:.1g})" for name in p if p[name] < REJECTED]
    unlike = [name for name, off in alike.items() if off > 0]
    faults += [f"model(n=...) does not draw {name!r} as model(x) scores it" for name in unlike]
    unchecked = [
        f"law of {name!r} not checked: {site['unchecked']}" for name, site in found.items() if name not in done
    ]
    return asked | {
        "passed": not faults and not unchecked,
        "smallest_integral": min((site["smallest_integral"] for site in done.values()), default=None),
        "largest_integral": max((site["largest_integral"] for site in done.values()), default=None),
        "p_value": min(1.0, len(p) * min(p.values())) if p else None,
        "scored_alike": not unlike if alike else None,
        "faults": faults,
        "unchecked": unchecked,
        "sites": found,
        "verdict": _verdict(faults, unchecked),
    }


def _verdict(faults: list[str], unchecked: list[str]) -> str:
    if faults:
        return f"law at fault: {'; '.join(faults + unchecked)}"
    return "; ".join(unchecked) or "the model draws what it scores, and its densities integrate to one"


def _off(site: dict[str, Any]) -> bool:
    return not (1 - OFF <= site["smallest_integral"] <= site["largest_integral"] <= 1 + OFF)


def _range(site: dict[str, Any]) -> str:
    return f"{site['smallest_integral']:.3g} to {site['largest_integral']:.3g} over {site['entries']} of its parameters"
