"""The aggregate posterior against closed forms: information, its ceiling, the KL to the prior, total correlation."""

import json
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import binary, two_layers
from torch import nn

import pyrovae
from pyrovae import guides, information
from pyrovae.data import Split
from pyrovae.evaluation.information import kl_decomposition
from pyrovae.likelihoods import Normal
from pyrovae.models import ConditionalVAE, MixtureVAE, SemiSupervisedVAE
from pyrovae.models.completion_vae import Completion


def near(found, truth, more=0.0):
    return abs(found["value"] - truth) < 4 * found["monte_carlo_error"] + more


def programs(mean, sd, full=False):
    """q(z|x) = N(mean(x), sd^2 I), of a model whose prior is N(0, I) and whose likelihood does not matter."""

    def guide(x):
        with pyro.plate("data", len(x)):
            q = dist.MultivariateNormal(mean(x), scale_tril=sd * torch.eye(2).to(x)) if full else None
            pyro.sample("z", q or dist.Normal(mean(x), sd).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return model, guide


def test_the_linear_model_has_its_information(linear):
    """I(x; z) = 1/2 log|I + W'W / s^2|, and the aggregate of exact posteriors is the prior, up to the data's number."""
    w = linear.vae.decoder.weight.detach()
    truth = torch.logdet(torch.eye(2) + w.T @ w / linear.s**2).item() / 2
    found = kl_decomposition(linear.exact, linear.evidence.sample((1500,)), draws=2)
    assert truth > 0.4
    assert found["mutual_information"]["value"] == pytest.approx(truth, abs=0.05)
    assert found["aggregate_kl"]["value"] == pytest.approx(0, abs=0.03)
    assert not found["saturated"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_few_data_have_a_bias_that_no_error_holds(linear):
    """I is too low, and the aggregate's KL, whose truth is 0, as much too high: the more so the fewer data."""
    linear.vae.decoder.weight.data = 1.5 * torch.randn(5, 2).double()
    w, pair = linear.vae.decoder.weight.detach(), linear.again()
    truth = torch.logdet(torch.eye(2) + w.T @ w / pair.s**2).item() / 2
    names = ("mutual_information", "aggregate_kl")
    few, more = (
        torch.tensor([[each[name]["value"] for name in names] for each in drawn]).mean(0) - torch.tensor([truth, 0.0])
        for drawn in ([kl_decomposition(pair.exact, pair.evidence.sample((n,))) for _ in range(20)] for n in (60, 200))
    )
    assert -0.5 < few[0] < 2 * more[0] < 0
    assert 0.5 > few[1] > 2 * more[1] > 0.05


def test_the_parts_are_the_kl(linear):
    """Exactly at the same draws, and within their errors in closed form."""
    found = kl_decomposition(linear.vae, linear.x, draws=500)
    parts = found["mutual_information"]["value"] + found["aggregate_kl"]["value"]
    assert parts == pytest.approx(found["kl"]["value"], abs=1e-9)
    assert near(found["kl"], pyrovae.evaluate(linear.vae, linear.x, 2)["kl"]["value"])
    assert 0 < found["kl"]["monte_carlo_error"] < 0.02


@pytest.mark.parametrize("wrong", ["own row left out", "log N forgotten", "sum for mean"])
def test_planted_errors_would_be_seen(linear, wrong, monkeypatch):
    """The control of the closed form above."""
    w = linear.vae.decoder.weight.detach()
    truth = torch.logdet(torch.eye(2) + w.T @ w / linear.s**2).item() / 2
    right = information._summed

    def summed(guide, parts, z, known):
        if wrong == "own row left out":
            return right(guide, [(x[: len(x) // 2],) for (x,) in parts], z, known)
        return right(guide, parts, z, known) + (math.log(300) if wrong == "log N forgotten" else -1.0)

    monkeypatch.setattr(information, "_summed", summed)
    found = kl_decomposition(linear.exact, linear.evidence.sample((300,)), draws=1)
    assert abs(found["mutual_information"]["value"] - truth) > 0.2


def test_codes_that_do_not_overlap_carry_all_there_is():
    x = torch.arange(60.0).reshape(30, 2)
    found = kl_decomposition(programs(lambda x: x * 100, 0.5), x)
    assert found["mutual_information"]["value"] == pytest.approx(math.log(30), abs=1e-6)
    assert found["ceiling"] == pytest.approx(math.log(30))
    assert found["saturated"]


def test_a_guide_that_is_the_prior_tells_nothing():
    found = kl_decomposition(programs(torch.zeros_like, 1.0), torch.randn(50, 2))
    for name in ("mutual_information", "aggregate_kl", "kl", "total_correlation"):
        assert found[name]["value"] == pytest.approx(0, abs=1e-6), name
    assert not found["saturated"]


def test_total_correlation_of_a_correlated_normal(double):
    """q(z) = N(0, V), V = A A' + s^2 I for x ~ N(0, I): TC = 1/2 (sum_i log V_ii - log|V|)."""
    a, sd = torch.tensor([[1.0, 0.0], [1.6, 0.7]]), 0.5
    v = a @ a.T + sd**2 * torch.eye(2)
    truth = (v.diagonal().log().sum() - torch.logdet(v)).item() / 2
    x = torch.randn(2000, 2)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T  # covariance I, exactly
    diagonal = kl_decomposition(programs(lambda x: x @ a.T, sd), x, draws=2)["total_correlation"]
    assert truth > 0.4
    assert diagonal["value"] == pytest.approx(truth, abs=0.06)
    few = x[:200]
    values = [
        kl_decomposition(programs(lambda x: x @ a.T, sd, full), few, 20)["total_correlation"] for full in (False, True)
    ]
    assert abs(values[0]["value"] - values[1]["value"]) < 4 * math.hypot(*(v["monte_carlo_error"] for v in values))
    apart = kl_decomposition(programs(lambda x: x, sd), x[:1000], draws=2)["total_correlation"]
    assert apart["value"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("low_rank", [False, True])
def test_total_correlation_within_one_datum(double, low_rank):
    """q(z|x) the same for all x, and correlated itself: TC = -1/2 log(1 - r^2) of its correlation r."""
    factor, rest = torch.tensor([[2.0], [-0.5]]), torch.tensor([1.0, 0.1])
    covariance = factor @ factor.T + rest.diag()
    truth = -0.5 * math.log(1 - covariance[0, 1].item() ** 2 / covariance.diagonal().prod().item())
    q = dist.LowRankMultivariateNormal if low_rank else dist.MultivariateNormal

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(x * 0, *((factor, rest) if low_rank else (covariance,))))

    found = kl_decomposition((programs(None, 1.0)[0], guide), torch.randn(3, 2), 3000)
    assert near(found["total_correlation"], truth)
    assert 0 < found["total_correlation"]["monte_carlo_error"] < 0.05 * truth


def test_two_layers_are_one_code():
    """z2 sees x through z1 alone: I(x; z1, z2) = I(x; z1) = 1/2 log((2 + s^2) / s^2) of the exact posterior."""
    s = 0.5
    share = 2 / (2 + s**2)
    pair = two_layers([share, math.log(share * s**2) / 2, 0.5, math.log(0.5) / 2], s)
    x = math.sqrt(2 + s**2) * torch.randn(1000).double()
    found = kl_decomposition(pair_of(pair), x, draws=2)
    assert found["mutual_information"]["value"] == pytest.approx(math.log((2 + s**2) / s**2) / 2, abs=0.05)
    assert found["aggregate_kl"]["value"] == pytest.approx(0, abs=0.03)
    assert found["total_correlation"] is None


def pair_of(programs):
    return programs.model, programs.guide


def test_the_error_is_the_spread_over_seeds(linear):
    runs = [kl_decomposition(linear.vae, linear.x, 4, seed)["mutual_information"] for seed in range(40)]
    spread = torch.tensor([run["value"] for run in runs]).std().item()
    assert 0.7 < spread / runs[0]["monte_carlo_error"] < 1.4
    assert math.isnan(kl_decomposition(linear.vae, linear.x, 1)["kl"]["monte_carlo_error"])


def test_memory_is_bounded_without_changing_a_number(linear, monkeypatch):
    x = linear.evidence.sample((150,))
    whole = kl_decomposition(linear.vae, x)
    sizes = []
    right = information._summed
    monkeypatch.setattr(information, "FLOATS", 128 * 5 * 7)
    monkeypatch.setattr(information, "_summed", lambda g, p, z, k: sizes.append(len(z["z"])) or right(g, p, z, k))
    chunked = kl_decomposition(linear.vae, x)
    assert max(sizes) == 7
    assert sum(sizes) == 600
    for name in ("mutual_information", "aggregate_kl", "total_correlation"):
        assert chunked[name]["value"] == pytest.approx(whole[name]["value"], abs=1e-9)
    loader = torch.utils.data.DataLoader(x, batch_size=9)
    assert kl_decomposition(linear.vae, loader)["kl"] == whole["kl"]


MEMBERS = {
    "full rank": lambda: pyrovae.VAE(4, 2, guide=guides.FullRankNormal),
    "low rank": lambda: pyrovae.VAE(4, 3, guide=partial(guides.LowRankNormal, rank=1)),
    "iaf": lambda: pyrovae.VAE(4, 2, guide=partial(guides.IAF, transforms=1)),
    "mixture": lambda: pyrovae.VAE(4, 2, guide=guides.Mixture),
    "clusters": lambda: MixtureVAE(4, 2, 3),
    "two layers": lambda: pyrovae.models.HierarchicalVAE(4, 2, above=2),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_any_guide_that_scores_others_draws(name):
    found = kl_decomposition(MEMBERS[name](), binary(30))
    parts = found["mutual_information"]["value"] + found["aggregate_kl"]["value"]
    assert parts == pytest.approx(found["kl"]["value"], abs=1e-5)
    assert -1e-5 <= found["mutual_information"]["value"] <= math.log(30) + 1e-5
    assert (found["total_correlation"] is None) == (name not in ("full rank", "low rank"))


def test_labels_that_are_given_are_part_of_x():
    x, y = binary(300), torch.arange(300) // 100  # sorted: most blocks have one label
    found = kl_decomposition(ConditionalVAE(4, 2, num_classes=3), Split(x, y))
    assert found["rows"] == 300
    assert kl_decomposition(SemiSupervisedVAE(4, 2, num_classes=3), x)["kl"]["value"] > 0
    with pytest.raises(ValueError, match=r"expected the same latents for all rows, found .* only rows with a label"):
        kl_decomposition(SemiSupervisedVAE(4, 2, num_classes=3), Split(x, y.where(y > 0, -1)))
    with pytest.raises(ValueError, match=r"expected one prior p\(z\) for all data, found one that depends on given"):
        kl_decomposition(ConditionalVAE(4, 2, num_classes=3, conditional_prior=guides.DiagonalNormal), Split(x, y))


def test_bad_input_is_refused(linear):
    with pytest.raises(ValueError, match="draws: expected an integer >= 1, found 0"):
        kl_decomposition(linear.vae, linear.x, 0)
    with pytest.raises(ValueError, match="expected at least two rows, found 1"):
        kl_decomposition(linear.vae, linear.x[:1])
    with pytest.raises(ValueError, match="x: expected finite values, found nan"):
        kl_decomposition(linear.vae, linear.x.where(linear.x < 1, math.nan))
    model = Completion(5, torch.arange(5) < 2)
    with pytest.raises(ValueError, match="information: expected at least one latent site, found none"):
        kl_decomposition((model.model, model.guide), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="information: expected a guide with a density, found a point"):
        kl_decomposition(
            pyrovae.VAE(5, 2, likelihood=Normal, guide=guides.Delta, encoder=nn.Linear(5, 2)), torch.zeros(3, 5)
        )
    with pytest.raises(
        ValueError, match=r"expected a guide that scores any z, found one that cannot .* it has no inverse"
    ):
        kl_decomposition(pyrovae.VAE(4, 2, guide=guides.Planar), binary(5))


def test_a_guide_that_leaves_the_support_of_the_prior_has_an_infinite_kl():
    """z ~ U(0, 1), q(z|x) = U(0, 1) where x = 0, U(0, 2) where x = 1."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(0.0, 1 + x, validate_args=False))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(()), 1.0, validate_args=False))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found = kl_decomposition((model, guide), (torch.arange(40) >= 30).float(), 30)
    assert found["unsound_rows"] == list(range(30, 40))
    assert found["aggregate_kl"]["value"] is found["kl"]["value"] is None
    assert found["verdict"].startswith("guide at fault: infinite KL, at 10 of 40 rows")
    # Of 40 densities 1 below z = 1 and 1/2 above: I = E log q(z|x) / q(z), in closed form.
    q, above = (30 + 10 / 2) / 40, 10 / 80
    truth = (30 * -math.log(q) + 10 * (math.log(0.5 / q) + math.log(0.5 / above)) / 2) / 40
    assert found["mutual_information"]["value"] == pytest.approx(truth, abs=0.03)
    inside = kl_decomposition((model, guide), torch.zeros(5), 3)
    assert inside["unsound_rows"] == []
    assert "verdict" not in inside
    assert inside["kl"]["value"] == 0
