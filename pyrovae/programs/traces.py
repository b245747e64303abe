"""Runs both programs for many particles at once and scores each site for each row; estimates are built from this."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyrovae.programs.assumptions import is_auxiliary, laid_out
from pyrovae.programs.pair import Program
from pyrovae.programs.particles import Folded, entries, run, samples

# The keys that scoring adds to a site.
SCORES = {"log_prob", "log_prob_sum", "unscaled_log_prob", "score_parts"}
# The ways to compute a KL, from the best.
WAYS = ("closed form", "closed form at draws", "sampled")


def traces(
    model: Program, guide: Program, particles: int, *args: Any, enumerated: bool = False, **kwargs: Any
) -> tuple[Trace, Trace]:
    """Run the guide for several particles at once, and the model on its latents; every site is scored, (particles, N).

    If `enumerated`, a latent that the guide marks with infer={"enumerate": "parallel"} takes each of its values, in
    dimensions to the left of the particles; `averaged` and `log_weight` sum over them.
    """
    with laid_out(model, guide, *args, enumerated=enumerated, **kwargs):
        with poutine.enum(first_available_dim=-3) if enumerated else nullcontext():
            q = draw(guide, particles, *args, **kwargs)
        return q, model_at(model, q, particles, *args, **kwargs)


def draw(program: Program, particles: int, *args: Any, **kwargs: Any) -> Trace:
    """A program run for `particles` particles at once. Call it inside `laid_out`, which finds the right layout."""
    return run(program, particles, args, kwargs)


def replayed(program: Program, at: Trace, particles: int, *args: Any, **kwargs: Any) -> Trace:
    """A program run on the latents of a trace."""
    return run(program, particles, args, kwargs, at)


def model_at(model: Program, q: Trace, particles: int, *args: Any, **kwargs: Any) -> Trace:
    """The model run on the guide's latents. Guide and model must have the same latents."""
    p = replayed(model, q, particles, *args, **kwargs)
    check_pair(q, p)
    return p


def sites(trace: Trace, observed: bool) -> dict[str, Any]:
    """The observed (or the latent) sites by name, without the auxiliary sites from which a guide makes its latents."""
    return {name: site for name, site in _scored(trace, observed).items() if not is_auxiliary(site)}


def _scored(trace: Trace, observed: bool) -> dict[str, Any]:
    return {name: site for name, site in samples(trace).items() if site["is_observed"] == observed}


def log_prob(trace: Trace, observed: bool) -> Tensor:
    """The sum of the log-probabilities of the observed (or the latent) sites. (particles, N)"""
    return sum(site["log_prob"] for site in _scored(trace, observed).values())


def is_enumerated(site: Any) -> bool:
    """Whether a latent is enumerated."""
    return site["infer"].get("_enumerate_dim") is not None


def averaged(q: Trace, values: Tensor, event_dim: int = 0) -> Tensor:
    """E_q of values (..., particles, N, *event) over the enumerated latents. (particles, N, *event)"""
    probabilities = [site["log_prob"].exp() for site in sites(q, False).values() if is_enumerated(site)]
    if not probabilities or values.ndim - event_dim <= 2:
        return values
    share: Tensor = math.prod(probabilities)
    return (share.reshape(*share.shape, *[1] * event_dim) * values).flatten(0, -3 - event_dim).sum(0)


def log_weight(q: Trace, p: Trace) -> Tensor:
    """log p(x, z) - log q(z|x) of two scored traces, with enumerated latents summed out. (particles, N)"""
    return summed_out(log_weight_of_each(q, p))


def summed_out(log_p: Tensor) -> Tensor:
    """log sum_y p(y, ...) over the enumerated latents, from (..., particles, N) to (particles, N)."""
    return log_p.flatten(0, -3).logsumexp(0) if log_p.ndim > 2 else log_p


def log_weight_of_each(q: Trace, p: Trace) -> Tensor:
    """The same for each value of the enumerated latents, for which there is no log q. (..., particles, N)"""
    drawn = [site["log_prob"] for site in _scored(q, False).values() if not is_enumerated(site)]
    return log_prob(p, True) + log_prob(p, False) - sum(drawn)


def bound(q: Trace, p: Trace) -> Tensor:
    """log p(x, z) - log q(z|x), whose mean is the ELBO; enumerated latents are averaged over. (particles, N)"""
    return averaged(q, log_prob(p, True) + log_prob(p, False) - log_prob(q, False))


def log_weights(model: Program, guide: Program, particles: int, *args: Any, **kwargs: Any) -> Tensor:
    """log p(x, z) - log q(z|x) at z ~ q(z|x). (particles, N), in nats; differentiable."""
    return log_weight(*traces(model, guide, particles, *args, **kwargs))


def log_mean_exp(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """log of the mean weight over particles (K, N), and its standard error by the jackknife: two (N,).

    e^2 = (K - 1) Var_k log m_k, where m_k is the mean without weight k. The delta method linearises the logarithm; with
    few large weights its error is a quarter too small.  (Efron & Stein 1981)
    """
    k = len(log_w)
    log_mean = log_w.logsumexp(0) - math.log(k)
    if k == 1:
        return log_mean, torch.full_like(log_mean, math.nan)
    without = _without_each(log_w)
    error = ((k - 1) * without.var(0, correction=0)).sqrt()
    return log_mean, torch.where(without.isinf().any(0), math.inf, error)


def log_mean_exp_bias(log_w: Tensor) -> Tensor:
    """The jackknife estimate of the bias of the log of the mean weight as log E w: (K - 1) mean_k log (m_k / m).

    At most 0; (K, N) to (N,). If a few weights are nearly all of the sum, the estimate is too near to 0.
    """
    k = len(log_w)
    return (k - 1) * _without_each(log_w).mean(0) if k > 1 else torch.full_like(log_w[0], math.nan)


def _without_each(log_w: Tensor) -> Tensor:
    """log of (the mean without weight k) / (the mean of all). (K, N)"""
    share = log_w.softmax(0)
    top = log_w.argmax(0, keepdim=True)
    # The rest beside a weight that is nearly all of the sum, without cancellation.
    rest = log_w.scatter(0, top, -math.inf).logsumexp(0) - log_w.logsumexp(0)
    left = torch.where(share > 0.5, rest, torch.log1p(-share))
    return left - math.log1p(-1 / len(log_w))


def kl(q: Trace, p: Trace) -> tuple[dict[str, Tensor], str]:
    """The KL by latent site, (particles, N), or by latent, (particles, N, *latent_shape); and how it was computed.

    It is computed in "closed form"; in "closed form at draws" of earlier latents; or "sampled". It is sampled if torch
    has no closed form, and if the guide draws its latents in another order than the model: then the closed form for one
    latent, at draws of the latents that it depends on in the model, is not its term of the KL. Enumerated latents are
    summed out.
    """
    latents = sites(q, False)
    ordered = list(latents) == list(sites(p, False))
    auxiliary = _auxiliary(q)
    found: dict[str, Tensor] = {}
    ways = set()
    for name, site in latents.items():
        own = ordered and not is_enumerated(site) and name not in auxiliary
        closed = _closed_kl(site["fn"], p.nodes[name]["fn"]) if own else None
        if closed is None:
            log_q = sum((each["log_prob"] for each in auxiliary.pop(name, [])), site["log_prob"])
            value = averaged(q, log_q - p.nodes[name]["log_prob"])
            ways.add(WAYS[0] if is_enumerated(site) else WAYS[2])
        else:
            value = averaged(q, closed, closed.ndim - site["log_prob"].ndim)
            ways.add(WAYS[any(not is_enumerated(latents[each]) for each in found)])
        found[name] = value
    return found, max(ways, key=WAYS.index, default=WAYS[0])


def _auxiliary(q: Trace) -> dict[str, list[Any]]:
    """The auxiliary sites of a guide, keyed by the next latent, which is a function of them."""
    found: dict[str, list[Any]] = {}
    waiting: list[Any] = []
    for name, site in _scored(q, False).items():
        if is_auxiliary(site):
            waiting.append(site)
        elif waiting:
            found[name], waiting = waiting, []
    if waiting:
        raise ValueError(
            f"expected latents that are made of auxiliary site {waiting[0]['name']!r}, found none after it"
        )
    return found


def _closed_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p), for each latent separately if they are independent; None if torch has no closed form."""
    if q.batch_shape != p.batch_shape:  # torch's formulas do not all broadcast
        shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        q, p = q.expand(shape), p.expand(shape)
    try:
        if isinstance(q, Folded) and isinstance(p, Folded):
            closed = _closed_kl(q.base_dist, p.base_dist)
            return None if closed is None else q.fold(closed, closed.ndim - len(q.base_dist.batch_shape))
        if isinstance(q, Independent) and isinstance(p, Independent):
            return kl_divergence(q.base_dist, p.base_dist)
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def over(weights: Tensor, like: Tensor) -> Tensor:
    """Weights of rows (or of particles and rows), with trailing dimensions of 1 to broadcast against `like`."""
    return weights.reshape(*weights.shape, *[1] * (like.ndim - weights.ndim))


def closed_mean(distribution: Any) -> Tensor | None:
    """A distribution's mean; None if it has no closed form (flows), or if its values are not numbers."""
    try:
        mean = distribution.mean
    except NotImplementedError:
        return None
    return mean if bool(torch.isfinite(mean).all()) else None  # the mean of a categorical is NaN


def is_point(trace: Trace) -> bool:
    """Whether a latent's distribution is a single value."""
    latents = sites(trace, False)
    made = len(_scored(trace, False)) > len(latents)  # a function of auxiliary sites, which have a density
    return not made and any(isinstance(entries(site["fn"]), Delta) for site in latents.values())


def at(trace: Trace, values: dict[str, Tensor]) -> Trace:
    """A copy of a trace with these values at its sites, not yet scored."""
    moved = trace.copy()
    for name, site in moved.nodes.items():
        unscored: Any = {key: part for key, part in site.items() if key not in SCORES}
        moved.nodes[name] = unscored | ({"value": values[name]} if name in values else {})
    return moved


def detached(trace: Trace) -> Trace:
    """A copy of a trace whose latents are constants."""
    return at(trace, {name: site["value"].detach() for name, site in sites(trace, False).items()})


def rescored(moved: Trace, run: Callable[[Trace], Trace]) -> Trace:
    """A guide's trace, scored at values that it did not draw (`at`, `detached`).

    If the guide has a single site, its distribution depends on no other latent and can score the new values directly.
    If it has several, a later site may depend on an earlier one, so the guide is run again, with all its networks.
    """
    if len(samples(moved)) > 1:
        return run(moved)
    moved.compute_log_prob()
    return moved


def check_latents(trace: Trace, what: str) -> None:
    """Raise a ValueError unless there is a latent."""
    if not sites(trace, False):
        raise ValueError(f"{what}: expected at least one latent site, found none")


def check_pair(q: Trace, p: Trace) -> None:
    """Raise a ValueError unless guide and model have the same latents, and the model has what the guide observes."""
    drawn, mine = sites(q, False), sites(p, False)
    own = {name for name, site in mine.items() if "was_observed" not in site["infer"]}  # unconditioned sites are data
    if drawn.keys() != own:
        raise ValueError(
            f"expected the same latents in model and guide, found {sorted(own)} in the model, {sorted(drawn)} in the "
            "guide"
        )
    for name, parts in _auxiliary(q).items():
        if not isinstance(entries(q.nodes[name]["fn"]), Delta):
            found = f"{name!r} of {type(q.nodes[name]['fn']).__name__}"  # here log q(z|x) would be an integral
            raise ValueError(f"expected a latent that is a function of auxiliary {parts[0]['name']!r}, found {found}")
    for name, site in sites(q, True).items():
        if name not in p.nodes and not site["infer"].get("_deterministic"):
            raise ValueError(f"expected (model, guide), found {name!r} observed only in the guide: are they swapped?")


def check_pathwise(trace: Trace, what: str) -> None:
    """Raise a ValueError unless every latent is enumerated, or a differentiable function of the guide's parameters."""
    for name, site in sites(trace, False).items():
        if not is_enumerated(site) and not getattr(site["fn"], "has_rsample", False):
            advice = '; ELBO(estimator="enumerated") sums over its values' if site["infer"].get("enumerate") else ""
            found = f"{name!r} of {type(site['fn']).__name__} is not{advice}"
            raise ValueError(f"{what} needs reparametrised latents: {found}")
