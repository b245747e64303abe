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

# The guide is at fault if it has no finite weights, if k-hat is above `usable` for more than this share of the data, or
# if KL(q(z|x) || p(z|x)) is more than this many nats per datum.
SHARE, NATS = 0.05, 1.0

# If k-hat is too large for more than this share of the data, both gaps are lower bounds, and the verdict names neither.
MOST = 0.5

# The start of the verdict on a good guide, and a hint for further checks.
CLOSE, ADVICE = "guide close to the posterior where it draws", "see anneal with start='prior'"
# Faults that weights at the guide's own draws cannot show.
BLIND = "weights cannot show a density that does not integrate to one, or a wrong sampler (see examine)"


def by_datum(programs: Programs, data: Data, particles: int = 1000, seed: int = 0) -> dict[str, Tensor]:
    """Diagnostics of the guide at each datum from weights w_k = p(x, z_k) / q(z_k|x), z_k ~ q(z|x): arrays (N,).

    k: Pareto k-hat; means of weights are unreliable if it is above `usable(K)` (.7 for 2000 draws and more); ess:
    (sum w)^2 / sum w^2, of K draws;
    log_likelihood = log 1/K sum_k w_k; elbo = 1/K sum_k log w_k; kl = log_likelihood - elbo, which estimates
    KL(q(z|x) || p(z|x)), and is too low on average; kl_error: its standard error, by the delta method. Latents that the
    guide enumerates are summed out of w. If all weights are 0, or one is infinite or NaN, k and kl are inf, and ess is
    0. (Vehtari et al. 2024)

    None of these numbers shows a part of the posterior where the guide never draws.

    Args:
        programs: model and guide, with a continuous latent, or enumerated ones.
        data: a Split, a tensor, a Dataset or a DataLoader.
        particles: K >= 25.
        seed: seed of the noise.
    """
    checks.integer("particles", particles, pareto_k.LEAST)
    return by_row(programs, data, particles, seed, _weights, _of_weights)


def _weights(q: Trace, p: Trace) -> Numbers:
    _check(q)
    log_w = log_weight(q, p)
    # For each site, so that a log weight near 0, as a difference of large scores, does not count as exact.
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
    """Summarise `by_datum` in one dictionary that JSON can hold, with a `verdict` in words.

    It uses only weights at the guide's own draws. So it cannot detect a mode where the guide never draws, a density
    that does not integrate to one, or a model whose samples do not follow its scores; `examine` checks for those, too.

    k: the numbers of data with k-hat up to .5, up to `threshold` = `usable(particles)`, and above; `median` and
    `largest` are None if they are infinite.
    kl, ess, elbo and log_likelihood are means over the `sound` data, whose weights have a finite sum above 0 and whose
    KL is finite; the other rows are in `unsound_rows`.

    Args:
        programs, data, particles, seed: as in `by_datum`.
        steps, learning_rate: options of the refinement in `gaps`, which shows whether the encoder or the family is at
            fault; with 0 steps there is no refinement.

    Example:
        >>> import torch
        >>> from pyrovae.evaluation.diagnostics import diagnose
        >>> from pyrovae.models import VAE
        >>> vae = VAE(event_shape=6, latent_dim=2)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that q(z|x) = p(z) = p(z|x)
        >>> result = diagnose(vae, torch.ones(20, 6), particles=100)
        >>> abs(result["kl"]["value"]) < 1e-6, result["verdict"][:28]
        (True, 'guide close to the posterior')
    """
    checks.integer("particles", particles, pareto_k.LEAST)
    # The refinement first, because it refuses more, before any work is done.
    lost = gaps(programs, data, steps, learning_rate, particles, seed) if checks.integer("steps", steps, 0) else None
    return summary(by_datum(programs, data, particles, seed), particles, seed, lost)


def summary(table: dict[str, Tensor], particles: int, seed: int, lost: dict[str, Any] | None = None) -> dict[str, Any]:
    """The dictionary of `diagnose`, from the table of `by_datum` with this many particles, and the `gaps` if known."""
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
    """Guide or model, in a sentence: the first of these cases that holds for the results of `diagnose`.

    Some rows are unsound: the guide is at fault, or the programs do not belong together. k-hat is above its threshold
    for more than 5 % of the data, or KL > 1 nat per datum: the guide is at fault, and the larger of the two gaps names
    its encoder or its family, unless k-hat is above its threshold for most of the data; then both gaps are lower
    bounds, and name neither. Otherwise the guide is close to the posterior where it draws, and what log p(x) lacks is
    due to the model, or to a mode where the guide never draws.
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
        lacks = f"what log p(x) lacks is due to the model, or to a mode that the guide never reaches ({ADVICE})"
        return f"{CLOSE}: {seen}; {lacks}; {BLIND}"
    return f"guide at fault{_which(found['gaps'], seen, share)}" if "gaps" in found else f"guide at fault: {seen}"


def _which(gaps: dict[str, Any], seen: str, share: float) -> str:
    """Encoder or family, by the larger gap. The second gap is a lower bound; if k-hat is too large, both are."""
    encoder, family = (gaps[f"{kind}_gap"]["value"] for kind in ("amortisation", "approximation"))
    which, larger = ("its shared encoder", "first") if encoder > family else ("its family", "second")
    both = f"{encoder:.2f}, approximation gap at least {family:.2f}"
    if share > MOST:
        return f": {seen}; amortisation gap at least {both}: the {larger} is larger"
    return f", {which}: {seen}; amortisation gap {both}"
