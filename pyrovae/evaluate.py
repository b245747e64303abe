"""Numbers from a trained model, each with its error."""

import math
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyrovae.data.split import Data
from pyrovae.inference import importance, log_mean_exp, log_prob, log_weight
from pyrovae.programs import Programs

# Burda, Grosse & Salakhutdinov 2016: a latent is active if the mean of q(z|x) varies over the data by more than this.
ACTIVE = 0.01


def evaluate(programs: Programs, data: Data, particles: int = 100, seed: int = 0) -> dict[str, Any]:
    """What a model is worth on data, in nats per datum: a dictionary that JSON can hold.

    elbo = reconstruction - kl, at beta = 1; reconstruction = E_q[log p(x|z)]; kl = KL(q(z|x) || p(z)), in closed form
    where there is one latent site and torch knows the form, else sampled (`kl_estimator` says which);
    log_likelihood = log 1/K sum_k p(x, z_k) / q(z_k|x), a lower bound in the mean. `standard_error` is that of the
    mean over the data; `monte_carlo_error` is what the K particles add to the log-likelihood's.

    Args:
        programs: model and guide.
        data: a Split, a tensor, a Dataset or a DataLoader; how it is batched changes no digit.
        particles: K.
        seed: of the noise.
    """
    table, estimator = scores(programs, data, particles, seed)
    error = table.pop("monte_carlo_error")
    kls, means = _by_site(table, "kl_per_latent."), _by_site(table, "mean.")
    return {
        "rows": len(error),
        "particles": particles,
        "seed": seed,
        "unit": "nats per datum",
        "measure": getattr(getattr(programs, "likelihood", None), "measure", None),
        **{name: _mean(values) for name, values in table.items()},
        "monte_carlo_error": (error.square().sum().sqrt() / len(error)).item(),
        "kl_estimator": estimator,
        "kl_per_latent": {site: values.mean(0).flatten().tolist() for site, values in kls.items()},
        "latents": {site: values[0].numel() for site, values in means.items()},
        "active_units": {site: int((values.var(0, correction=0) > ACTIVE).sum()) for site, values in means.items()},
    }


def scores(programs: Programs, data: Data, particles: int, seed: int) -> tuple[dict[str, Tensor], str]:
    """Per datum: elbo, reconstruction, kl, log_likelihood, monte_carlo_error, all (N,); kl_per_latent.SITE and
    mean.SITE, (N, *latent_shape). And how the KL was had: "closed form" or "sampled"."""
    blocks, closed = [], True
    for n, drawn in importance(programs, data, particles, seed):
        parts = []
        for q, p in drawn:
            kl, exact = _kl(q, p)
            closed &= exact
            parts.append({"log_weight": log_weight(q, p), "reconstruction": log_prob(p, True)} | kl | _means(q))
        joined = {name: torch.cat([part[name] for part in parts]).double() for name in parts[0]}
        log_w = joined.pop("log_weight")
        row = {name: values.mean(0) for name, values in joined.items()}
        row["elbo"] = row["reconstruction"] - row["kl"]
        row["log_likelihood"], row["monte_carlo_error"] = log_mean_exp(log_w)
        blocks.append({name: values[:n].cpu() for name, values in row.items()})
    order = ("elbo", "reconstruction", "kl", "log_likelihood", "monte_carlo_error")
    names = [*order, *(name for name in blocks[0] if name not in order)]
    return {
        name: torch.cat([block[name] for block in blocks]) for name in names
    }, "closed form" if closed else "sampled"


def _kl(q: Trace, p: Trace) -> tuple[dict[str, Tensor], bool]:
    """The KL (particles, N), per latent where it falls apart; and whether it is exact.

    With several latent sites a closed form of one at draws of the others is the KL only if the guide draws in the
    order in which the model depends; so there it is sampled.
    """
    latents = [name for name, site in q.nodes.items() if site["type"] == "sample" and not site["is_observed"]]
    if len(latents) == 1:
        q_z: Any = q.nodes[latents[0]]["fn"]
        p_z: Any = p.nodes[latents[0]]["fn"]
        try:
            if isinstance(q_z, Independent) and isinstance(p_z, Independent):
                each = kl_divergence(q_z.base_dist, p_z.base_dist)
                total = each.flatten(2).sum(-1)
                return {"kl": total, f"kl_per_latent.{latents[0]}": each}, True
            return {"kl": kl_divergence(q_z, p_z)}, True
        except NotImplementedError:
            pass
    return {"kl": log_prob(q, False) - log_prob(p, False)}, False


def _means(q: Trace) -> dict[str, Tensor]:
    """E_q[z|x] at each latent site; a draw where the family has no closed mean, so that the average is Monte Carlo."""
    means = {}
    for name, site in q.nodes.items():
        if site["type"] == "sample" and not site["is_observed"]:
            q_z: Any = site["fn"]
            drawn: Any = site["value"]
            try:
                mean = q_z.mean
            except NotImplementedError:
                mean = drawn
            # A categorical has no mean: its classes are no numbers, and torch says NaN.
            means[f"mean.{name}"] = mean if bool(torch.isfinite(mean).all()) else drawn.to(mean)
    return means


def _by_site(table: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): table.pop(name) for name in list(table) if name.startswith(prefix)}


def _mean(values: Tensor) -> dict[str, float]:
    n = len(values)
    return {"value": values.mean().item(), "standard_error": values.std().item() / math.sqrt(n) if n > 1 else math.nan}
