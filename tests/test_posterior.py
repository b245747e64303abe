"""The true posterior by NUTS: the closed form's moments, and what it refuses."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae
from pyrovae import plots, posterior, priors
from pyrovae.models import SemiSupervisedVAE


def test_moments_are_those_of_the_closed_form(linear):
    x = linear.x[:1]
    found = posterior(linear.vae, x, draws=150, warmup=50, chains=2)
    z, truth = found.draws["z"], linear.posterior(x)
    assert z.shape == (1, 2, 150, 2)
    assert z.dtype == torch.float64
    assert found.r_hat["z"].shape == found.ess["z"].shape == (1, 2)
    assert (found.r_hat["z"] - 1).abs().max() < 0.08
    error = truth.stddev / found.ess["z"].sqrt()
    assert ((z.mean((1, 2)) - truth.mean).abs() < 4.5 * error).all()
    covariance = torch.stack([torch.cov(each.flatten(0, 1).T) for each in z])
    torch.testing.assert_close(covariance, truth.covariance_matrix, rtol=0.35, atol=0.1)
    assert len(pyro.get_param_store()) == 0
    assert torch.is_grad_enabled()


def test_it_is_determined_by_seed_and_place(linear):
    options = {"draws": 5, "warmup": 5, "chains": 2}
    both = posterior(linear.vae, linear.x[:2], **options).draws["z"]
    assert torch.equal(both[:1], posterior(linear.vae, linear.x[:1], **options).draws["z"])
    assert not torch.equal(both[0, 0], both[0, 1])
    assert not torch.equal(both, posterior(linear.vae, linear.x[:2], seed=1, **options).draws["z"])


@pytest.mark.slow
def test_enumerated_latents_are_summed_out():
    """z | x of two classes, half and half at x = 0."""
    means = torch.tensor([-1.0, 1.0])

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(means[y], 0.5)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(x, 1.0))

    z = posterior((model, guide), torch.zeros(1), draws=150, warmup=60, chains=2).draws
    assert z.keys() == {"z"}
    # p(z|x, y) = N(4/5 m_y, 1/5).
    assert z["z"].square().mean().item() == pytest.approx(0.2 + 0.64, abs=0.25)
    assert abs(z["z"].mean()) < 0.4


@pytest.mark.slow
def test_a_posterior_on_the_positive_numbers():
    """p(z) = Gamma(2, 0.5), p(x|z) = Poisson(z): p(z|x) = Gamma(2 + x, 1.5)."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(pyro.sample("z", dist.Gamma(2.0, 0.5))), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal((x + 1).log(), 1.0))

    found = posterior((model, guide), torch.tensor([4.0]), draws=200, warmup=60, chains=2)
    error = (6 / 1.5**2 / found.ess["z"]).sqrt()
    assert abs(found.draws["z"].mean() - 6 / 1.5) < 4.5 * error
    assert found.draws["z"].min() > 0


def test_missing_labels_are_summed_out_and_labels_taken():
    vae, x = SemiSupervisedVAE(4, 2, 3), torch.ones(2, 4)
    data = pyrovae.data.Split(x, torch.tensor([-1, 2]))
    assert posterior(vae, data, draws=4, warmup=2, chains=2).draws["z"].shape == (2, 2, 4, 2)


def test_bad_input_is_refused(linear):
    with pytest.raises(ValueError, match="chains: expected an integer >= 1, found 0"):
        posterior(linear.vae, linear.x, chains=0)
    with pytest.raises(ValueError, match="draws: expected an integer >= 4, found 3"):
        posterior(linear.vae, linear.x, draws=3)
    with pytest.raises(ValueError, match="expected finite values"):
        posterior(linear.vae, linear.x * torch.nan)
    sphere = pyrovae.VAE(4, 3, prior=priors.UniformSphere, guide=pyrovae.guides.PowerSpherical)
    with pytest.raises(ValueError, match="functions of as many reals, found 'z'"):
        posterior(sphere, torch.ones(1, 4))


def test_the_picture_shows_the_draws():
    points, others = np.random.default_rng(0).normal(size=(2, 50, 2))
    z = np.linspace(-3, 3, 21)
    density = (z, z, np.exp(-(z[:, None] ** 2 + z**2) / 2))
    left, right = plots.posterior_plane(points, others, density).axes
    assert "posterior" in left.get_title()
    np.testing.assert_allclose(left.collections[0].get_offsets(), points)
    np.testing.assert_allclose(right.collections[0].get_offsets(), others)
    assert len(left.collections) == len(right.collections) == 2
    assert len(plots.posterior_plane(points, others).axes[0].collections) == 1
    assert left.get_xlim() == right.get_xlim()
