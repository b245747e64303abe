"""Our SVI: one torch optimiser, nothing shared, nothing left behind, no step on a loss that is not finite."""

import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrovae
from pyrovae.objectives import ELBO

Adam = partial(torch.optim.Adam, lr=1e-3)


@pytest.fixture
def vae():
    return pyrovae.VAE(6, 2).double()


@pytest.fixture
def x(vae):
    return vae.sample(12)


def test_steps_equal_those_of_pyro(vae, x):
    """Same noise, same loss (a sum, for Pyro's estimators), same parameters after 20 steps of Adam."""
    twin = copy.deepcopy(vae)
    torch.manual_seed(1)
    theirs = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    their_losses = [theirs.step(x) for _ in range(20)]
    torch.manual_seed(1)
    ours = pyrovae.SVI(twin.model, twin.guide, Adam, Trace_ELBO())
    our_losses = [ours.step(x) for _ in range(20)]
    assert our_losses == pytest.approx(their_losses, rel=1e-9)
    for a, b in zip(vae.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_evaluate_loss_changes_nothing(vae, x):
    svi = pyrovae.SVI(vae.model, vae.guide, Adam, TraceMeanField_ELBO())
    before = [value.clone() for value in vae.parameters()]
    torch.manual_seed(1)
    first = svi.evaluate_loss(x)
    torch.manual_seed(1)
    assert svi.evaluate_loss(x) == first
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert len(pyro.get_param_store()) == 0


def test_prepare_finds_the_parameters_without_using_random_numbers(vae, x):
    svi = pyrovae.SVI(vae.model, vae.guide, Adam, ELBO())
    state = torch.get_rng_state()
    svi.prepare(x)
    assert torch.equal(state, torch.get_rng_state())
    assert {id(value) for value in svi.parameters.values()} == {id(value) for value in vae.parameters()}


def test_a_frozen_network_stays(vae, x):
    vae.encoder.requires_grad_(False)
    vae.eval()
    before = vae.encoder[0].weight.clone()
    svi = pyrovae.SVI(vae.model, vae.guide, Adam, ELBO())
    svi.step(x)
    assert torch.equal(vae.encoder[0].weight, before)
    assert len(svi.parameters) == len(list(vae.decoder.parameters()))


def test_clip_shortens_the_gradient(vae, x):
    """Plain SGD moves by learning rate times the clipped norm."""
    svi = pyrovae.SVI(vae.model, vae.guide, partial(torch.optim.SGD, lr=1.0), Trace_ELBO(), clip=0.01)
    before = torch.cat([value.detach().flatten().clone() for value in vae.parameters()])
    svi.step(x)
    after = torch.cat([value.detach().flatten() for value in vae.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_is_not_stepped(where):
    weight = nn.Parameter(torch.tensor(0.0))

    def model(x):
        pyro.module("w", holder)
        with pyro.plate("data", len(x)):
            # sqrt has an infinite gradient at 0, its value is fine; log 0 is not.
            loc = weight.abs().sqrt() if where == "gradient" else weight.log()
            with pyro.validation_enabled(False):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    holder = nn.Module()
    holder.w = weight
    svi = pyrovae.SVI(model, lambda x: None, Adam, Trace_ELBO())
    svi.step(torch.ones(3))
    assert svi.skipped == 1
    assert weight.item() == 0


def test_programs_without_parameters_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="expected programs with parameters"):
        pyrovae.SVI(model, lambda x: None, Adam, Trace_ELBO()).prepare(torch.zeros(3))
