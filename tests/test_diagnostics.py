"""Importance weights as a diagnosis: known Pareto tails, guides whose tail index and KL are known, and the verdict."""

import json
import math
import re
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import pulled
from pyro.ops.stats import fit_generalized_pareto
from torch.distributions import kl_divergence

import pyrovae
from pyrovae import diagnostics, guides, networks
from pyrovae.evaluation import pareto_k
from pyrovae.evaluation.diagnostics import by_datum, verdict
from pyrovae.likelihoods import Normal
from pyrovae.models.completion_vae import Completion
from pyrovae.programs import importance

TAILS = [-0.3, 0.2, 0.5, 1.0]


def pareto(k, rows, columns, s=2.0):
    """Draws of P(x > t) = (1 + kt/s)^(-1/k)."""
    u = torch.rand(rows, columns, dtype=torch.float64)
    return s * (u.pow(-k) - 1) / k


def plainly(x):
    """The estimator as published, one number after the other: Zhang & Stephens 2009, and the ten prior data."""
    x = np.sort(np.asarray(x, float))
    n = len(x)
    m = 30 + int(np.floor(np.sqrt(n)))
    quartile = x[int(np.floor(n / 4 + 0.5)) - 1]
    theta = [1 / x[-1] + (1 - np.sqrt(m / (j - 0.5))) / (3 * quartile) for j in range(1, m + 1)]

    def profile(t):
        k = np.mean([np.log1p(-t * each) for each in x])
        return n * (np.log(-t / k) - k - 1)

    heights = [profile(t) for t in theta]
    weights = [1 / sum(np.exp(other - height) for other in heights) for height in heights]
    t = sum(weight * each for weight, each in zip(weights, theta, strict=True))
    k = np.mean(np.log1p(-t * x))
    return (n * k + 5) / (n + 10), -k / t


@pytest.mark.parametrize("k", TAILS)
def test_the_fit_finds_known_tails(k):
    found, s = pareto_k.fit_pareto(pareto(k, 1000, 200))
    assert found.mean().item() == pytest.approx(k, abs=0.02)
    assert found.std().item() == pytest.approx((1 + k) / math.sqrt(1000), rel=0.35)  # of the maximum likelihood
    assert s.mean().item() == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("k", TAILS)
@pytest.mark.parametrize("rows", [5, 23, 300])
def test_the_fit_is_the_published_one(k, rows):
    x = pareto(k, rows, 6)
    found = torch.stack(pareto_k.fit_pareto(x))
    np.testing.assert_allclose(found.T, [plainly(column) for column in x.T], rtol=1e-8)
    theirs = [fit_generalized_pareto(column)[0] for column in x.T]
    assert found[0].tolist() == pytest.approx([float(each) for each in theirs], rel=1e-6)


@pytest.mark.parametrize("k", TAILS)
def test_the_tail_of_weights_is_found(k):
    log_w = pareto(k, 4000, 100).log() - 700
    found = pareto_k.k_hat(log_w)
    assert found.mean().item() == pytest.approx(k, abs=0.06)
    torch.testing.assert_close(pareto_k.k_hat(log_w + 1500), found, rtol=0, atol=1e-6)  # a constant changes nothing


@pytest.mark.parametrize(("draws", "length"), [(25, 5), (60, 12), (400, 60), (1000, 95)])
def test_the_tail_is_as_long_as_published(draws, length):
    log_w = torch.randn(draws, 3, dtype=torch.float64)
    w = np.sort(log_w.exp().numpy(), 0)
    truth = [plainly(column)[0] for column in (w[-length:] - w[-length - 1]).T]
    np.testing.assert_allclose(pareto_k.k_hat(log_w), truth, rtol=1e-6)


def test_weights_without_a_tail_and_weights_that_are_none():
    log_w = torch.randn(100, 6, dtype=torch.float64)
    log_w[:, 1] = 3.0
    log_w[4:, 2] = -math.inf
    log_w[:, 3] = -math.inf
    log_w[0, 4], log_w[0, 5] = math.inf, math.nan
    k = pareto_k.k_hat(log_w)
    assert k[0] < 1
    assert k[1:].tolist() == [-math.inf] + [math.inf] * 4
    ess = pareto_k.effective_sample_size(log_w)
    assert 1 < ess[0] < 100
    assert ess[1].item() == pytest.approx(100)
    assert ess[3:].tolist() == [0, 0, 0]


def test_weights_that_underflow_are_the_heaviest_tail():
    k = pareto_k.k_hat(torch.linspace(0, 5000, 1000).double()[:, None])
    assert 5 < k.item() < math.inf


@pytest.mark.parametrize("factor", [0.45, 0.6, 0.9])
def test_a_narrow_guide_has_its_tail_index(linear, factor):
    """w = N(z; 0, 1) / N(z; 0, c^2) grows as exp(e^2 (1 - c^2) / 2): its moments up to 1 / (1 - c^2) are finite."""
    found = by_datum(pulled(linear, factor), linear.x, 10000)
    assert found["k"].mean().item() == pytest.approx(1 - factor**2, abs=0.12)


def test_the_exact_posterior_has_neither_tail_nor_gap(linear):
    found = by_datum(linear.exact, linear.x, 50)
    assert found["k"].tolist() == [-math.inf] * 40
    torch.testing.assert_close(found["ess"], torch.full_like(found["ess"], 50), rtol=0, atol=1e-6)
    assert found["kl"].abs().max() < 1e-9
    torch.testing.assert_close(found["log_likelihood"], linear.evidence.log_prob(linear.x), rtol=0, atol=1e-9)


def test_a_wide_guide_has_the_kl_and_the_sample_size_of_the_closed_form(linear):
    c, d = 1.3, 2
    found = by_datum(pulled(linear, c), linear.x, 4000)
    truth = d / 2 * (c**2 - 1 - math.log(c**2))
    assert found["k"].max() < 0.5
    error = found["kl_error"].square().sum().sqrt().item() / 40
    assert 0 < error < 0.01
    assert abs(found["kl"].mean().item() - truth) < 4 * error
    assert 0.6 < (found["kl"].std() / found["kl_error"].mean()).item() < 1.6  # all rows have the same KL
    share = (math.sqrt(2 - 1 / c**2) / c) ** d  # 1 / E_q[w^2]
    assert (found["ess"] / 4000).mean().item() == pytest.approx(share, abs=0.01)


def test_the_kl_is_that_of_each_datum(linear):
    """The encoder of an untrained VAE is wrong by another amount for each."""
    with torch.no_grad():
        linear.vae.encoder.bias[2:] = 0.0
        q = linear.vae.q_z(linear.x)
    full = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    truth = kl_divergence(full, linear.posterior(linear.x))
    found = by_datum(linear.vae, linear.x, 20000)
    assert truth.std() > 0.1
    sound = found["k"] < 0.5
    assert sound.sum() > 20
    assert ((found["kl"] - truth)[sound].abs() < 5 * found["kl_error"][sound] + 0.02).all()


@pytest.mark.parametrize("wrong", ["narrow", "shifted", "posterior of another model"])
def test_planted_errors_are_noticed(linear, wrong):
    programs = {
        "narrow": pulled(linear, 0.4),
        "shifted": pulled(linear, 1.0, shift=2.5),
        "posterior of another model": (pyrovae.VAE(5, 2, likelihood=Normal).double().model, linear.exact[1]),
    }[wrong]
    found = pyrovae.diagnose(programs, linear.x, 500)
    assert found["kl"]["value"] > 0.3
    if wrong != "posterior of another model":
        assert found["verdict"].startswith("guide at fault")
    good = pyrovae.diagnose(linear.exact, linear.x, 500)
    assert good["verdict"].startswith(
        "guide close to the posterior where it draws: KL to the posterior 0.00 nats, k-hat > 0.63 at 0%"
    )


def test_batches_and_chunks_change_no_number(linear, monkeypatch):
    whole = by_datum(linear.vae, linear.x, 60)
    loader = torch.utils.data.DataLoader(linear.x, batch_size=7)
    torch.testing.assert_close(by_datum(linear.vae, loader, 60), whole)
    monkeypatch.setattr(importance, "FLOATS", 128 * 5 * 10)
    chunked = by_datum(linear.vae, linear.x, 60)
    assert not torch.equal(chunked["k"], whole["k"])
    assert chunked["k"].shape == (40,)


def test_rows_without_weights_are_named_and_not_averaged_away():
    """A guide about x, under a prior on (0, 1): for x beyond 3 no draw is there, for x = 1 half of them."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(x.new_zeros(()), 1.0).expand([len(x)]))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x - 0.25, x + 0.25))

    x = torch.tensor([0.5, 3.0, 0.4, 5.0, 1.0])
    with pyro.validation_enabled(False):
        table, found = by_datum((model, guide), x, 100), pyrovae.diagnose((model, guide), x, 100)
    assert torch.isinf(table["kl"]).tolist() == [False, True, False, True, True]
    assert table["k"][[1, 3]].tolist() == [math.inf] * 2
    assert table["ess"][[1, 3]].tolist() == [0, 0]
    assert 30 < table["ess"][4] < 70
    assert found["unsound_rows"] == [1, 3, 4]
    assert math.isfinite(found["kl"]["value"])
    assert found["k"]["largest"] is None
    assert found["verdict"] == "guide at fault: no finite weights, or no finite KL, at 3 of 5 rows (1, 3, 4)"
    json.dumps(found, allow_nan=False)


def test_enumerated_latents_are_summed_out():
    """p(y) p(x|y) with a guide q(y): one weight, p(x), and KL(q(y) || p(y|x)) in closed form."""
    means, q_y = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.2, 0.3, 0.5])

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(means[y], 1.0), obs=x)

    def guide(x, infer={"enumerate": "parallel"}):  # noqa: B006
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(q_y), infer=dict(infer))

    x = torch.linspace(-2, 2, 9)
    found = by_datum((model, guide), x, 25)
    posterior = dist.Categorical(logits=dist.Normal(means, 1.0).log_prob(x[:, None]))
    truth = kl_divergence(dist.Categorical(q_y).expand((9,)), posterior)
    torch.testing.assert_close(found["kl"].float(), truth, rtol=0, atol=1e-5)
    assert found["k"].tolist() == [-math.inf] * 9
    with pytest.raises(ValueError, match="k-hat: expected a latent that is continuous or enumerated, found 'y' of Cat"):
        by_datum((model, lambda x: guide(x, {})), x, 25)


def test_the_summary_can_be_written_down(linear):
    found = pyrovae.diagnose(linear.vae, linear.x, 200, steps=300)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["k"]["good"] + found["k"]["usable"] + found["k"]["unusable"] == found["rows"] == 40
    assert found["kl"]["value"] == pytest.approx(found["log_likelihood"]["value"] - found["elbo"]["value"], abs=1e-9)
    assert found["gaps"]["amortisation_gap"]["value"] > 0.3
    assert "gaps" not in pyrovae.diagnose(linear.vae, linear.x[:3], 25)
    assert pyrovae.diagnose(linear.vae, linear.x[:1], 25)["kl"]["standard_error"] is None


VERDICTS = {
    "guide close to the posterior where it draws: KL to the posterior 0.90 nats, .* or to a mode that": {},
    "guide at fault: KL to the posterior 1.10 nats, k-hat > 0.7 at 4%": {"kl": {"value": 1.1}},
    "guide at fault: KL to the posterior at least 0.90 nats, k-hat > 0.7 at 6%": {"k": {"share_unusable": 0.06}},
    "guide at fault, its family: .* amortisation gap 0.10, approximation gap at least 1.00": {
        "kl": {"value": 1.1},
        "gaps": {"amortisation_gap": {"value": 0.1}, "approximation_gap": {"value": 1.0}},
    },
    "guide at fault, its shared encoder: ": {
        "kl": {"value": 1.1},
        "gaps": {"amortisation_gap": {"value": 0.8}, "approximation_gap": {"value": 0.3}},
    },
    "guide at fault: .* amortisation gap at least 0.80, approximation gap at least 0.30: the first is larger": {
        "k": {"share_unusable": 0.97},
        "gaps": {"amortisation_gap": {"value": 0.8}, "approximation_gap": {"value": 0.3}},
    },
    r"guide at fault: no finite weights, or no finite KL, at 7 of 9 rows \(0, 1, 2, 3, 4, \.\.\.\)": {
        "unsound_rows": list(range(7))
    },
}


@pytest.mark.parametrize("start", VERDICTS)
def test_the_verdict_follows_from_the_thresholds(start):
    found = {"rows": 9, "particles": 4000, "unsound_rows": [], "k": {"share_unusable": 0.04}, "kl": {"value": 0.9}}
    sentence = verdict(found | VERDICTS[start])
    assert re.match(start, sentence), sentence


def wide_linear(dtype, factor=1.0):
    """784 values of 50 latents, with the exact posterior as the guide, its standard deviation times a factor."""
    d, k, s = 784, 50, 0.1
    w = torch.linalg.qr(torch.randn(d, k, dtype=dtype))[0] * torch.linspace(0.2, 2, k, dtype=dtype)
    v = w.square().sum(0) + s * s
    straight = partial(networks.MLP, hidden=())
    vae = pyrovae.VAE(d, k, likelihood=partial(Normal, scale=s), encoder=straight, decoder=straight).to(dtype)
    with torch.no_grad():
        for layer in (vae.encoder[0], vae.decoder[0]):
            layer.weight.zero_(), layer.bias.zero_()
        vae.decoder[0].weight.copy_(w)
        vae.encoder[0].weight[:k] = (w / v).T
        vae.encoder[0].bias[k:] = (s * s / v).log() + 2 * math.log(factor)
    return vae, torch.randn(40, k, dtype=dtype) @ w.T + s * torch.randn(40, d, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_an_exact_guide_is_no_tail(dtype):
    vae, x = wide_linear(dtype)
    table = by_datum(vae, x, 200)
    assert (200 - table["ess"]).max() < 1e-3
    assert table["k"].tolist() == [-math.inf] * 40
    assert pyrovae.diagnose(vae, x, 200)["verdict"].startswith(diagnostics.CLOSE)
    narrow = pyrovae.diagnose(*wide_linear(dtype, 0.7), 200)
    assert narrow["verdict"].startswith("guide at fault")
    assert narrow["k"]["share_unusable"] > 0.5


def test_a_tail_just_above_rounding_is_one():
    """Weights 1 + e, e a hundred roundings of log w = 600 and of a heavy tail: an excess is no matter of its size."""
    tail = 1e-2 * pareto(0.9, 1000, 20) / 2
    assert pareto_k.k_hat((tail.log1p() + 600).float()).mean().item() == pytest.approx(0.9, abs=0.15)
    assert pareto_k.k_hat((1e-6 * tail + 600).float()).tolist() == [-math.inf] * 20


@pytest.mark.parametrize(("draws", "limit"), [(25, 0.2847), (100, 0.5), (1000, 2 / 3), (2154, 0.7), (10**6, 0.7)])
def test_the_limit_of_k_hat_depends_on_the_draws(draws, limit):
    assert pareto_k.usable(draws) == pytest.approx(limit, abs=2e-4)
    assert pareto_k.good(draws) == pytest.approx(min(0.5, limit), abs=2e-4)


def test_the_summary_counts_by_the_limit_of_its_draws():
    k = torch.tensor([-math.inf, 0.3, 0.45, 0.6, 0.68, 0.8], dtype=torch.float64)
    table = {name: torch.zeros(6).double() for name in ("ess", "kl", "kl_error", "elbo", "log_likelihood")} | {"k": k}
    counts = {draws: diagnostics.summary(table, draws, 0)["k"] for draws in (50, 1000, 4000)}
    assert {draws: (c["good"], c["usable"], c["unusable"]) for draws, c in counts.items()} == {
        50: (2, 0, 4),
        1000: (3, 1, 2),
        4000: (3, 2, 1),
    }


def test_bad_input_is_refused_before_any_work(linear):
    with pytest.raises(ValueError, match="particles: expected an integer >= 25, found 24"):
        pyrovae.diagnose(linear.vae, linear.x, 24)
    with pytest.raises(ValueError, match="steps: expected an integer >= 0, found -1"):
        pyrovae.diagnose(linear.vae, linear.x, 25, steps=-1)
    with pytest.raises(ValueError, match="x: expected finite values, found nan"):
        by_datum(linear.vae, linear.x.where(linear.x < 1, math.nan), 25)
    model = Completion(5, torch.arange(5) < 2)
    with pytest.raises(ValueError, match="k-hat: expected at least one latent site, found none"):
        by_datum((model.model, model.guide), torch.zeros(3, 5), 25)
    with pytest.raises(ValueError, match="k-hat: expected a guide with a density, found a point"):
        by_datum(pyrovae.VAE(5, 2, likelihood=Normal, guide=guides.Delta), torch.zeros(3, 5), 25)
    with pytest.raises(ValueError, match=r"log_w: expected shape \(K, N\) with K >= 25, .* found \(4, 3\)"):
        pareto_k.k_hat(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"x: expected shape \(n, N\) with n >= 5, found \(4, 3\)"):
        pareto_k.fit_pareto(torch.ones(4, 3))


def test_the_thresholds_are_those_that_are_written_down():
    assert (pareto_k.GOOD, pareto_k.USABLE, diagnostics.SHARE, diagnostics.NATS) == (0.5, 0.7, 0.05, 1.0)
