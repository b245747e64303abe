"""Completion: p(u|s) scores what is unseen and keeps what is seen, with latents and without."""

import copy
from functools import partial

import pyro
import pytest
import test_graphs
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from safetensors.torch import load_model, save_model
from torch import nn

import pyrovae
from pyrovae import guides, likelihoods
from pyrovae.models.completion_vae import Completion, CompletionVAE, quadrants
from pyrovae.networks import MLP, Conv
from pyrovae.objectives import ELBO, IWAE
from pyrovae.programs import importance
from pyrovae.programs.traces import log_weights
from pyrovae.training.rates import cosine

MASK = torch.tensor([True, False, True, False, False])
S = 0.6
AFFINE = partial(MLP, hidden=())


def normal(**parts):
    """p(z|s) = N(As + c, diag(exp(Bs + d))), p(x|z, s) = N(Wz + Vs + b, S^2), in float64."""
    parts = {"encoder": AFFINE, "decoder": AFFINE, "prior_network": AFFINE, **parts}
    return CompletionVAE(5, 2, MASK, likelihood=partial(likelihoods.Normal, scale=S), **parts).double()


def conditional(vae, x):
    """p(u|s) = N(Wm + Vs + b, W diag(v) W' + S^2) of what is unseen, for p(z|s) = N(m, diag(v))."""
    s = vae.seen(x)
    p_z = vae.p_z(s)
    w = vae.decoder.network[0].weight[~MASK, :2]
    covariance = (w * p_z.variance[:, None]) @ w.T + S**2 * torch.eye(len(w)).double()
    return torch.distributions.MultivariateNormal(vae.decoder(p_z.mean, s)[:, ~MASK], covariance)


def exact(vae):
    """The model, and p(z|x) as the guide."""

    def guide(x):
        s = vae.seen(x)
        p_z, w = vae.p_z(s), vae.decoder.network[0].weight[~MASK, :2]
        precision = p_z.variance.reciprocal().diag_embed() + w.T @ w / S**2
        residual = x[:, ~MASK] - vae.decoder(torch.zeros(len(x), 2).double(), s)[:, ~MASK]
        mean = torch.linalg.solve(precision, p_z.mean / p_z.variance + residual @ w / S**2)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.MultivariateNormal(mean, precision_matrix=precision))

    return vae.model, guide


@pytest.fixture
def x():
    return torch.randn(30, 5, dtype=torch.float64)


def binary(*shape):
    return (torch.rand(shape) < 0.5).to(torch.get_default_dtype())


MODELS = {
    "network": partial(Completion, 5, MASK),
    "VAE": partial(CompletionVAE, 5, 2, MASK),
    "VAE, mixture": partial(CompletionVAE, 5, 2, MASK, conditional_prior=partial(guides.Mixture, components=2)),
}
each = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


# The conditional evidence, in the linear case.


def test_with_the_posterior_as_guide_every_weight_is_the_conditional_evidence(x):
    vae = normal()
    truth = conditional(vae, x).log_prob(x[:, ~MASK])
    assert truth.std() > 0.5
    torch.testing.assert_close(log_weights(*exact(vae), 3, x), truth.expand(3, -1), rtol=1e-10, atol=1e-10)


def test_importance_sampling_finds_the_conditional_evidence(x):
    vae = normal()
    found, error = importance.log_likelihood(vae, x, 5000)
    truth = conditional(vae, x).log_prob(x[:, ~MASK])
    assert error.median() < 0.1
    assert ((found - truth).abs() < 5 * error + 0.01).all()
    result = pyrovae.evaluate(vae, x, 200)
    assert result["elbo"]["value"] < truth.mean() < result["log_likelihood"]["value"] + 0.05
    assert result["kl_estimator"] == "closed form"


def test_completions_keep_what_is_seen_and_are_draws_of_the_conditional(x):
    vae = normal()
    torn = x[:2].clone()
    torn[:, ~MASK] = torch.nan
    found = vae.complete(torn, 40000)
    assert found.shape == (40000, 2, 5)
    assert torch.equal(found[..., MASK], x[:2, MASK].expand(40000, -1, -1))
    truth = conditional(vae, x[:2])
    for row, mean, covariance in zip(found[..., ~MASK].unbind(1), truth.mean, truth.covariance_matrix, strict=True):
        torch.testing.assert_close(row.mean(0), mean, rtol=0, atol=0.03)
        torch.testing.assert_close(row.T.cov(), covariance, rtol=0.05, atol=0.03)


def test_trained_it_finds_the_conditional_of_a_normal():
    """x ~ N(0, C): p(u|s) of the best affine model is the normal with the conditional mean and covariance."""
    factor = torch.randn(5, 2, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(
        torch.zeros(5).double(), factor @ factor.T + 0.2 * torch.eye(5).double()
    )
    x, test = law.sample((2000,)), law.sample((1000,))
    learned = partial(likelihoods.Normal, learn="one")
    vae = CompletionVAE(5, 2, MASK, learned, guides.FullRankNormal, AFFINE, AFFINE, prior_network=AFFINE).double()
    quiet = {"objective": ELBO(estimator="path-derivative"), "lr_schedule": cosine}
    pyrovae.fit(vae, x, epochs=20, learning_rate=0.2, batch_size=200, **quiet)
    found = pyrovae.evaluate(vae, test, 20)["log_likelihood"]["value"]
    seen = torch.distributions.MultivariateNormal(torch.zeros(2).double(), law.covariance_matrix[MASK][:, MASK])
    truth = (law.log_prob(test) - seen.log_prob(test[:, MASK])).mean().item()
    assert found == pytest.approx(truth, abs=0.03)


# What is scored.


@each
def test_only_unseen_entries_are_scored(make):
    model, x = make(), binary(20, 5)
    outputs = getattr(model, "decoder", None) or model.network
    *_, last = (part for part in outputs.modules() if isinstance(part, nn.Linear))
    start = last.bias.detach().clone()

    def scores(bias):
        last.bias.data = bias
        torch.manual_seed(1)
        return log_weights(model.model, model.guide, 3, x)

    for shift, seen in zip(torch.eye(5), MASK.tolist(), strict=True):
        assert torch.equal(scores(start + shift), scores(start)) == seen


def test_with_all_but_one_pixel_seen_it_is_one_pixels_nats(double):
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[0, 2, 1] = False
    model, x = Completion((1, 4, 4), mask), binary(20, 1, 4, 4)
    pixel = model.network(model.seen(x))[:, 0, 2, 1].sigmoid()
    truth = torch.where(x[:, 0, 2, 1] == 1, pixel, 1 - pixel).log()
    torch.testing.assert_close(importance.log_likelihood(model, x, 2)[0], truth.detach())
    assert pyrovae.evaluate(model, x, 2)["measure"] == "mass over binary values, of 1 unseen entries given 15"


def test_without_latents_every_question_has_the_same_answer():
    model, x = Completion(5, MASK), binary(300, 5)
    result = pyrovae.evaluate(model, x, 7)
    direct = model.p_x(model.seen(x)).log_prob(x).mean().item()
    for name in ("elbo", "reconstruction", "log_likelihood"):
        assert result[name]["value"] == pytest.approx(direct, rel=1e-6)
    assert result["kl"]["value"] == result["monte_carlo_error"] == 0
    assert ELBO().loss(model.model, model.guide, x) == pytest.approx(-direct, rel=1e-6)
    assert IWAE(3).loss(model.model, model.guide, x) == pytest.approx(-direct, rel=1e-6)


def test_another_seen_part_is_impossible():
    model, x = Completion(5, MASK), binary(20, 5)
    other = x.clone()
    other[:, 0] = 1 - other[:, 0]
    assert (model.p_x(model.seen(x)).log_prob(other) == -torch.inf).all()
    assert model.p_x(model.seen(x)).log_prob(x).isfinite().all()
    p = model.p_x(model.seen(x))
    assert torch.equal(p.mean[:, MASK], x[:, MASK])
    assert (p.variance[:, MASK] == 0).all()


def test_what_is_unseen_is_not_seen():
    """Nothing but the guide knows it."""
    vae, x = CompletionVAE(5, 2, MASK), binary(20, 5)
    other = torch.where(MASK, x, 1 - x)
    s = vae.seen(x)
    assert torch.equal(s, vae.seen(other))
    assert torch.equal(s[:, ~MASK], torch.zeros(20, 3))
    assert torch.equal(vae.p_z(vae.seen(x)).mean, vae.p_z(vae.seen(other)).mean)
    assert not torch.equal(vae.q_z(x).mean, vae.q_z(other).mean)


# It is a pair of programs like any other.


@each
def test_a_gradient_reaches_every_parameter(make, double):
    model, x = make(), binary(20, 5)
    ELBO().differentiable_loss(model.model, model.guide, x).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@each
def test_recorded_it_gives_the_loss_and_gradients_of_eager_pyro(make, double, monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", (make, ELBO, [partial(binary, 20, 5)]))
    losses = test_graphs.compare("it", torch.float64, "auto")
    assert (losses[0] != losses[1]) == (make.func is not Completion)


@each
def test_plain_pyro_trains_it_and_predicts_by_it(make):
    model, x = make(), binary(50, 5)
    x[:, 1] = x[:, 0]
    svi = pyro.infer.SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(100)]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    drawn = Predictive(model.model, num_samples=30)(s=x)["x"]
    assert torch.equal(drawn[..., MASK], x[:, MASK].expand(30, -1, -1))
    assert (drawn[..., 1] == x[:, 0]).float().mean() > 0.55
    again = poutine.uncondition(model.model)(x)
    assert torch.equal(again[:, MASK], x[:, MASK])
    assert not torch.equal(again, x)


def test_conditioning_on_latents_and_data():
    vae, x = CompletionVAE(5, 2, MASK), binary(20, 5)
    z = torch.randn(20, 2)
    trace = poutine.trace(poutine.condition(vae.model, {"z": z, "x": x})).get_trace(s=x)
    trace.compute_log_prob()
    expected = vae.p_x(z, vae.seen(x)).log_prob(x)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], vae.p_z(vae.seen(x)).log_prob(z))
    assert torch.equal(importance.reconstruct(vae, x)[:, MASK], x[:, MASK])


@pytest.mark.parametrize("network", [MLP, partial(Conv, channels=(4,), hidden=10)])
def test_any_mask_and_any_network(network):
    mask = torch.rand(3, 8, 8) < 0.3
    x = binary(30, 3, 8, 8)
    for model in (
        CompletionVAE((3, 8, 8), 2, mask, encoder=network, decoder=network, prior_network=network),
        Completion((3, 8, 8), mask),
    ):
        assert pyrovae.fit(model, x, epochs=1, batch_size=10)[0]["loss"] < (~mask).sum()
        assert torch.equal(model.complete(x, 2)[..., mask], x[:, mask].expand(2, -1, -1))


FAMILIES = [likelihoods.Normal, likelihoods.Bernoulli, likelihoods.Poisson, likelihoods.Normal, likelihoods.Bernoulli]


@pytest.mark.parametrize(
    ("likelihood", "value"),
    [
        (partial(likelihoods.Normal, learn="per-input"), 0.3),
        (likelihoods.DiscretizedLogistic, 0.0),
        (likelihoods.ContinuousBernoulli, 0.3),
        (likelihoods.Beta, 0.3),
        (likelihoods.Poisson, 2.0),
        (partial(likelihoods.Columns, families=FAMILIES), 1.0),
    ],
)
def test_any_likelihood_of_independent_entries(likelihood, value):
    vae = CompletionVAE(5, 2, MASK, likelihood=likelihood)
    x = vae.complete(torch.full((20, 5), value))[0]
    assert torch.equal(x[:, MASK], torch.full((20, 2), value))
    assert pyrovae.evaluate(vae, x, 3)["elbo"]["value"] == pytest.approx(-ELBO().loss(vae.model, vae.guide, x), abs=1)


def test_saved_and_loaded_it_is_the_same_and_a_copy_is_its_own(tmp_path):
    vae, x = CompletionVAE(5, 2, MASK), binary(20, 5)
    save_model(vae, tmp_path / "vae.safetensors")
    other = CompletionVAE(5, 2, ~MASK)
    load_model(other, tmp_path / "vae.safetensors")
    for twin in (other, copy.deepcopy(vae)):
        assert torch.equal(importance.log_likelihood(twin, x, 3)[0], importance.log_likelihood(vae, x, 3)[0])


@pytest.mark.slow
def test_latents_are_worth_half_a_nat_on_digits(digits):
    """Where one quadrant is seen."""
    small = partial(MLP, hidden=(200,))
    networks = {"encoder": small, "decoder": small, "prior_network": small}
    found = []
    for model in (Completion(digits.event_shape, network=small), CompletionVAE(digits.event_shape, 8, **networks)):
        pyrovae.fit(model, digits, epochs=15, learning_rate=5e-3)
        found.append(pyrovae.evaluate(model, digits.test, 50)["log_likelihood"]["value"])
    assert found[1] > found[0] + 0.5


# Masks.


@pytest.mark.parametrize(
    ("seen", "rows"),
    [(1, ["0000", "0000", "1100", "1100"]), (2, ["1100"] * 4), (3, ["1111", "1111", "1100", "1100"])],
)
def test_quadrants(seen, rows):
    expected = torch.tensor([[pixel == "1" for pixel in row] for row in rows])
    assert torch.equal(quadrants((2, 4, 4), seen), expected.expand(2, -1, -1))
    assert quadrants((1, 5, 7), seen).sum() == [3 * 3, 5 * 3, 5 * 3 + 2 * 4][seen - 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Completion((1, 4, 4), MASK), r"mask: expected torch.bool \(1, 4, 4\), .* found torch.bool \(5,\)"),
        (lambda: Completion(5, MASK.float()), r"mask: expected torch.bool .* found torch.float32 \(5,\)"),
        (lambda: Completion(5, [True] * 4 + [False]), "mask: expected torch.bool .* found .True, "),
        (lambda: CompletionVAE(5, 2, MASK | True), "some entries seen and some not, found 5 of 5 seen"),
        (lambda: CompletionVAE(5, 2, MASK & False), "some entries seen and some not, found 0 of 5 seen"),
        (lambda: Completion(5), "quadrants: expected the shape of an image"),
        (lambda: Completion((1, 4, 4), partial(quadrants, seen=4)), "seen: expected 1, 2 or 3 quadrants"),
        (lambda: quadrants((1, 4, 4), 0), "seen: expected an integer >= 1, found 0"),
        (lambda: Completion(5, MASK, partial(likelihoods.Normal, learn="optimal")), "expected one of independent"),
        (lambda: Completion(5, MASK, likelihoods.OneHotCategorical), "likelihood: expected one of independent"),
        (
            lambda: Completion(5, MASK).complete(torch.full((2, 5), torch.nan)),
            "x: expected finite values where it is seen, found nan at .0, 0.",
        ),
        (
            lambda: importance.sample(CompletionVAE(5, 2, MASK), 3),
            r"expected a model that generates n data, .* found model\(x, s\); complete\(x\) draws the unseen part of x",
        ),
        (lambda: importance.sample((lambda x: x, lambda x: None), 3), r"model\(n=...\), found model\(x\)$"),
        (
            lambda: Completion(5, MASK).complete(torch.full((2, 5), 0.3)),
            r"x: expected values in the support Boolean\(\), found 0.3 at \(0, 0\), 4 of 10 in all",
        ),
        (
            lambda: CompletionVAE(5, 2, MASK, partial(likelihoods.Columns, families=FAMILIES)).complete(
                -torch.ones(2, 5)
            ),
            r"x: expected values in the support .* in column 2, found -1 at \(0, 2\), 2 of 10 in all",
        ),
        (lambda: Completion(5, MASK).complete(torch.zeros(2, 4)), r"x: expected shape \(N, 5\), found \(2, 4\)"),
        (lambda: Completion(5, MASK).complete(torch.zeros(2, 5), 0), "n: expected an integer >= 1, found 0"),
        (lambda: Completion(5, MASK).model(), "x: expected data, or as s what is seen of them, found neither"),
        (lambda: pyrovae.fit(Completion(5, MASK), torch.full((9, 5), torch.nan)), "x: expected finite values"),
        (lambda: pyrovae.fit(Completion(5, MASK), torch.full((9, 5), 0.5)), "x: expected values in the support"),
        (lambda: CompletionVAE(5, 2, MASK, guide=guides.PowerSpherical), "guide: expected one on all real vectors"),
        (lambda: CompletionVAE(5, 2, MASK, prior_network=nn.Linear(5, 3)), "prior_network: expected a network from"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
