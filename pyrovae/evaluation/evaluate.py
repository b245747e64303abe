"""Scores of a trained model, each with its error."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyrovae.data.split import LABELS, ROWS, Data, as_split, blocks, known
from pyrovae.evaluation.clusters import agreement, has_clusters, responsibilities
from pyrovae.likelihoods import Measure, OneHotCategorical
from pyrovae.programs.assumptions import laid_out
from pyrovae.programs.columns import wanted
from pyrovae.programs.importance import Numbers, by_row, classify, in_order, places
from pyrovae.programs.pair import Programs, classifies, pair
from pyrovae.programs.refine import refine
from pyrovae.programs.traces import (
    WAYS,
    averaged,
    closed_mean,
    draw,
    is_point,
    kl,
    log_mean_exp,
    log_mean_exp_bias,
    log_weight,
    sites,
)
from pyrovae.programs.traits import traits
from pyrovae.randomness import seeded
from pyrovae.scores import mean

# Burda, Grosse & Salakhutdinov 2016: a latent is active if the mean of q(z|x) has a variance over the data above this.
ACTIVE = 0.01

# Draws for the mean of q(z|x) if it has no closed form, whatever the number of particles of a score.
DRAWS = 100

# The measure if the guide is a point: the log-probability 0 that Pyro assigns is a convention, not a density.
POINT, NOT_OF_A_POINT = (
    "none: the guide is a point",
    ("elbo", "kl", "log_likelihood", "monte_carlo_error", "monte_carlo_bias", "elbo_error"),
)
HOW = (*WAYS, POINT)
UNKNOWN = Measure("none", "unknown")  # for programs whose likelihood has no measure

# The terms of the reconstruction and of the KL, by site.
ADDITIVE = ("observed.", "kl.", "kl_per_latent.")


def evaluate(
    programs: Programs, data: Data, particles: int = 100, seed: int = 0, draws: int = 10, keep: Path | None = None
) -> dict[str, Any]:
    """Evaluate a model on data, in nats per datum: a dictionary that JSON can hold.

    elbo = reconstruction - kl, at beta = 1; reconstruction = E_q[log p(x|z)]; kl = KL(q(z|x) || p(z)), in closed form
    if the guide draws the latents in the model's order and torch has the form, otherwise sampled (see `kl_estimator`);
    log_likelihood = log 1/K sum_k p(x, z_k) / q(z_k|x), a lower bound on average. Latents that the guide enumerates are
    summed out.

    A given label is observed, too. Then all scores are those of log p(x, y), and `observed_by_site` and `kl_by_site`
    give its parts. If only some rows have labels, each row is scored by what is known of it, as `measure` says; a site
    that a row lacks adds 0 to the mean.

    `standard_error` is that of the mean over the data. `monte_carlo_error` is the error from the K particles, of the
    log-likelihood (by the jackknife) and of the elbo. `monte_carlo_bias` estimates how far the log-likelihood is below
    log p(x) on average; it is not part of the error, and the log-likelihood is not corrected for it.

    A guide that classifies has an `accuracy`; one that finds clusters without labels has their agreement with the
    labels, `clusters`. A guide of one point has no density: only the reconstruction is a number, the rest is NaN, and
    `measure` says so. `active_units` are omitted if there is a single row.

    A model with latents w that all rows share, such as `BayesianVAE`, provides models at draws of w by `at_draws`. Then
    log_likelihood = log 1/S sum_s p(x|w_s), w_s ~ q(w), and all other scores are means over the w_s; they do not
    contain KL(q(w) || p(w)), which belongs to the training data. All rows share the same w_s, so their errors add up,
    and `monte_carlo_error` is an upper bound for the error of the mean.

    Args:
        programs: model and guide.
        data: a Split, a tensor, a Dataset or a DataLoader; the result does not depend on the batch size.
        particles: K.
        seed: seed of the noise.
        draws: S, if there are such w.
        keep: an empty folder for intermediate results, or the folder of the same evaluation that was interrupted.

    Example:
        >>> import torch
        >>> import pyrovae
        >>> vae = pyrovae.VAE(event_shape=6, latent_dim=2)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> scores = pyrovae.evaluate(vae, torch.ones(20, 6), particles=10)
        >>> round(scores["log_likelihood"]["value"], 4), scores["measure"]  # -6 log 2
        (-4.1589, 'mass over binary values')
    """
    return summary(programs, data, scores(programs, data, particles, seed, draws, keep), particles, seed, draws)


def summary(
    programs: Programs, data: Data, scored: tuple[dict[str, Tensor], str], particles: int, seed: int, draws: int = 10
) -> dict[str, Any]:
    """The dictionary of `evaluate`, from the results of `scores`."""
    table, estimator = dict(scored[0]), scored[1]
    shared = traits(programs).at_draws is not None
    error, bias, of_elbo = (table.pop(name) for name in ("monte_carlo_error", "monte_carlo_bias", "elbo_error"))
    kls, means = _by_site(table, "kl_per_latent."), codes(programs, data, seed, draws)
    by_site = {kind: _by_site(table, f"{kind}.") for kind in ("observed", "kl")}
    return {
        "rows": len(error),
        "particles": particles,
        **({"draws": draws} if shared else {}),
        "seed": seed,
        "unit": "nats per datum",
        **_measure_fields(_measure(programs, estimator, **by_site)),
        **{name: mean(values) for name, values in table.items()},
        "elbo": mean(table["elbo"]) | {"monte_carlo_error": _of_mean(of_elbo, shared)},
        "monte_carlo_error": _of_mean(error, shared),
        "monte_carlo_bias": bias.mean().item(),
        "kl_estimator": estimator,
        **{f"{kind}_by_site": {site: mean(v) for site, v in values.items()} for kind, values in by_site.items()},
        "kl_per_latent": {site: values.mean(0).flatten().tolist() for site, values in kls.items()},
        "latents": {site: values[0, 0].numel() for site, values in means.items()},
        **_active_units(means),
        **(_classes(programs, data, seed) if _has_classes(programs, data) else {}),
    }


def _error(values: Tensor) -> Tensor:
    """The standard error of the mean over draws, (K, ...) to (...); NaN for a single draw."""
    return values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full_like(values[0], math.nan)


def _of_mean(errors: Tensor, shared: bool) -> float:
    """The error of a mean over rows, from the rows' errors; if all rows share their noise, an upper bound."""
    return errors.mean().item() if shared else (errors.square().sum().sqrt() / len(errors)).item()


def active(means: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Which latents are active: Var_x E_q[z|x] > ACTIVE for means (N, ...), beyond the variance from their noise."""
    return means.var(0, correction=0) - noise > ACTIVE


def _active_units(means: dict[str, Tensor]) -> dict[str, Any]:
    """The number of active latents of each site; nothing for a single row."""
    if any(len(each) < 2 for each in means.values()):
        return {}
    each = {site: values.unbind(1) for site, values in means.items()}
    return {"active_units": {site: int(active(mean, noise.mean(0)).sum()) for site, (mean, noise) in each.items()}}


def codes(programs: Any, data: Data, seed: int = 0, draws: int = 10) -> dict[str, Tensor]:
    """E_q[z|x] at each latent site that all rows have, and its variance from sampling, (N, 2, *latent_shape).

    If the mean has no closed form, or has one only at draws of other latents, it is that of DRAWS draws.

    Args:
        programs, data, seed, draws: as in `evaluate`; latents that all rows share are averaged over.
    """
    if (at_draws := traits(programs).at_draws) is not None:
        each = [codes(made, data, seed) for made in at_draws(draws, seed)]
        return {site: torch.stack([found[site] for found in each]).mean(0) for site in each[0]}

    found = [(rows, _codes(programs, args, (seed, 8, place))) for place, rows, args in places(programs, data, seed)]
    return {
        name: in_order([each[name][: len(rows)] for rows, each in found], [rows for rows, _ in found])
        for name in found[0][1]
        if all(name in each for _, each in found)
    }


def _codes(programs: Programs, args: Sequence[Tensor], seed: tuple[int, ...]) -> dict[str, Tensor]:
    layout = laid_out(*pair(programs), *args, enumerated=True)
    with layout, seeded(*seed), poutine.enum(first_available_dim=-3):
        q = draw(pair(programs)[1], DRAWS, *args)
    drawn = {name: _mean_or_draw(q, site).double().cpu() for name, site in sites(q, False).items()}
    return {name: torch.stack([each.mean(0), each.var(0) / DRAWS], 1) for name, each in drawn.items()}


def _classes(programs: Programs, data: Data, seed: int) -> dict[str, Any]:
    """The agreement of a guide's classes y with the labels, if it has classes."""
    if classifies(programs):
        return accuracy(programs, data)
    y = _labels(data) if has_clusters(programs, data) else torch.zeros(0)
    if len(y[known(y)].unique()) < 2:
        return {}
    return {"clusters": agreement(responsibilities(programs, data, seed=seed).argmax(1), y)}


def _labels(data: Data) -> Tensor:
    with seeded(0):  # a dynamic binarisation draws random numbers
        return torch.cat([labels for _, labels in blocks(data, ROWS, LABELS)])


def accuracy(programs: Programs, data: Data) -> dict[str, Any]:
    """How often argmax_y q(y|x) is the label, for all rows with a label and for those of each class.

    Args:
        programs: a guide that draws y if there is no label.
        data: with labels that are classes.
    """
    y = _labels(data)
    there = known(y)
    right, y = (classify(programs, data).argmax(-1) == y)[there].double(), y[there]
    by_class = {str(int(each)): mean(right[y == each]) for each in y.unique()}
    return {"accuracy": mean(right), "accuracy_by_class": by_class}


def _has_classes(programs: Programs, data: Data) -> bool:
    """Whether labels are classes: integers (N,), and the model does not declare another kind of y."""
    if (columns := wanted(programs)).names not in ((), ("y",)):
        return False
    y = getattr(as_split(data, columns), "y", None)
    if y is None or len(y.shape) != 1 or y[torch.arange(1)].is_floating_point():
        return False
    return isinstance(traits(programs).label, OneHotCategorical | None)


def gaps(
    programs: Programs, data: Data, steps: int = 300, learning_rate: float = 0.03, particles: int = 100, seed: int = 0
) -> dict[str, Any]:
    """The parts of log p(x) = elbo + amortisation gap + approximation gap, in nats per datum.

    amortisation_gap = ELBO of the guide refined for each datum - elbo: the cost of a shared encoder;
    approximation_gap = log p(x) - ELBO of the refined guide: the cost of the family. log p(x) is its
    importance-sampling estimate, with the refined guide as the proposal. It is a lower bound on average, and so is the
    second gap. (Cremer, Li & Duvenaud 2018)

    Args:
        programs, data, particles, seed: as in `evaluate`.
        steps, learning_rate: options of the refinement, as in `refine`.

    Example:
        >>> import torch
        >>> from pyrovae.evaluation.evaluate import gaps
        >>> from pyrovae.models import VAE
        >>> vae = VAE(event_shape=6, latent_dim=2)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that q(z|x) = p(z|x)
        >>> result = gaps(vae, torch.ones(4, 6), steps=2, particles=10)
        >>> abs(result["amortisation_gap"]["value"]) < 1e-5, abs(result["approximation_gap"]["value"]) < 1e-5
        (True, True)
    """
    model, guide = pair(programs)
    # Score the refined guide first: it refuses what it cannot refine before any other work.
    after, _ = scores((model, refine(model, guide, steps, learning_rate)), data, particles, seed)
    before, _ = scores(programs, data, particles, seed)
    rows = {
        "elbo": before["elbo"],
        "amortisation_gap": after["elbo"] - before["elbo"],
        "approximation_gap": after["log_likelihood"] - after["elbo"],
        "log_likelihood": after["log_likelihood"],
    }
    return {"rows": len(before["elbo"]), "steps": steps, "particles": particles, "unit": "nats per datum"} | {
        name: mean(values) for name, values in rows.items()
    }


def _measure(programs: Programs, estimator: str, observed: Iterable[str], kl: Iterable[str]) -> Measure | None:
    """The measure of log p(x), if the programs have one: of p(x, y) if y was observed and has a p(y).

    If y is latent for some rows and observed for others, the score is comparable neither with p(x) nor with p(x, y).
    """
    likelihood, label = traits(programs).likelihood, traits(programs).label
    measure = None if likelihood is None else likelihood.measure
    if "y" in observed and measure is not None:
        note = "given y" if label is None else f"and of y {label.measure}"
        measure = measure.noted(note + (" where it is known" if "y" in kl else ""))
    return measure if estimator != POINT else (measure or UNKNOWN).at_a_point()


def _measure_fields(measure: Measure | None) -> dict[str, Any]:
    """A measure for JSON: its text, and its fields."""
    return {"measure": measure and str(measure), "measure_fields": {} if measure is None else asdict(measure)}


def scores(
    programs: Programs, data: Data, particles: int, seed: int, draws: int = 10, keep: Path | None = None
) -> tuple[dict[str, Tensor], str]:
    """Scores of each datum, and how the KL was computed: "closed form", "sampled", or POINT if there is none.

    The scores are elbo, elbo_error (from the particles), reconstruction, kl, log_likelihood, its monte_carlo_error and
    monte_carlo_bias, observed.SITE and kl.SITE, all (N,); and kl_per_latent.SITE, (N, *latent_shape).
    """
    if traits(programs).at_draws is not None:
        return _posterior_scores(programs, data, particles, seed, draws, keep)

    ways: set[int] = set()

    def of_each(q: Trace, p: Trace) -> Numbers:
        kls, had = kl(q, p)
        ways.add(HOW.index(POINT if is_point(q) else had))
        return _parts(q, p, kls)

    def of_all(found: Numbers) -> Numbers:
        joined = {name: values.double() for name, values in found.items()}
        log_w = joined.pop("log_weight")
        row = {name: values.mean(0) for name, values in joined.items()}
        row = {"elbo": row["reconstruction"] - row["kl"]} | row
        row["log_likelihood"], row["monte_carlo_error"] = log_mean_exp(log_w)
        row["monte_carlo_bias"] = log_mean_exp_bias(log_w)
        row["elbo_error"] = _error(joined["reconstruction"] - joined["kl"])
        if HOW[max(ways)] == POINT:
            row |= {name: torch.full_like(row["elbo"], math.nan) for name in NOT_OF_A_POINT}
        return row | {"how": torch.full_like(row["elbo"], max(ways))}

    table = by_row(programs, data, particles, seed, of_each, of_all, keep, ADDITIVE)
    how = HOW[int(table.pop("how").max())]
    first = ("elbo", "reconstruction", "kl", "log_likelihood", "monte_carlo_error", "monte_carlo_bias", "elbo_error")
    return {name: table[name] for name in first} | table, how


def _parts(q: Trace, p: Trace, kls: dict[str, Tensor]) -> dict[str, Tensor]:
    """The quantities whose means are the scores of a row, at each particle: (particles, N, ...)."""
    log_w = log_weight(q, p)
    seen = {f"observed.{name}": averaged(q, site["log_prob"]) for name, site in sites(p, True).items()}
    totals = {f"kl.{site}": each.flatten(2).sum(-1) if each.ndim > 2 else each for site, each in kls.items()}
    return (
        {
            "log_weight": log_w,
            "reconstruction": sum(seen.values(), log_w * 0),
            "kl": sum(totals.values(), log_w * 0),
        }
        | seen
        | totals
        | {f"kl_per_latent.{site}": each for site, each in kls.items() if each.ndim > 2}
    )


def _posterior_scores(
    programs: Any, data: Data, particles: int, seed: int, draws: int, keep: Path | None
) -> tuple[dict[str, Tensor], str]:
    """The same for a model with latents w that all rows share: the log of the mean p(x|w) over draws; else means."""
    folders = [None if keep is None else keep / str(number) for number in range(draws)]
    at_draws = traits(programs).at_draws
    assert at_draws is not None, "scores calls this only for models that have it"
    models = zip(at_draws(draws, seed), folders, strict=True)
    tables, ways = zip(*(scores(model, data, particles, seed, keep=folder) for model, folder in models), strict=True)
    each = {name: torch.stack([table[name] for table in tables]) for name in tables[0]}
    row = {name: values.mean(0) for name, values in each.items()}
    row["log_likelihood"], of_draws = log_mean_exp(each["log_likelihood"])
    row["monte_carlo_error"] = torch.hypot(of_draws, row["monte_carlo_error"])  # all w share the noise of z
    row["monte_carlo_bias"] = row["monte_carlo_bias"] + log_mean_exp_bias(each["log_likelihood"])
    row["elbo_error"] = torch.hypot(_error(each["elbo"]), row["elbo_error"])
    return row, ways[0]


def _mean_or_draw(q: Trace, site: Any) -> Tensor:
    """E_q[z|x] at a latent site; draws if the family has no closed mean, so that their mean is Monte Carlo."""
    mean = closed_mean(site["fn"])
    values = site["value"].to(torch.get_default_dtype()) if mean is None else mean
    return averaged(q, values, site["fn"].event_dim)


def _by_site(table: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): table.pop(name) for name in list(table) if name.startswith(prefix)}
