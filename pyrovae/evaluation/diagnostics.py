"""How far a guide is from the posterior of each datum, and whether the guide or the model is at fault."""

import math
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyrovae import checks
from pyrovae.data.split import Data
from pyrovae.evaluation import pareto_k
from pyrovae.evaluation.evaluate import gaps
from pyrovae.programs.importance import Numbers, by_row
from pyrovae.programs.pair import Programs
from pyrovae.programs.traces import (
    averaged,
    bound,
    check_latents,
    is_enumerated,
    is_point,
    log_mean_exp,
    log_weight,
    sites,
)
from pyrovae.scores import mean

# The guide is at fault where it has no weights at all, k-hat is above `psis.usable` at more than this share of the
# data, or KL(q(z|x) || p(z|x)) is more than so many nats per datum.
SHARE, NATS = 0.05, 1.0

# A share of the data with such a k-hat above which the gaps are lower bounds, both, and name nobody.
MOST = 0.5

# How the verdict on a good guide begins, and what else there is to ask.
CLOSE, ADVICE = "guide close to the posterior where it draws", "see anneal with start='prior'"
# What no weights at the guide's own draws can show.
BLIND = "a density that does not integrate to one, or a sampler that is not it, shows in no weight (see examine)"


def by_datum(programs: Programs, data: Data, particles: int = 1000, seed: int = 0) -> dict[str, Tensor]:
    """What weights w_k = p(x, z_k) / q(z_k|x), z_k ~ q(z|x), say of the guide at each datum: arrays (N,).

    k: Pareto k-hat, above `psis.usable(K)` (.7 of 2000 draws and more) where no mean of weights is to be trusted; ess:
    (sum w)^2 / sum w^2, of K draws;
    log_likelihood = log 1/K sum_k w_k; elbo = 1/K sum_k log w_k; kl = log_likelihood - elbo, which estimates
    KL(q(z|x) || p(z|x)), from below in the mean; kl_error: its standard error, by the delta method. Latents that the
    guide enumerates are summed out of w. Where all weights are 0, or one is infinite or no number, k and kl are inf,
    ess is 0. (Vehtari et al. 2024)

    A part of the posterior where the guide never draws shows in none of them.

    Args:
        programs: model and guide, with a continuous latent, or enumerated ones.
        data: a Split, a tensor, a Dataset or a DataLoader.
        particles: K >= 25.
        seed: of the noise.
    """
    checks.integer("particles", particles, pareto_k.LEAST)
    return by_row(programs, data, particles, seed, _weights, _of_weights)


def _weights(q: Trace, p: Trace) -> Numbers:
    _check(q)
    log_w = log_weight(q, p)
    # By site, so that a log weight near 0, the difference of large scores, is not taken for an exact one.
    scores = [averaged(q, site["log_prob"].abs()) for trace in (q, p) for site in _all_sites(trace)]
    return {"log_weight": log_w, "bound": bound(q, p), "magnitude": sum(scores, torch.zeros_like(log_w))}


def _all_sites(trace: Trace) -> list[Any]:
    return [*sites(trace, True).values(), *sites(trace, False).values()]


def _of_weights(of: Numbers) -> Numbers:
    log_w, each = of["log_weight"].double(), of["bound"].double()
    log_p, _ = log_mean_exp(log_w)
    sound = torch.isfinite(log_p)
    kl = (log_w - log_p).exp() - each  # its mean is KL - log p(x) + 1
    return {
        "k": torch.where(
            sound, pareto_k.k_hat(of["log_weight"], of["magnitude"].nan_to_num(0, 0, 0).amax(0)), math.inf
        ),
        "ess": torch.where(sound, pareto_k.effective_sample_size(log_w), 0),
        "kl": torch.where(sound, log_p - each.mean(0), math.inf),
        "kl_error": torch.where(sound, kl.std(0) / math.sqrt(len(kl)), math.nan),
        "elbo": each.mean(0),
        "log_likelihood": log_p,
    }


def _check(q: Trace) -> None:
    check_latents(q, "k-hat")
    if is_point(q):
        raise ValueError("k-hat: expected a guide with a density, found a point")
    drawn = {name: site["fn"] for name, site in sites(q, False).items() if not is_enumerated(site)}
    if drawn and all(fn.support.is_discrete for fn in drawn.values()):
        found = ", ".join(f"{name!r} of {type(fn).__name__}" for name, fn in drawn.items())
        raise ValueError(f"k-hat: expected a latent that is continuous or enumerated, found {found}")


def diagnose(
    programs: Programs, data: Data, particles: int = 1000, seed: int = 0, steps: int = 0, learning_rate: float = 0.03
) -> dict[str, Any]:
    """What `by_datum` finds, in one dictionary that JSON can hold, and a `verdict` in words.

    By weights at the guide's own draws alone it sees neither a mode where the guide never draws, nor a density that
    does not integrate to one, nor a model that draws otherwise than it scores: `examine` asks for those, too.

    k: how many data have k-hat up to .5, up to `threshold` = `psis.usable(particles)`, and above; `median` and
    `largest` are None where they are infinite.
    kl, ess, elbo and log_likelihood are means over the `sound` data alone, whose weights have a finite sum above 0 and
    whose KL is finite; the others are in `unsound_rows`.

    Args:
        programs, data, particles, seed: as in `by_datum`.
        steps, learning_rate: of the refinement in `gaps`, which then tells whether the encoder or the family is at
            fault; 0 asks for none.
    """
    checks.integer("particles", particles, pareto_k.LEAST)
    # First what refuses more before any work.
    lost = gaps(programs, data, steps, learning_rate, particles, seed) if checks.integer("steps", steps, 0) else None
    return summary(by_datum(programs, data, particles, seed), particles, seed, lost)


def summary(table: dict[str, Tensor], particles: int, seed: int, lost: dict[str, Any] | None = None) -> dict[str, Any]:
    """The dictionary of `diagnose`, of what `by_datum` found with so many particles, and of the `gaps` where known."""
    k, sound = table["k"], torch.isfinite(table["kl"])
    good, usable = pareto_k.good(particles), pareto_k.usable(particles)
    found: dict[str, Any] = {
        "rows": len(k),
        "particles": particles,
        "seed": seed,
        "unit": "nats per datum",
        "unsound_rows": (~sound).nonzero()[:, 0].tolist(),
        "k": {
            "threshold": usable,
            "good": int((k <= good).sum()),
            "usable": int(((k > good) & (k <= usable)).sum()),
            "unusable": int((k > usable).sum()),
            "share_unusable": (k > usable).double().mean().item(),
            "median": _finite(k.median()),
            "largest": _finite(k.max()),
        },
    }
    if bool(sound.any()):
        names = ("ess", "kl", "elbo", "log_likelihood")
        found |= {name: {key: _finite(v) for key, v in mean(table[name][sound]).items()} for name in names}
        found["kl"]["monte_carlo_error"] = (table["kl_error"][sound].square().sum().sqrt() / sound.sum()).item()
    if lost is not None:
        found["gaps"] = lost
    return found | {"verdict": verdict(found)}


def _finite(value: Tensor | float) -> float | None:
    return float(value) if math.isfinite(value) else None


def verdict(found: dict[str, Any]) -> str:
    """Guide or model, in a sentence: the first of these that holds of what `diagnose` found.

    Some rows are unsound: the guide, or programs that do not belong together. k-hat is above its threshold at more than
    5 % of the data, or KL > 1 nat per datum: the guide; of the two gaps the larger one says whether its encoder or its
    family, unless k-hat is above its threshold at most of the data: then both are lower bounds, which name neither.
    Else the guide is close to the posterior where it draws, and what log p(x) lacks is the model's, or that of a mode
    where the guide never draws.
    """
    unsound, share = found["unsound_rows"], found["k"]["share_unusable"]
    if unsound:
        few = ", ".join(map(str, unsound[:5])) + (", ..." if unsound[5:] else "")
        return f"guide at fault: no finite weights, or no finite KL, at {len(unsound)} of {found['rows']} rows ({few})"
    kl = found["kl"]["value"]
    least = "at least " if share > SHARE else ""
    above = f"k-hat > {pareto_k.usable(found['particles']):.2g} at {share:.0%} of the data"
    seen = f"KL to the posterior {least}{kl:.2f} nats, {above}"
    if share <= SHARE and kl <= NATS:
        lacks = f"what log p(x) lacks is the model's, or a mode's that the guide never meets ({ADVICE})"
        return f"{CLOSE}: {seen}; {lacks}; {BLIND}"
    return f"guide at fault{_which(found['gaps'], seen, share)}" if "gaps" in found else f"guide at fault: {seen}"


def _which(gaps: dict[str, Any], seen: str, share: float) -> str:
    """Encoder or family, by the larger gap; the second is a lower bound, and where k-hat is bad so are both."""
    encoder, family = (gaps[f"{kind}_gap"]["value"] for kind in ("amortisation", "approximation"))
    which, larger = ("its shared encoder", "first") if encoder > family else ("its family", "second")
    both = f"{encoder:.2f}, approximation gap at least {family:.2f}"
    if share > MOST:
        return f": {seen}; amortisation gap at least {both}: the {larger} is larger"
    return f", {which}: {seen}; amortisation gap {both}"
