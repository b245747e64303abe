"""Missing entries: they leave the score, the encoder sees that they are missing, and they can be imputed."""

from functools import partial

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.__main__ import main
from pyrovae.likelihoods import Bernoulli, Missing, Normal
from pyrovae.networks import FilledIn
from pyrovae.programs import importance


@pytest.fixture
def torn(linear):
    """The linear-Gaussian model, which scores what is there; data with holes in them, and what was in the holes."""
    vae = linear.vae
    holes = torch.rand(linear.x.shape) < 0.4
    holes[:, 0] = False
    made = pyrovae.VAE(
        5, 2, likelihood=partial(Missing, of=partial(Normal, scale=linear.s)), encoder=FilledIn, decoder=vae.decoder
    ).double()
    return made, torch.where(holes, torch.nan, linear.x), holes


def test_the_score_is_that_of_the_marginal(torn, linear):
    """log p(x_there) of a normal is the normal of the marginal."""
    vae, x, holes = torn
    found = importance.log_likelihood(vae, x, 20000)[0]
    truth = []
    for row, hole in zip(x, holes, strict=True):
        mean, covariance = linear.evidence.mean[~hole], linear.evidence.covariance_matrix[~hole][:, ~hole]
        truth.append(torch.distributions.MultivariateNormal(mean, covariance).log_prob(row[~hole]))
    torch.testing.assert_close(found, torch.stack(truth), rtol=0, atol=0.15)
    assert abs((found - torch.stack(truth)).mean()) < 0.02


def test_imputed_is_the_conditional_mean(torn, linear):
    vae, x, holes = torn
    found = pyrovae.impute(vae, x, 20000)
    mean, covariance = linear.evidence.mean, linear.evidence.covariance_matrix
    truth = x.clone()
    for row, hole in zip(truth, holes, strict=True):
        gain = covariance[hole][:, ~hole] @ torch.linalg.inv(covariance[~hole][:, ~hole])
        row[hole] = mean[hole] + gain @ (row[~hole] - mean[~hole])
    assert not torch.isnan(found).any()
    assert torch.equal(found[~holes], x[~holes])
    torch.testing.assert_close(found, truth, rtol=0, atol=0.1)


def test_hidden_pixels_are_imputed_better_than_by_their_mean():
    """Judged by the grey levels of which the binary pixels are draws."""
    torch.manual_seed(1)
    greys = pyrovae.data.load("digits", binarize="none")
    x, truth = torch.bernoulli(greys.train[:]), greys.test[:]
    holes = torch.rand(truth.shape) < 0.3
    vae = pyrovae.VAE(greys.event_shape, 8, likelihood=partial(Missing, of=Bernoulli), encoder=FilledIn)
    pyrovae.fit(
        vae, torch.where(torch.rand(x.shape) < 0.3, torch.nan, x), epochs=60, learning_rate=3e-3, batch_size=100
    )
    found = pyrovae.impute(vae, torch.where(holes, torch.nan, torch.bernoulli(truth)), 20)
    errors = [(guess - truth)[holes].square().mean() for guess in (found, x.mean(0).expand_as(truth))]
    assert errors[0] < 0.75 * errors[1]


@pytest.mark.parametrize("likelihood", [Normal, Bernoulli])
def test_elsewhere_missing_entries_are_refused_by_name(likelihood):
    with pytest.raises(ValueError, match=r"found nan at .*likelihoods.Missing takes NaN for a missing entry"):
        pyrovae.fit(pyrovae.VAE(3, 2, likelihood=likelihood), torch.full((5, 3), torch.nan))


@pytest.mark.parametrize("x", [np.zeros((5, 3)), [[0.0] * 3]])
def test_only_a_tensor_is_imputed_and_another_is_refused_before_any_draw(x, monkeypatch):
    vae = pyrovae.VAE(3, 2, likelihood=partial(Missing, of=Normal), encoder=FilledIn)
    monkeypatch.setattr(vae, "guide", None)
    with pytest.raises(ValueError, match=rf"x: expected a tensor \(N, \*event_shape\), found {type(x).__name__}"):
        pyrovae.impute(vae, x)


def test_infinity_is_never_missing():
    vae = pyrovae.VAE(3, 2, likelihood=partial(Missing, of=Normal), encoder=FilledIn)
    with pytest.raises(ValueError, match="found inf at"):
        pyrovae.fit(vae, torch.full((5, 3), torch.inf))


def test_a_row_without_anything_is_trained_on_and_scores_nothing():
    vae = pyrovae.VAE(3, 2, likelihood=partial(Missing, of=Normal), encoder=FilledIn)
    x = torch.randn(20, 3)
    x[::2] = torch.nan
    records = pyrovae.fit(vae, x, epochs=2)
    assert records[-1]["loss"] < 100
    assert pyrovae.evaluate(vae, x[:1], 3)["reconstruction"]["value"] == 0


def test_a_table_with_holes_is_a_run_like_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    np.save("x.npy", x)
    arguments = ["--likelihood", "missing(of=normal(learn='one'))", "--encoder", "filled-in(network=mlp(hidden=[7]))"]
    assert main(["train", "--data", "x.npy", "--name", "torn", "--epochs", "2", "--batch-size", "20", *arguments]) == 0
    vae = pyrovae.load("runs/torn")
    assert vae.encoder.network[0].in_features == 6
    assert not torch.isnan(pyrovae.impute(vae, torch.from_numpy(x))).any()


def test_a_table_of_mixed_columns_with_holes_is_a_run(tmp_path, monkeypatch):
    """Its families are named in run.toml as members within a member."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    x = np.stack([draw.normal(size=300), draw.random(300) < 0.3, draw.poisson(4.0, 300)], 1).astype(np.float32)
    x[draw.random(x.shape) < 0.1] = np.nan
    np.save("x.npy", x)
    families = "[normal(learn='one'), bernoulli, negative-binomial]"
    arguments = ["--likelihood", f"missing(of=columns(families={families}))", "--encoder", "filled-in"]
    assert (
        main(["train", "--data", "x.npy", "--name", "mixed", "--epochs", "20", "--batch-size", "50", *arguments]) == 0
    )
    vae = pyrovae.load("runs/mixed")
    filled = pyrovae.impute(vae, torch.from_numpy(x))
    assert filled[:, 1].min() >= 0
    assert filled[:, 1].max() <= 1
    assert abs(filled[:, 2][np.isnan(x[:, 2])].mean() - 4) < 0.8
    with pytest.raises(SystemExit, match="2"):
        raise SystemExit(main(["train", "--data", "x.npy", "--likelihood", "columns", "--name", "none"]))
