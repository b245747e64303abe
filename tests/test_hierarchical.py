"""Several layers of latents: closed forms of a linear model, both guides, and what is refused."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import test_graphs
import torch
from conftest import X, binary, two_layers
from pyro import poutine
from pyro.infer import Predictive, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence

import pyrovae
from pyrovae import guides, likelihoods, networks, objectives, priors
from pyrovae.models import HierarchicalVAE
from pyrovae.models.hierarchical_vae import DIRECTIONS, product
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.programs import traces

D, Z1, Z2, S = 5, 2, 1, 0.7
AFFINE = partial(MLP, hidden=())
SMALL = partial(MLP, hidden=(8,))
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)
SHAPE = {"event_shape": X, "latent_dim": 3, "above": 2}
made = partial(HierarchicalVAE, **SHAPE, encoder=SMALL, decoder=SMALL, between=SMALL)


def affine(network):
    """The weight and bias of an affine network, detached."""
    layer = network if isinstance(network, nn.Linear) else network[-1]
    return layer.weight.detach(), layer.bias.detach()


def normal_of(factor):
    """The weight and bias of the mean of p(z|y), a normal, and its variance, which is made not to depend on y."""
    weight, bias = affine(factor.network)
    d = factor.family.latent_shape[0]
    weight[d:] = 0
    return weight[:d], bias[:d], bias[d:].exp()


def chained(mean, covariance, weight, bias, noise):
    """The joint law of (u, v), for u ~ Normal(mean, covariance) and v|u ~ Normal(weight u + bias, diag noise)."""
    cross = weight @ covariance
    below = torch.cat([cross, cross @ weight.T + noise.diag()], 1)
    return torch.cat([mean, mean @ weight.T + bias], -1), torch.cat([torch.cat([covariance, cross.T], 1), below])


def linear(direction, guide=guides.DiagonalNormal):
    """A hierarchy of affine normals in float64, with what is known of it: p(z2, z1), log p(x), data."""
    torch.manual_seed(1)
    vae = HierarchicalVAE(
        D, Z1, Z2, likelihood=partial(likelihoods.Normal, scale=S), guide=guide, encoder=AFFINE, decoder=AFFINE,
        between=AFFINE, direction=direction,
    ).double()  # fmt: skip
    w, b = affine(vae.decoder)
    w.copy_(torch.linalg.qr(torch.randn(D, Z1).double())[0])  # columns orthogonal: p(x|z1) is diagonal in z1
    a, c, t = normal_of(vae.conditionals[0])
    a.mul_(2)
    for factor in vae.recognition.factors:
        normal_of(factor)
    prior = chained(torch.zeros(Z2).double(), torch.eye(Z2).double(), a, c, t)
    marginal = dist.MultivariateNormal(prior[0][Z2:], prior[1][Z2:, Z2:])
    noise = torch.full((D,), S**2, dtype=torch.float64)
    mean, covariance = chained(marginal.mean, marginal.covariance_matrix, w, b, noise)
    evidence = dist.MultivariateNormal(mean[Z1:], covariance[Z1:, Z1:])
    x = evidence.sample((30,))
    return SimpleNamespace(vae=vae, w=w, b=b, a=a, c=c, t=t, prior=prior, marginal=marginal, evidence=evidence, x=x)


def q_of(known):
    """q(z2, z1|x), for x (N, D): means (N, Z2 + Z1), and the covariance."""
    recognition, x = known.vae.recognition, known.x
    weight, bias, s1 = normal_of(recognition.factors[0])
    m1 = x @ weight.T + bias
    if type(recognition) is DIRECTIONS["bottom-up"]:
        mean, covariance = chained(m1, s1.diag(), *normal_of(recognition.factors[1]))
        turned = [*range(Z1, Z1 + Z2), *range(Z1)]
        return mean[:, turned], covariance[turned][:, turned]
    weight, bias, s2 = normal_of(recognition.factors[1])
    m2 = torch.cat([m1, affine(recognition.factors[0].network)[1][Z1:].expand_as(m1)], -1) @ weight.T + bias
    v = 1 / (1 / s1 + 1 / known.t)
    return chained(m2, s2.diag(), (v / known.t).diag() @ known.a, v * (m1 / s1 + known.c / known.t), v)


def by_hand(known, beta):
    """-E_q[log p(x|z1)] + beta KL(q(z2, z1|x) || p(z2, z1)), the mean over the data, by the algebra of normals."""
    mean, covariance = q_of(known)
    kl = kl_divergence(dist.MultivariateNormal(mean, covariance), dist.MultivariateNormal(*known.prior))
    residual = (known.x - mean[:, Z2:] @ known.w.T - known.b).square().sum(-1)
    spread = (known.w @ covariance[Z2:, Z2:] @ known.w.T).trace()
    nll = (residual + spread) / (2 * S**2) + D * math.log(S * math.sqrt(2 * math.pi))
    assert kl.mean() > 0.4  # else there would be nothing to see
    return (nll + beta * kl).mean().item()


def repeated(objective, programs, x, times=8, copies=500):
    """The mean loss at many noises, and its standard error."""
    with torch.no_grad():
        losses = [objective.loss(programs.model, programs.guide, x.repeat(copies, 1)) for _ in range(times)]
    values = torch.tensor(losses)
    return values.mean().item(), values.std().item() / math.sqrt(times)


ALLOWED = [("bottom-up", "sampled"), ("top-down", "sampled"), ("top-down", "analytic")]


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize(("direction", "estimator"), ALLOWED)
def test_the_loss_is_the_closed_form_in_the_mean(direction, estimator, beta):
    known = linear(direction)
    truth = by_hand(known, beta)
    mean, error = repeated(ELBO(beta, estimator), known.vae, known.x)
    assert error < 0.04
    assert abs(mean - truth) < 4 * error


@pytest.mark.parametrize(("direction", "estimator"), ALLOWED)
def test_the_gradient_is_that_of_the_closed_form(direction, estimator):
    """By differences of it, at three parameters: one of the model, one of each layer's guide."""
    known = linear(direction)
    parameters = [known.vae.decoder[-1].bias, *(factor.network[-1].bias for factor in known.vae.recognition.factors)]
    loss = ELBO(0.5, estimator).differentiable_loss(known.vae.model, known.vae.guide, known.x.repeat(4000, 1))
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        ends = []
        for step in (1e-5, -2e-5):
            parameter.data[0] += step
            ends.append(by_hand(known, 0.5))
        parameter.data[0] += 1e-5
        assert gradient[0].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=0.05, abs=0.02)


@each_direction
def test_importance_sampling_finds_the_evidence(direction):
    known = linear(direction)
    found = pyrovae.evaluate(known.vae, known.x, particles=4000)
    truth = known.evidence.log_prob(known.x).mean().item()
    assert found["log_likelihood"]["value"] == pytest.approx(truth, abs=0.05)
    assert -found["elbo"]["value"] == pytest.approx(by_hand(known, 1.0), abs=0.05)
    assert found["elbo"]["value"] < truth - 0.1


def exact(direction):
    """The linear model with its posterior as the guide: p(z1|x) p(z2|z1), or p(z2|x) p(z1|z2, x)."""
    known = linear(direction, guides.FullRankNormal if direction == "bottom-up" else guides.DiagonalNormal)
    lower, upper = (affine(factor.network) for factor in known.vae.recognition.factors)
    for weight, bias in (lower, upper):
        weight.zero_()
        bias.zero_()
    likelihood = known.w.T @ known.w / S**2  # precision of p(x|z1) in z1
    if direction == "bottom-up":
        prior = known.marginal.precision_matrix
        covariance = torch.linalg.inv(prior + likelihood)
        lower[0][:Z1] = covariance @ known.w.T / S**2
        lower[1][:Z1] = covariance @ (prior @ known.marginal.mean - known.w.T @ known.b / S**2)
        scale = torch.linalg.cholesky(covariance)
        lower[1][Z1:] = torch.stack([scale[0, 0].log(), scale[1, 1].log(), 2**0.5 * scale[1, 0] / scale[0, 0]])
        precision = 1 + known.a.T @ (known.a / known.t[:, None])
        upper[0][:Z2] = (known.a / known.t[:, None]).T / precision
        upper[1][:Z2] = -(upper[0][:Z2] @ known.c)
        upper[1][Z2:] = -precision.log() / 2  # log of the scale
        return known
    lower[0][:Z1] = known.w.T / S**2 / likelihood.diagonal()[:, None]
    lower[1][:Z1] = -(lower[0][:Z1] @ known.b)
    lower[1][Z1:] = -likelihood.diagonal().log()
    seen = known.t + 1 / likelihood.diagonal()  # variance of the mean that is handed up, given z2
    precision = 1 + known.a.T @ (known.a / seen[:, None])
    upper[0][:Z2, :Z1] = (known.a / seen[:, None]).T / precision
    upper[1][:Z2] = -(upper[0][:Z2, :Z1] @ known.c)
    upper[1][Z2:] = -precision.log()  # log of the variance
    return known


@each_direction
def test_the_posterior_as_guide_gives_the_evidence_in_every_draw(direction):
    known = exact(direction)
    with torch.no_grad():
        log_w = traces.log_weights(known.vae.model, known.vae.guide, 7, known.x)
    torch.testing.assert_close(log_w, known.evidence.log_prob(known.x).expand(7, 30), rtol=0, atol=1e-9)


def test_the_ladder_merges_as_normals_multiply(double):
    s, t = torch.randn(2, 6, 3).exp()
    a, b = dist.Normal(torch.randn(6, 3), s).to_event(1), dist.Normal(torch.randn(6, 3), t).to_event(1)
    z = torch.randn(50, 6, 3)
    constant = dist.Normal(b.mean, torch.hypot(s, t)).to_event(1).log_prob(a.mean)
    torch.testing.assert_close(a.log_prob(z) + b.log_prob(z), product(a, b).log_prob(z) + constant.expand(50, 6))


@pytest.mark.parametrize(("s", "t"), [(1e-30, 1.0), (1.0, 1e-30), (1e30, 1.0), (1e30, 1e30), (1e-30, 1e-30)])
def test_a_merge_of_extreme_scales_is_finite_with_its_gradient(s, t):
    s, t = torch.tensor([s], requires_grad=True), torch.tensor([t], requires_grad=True)
    merged = product(dist.Normal(torch.ones(1), s).to_event(1), dist.Normal(-torch.ones(1), t).to_event(1))
    assert -1 <= merged.mean.item() <= 1
    assert merged.base_dist.scale.item() == pytest.approx(1 / math.hypot(1 / s.item(), 1 / t.item()))
    gradients = torch.autograd.grad(merged.mean.sum() + merged.base_dist.scale.sum(), (s, t))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_an_analytic_kl_of_the_wrong_order_is_refused_before_any_gradient():
    vae, x = made(), binary()
    objective = ELBO(estimator="analytic")
    message = r"analytic: expected .* order, z2, z1, found z1, z2.* estimator=\"sampled\""
    for loss in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        with pytest.raises(ValueError, match=message):
            loss(vae.model, vae.guide, x)
    for compile in (False, "auto"):
        with pytest.raises(ValueError, match=message):
            pyrovae.fit(vae, x, epochs=1, objective=ELBO(estimator="analytic"), compile=compile)
    assert all(parameter.grad is None for parameter in vae.parameters())
    pair = two_layers([0.3, -0.5, 0.8, 0.2], s=0.7)
    with pytest.raises(ValueError, match=message):
        objectives.KL(2.0, "analytic").loss(pair.model, pair.guide, pair.x)


@pytest.mark.filterwarnings("ignore:Failed to verify mean field")
def test_what_is_refused_would_be_wrong():
    """The control: the closed form of each site at the draws of the other is far from the KL."""
    known = linear("bottom-up")
    mean, error = repeated(ELBO(1.0, TraceMeanField_ELBO()), known.vae, known.x, copies=2000)
    assert abs(mean - by_hand(known, 1.0)) > 12 * error


@each_direction
@pytest.mark.parametrize("above", [(2,), (3, 2)])
def test_a_gradient_reaches_every_parameter(direction, above):
    vae = made(above=above, direction=direction)
    ELBO().loss_and_grads(vae.model, vae.guide, binary())
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


CASES = [
    ("bottom-up", ELBO),
    ("bottom-up", partial(ELBO, 0.5, "path-derivative")),
    ("top-down", partial(ELBO, WarmUp(5))),
    ("top-down", partial(ELBO, 0.5, "analytic")),
]


@pytest.mark.parametrize(("direction", "objective"), CASES)
def test_recorded_it_gives_the_loss_and_gradients_of_eager_pyro(direction, objective, double, monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", (partial(made, direction=direction), objective, [binary]))
    losses = test_graphs.compare("it", torch.float64, "auto")
    assert losses[0] != losses[1]


@each_direction
def test_what_is_sampled_follows_what_is_given(direction):
    vae = linear(direction).vae
    assert vae.sample(4).shape == (4, D)
    z2 = torch.tensor([[-5.0], [0.0], [5.0]]).double().expand(3, 1).repeat_interleave(2000, 0)
    with torch.no_grad():
        given = poutine.condition(vae.model, {"z2": z2})()
        expected = vae.decoder(vae.conditionals[0](z2).mean)
        drawn = Predictive(vae.model, num_samples=2)(n=5)
    assert given.shape == (6000, D)
    torch.testing.assert_close(given.unflatten(0, (3, 2000)).mean(1), expected[::2000], rtol=0, atol=0.3)
    assert (expected[0] - expected[-1]).abs().max() > 1
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {
        "z2": (2, 5, Z2), "z1": (2, 5, Z1), "x": (2, 5, D)
    }  # fmt: skip


@each_direction
def test_each_layer_is_evaluated(direction):
    known = linear(direction)
    found = pyrovae.evaluate(known.vae, known.x, particles=2000)
    assert found["latents"] == {"z1": Z1, "z2": Z2}
    assert all(0 <= count <= found["latents"][site] for site, count in found["active_units"].items())
    assert found["active_units"]["z1"] == Z1
    kls = {site: value["value"] for site, value in found["kl_by_site"].items()}
    assert set(kls) == {"z1", "z2"}
    assert sum(kls.values()) == pytest.approx(found["kl"]["value"], abs=1e-9)
    truth = by_hand(known, 1.0) - by_hand(known, 0.0)
    assert found["kl"]["value"] == pytest.approx(truth, abs=0.05)


PARTS = [
    {"guide": guides.FullRankNormal},
    {"guide": guides.IAF, "conditional_prior": guides.FullRankNormal},
    {"guide": partial(guides.Mixture, components=2), "prior": partial(priors.Mixture, components=3)},
    {"guide": guides.PowerSpherical, "conditional_prior": guides.PowerSpherical, "prior": priors.UniformSphere},
    {"direction": "top-down", "prior": partial(priors.VampPrior, components=5)},
    {"direction": "top-down", "prior": priors.NeuralSpline, "above": (4, 3, 2)},
    {"event_shape": (1, 8, 8), "encoder": networks.Conv, "decoder": networks.Conv},
]


@pytest.mark.parametrize("parts", PARTS)
def test_other_parts_train(parts):
    vae = HierarchicalVAE(**({"event_shape": X, "latent_dim": 3, "above": 2, "between": SMALL} | parts))
    x = vae.sample(64)
    vae.check(x)
    losses = [record["loss"] for record in pyrovae.fit(vae, x, epochs=3, batch_size=32, compile=False)]
    assert torch.tensor(losses).isfinite().all()
    assert pyrovae.evaluate(vae, x, 5)["log_likelihood"]["value"] < 0


@pytest.mark.parametrize(
    ("direction", "estimator"),
    [pytest.param(*case, marks=[] if case == ALLOWED[-1] else pytest.mark.slow) for case in ALLOWED],
)
def test_it_learns_the_digits(digits, direction, estimator):
    vae = HierarchicalVAE(digits.event_shape, 10, 5, direction=direction, between=SMALL)
    first, *_, last = pyrovae.fit(vae, digits, epochs=6, objective=ELBO(WarmUp(30), estimator), compile=False)
    assert last["valid_loss"] < first["valid_loss"] - 3
    assert last["loss"] < 35


@each_direction
def test_a_copy_is_another_model(direction):
    vae = made(direction=direction)
    twin, other = copy.deepcopy(vae), made(direction=direction)
    pyrovae.fit(twin, binary(), epochs=2, compile=False)
    assert not any(torch.equal(a, b) for a, b in zip(vae.parameters(), twin.parameters(), strict=True))
    other.load_state_dict(twin.state_dict())
    x = binary(5)
    found = [pyrovae.evaluate(each, x, 3)["elbo"]["value"] for each in (vae, twin, other)]
    assert found[0] != found[1] == found[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"above": ()}, r"above: expected at least 1 size, found \(\)"),
        ({"above": (2, 0)}, "above: expected an integer >= 1, found 0"),
        ({"latent_dim": 0}, "latent_dim: expected an integer >= 1, found 0"),
        ({"direction": "top-dwon"}, "unknown direction 'top-dwon'; did you mean 'top-down'"),
        ({"direction": "top-down", "guide": guides.IAF}, "top-down: expected DiagonalNormal, .* found IAF"),
        ({"direction": "top-down", "conditional_prior": guides.FullRankNormal}, "top-down: expected .* FullRankNormal"),
        ({"guide": guides.DiagonalNormal(3)}, "guide: expected a class or a partial that builds one for each layer"),
        ({"between": nn.Linear(3, 4)}, "between: expected a class or a partial that builds one for each layer"),
        ({"between": lambda i, o: nn.Linear(7, 4)}, r"between: expected a network from \(N, 2\) to \(N, 6\)"),
        ({"encoder": nn.Linear(X, 7)}, r"encoder: expected a network from \(N, 4\) to \(N, 6\), found output \(N, 7\)"),
        ({"decoder": nn.Linear(2, X)}, r"decoder: expected a network from \(N, 3\) to \(N, 4\)"),
        ({"prior": priors.UniformSphere}, "guide: expected one on"),
        ({"conditional_prior": guides.PowerSpherical}, "guide: expected one on"),
        ({"likelihood": likelihoods.Missing}, "encoder: expected one that takes missing entries"),
    ],
)
def test_bad_input_is_told_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_a_vamp_prior_needs_a_guide_that_knows_the_top():
    vae = made(prior=partial(priors.VampPrior, components=5))
    with pytest.raises(ValueError, match=r"prior: expected one that needs no q\(zL\|x\)"):
        pyrovae.fit(vae, binary(), epochs=1)


def test_data_are_checked():
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 4\), found \(20, 5\)"):
        pyrovae.fit(made(), torch.zeros(20, 5), epochs=1)
    with pytest.raises(ValueError, match="x: expected values in the support"):
        pyrovae.fit(made(), torch.full((20, X), 0.5), epochs=1)


@each_direction
def test_the_first_factor_of_the_guide_is_to_be_asked(direction):
    vae, x = made(direction=direction), binary()
    q = poutine.trace(vae.guide).get_trace(x)
    first = next(name for name in q.stochastic_nodes if name != "data")
    assert first == {"bottom-up": "z1", "top-down": "z2"}[direction]
    torch.testing.assert_close(vae.q_z(x).mean, q.nodes[first]["fn"].mean)
