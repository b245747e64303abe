"""What the tests share: one thread, an untouched process, small data, and a model whose every number is known."""

import os
from functools import partial
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae.likelihoods import Normal

torch.set_num_threads(1)
X = 4  # size of a datum of `binary`


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from one seed and an empty store, and must leave validation on."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    assert pyro.settings.get("validate_distributions_pyro")
    assert torch.get_num_threads() == 1


@pytest.fixture
def double():
    """float64 where none is named."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def digits():
    return pyrovae.data.load("digits")


@pytest.fixture(scope="session")
def mnist_root():
    """The folder of the MNIST files."""
    root = os.environ.get("PYROVAE_DATA", "")
    if not os.path.isdir(os.path.join(root, "MNIST", "raw")):
        pytest.skip("needs MNIST: set PYROVAE_DATA to a folder with MNIST/raw/*-ubyte")
    return root


@pytest.fixture
def linear():
    """p(z) = N(0, I), p(x|z) = N(Wz + b, s^2 I) in float64, with its exact posterior as the guide, and its evidence."""
    d, width, s = 2, 5, 0.7
    vae = pyrovae.VAE(
        width, d, likelihood=partial(Normal, scale=s), encoder=nn.Linear(width, 2 * d), decoder=nn.Linear(d, width)
    ).double()
    return known(vae, s)


def known(vae, s):
    """What is known of it, for its present W and b, and data drawn from it; `again` after they were changed."""
    w, b = vae.decoder.weight, vae.decoder.bias
    precision = (w.T @ w / s**2 + torch.eye(w.shape[1], dtype=torch.float64)).detach()
    covariance = (w @ w.T + s**2 * torch.eye(len(w), dtype=torch.float64)).detach()

    def posterior(x):
        mean = torch.linalg.solve(precision, (x - b) @ w / s**2, left=False)
        return dist.MultivariateNormal(mean.detach(), precision_matrix=precision)

    def guide(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", posterior(x))

    evidence = dist.MultivariateNormal(b.detach().clone(), covariance)
    return SimpleNamespace(
        vae=vae,
        exact=(vae.model, guide),
        posterior=posterior,
        evidence=evidence,
        x=evidence.sample((40,)),
        s=s,
        again=lambda: known(vae, s),
    )


def pulled(linear, factor, shift=0.0):
    """The linear model, and as its guide the exact posterior with its standard deviation times a factor, shifted."""

    def guide(x):
        p = linear.posterior(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.MultivariateNormal(p.mean + shift, p.covariance_matrix * factor**2))

    return linear.vae.model, guide


def two_layers(start, s):
    """p(z2) = N(0, 1), p(z1|z2) = N(z2, 1), p(x|z1) = N(z1, s^2), in float64; w begins at `start`, and the guide is
    q(z1|x) = N(w0 x, e^(2 w1)), q(z2|z1) = N(w2 z1, e^(2 w3))."""
    w = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(()).double(), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, s), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(w[0] * x, w[1].exp()))
            pyro.sample("z2", dist.Normal(w[2] * z1, w[3].exp()))

    return SimpleNamespace(model=model, guide=guide, w=w, x=torch.linspace(-1, 2, 30, dtype=torch.float64))


def binary(rows=20):
    """Random zeros and ones (rows, X)."""
    return (torch.rand(rows, X) < 0.5).to(torch.get_default_dtype())


def kind(member):
    """The class that an entry of a table of members builds."""
    return member.func if isinstance(member, partial) else member


def named(member):
    """Its name."""
    return kind(member).__name__


def one_mode():
    """z of two modes, +-3, x ~ N(|z|, .5); as the guide the posterior of the mode above 0: all weights are alike."""

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            modes = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.tensor([-3.0, 3]), 0.5))
            return pyro.sample("x", dist.Normal(pyro.sample("z", modes).abs(), 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((3 + x) / 2, 0.125**0.5))

    return model, guide
