"""Closed forms: what every estimator must give on a model whose numbers are known."""

import math
from functools import partial
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence

import pyrovae
from pyrovae.evaluation.evaluate import active, codes, scores
from pyrovae.guides import Delta, FullRankNormal
from pyrovae.likelihoods import Normal
from pyrovae.objectives import ELBO
from pyrovae.programs import importance, traces
from pyrovae.programs.handlers import scale_latents
from pyrovae.training.rates import cosine

MANY = Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)


def by_hand(linear, beta):
    """-E_q[log p(x|z)] + beta KL, per datum, in closed form: x - Wz - b is normal under q."""
    vae, x = linear.vae, linear.x
    q = vae.q_z(x).base_dist
    residual = (x - vae.decoder(q.loc)).square().sum(-1) + q.scale.square() @ vae.decoder.weight.square().sum(0)
    reconstruction = -residual / (2 * linear.s**2) - x.shape[1] * math.log(linear.s * math.sqrt(2 * math.pi))
    kl = 0.5 * (q.loc.square() + q.scale.square() - 1 - 2 * q.scale.log()).sum(-1)
    return (beta * kl - reconstruction).mean()


def test_exact_posterior_gives_the_evidence_in_every_sample(linear):
    with torch.no_grad():
        log_w = traces.log_weights(*linear.exact, 7, linear.x)
    assert log_w.shape == (7, 40)
    torch.testing.assert_close(log_w, linear.evidence.log_prob(linear.x).expand(7, 40), rtol=0, atol=1e-10)
    assert log_w.std(0).max() < 1e-10


def test_exact_posterior_has_no_gap(linear):
    result = pyrovae.evaluate(linear.exact, linear.x, particles=3)
    truth = linear.evidence.log_prob(linear.x).mean().item()
    assert result["log_likelihood"]["value"] == pytest.approx(truth, abs=1e-9)
    assert result["monte_carlo_error"] < 1e-9


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_sampled_and_analytic_kl_agree_with_the_closed_form(linear, beta):
    truth = by_hand(linear, beta)
    with torch.no_grad():
        runs = torch.tensor([ELBO(beta, MANY).loss(*_programs(linear), linear.x) for _ in range(8)])
        q = linear.vae.q_z(linear.x)
        closed = ELBO(beta, TraceMeanField_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1))
        analytic = torch.tensor([closed.loss(*_programs(linear), linear.x) for _ in range(8)])
    assert kl_divergence(q, linear.vae.p_z().expand((40,))).mean() > 0.5  # else there would be nothing to see
    for values in (runs, analytic):
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(8) + 1e-6
        assert values.std() < 0.05


@pytest.mark.parametrize("wrong", ["sign", "model only", "guide only", "observed too"])
def test_a_planted_error_in_beta_is_noticed(linear, wrong):
    """The control: were beta applied wrongly, the test above would fail by far."""

    def loss(model, guide):
        scales = {"sign": (-4, -4), "model only": (4, 1), "guide only": (1, 4), "observed too": (1, 1)}[wrong]
        if wrong == "observed too":
            model, guide = pyro.poutine.scale(model, 4), pyro.poutine.scale(guide, 4)
        programs = [scale_latents(scale)(program) for scale, program in zip(scales, (model, guide), strict=True)]
        return MANY.loss(*programs, linear.x) / len(linear.x)

    with torch.no_grad():
        assert abs(loss(*_programs(linear)) - by_hand(linear, 4.0)) > 0.5


def _programs(linear):
    return linear.vae.model, linear.vae.guide


@pytest.mark.parametrize("estimator", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_gradient_is_that_of_the_closed_form(linear, estimator):
    """With respect to every parameter of both networks, at beta 2; common noise would not help a wrong sign."""
    parameters = list(linear.vae.parameters())
    truth = torch.autograd.grad(by_hand(linear, 2.0), parameters)
    objective = ELBO(2.0, estimator(num_particles=20000, vectorize_particles=True, max_plate_nesting=1))
    found = torch.autograd.grad(objective.differentiable_loss(*_programs(linear), linear.x), parameters)
    for name, a, b in zip(dict(linear.vae.named_parameters()), truth, found, strict=True):
        torch.testing.assert_close(b, a, rtol=0.05, atol=0.02, msg=lambda text, name=name: f"{name}: {text}")


def test_elbo_below_importance_bound_below_evidence(linear):
    """Each beyond four standard errors, per datum pairs; and the bound closes as K grows."""
    truth = linear.evidence.log_prob(linear.x)
    x = linear.x
    with torch.no_grad():
        log_w = traces.log_weights(*_programs(linear), 20000, x)
    elbo = log_w.mean(0)
    few = log_w.unflatten(0, (4000, 5)).logsumexp(1) - math.log(5)
    many = log_w.unflatten(0, (40, 500)).logsumexp(1) - math.log(500)

    def error(values):
        return (values.var(0) / len(values)).sum().sqrt() / len(x)

    chain = [(elbo.mean(), error(log_w)), (few.mean(), error(few)), (many.mean(), error(many))]
    for (low, low_error), (high, high_error) in pairwise(chain):
        assert high - low > 4 * (low_error + high_error)
    assert truth.mean() - few.mean() > 4 * error(few)
    assert abs(truth.mean() - many.mean()) < 0.05


def test_elbo_is_evidence_minus_the_gap(linear):
    """ELBO = log p(x) - KL(q(z|x) || p(z|x)), all three in closed form."""
    with torch.no_grad():
        q = linear.vae.q_z(linear.x)
        full = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
        gap = kl_divergence(full, linear.posterior(linear.x))
        elbo = linear.evidence.log_prob(linear.x) - gap
        assert -elbo.mean() == pytest.approx(by_hand(linear, 1.0).item(), abs=1e-10)


def test_evaluate_agrees_with_the_closed_form(linear):
    result = pyrovae.evaluate(linear.vae, linear.x, particles=5000)
    assert result["kl_estimator"] == "closed form"
    assert -result["elbo"]["value"] == pytest.approx(by_hand(linear, 1.0).item(), abs=0.05)
    assert result["log_likelihood"]["value"] == pytest.approx(
        linear.evidence.log_prob(linear.x).mean().item(), abs=0.02
    )
    q = linear.vae.q_z(linear.x).base_dist
    each = 0.5 * (q.loc.square() + q.scale.square() - 1 - 2 * q.scale.log()).mean(0)
    assert result["kl_per_latent"]["z"] == pytest.approx(each.tolist(), abs=1e-9)
    assert sum(result["kl_per_latent"]["z"]) == pytest.approx(result["kl"]["value"], abs=1e-9)


def test_the_monte_carlo_error_is_the_spread_over_seeds(linear):
    runs = [importance.log_likelihood(linear.vae, linear.x, 200, seed)[0].mean() for seed in range(60)]
    claimed = pyrovae.evaluate(linear.vae, linear.x, 200)["monte_carlo_error"]
    assert 0.6 < torch.stack(runs).std().item() / claimed < 1.6


def test_active_units_are_counted_by_the_variance_of_the_codes(linear):
    with torch.no_grad():
        linear.vae.encoder.weight[1] = 0
    result = pyrovae.evaluate(linear.vae, linear.x, 2)
    codes = linear.vae.q_z(linear.x).mean
    assert codes[:, 0].var() > 0.01 > codes[:, 1].var()
    assert result["active_units"] == {"z": 1}
    assert active(codes).tolist() == [True, False]


def test_noise_of_means_without_a_closed_form_is_no_activity():
    """Beside the prior, a latent that follows x by .2: their means over 100 draws vary by .01 and .04 + .01, however
    few particles the score has."""
    follows = torch.tensor([0.0, 0.2, 0.0])

    def guide(x):
        with pyro.plate("data", len(x)):
            z = dist.TransformedDistribution(
                dist.Normal(x[:, None] * follows, 1.0), dist.transforms.AffineTransform(0, 1)
            )
            pyro.sample("z", z.to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    torch.manual_seed(0)
    x = torch.randn(1000)
    for particles in (1, 2, 10):
        assert pyrovae.evaluate((model, guide), x, particles)["active_units"] == {"z": 1}
    means, noise = codes((model, guide), x)["z"].unbind(1)
    torch.testing.assert_close(noise.mean(0), torch.full((3,), 1 / 100).double(), rtol=0.05, atol=0)
    torch.testing.assert_close(means.var(0), torch.tensor([0.01, 0.05, 0.01]).double(), rtol=0.15, atol=0)


def test_of_one_row_no_latent_is_said_to_be_active(linear):
    found = pyrovae.evaluate(linear.vae, linear.x[:1], 2)
    assert "active_units" not in found
    assert found["latents"] == {"z": 2}
    assert pyrovae.evaluate(linear.vae, linear.x[:2], 2)["active_units"]["z"] <= 2


@pytest.mark.parametrize("rows", [1, 7, 128, 129, 300])
def test_scores_do_not_change_with_how_many_rows_come_along(rows):
    vae = pyrovae.VAE((1, 8, 8), 2)
    x = torch.bernoulli(torch.full((400, 1, 8, 8), 0.5))
    alone = importance.log_likelihood(vae, x[:rows], 10)[0]
    together = importance.log_likelihood(vae, x, 10)[0][:rows]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 50, 128, 359])
def test_scores_do_not_change_with_the_batches_they_come_in(digits, batch):
    vae = pyrovae.VAE(digits.event_shape, 2)
    loader = torch.utils.data.DataLoader(digits.test[:], batch_size=batch)
    table, _ = scores(vae, digits.test, 5, seed=3)
    other, _ = scores(vae, loader, 5, seed=3)
    assert table["elbo"].shape == (359,)
    for name in table:
        torch.testing.assert_close(table[name], other[name], rtol=0, atol=1e-5)


def test_particles_are_chunked_without_changing_the_estimate(linear, monkeypatch):
    whole = importance.log_likelihood(linear.vae, linear.x, 400)[0]
    monkeypatch.setattr(importance, "FLOATS", 128 * 5 * 10)
    chunked = importance.log_likelihood(linear.vae, linear.x, 400)[0]
    truth = linear.evidence.log_prob(linear.x)
    assert not torch.equal(whole, chunked)
    assert abs((whole - truth).mean()) < 0.1
    assert abs((chunked - truth).mean()) < 0.1


def test_iwae_error_of_one_particle_is_unknown(linear):
    assert torch.isnan(importance.log_likelihood(linear.vae, linear.x, 1)[1]).all()
    assert pyrovae.evaluate(linear.vae, linear.x[:1], 4)["rows"] == 1


PLATES = {
    "found scale 0.5": lambda: poutine.scale(scale=0.5),
    "found a mask": lambda: poutine.mask(mask=torch.tensor(True)),
}


@pytest.mark.parametrize("message", PLATES)
def test_sites_without_one_score_a_row_are_refused(message):
    """A silent sum over them would be no log-likelihood."""

    def guide(x):
        with pyro.plate("data", len(x)), PLATES[message]():
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def model(x):
        with pyro.plate("data", len(x)):
            with PLATES[message]():
                pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match=message):
        pyrovae.evaluate((model, guide), torch.zeros(5), 2)


def test_a_subsampled_plate_has_no_score_a_row():
    def model(x):
        with pyro.plate("data", 500, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="found 128 of 500 rows"):
        pyrovae.evaluate((model, lambda x: None), torch.zeros(5), 2)


def test_a_categorical_latent_has_draws_for_a_mean():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.tensor([0.0, 0.0, 1.0])))

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    means, noise = codes((model, guide), torch.full((4,), 2.0))["y"].unbind(1)
    assert means.tolist() == [2.0] * 4
    assert noise.tolist() == [0.0] * 4


def test_svi_reaches_the_evidence(linear):
    """Trained jointly, the diagonal guide of a linear model closes its gap: the loss ends at the maximum likelihood."""
    x = linear.evidence.sample((400,))
    pyrovae.fit(linear.vae, x, epochs=250, batch_size=400, learning_rate=0.02, seed=1)
    covariance = torch.cov(x.T, correction=0)
    values, _ = torch.linalg.eigh(covariance)
    discarded = linear.s**2
    kept = torch.where(values > discarded, values, torch.full_like(values, discarded))
    kept[:-2] = discarded
    best = -0.5 * (kept.log() + values / kept + math.log(2 * math.pi)).sum()
    elbo = pyrovae.evaluate(linear.vae, x, 50)["elbo"]["value"]
    assert best - 0.05 < elbo < best + 0.02


def test_a_guide_of_one_point_has_no_bound():
    """Its log q = 0 is a convention, no density; only the reconstruction is a number."""
    vae = pyrovae.VAE(1, 1, likelihood=Normal, guide=Delta)
    result = pyrovae.evaluate(vae, torch.zeros(4, 1), 5)
    assert math.isnan(result["elbo"]["value"])
    assert math.isnan(result["log_likelihood"]["value"])
    assert "no likelihood" in result["measure"]
    with torch.no_grad():
        truth = vae.p_x(vae.encoder(torch.zeros(1, 1))).log_prob(torch.zeros(1, 1)).item()
    assert result["reconstruction"]["value"] == pytest.approx(truth, abs=1e-6)


def test_the_measure_is_known_of_a_pair_of_methods(linear):
    result = pyrovae.evaluate((linear.vae.model, linear.vae.guide), linear.x, 2)
    assert result["measure"] == "density over real values"
    assert result["elbo"]["value"] < 0


# Probabilistic PCA of the 60 000 training images, grey in [0, 1], in closed form: the mean discarded eigenvalue, and
# the mean log density of training and test images (Tipping & Bishop 1999).
PPCA = {2: (40, 0.0560958, 12.4277, 14.3601, 0.05), 10: (60, 0.0348673, 182.1547, 186.0241, 0.2)}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("k", PPCA)
def test_the_linear_vae_of_mnist_reaches_maximum_likelihood(k, mnist_root):
    """By SVI alone, from random weights; its evidence, and at the end its ELBO, too."""
    epochs, variance, of_train, of_test, margin = PPCA[k]
    mnist = pyrovae.data.load("mnist", root=mnist_root, valid=0, binarize="none")
    x, test = (part[:].flatten(1) for part in (mnist.train, mnist.test))
    torch.manual_seed(0)
    networks = {"encoder": nn.Linear(784, k + k * (k + 1) // 2), "decoder": nn.Linear(k, 784)}
    vae = pyrovae.VAE(784, k, likelihood=partial(Normal, learn="one"), guide=FullRankNormal, **networks)
    options = {"learning_rate": 1e-2, "lr_schedule": cosine, "objective": ELBO(estimator="analytic")}
    pyrovae.fit(vae, x, epochs=epochs, batch_size=500, **options)
    w, b = vae.decoder.weight.double(), vae.decoder.bias.double()
    s = vae.likelihood(torch.zeros(1, 784)).base_dist.scale.double().mean()
    evidence = dist.LowRankMultivariateNormal(b, w, s.square().expand(784))
    assert s.item() ** 2 == pytest.approx(variance, rel=2e-3)
    assert evidence.log_prob(x.double()).mean().item() == pytest.approx(of_train, abs=margin)
    assert evidence.log_prob(test.double()).mean().item() == pytest.approx(of_test, abs=margin)
    gap = evidence.log_prob(x[:10000].double()).mean().item() - pyrovae.evaluate(vae, x[:10000], 20)["elbo"]["value"]
    assert -0.02 < gap < 0.1
