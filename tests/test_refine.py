"""Semi-amortised inference: never worse, as good as the family can be, and what it says of the gaps."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import two_layers
from pyro import poutine

import pyrovae
from pyrovae import guides
from pyrovae.data import Split
from pyrovae.likelihoods import Normal
from pyrovae.models import SemiSupervisedVAE
from pyrovae.models.completion_vae import Completion
from pyrovae.objectives import ELBO
from pyrovae.programs import traces
from pyrovae.programs.refine import refine


def elbo(model, guide, x, particles=400):
    torch.manual_seed(0)
    with torch.no_grad():
        return traces.log_weights(model, guide, particles, x).mean(0)


def best_diagonal(linear):
    """ELBO(x) of the best diagonal normal: log p(x) - 1/2 (sum_i log P_ii - log|P|), P the posterior's precision."""
    precision = linear.posterior(linear.x).precision_matrix.detach()
    gap = (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(precision)) / 2
    return linear.evidence.log_prob(linear.x) - gap, gap


@pytest.fixture
def oblique(linear):
    """The linear model with columns of W that are far from orthogonal."""
    with torch.no_grad():
        linear.vae.decoder.weight.copy_(torch.tensor([[1.0, 0.9], [0.5, 0.6], [-0.4, -0.3], [0.8, 0.7], [0.1, 0.4]]))
    return linear.again()


def test_refined_it_is_as_good_as_its_family_can_be(oblique):
    x = oblique.x
    model, guide = oblique.vae.model, oblique.vae.guide
    best, gap = best_diagonal(oblique)
    assert gap.min() > 0.3
    refined = refine(model, guide, steps=400, learning_rate=0.03, particles=30)
    found = elbo(model, refined, x)
    assert (found - best).abs().max() < 0.3  # Monte Carlo and Adam's
    assert found.mean().item() == pytest.approx(best.mean().item(), abs=0.05)
    assert (best - elbo(model, guide, x)).mean() > 0.3


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_it_is_never_worse(oblique, steps):
    """Also for a step so long that most of them lead away."""
    model, guide, x = oblique.vae.model, oblique.vae.guide, oblique.x
    before = elbo(model, guide, x, 4000).mean()
    after = elbo(model, refine(model, guide, steps, learning_rate=2.0), x, 4000).mean()
    assert after > before - 0.02


def test_a_full_rank_guide_refined_has_no_gap(oblique):
    x = oblique.x
    vae = pyrovae.VAE(5, 2, guide=guides.FullRankNormal).double()
    refined = refine(oblique.vae.model, vae.guide, steps=500, learning_rate=0.03, particles=20)
    found = elbo(oblique.vae.model, refined, x)
    assert found.mean().item() == pytest.approx(oblique.evidence.log_prob(x).mean().item(), abs=0.03)


def test_gaps_are_those_of_the_closed_form(oblique):
    result = pyrovae.gaps(oblique.vae, oblique.x, steps=400, particles=5000)
    _, gap = best_diagonal(oblique)
    assert result["approximation_gap"]["value"] == pytest.approx(gap.mean().item(), abs=0.06)
    truth = oblique.evidence.log_prob(oblique.x).mean().item()
    assert result["log_likelihood"]["value"] == pytest.approx(truth, abs=0.05)
    assert result["amortisation_gap"]["value"] > 0.3
    parts = result["elbo"]["value"] + result["amortisation_gap"]["value"] + result["approximation_gap"]["value"]
    assert parts == pytest.approx(result["log_likelihood"]["value"], abs=1e-9)


def test_it_leaves_no_trace_and_works_under_every_question(oblique):
    vae = oblique.vae
    pair = (vae.model, refine(vae.model, vae.guide, steps=3))
    result = pyrovae.evaluate(pair, oblique.x, 6)
    assert result["elbo"]["value"] > pyrovae.evaluate(vae, oblique.x, 6)["elbo"]["value"]
    assert len(pyro.get_param_store()) == 0
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_the_guide_may_be_trained_through_it(oblique):
    """Semi-amortised training: gradients reach the encoder, and the refined bound rises."""
    vae, x = oblique.vae, oblique.x
    refined = refine(vae.model, vae.guide, steps=2)
    before = elbo(vae.model, refined, x).mean()
    svi = pyrovae.SVI(vae.model, refined, torch.optim.Adam(vae.encoder.parameters(), lr=0.02), ELBO(), compile=False)
    for _ in range(60):
        svi.step(x)
    assert elbo(vae.model, refined, x).mean() > before + 0.1


def test_two_layers_are_refined_together():
    pair = two_layers([0.1, 0.0, 0.1, 0.0], s=0.5)
    model, guide, x = pair.model, pair.guide, pair.x
    truth = dist.Normal(0.0, 2.25**0.5).log_prob(x).mean()
    before, after = (elbo(model, each, x, 2000).mean() for each in (guide, refine(model, guide, 300, 0.03)))
    assert before < truth - 0.5
    assert truth - 0.15 < after < truth + 0.02


def test_what_cannot_be_refined_is_refused():
    def program(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="refine: expected real parameters to shift at 'y', found Bernoulli"):
        refine(program, program)(torch.zeros(3))
    with pytest.raises(ValueError, match="steps: expected an integer >= 0, found -1"):
        refine(program, program, steps=-1)


def test_enumerated_latents_are_summed_over_as_they_are():
    """q(y) q(z|x) of p(y) p(z|y) = N(m_y, 1), p(x|z) = N(z, s^2): the best q(z|x) is normal about the mean of m_y."""
    means, q_y, s = torch.tensor([-2.0, 0.0, 3.0]), torch.tensor([0.2, 0.1, 0.7]), 0.8

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)))
            z = pyro.sample("z", dist.Normal(means[y], 1.0))
            pyro.sample("x", dist.Normal(z, s), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(q_y), infer={"enumerate": "parallel"})
            return pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    x = torch.linspace(-2, 2, 5)
    refined = refine(model, guide, 400, 0.05, particles=100)
    z = poutine.trace(refined).get_trace(x).nodes["z"]["fn"]
    variance = 1 / (1 + 1 / s**2)
    torch.testing.assert_close(z.loc, ((means * q_y).sum() + x / s**2) * variance, rtol=0, atol=0.03)
    torch.testing.assert_close(z.scale, torch.full((5,), variance**0.5), rtol=0, atol=0.03)


def test_a_proposal_for_each_value_of_an_enumerated_latent_is_refused():
    """Of a class that is given there is one."""
    vae, x = SemiSupervisedVAE(5, 2, 3).double(), torch.rand(4, 5).double().round()
    with pytest.raises(ValueError, match=r"one proposal for each row at 'z', found \(3, 128\), because it depends"):
        pyrovae.gaps(vae, x)
    y = torch.arange(4) % 3
    assert pyrovae.gaps(vae, Split(x, y), steps=20, particles=20)["amortisation_gap"]["value"] > 0


def test_without_latents_there_is_nothing_to_refine():
    model, x = Completion(5, torch.arange(5) < 2), torch.zeros(3, 5)
    message = "refine: expected at least one latent site, found none"
    with pytest.raises(ValueError, match=message):
        refine(model.model, model.guide)(x)
    with pytest.raises(ValueError, match=message):
        pyrovae.gaps(model, x)


def test_one_bad_datum_spoils_no_other():
    """Its ELBO overflows: it keeps its proposal, the others are refined."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0).expand([len(x)]))
            steep = torch.where(x > 5, 1e3, 1.0)
            pyro.sample("x", dist.Normal(torch.exp(z * steep), 0.3), obs=torch.where(x > 5, 1.0, x))

    def guide(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(torch.zeros(len(x)), torch.ones(len(x))))

    x = torch.tensor([2.0, 3.0, 10.0])
    with pyro.validation_enabled(False):
        draws = refine(model, guide, steps=300)(x.repeat(20)).reshape(20, 3)
    assert torch.isfinite(draws).all()
    assert (draws[:, :2].mean(0) - torch.tensor([2.0, 3.0]).log()).abs().max() < 0.25
    assert abs(draws[:, 2].mean()) < 1


def test_it_moves_no_running_scale():
    vae = pyrovae.VAE(5, 2, likelihood=partial(Normal, learn="optimal"))
    x = torch.randn(30, 5)
    pyrovae.fit((vae.model, refine(vae.model, vae.guide, steps=2)), x, epochs=3, batch_size=15, compile=False)
    assert vae.likelihood.scaling.batches == 6
