"""Simulation-based calibration passes the exact posterior alone; predictive checks see what is not the model's."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import binary, pulled, two_layers
from scipy.stats import kstest

import pyrovae
from pyrovae import calibration
from pyrovae.data import Split
from pyrovae.evaluation.calibration import histograms, predictive, ranks, simulation_based
from pyrovae.models import ConditionalVAE, MixtureVAE, SemiSupervisedVAE
from pyrovae.models.completion_vae import Completion


@pytest.mark.parametrize("seed", range(6))
def test_the_exact_posterior_passes(linear, seed):
    found = simulation_based(linear.exact, 1000, seed=seed)
    assert found["p_value"] > 1e-3
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [sum(row) for row in found["counts"]["z"]] == [1000, 1000]


@pytest.mark.parametrize("wrong", ["narrow", "wide", "shifted", "of one latent"])
def test_other_guides_fail(linear, wrong):
    shift = torch.tensor([0.0, 0.4]).double() if wrong == "of one latent" else 0.4
    programs = {"narrow": pulled(linear, 0.7), "wide": pulled(linear, 1.4)}.get(wrong, pulled(linear, 1.0, shift))
    for seed in range(3):
        found = simulation_based(programs, 1000, seed=seed)
        assert found["p_value"] < 1e-6, seed
    ends = sum(row[0] + row[-1] for row in found["counts"]["z"]) / 200
    assert (ends > 1.5, ends < 0.7) == {"narrow": (True, False), "wide": (False, True)}.get(wrong, (ends > 1.5, False))
    assert wrong != "of one latent" or found["p_values"]["z"][0] > 1e-4 > found["p_values"]["z"][1]


def test_its_p_values_are_uniform_themselves(linear):
    values = [p for seed in range(30) for p in simulation_based(linear.exact, 100, 19, 10, seed)["p_values"]["z"]]
    assert kstest(values, "uniform").pvalue > 1e-3


def test_ranks_count_the_draws_below(linear):
    low, high = (ranks(pulled(linear, 1.0, shift), 50, draws=9)["z"] for shift in (100.0, -100.0))
    assert low.shape == (50, 2)
    assert (low == 0).all()
    assert (high == 9).all()
    counts = histograms(torch.tensor([[0], [1], [4], [9], [9], *[[5]] * 20]), draws=9, bins=5)
    assert counts.tolist() == [[2, 0, 21, 0, 2]]


def test_a_users_model_without_n_is_simulated_at_the_rows_of_data():
    s = 0.5
    share = 2 / (2 + s**2)
    exact = [share, math.log(share * s**2) / 2, 0.5, math.log(0.5) / 2]
    x = torch.zeros(600, dtype=torch.float64)  # how many; their values do not matter
    good, bad = (
        simulation_based((pair.model, pair.guide), x, draws=49, bins=10)
        for pair in (two_layers(exact, s), two_layers([0.6, *exact[1:]], s))
    )
    assert set(good["p_values"]) == {"z1", "z2"}
    assert good["p_value"] > 1e-3
    assert bad["p_value"] < 1e-6
    pair = two_layers(exact, s)
    with pytest.raises(ValueError, match=r"ranks: expected a model that generates n data, model\(n=...\), found model"):
        ranks((pair.model, pair.guide), 100)


@pytest.mark.parametrize("right", [True, False])
def test_discrete_latents_have_ranks_by_lot(right):
    """y ~ (.2, .3, .5), x ~ N(y, 1), and p(y|x) by Bayes' rule, or with the prior forgotten."""
    p_y, values = torch.tensor([0.2, 0.3, 0.5]), torch.arange(3.0)

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            y = pyro.sample("y", dist.Categorical(p_y))
            return pyro.sample("x", dist.Normal(y.float(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = dist.Normal(values, 1.0).log_prob(x[..., None]) + (p_y.log() if right else 0)
            pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    found = simulation_based((model, guide), 2000, 19, 10)
    assert (found["p_value"] > 1e-3) == right


MODELS = {
    "clusters": (lambda: MixtureVAE(4, 2, 3), 60, {"z", "y"}),
    "conditional, of their own labels": (lambda: ConditionalVAE(4, 2, num_classes=3), 60, {"z"}),
    "conditional, of labels that are given": (
        lambda: ConditionalVAE(4, 2, num_classes=3),
        Split(binary(60), torch.arange(60) % 3),
        {"z"},
    ),
    "semi-supervised": (lambda: SemiSupervisedVAE(4, 2, num_classes=3), 60, {"z", "y"}),
    "semi-supervised, of labels that are given": (
        lambda: SemiSupervisedVAE(4, 2, num_classes=3),
        Split(binary(60), torch.arange(60) % 3),
        {"z"},
    ),
    "two layers": (lambda: pyrovae.models.HierarchicalVAE(4, 2, above=2), 60, {"z1", "z2"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_any_model_is_simulated(name):
    programs, data, latents = MODELS[name]
    found = simulation_based(programs(), data, 9, 5)
    assert set(found["counts"]) == latents
    assert found["rows"] == 60


def test_labels_that_are_given_stay():
    """z ~ N(y, 1) and x = z + noise: without its y the exact posterior of all would not be calibrated."""

    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(0.0, 0.1), obs=y)
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + y) / 2, 0.5**0.5))

    y = torch.linspace(-9, 9, 600)
    assert simulation_based((model, guide), Split(torch.zeros(600), y), 49, 10)["p_value"] > 1e-3
    shown = {"mean": torch.mean, "follows y": lambda x: (x * y).mean()}
    checked = predictive((model, guide), Split(y + torch.randn(600) * 2**0.5, y), shown, 50)["statistics"]
    assert all(0.02 < checked[name]["prior"]["p_value"] < 0.98 for name in shown)


def test_data_of_the_model_pass_predictive_checks(linear):
    found = predictive(linear.exact, linear.evidence.sample((300,)), replicates=60)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name in ("mean", "variance", "variance of the data's means"):
        for kind in ("posterior", "prior"):
            assert 0.01 < found["statistics"][name][kind]["p_value"] < 0.99, (name, kind)
    assert "zeros" not in found["statistics"]  # there are none, and all would be ties
    asked = {"zeros": calibration.STATISTICS["zeros"]}
    zeros = predictive(linear.exact, linear.x, asked, replicates=3)["statistics"]["zeros"]
    assert zeros["observed"] == 0
    assert zeros["prior"]["p_value"] == 0.5


@pytest.mark.parametrize(
    ("wrong", "name", "above"),
    [
        (lambda x: 1.5 * x, "variance", True),
        (lambda x: x / 1.5, "variance", False),
        (lambda x: x + 0.5, "mean", True),
        (lambda x: x * (x > 0), "zeros", True),
    ],
)
def test_data_of_another_model_do_not(linear, wrong, name, above):
    x = linear.evidence.sample((300,))
    p = predictive(linear.exact, wrong(x), replicates=60)["statistics"][name]["prior"]["p_value"]
    assert p == pytest.approx(1 / 122 if above else 1 - 1 / 122)


def test_prior_predictive_p_values_are_uniform(linear):
    p = [
        predictive(linear.exact, linear.evidence.sample((30,)), {"mean": torch.mean}, 30, seed)["statistics"]["mean"]
        for seed in range(60)
    ]
    assert kstest([each["prior"]["p_value"] for each in p], "uniform").pvalue > 1e-3


def test_replicates_of_the_posterior_have_the_posterior_predictive_moments(linear):
    """E[x'|x] = W E[z|x] + b, of each datum: a statistic of rows."""
    x = linear.x
    first = predictive(linear.exact, x, {"first": lambda x: x[:, 0]}, 400)["statistics"]["first"]
    p, w = linear.posterior(x), linear.vae.decoder.weight.detach()
    mean = linear.vae.decoder(p.mean)[:, 0].detach()
    sd = (w[0] @ p.covariance_matrix[0] @ w[0] + linear.s**2).sqrt()
    assert (torch.tensor(first["posterior"]["mean"]) - mean).abs().max() < 4.5 * sd / 20
    assert torch.tensor(first["posterior"]["sd"]).mean().item() == pytest.approx(sd.item(), rel=0.03)
    assert torch.tensor(first["prior"]["mean"]).std() < mean.std() / 3
    assert len(first["posterior"]["p_value"]) == 40


def test_bad_input_is_refused(linear):
    with pytest.raises(ValueError, match=r"bins: expected a divisor of draws \+ 1 = 100, found 30"):
        simulation_based(linear.exact, 1000, bins=30)
    with pytest.raises(ValueError, match="expected at least 100 simulated data for 20 bins, found 99"):
        simulation_based(linear.vae, 99)
    with pytest.raises(ValueError, match="draws: expected an integer >= 1, found 0"):
        ranks(linear.vae, 10, draws=0)
    with pytest.raises(ValueError, match="data: expected an integer >= 1, found 0"):
        ranks(linear.vae, 0)
    with pytest.raises(ValueError, match="x: expected finite values, found nan"):
        predictive(linear.vae, linear.x.where(linear.x < 1, math.nan))
    with pytest.raises(ValueError, match=r"statistic 'own': .* found shape \(3,\) with 1 that are not finite"):
        predictive(linear.vae, linear.x[:3], {"own": lambda x: torch.tensor([1, math.inf, 0])})
    model = Completion(5, torch.arange(5) < 2)
    with pytest.raises(ValueError, match="ranks: expected at least one latent site, found none"):
        ranks((model.model, model.guide), torch.zeros(3, 5))

    def other(x):
        with pyro.plate("data", len(x)):
            pyro.sample("h", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="expected the guide's latents in the model, found none called 'h'"):
        ranks((linear.vae.model, other), 5)


def test_two_observed_sites_are_no_one_x():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=x)
            pyro.sample("b", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match=r"expected one observed site, found \['a', 'b'\]"):
        ranks((model, guide), torch.zeros(5))


def test_missing_entries_are_missing_in_the_replicates():
    vae = pyrovae.VAE(4, 2, likelihood=pyrovae.likelihoods.Missing, encoder=pyrovae.networks.FilledIn)
    x = torch.randn(30, 4).where(torch.rand(30, 4) < 0.8, torch.nan)
    found = predictive(vae, x, {"mean": torch.nanmean, "missing": lambda x: x.isnan().double().mean()}, 10)
    assert found["statistics"]["missing"]["prior"]["sd"] == 0
    with pytest.raises(ValueError, match="statistic 'mean': expected a finite number"):
        predictive(vae, x, replicates=2)


def test_asking_changes_nothing(linear):
    state = torch.get_rng_state()
    ranks(linear.vae, 20)
    predictive(linear.vae, linear.x, replicates=2)
    assert torch.equal(state, torch.get_rng_state())
    assert linear.vae.training
    assert len(pyro.get_param_store()) == 0


def test_replicates_are_chunked_without_changing_what_they_are(linear, monkeypatch):
    shown = {"variance": torch.var}
    whole = predictive(linear.exact, linear.x, shown, 300)["statistics"]["variance"]
    monkeypatch.setattr(calibration, "FLOATS", linear.x.numel() * 7)
    chunked = predictive(linear.exact, linear.x, shown, 300)["statistics"]["variance"]
    for kind in ("posterior", "prior"):
        error = whole[kind]["sd"] / math.sqrt(300)
        assert 0 < abs(whole[kind]["mean"] - chunked[kind]["mean"]) < 6 * error
