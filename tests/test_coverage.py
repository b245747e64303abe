"""Errors are as large as they say: by simulation, 95 % intervals hold the truth about that often."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import pulled
from scipy.stats import t as student
from torch.distributions import kl_divergence

import pyrovae
from pyrovae import anneal, quality
from pyrovae.programs.traces import log_mean_exp, log_mean_exp_bias
from pyrovae.runs import report

# How far a rate of n repetitions may be from 95 % by chance: four standard deviations.
CHANCE = 4 * math.sqrt(0.95 * 0.05)


def delta(log_w):
    """The error as it was: that of the mean weight, over the mean weight."""
    log_mean = log_w.logsumexp(0) - math.log(len(log_w))
    return (log_w - log_mean).exp().std(0) / math.sqrt(len(log_w))


def rate(off, error, times=1.96):
    """How often an interval of so many errors to either side holds the truth."""
    return (off.abs() <= times * error).double().mean().item()


def of_weights(s, k, n=400, rows=50):
    """Log-normal weights of mean 1: the mean of log m over rows, as `evaluate` has it, and its errors, old and new."""
    log_w = s * torch.randn(k, n * rows, dtype=torch.float64) - s * s / 2
    value, error = log_mean_exp(log_w)
    of_mean, old = (each.reshape(n, rows).square().sum(1).sqrt() / rows for each in (error, delta(log_w)))
    value, bias = (each.reshape(n, rows).mean(1) for each in (value, log_mean_exp_bias(log_w)))
    own = value - value.mean()
    return {
        "error / spread, before": old.mean().item() / value.std().item(),
        "error / spread": of_mean.mean().item() / value.std().item(),
        "about its mean, before": rate(own, old),
        "about its mean": rate(own, of_mean),
        "log p(x), before": rate(value, old),
        "log p(x), less the bias": rate(value - bias, of_mean),
        "bias": value.mean().item(),
        "its estimate": bias.mean().item(),
    }


def of_evaluate(linear, factor, particles, n=200):
    """A guide narrower or wider than the posterior, whose ELBO and log p(x) are known, under n seeds."""
    programs = pulled(linear, factor)
    log_p = linear.evidence.log_prob(linear.x).mean().item()
    p = linear.posterior(linear.x)
    q = torch.distributions.MultivariateNormal(p.mean, p.covariance_matrix * factor**2)
    elbo = log_p - kl_divergence(q, p).mean().item()
    runs = [pyrovae.evaluate(programs, linear.x, particles, seed) for seed in range(n)]
    value, error, bias = (
        torch.tensor(each, dtype=torch.float64)
        for each in zip(
            *((r["log_likelihood"]["value"], r["monte_carlo_error"], r["monte_carlo_bias"]) for r in runs), strict=True
        )
    )
    bound, of_bound = (torch.tensor([r["elbo"][key] for r in runs]).double() for key in ("value", "monte_carlo_error"))
    return {
        "elbo": rate(bound - elbo, of_bound),
        "log p(x), less the bias": rate(value - bias - log_p, error),
        "error / spread": (error.mean() / value.std()).item(),
        "elbo_error / spread": (of_bound.mean() / bound.std()).item(),
    }


def of_anneal(linear, chains, temperatures, start="prior", rows=400):
    """Each row is a repetition: noise of its own, and its log p(x) is known."""
    x = linear.evidence.sample((rows,))
    found = anneal(linear.vae, x, chains, temperatures, 2, start)
    off, times = found.value - linear.evidence.log_prob(x), student.ppf(0.975, chains - 1)
    known = ~found.few
    return {
        "mean off, nats": off.mean().item(),
        "spread, nats": found.spread.mean().item(),
        "ess": found.ess.mean().item(),
        "too few": found.few.double().mean().item(),
        "held": rate(off - found.bias, found.standard_error, times),
        "held where known": rate((off - found.bias)[known], found.standard_error[known], times),
    }


def steeper(linear):
    """A decoder of twice the weights: a posterior much narrower than the prior; its posterior is the guide."""
    with torch.no_grad():
        linear.vae.decoder.weight.mul_(2)
    made = linear.again()
    return SimpleNamespace(vae=made.exact, evidence=made.evidence, x=made.x)


def of_manifolds(n, d, shift, repetitions=100):
    """The mean of many is the truth for sets of this size. Before, errors were those of the rows, the balls given."""
    runs = [
        quality.manifolds(torch.randn(n, d).double() + shift, torch.randn(n, d).double()) for _ in range(repetitions)
    ]
    found = {}
    for name in quality.MANIFOLDS:
        value, error = (torch.tensor([run[name][key] for run in runs]) for key in ("value", "standard_error"))
        found[name] = rate(value - value.mean(), error, student.ppf(0.975, quality.GROUPS - 1))
    return found


@pytest.mark.parametrize(("s", "k"), [(0.5, 100), (1.0, 100), (1.5, 100), (2.0, 100), (2.0, 20)])
def test_the_error_of_skewed_weights_is_their_spread(s, k):
    found = of_weights(s, k)
    assert abs(found["about its mean"] - 0.95) < CHANCE / 20
    assert found["error / spread"] == pytest.approx(1, abs=0.15)
    assert s < 2 or found["error / spread, before"] < 0.85
    if s <= 1.5:  # k-hat of these is below its threshold
        assert found["log p(x), less the bias"] > 0.95 - CHANCE / 20
        assert found["its estimate"] == pytest.approx(found["bias"], rel=0.25, abs=0.002)


@pytest.mark.parametrize(("factor", "particles"), [(0.75, 50), pytest.param(1.5, 50, marks=pytest.mark.slow)])
def test_errors_of_an_evaluation_hold_the_truth(linear, factor, particles):
    found = of_evaluate(linear, factor, particles, 100)
    assert found["elbo"] == pytest.approx(0.95, abs=CHANCE / 10)
    assert found["log p(x), less the bias"] == pytest.approx(0.95, abs=CHANCE / 10)
    assert 0.8 < found["error / spread"] < 1.25
    assert 0.8 < found["elbo_error / spread"] < 1.25


def test_annealing_says_where_it_has_too_few_chains(linear):
    """Two temperatures from the prior are importance sampling: nats too low, where errors were of half a nat."""
    good = of_anneal(linear, 16, 30, rows=100)
    linear = steeper(linear)
    bad = of_anneal(linear, 4, 2)
    assert bad["mean off, nats"] < -3
    assert bad["too few"] > 0.9
    assert bad["held"] > 0.95 - CHANCE / 20
    assert good["too few"] < 0.1
    assert good["held where known"] > 0.95 - CHANCE / 10
    assert abs(good["mean off, nats"]) < 0.1
    found = anneal(linear.vae, linear.x[:20], 4, 2, 2, "prior")
    count = int(found.few.sum())
    assert found.verdict.startswith(f"too few chains for {count} of 20 rows: in the median 1.")
    assert anneal(linear.vae, linear.x[:20], 16, 2, 0, "guide").verdict == "enough chains for all rows"


def test_manifolds_of_small_samples_have_errors_of_both_sets():
    """Rather too large than too small: the rates are above the nominal one."""
    found = of_manifolds(60, 5, 0.5)
    assert min(found.values()) > 0.95 - CHANCE / 10


def test_one_weight_that_is_all_has_an_error_in_nats():
    """To leave it out costs its lead over the rest; of equal weights none costs anything."""
    log_w = torch.zeros(10, 3, dtype=torch.float64)
    log_w[0, 1], log_w[1:, 2] = 80.0, -math.inf
    value, error = log_mean_exp(log_w)
    off = 80 - math.log(9) + math.log(9 / 10)  # what the logarithm of the mean loses without it, but for e^-80
    assert value[1].item() == pytest.approx(80 - math.log(10))
    assert error[1].item() == pytest.approx(math.sqrt(9 * 0.1 * 0.9) * off, rel=0.02)
    assert (error[0].item(), error[2].item()) == (0, math.inf)
    assert log_mean_exp_bias(log_w)[0].abs() < 1e-12


def test_the_jackknife_is_what_it_is_defined_to_be():
    log_w = 2 * torch.randn(12, 5, dtype=torch.float64)
    rows = torch.arange(12)
    without = torch.stack([log_w[rows != k].logsumexp(0) - math.log(11) for k in rows])
    value, error = log_mean_exp(log_w)
    torch.testing.assert_close(error, (11 * without.var(0, correction=0)).sqrt())
    torch.testing.assert_close(log_mean_exp_bias(log_w), 11 * (without.mean(0) - value))
    assert log_mean_exp(log_w[:1])[1].isnan().all()


def main():
    """The tables of runs/checks/README.md."""
    linear = known_linear()
    torch.manual_seed(0)
    settings = [(s, k) for s in (0.5, 1.0, 1.5, 2.0) for k in (20, 100, 500)]
    print_table(["s", "K"], {setting: of_weights(*setting) for setting in settings})
    settings = [(c, k) for c in (0.6, 0.75, 1.5) for k in (50, 200)]
    print_table(["factor", "K"], {setting: of_evaluate(linear, *setting, 400) for setting in settings})
    settings = [(k, t) for t in (2, 10, 60) for k in (4, 8, 16, 64)]
    linear = steeper(linear)
    print_table(["chains", "temperatures"], {setting: of_anneal(linear, *setting) for setting in settings})
    settings = [(50, 2, 0.0), (50, 10, 0.0), (100, 5, 0.5), (200, 20, 0.0)]
    print_table(["rows", "values", "shift"], {setting: of_manifolds(*setting, 200) for setting in settings})


def print_table(names, found):
    heads = [*names, *next(iter(found.values()))]
    rows = [[*setting, *(f"{value:.3f}" for value in each.values())] for setting, each in found.items()]
    print(report.table(heads, rows, len(names)), end="\n\n")


def known_linear():
    """What the fixture `linear` is."""
    from functools import partial

    from conftest import known
    from torch import nn

    torch.manual_seed(0)
    encoder, decoder = nn.Linear(5, 4), nn.Linear(2, 5)
    vae = pyrovae.VAE(5, 2, likelihood=partial(pyrovae.likelihoods.Normal, scale=0.7), encoder=encoder, decoder=decoder)
    made: SimpleNamespace = known(vae.double(), 0.7)
    return made


if __name__ == "__main__":
    main()
