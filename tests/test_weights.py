"""A decoder of uncertain weights: what they cost, once for all data; what they say of new data."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import test_graphs
import torch
from conftest import X, binary
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from torch import nn
from torch.distributions import kl_divergence
from torch.utils.data import DataLoader, TensorDataset

import pyrovae
from pyrovae import anomaly
from pyrovae.data import Split, Splits
from pyrovae.likelihoods import Normal
from pyrovae.models import BayesianVAE
from pyrovae.networks import MLP, Conv
from pyrovae.objectives import ELBO, IWAE, FreeBits
from pyrovae.programs.importance import log_likelihood

S, ROWS = 0.7, 12  # noise, rows of the data
ANALYTIC = partial(ELBO, estimator="analytic")


@pytest.fixture
def small():
    return BayesianVAE(X, 3, 20)


@pytest.fixture
def one(double):
    """p(w) = N(0, 2^2), p(z) = N(0, 1), p(x|z, w) = N(wz, S^2), with q(w) = N(1.2, .6^2), q(z|x) = N(.6 x, .7^2)."""
    encoder = nn.Linear(1, 2)
    encoder.weight.data = torch.tensor([[0.6], [0.0]])
    encoder.bias.data = torch.tensor([0.0, 2 * math.log(0.7)])
    decoder = nn.Linear(1, 1, bias=False)
    decoder.weight.data.fill_(1.2)
    parts = {"likelihood": partial(Normal, scale=S), "encoder": encoder, "decoder": decoder}
    vae = BayesianVAE(1, 1, ROWS, scale=2.0, spread=0.3, **parts)
    return SimpleNamespace(vae=vae, x=torch.linspace(-2, 3, ROWS)[:, None], kl=kl_divergence(vae.q_w(), vae.p_w()))


def by_hand(one, x):
    """The loss of a batch, by the moments of w and z: (x - wz)^2 has the mean x^2 - 2x Ew Ez + Ew^2 Ez^2."""
    w, z = one.vae.q_w().base_dist, one.vae.q_z(x).base_dist
    square = x**2 - 2 * x * w.loc * z.loc + (w.loc**2 + w.variance) * (z.loc**2 + z.variance)
    reconstruction = square / (2 * S**2) + math.log(S * math.sqrt(2 * math.pi))
    kl = (z.loc**2 + z.variance - 1) / 2 - z.scale.log()
    return (reconstruction + kl).mean() + one.kl / ROWS


def quadrature(law, log_f):
    """log E[f(w)] of a law of one weight, from log f at the points w (points, ...)."""
    law = law.base_dist
    w = law.loc + law.scale * torch.linspace(-8, 8, 4001)
    log_p = law.log_prob(w) + (w[1] - w[0]).log()
    values = log_f(w)
    return (values + log_p.reshape(-1, *[1] * (values.ndim - 1))).logsumexp(0), log_p.exp() @ values


def evidence(w, x):
    """log p(x|w), z integrated out. (points, N)"""
    return dist.Normal(0.0, (w[:, None] ** 2 + S**2).sqrt()).log_prob(x[:, 0])


# What the weights cost.


@pytest.mark.parametrize("rows", [ROWS, ROWS // 2, 1])
def test_their_kl_is_paid_once_for_all_data_whatever_the_batch(one, rows):
    """In closed form it is the whole difference between beta = 1 and 0 but for the KL of z; and twice that at 2."""
    paid = []
    for x in one.x.split(rows):
        losses = []
        for beta in (0.0, 1.0, 2.0):
            torch.manual_seed(1)
            losses.append(ANALYTIC(beta).loss(one.vae.model, one.vae.guide, x))
        of_z = kl_divergence(one.vae.q_z(x), one.vae.p_z().expand((rows,))).mean().item()
        assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-9)
        paid.append(losses[1] - losses[0] - of_z)
    assert paid == pytest.approx([one.kl.item() / ROWS] * len(paid), rel=1e-9)
    assert one.kl > 0.5


@pytest.mark.parametrize("estimator", [Trace_ELBO, pyrovae.objectives.elbo.Analytic_ELBO])
def test_the_loss_of_all_data_is_the_mean_of_its_halves_and_known_in_closed_form(one, estimator):
    objective = ELBO(estimator=estimator(num_particles=600, vectorize_particles=True, max_plate_nesting=1))
    halves = one.x.split(ROWS // 2)
    with torch.no_grad():
        whole, *parts = (
            torch.tensor([objective.loss(one.vae.model, one.vae.guide, x) for _ in range(6)]) for x in (one.x, *halves)
        )
        truths = [by_hand(one, x).item() for x in (one.x, *halves)]
    assert truths[0] == pytest.approx((truths[1] + truths[2]) / 2)
    assert abs(truths[1] - truths[2]) > 0.1
    for values, truth in zip((whole, *parts), truths, strict=True):
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(6)
        assert values.std() < 0.1


def test_pyros_own_loss_is_the_sum_over_the_batch(one):
    x = one.x[:5]
    torch.manual_seed(2)
    theirs = Trace_ELBO().loss(one.vae.model, one.vae.guide, x)
    torch.manual_seed(2)
    assert theirs == pytest.approx(5 * ELBO().loss(one.vae.model, one.vae.guide, x), rel=1e-12)


def test_trained_the_loss_is_a_bound_on_the_evidence_of_all_data_and_near_it(one):
    svi = pyrovae.SVI(one.vae.model, one.vae.guide, partial(torch.optim.Adam, lr=0.02), ANALYTIC())
    for _ in range(200):
        svi.step_async(one.x)
    one.kl = kl_divergence(one.vae.q_w(), one.vae.p_w())
    with torch.no_grad():
        truth, _ = quadrature(one.vae.p_w(), lambda w: evidence(w, one.x).sum(-1))
        gap = ROWS * by_hand(one, one.x) + truth
    assert 0 < gap < 3  # log 2 of it is the other sign of w


def test_weights_of_no_spread_are_the_plain_vae(small):
    small.w_log_variance.data.fill_(-60)
    x, plain = binary(), small.at(small.q_w().mean)
    q = poutine.trace(small.guide).get_trace(x)
    traces = [poutine.trace(poutine.replay(each.model, trace=q)).get_trace(x) for each in (small, plain)]
    for trace in traces:
        trace.compute_log_prob()
    for site in ("z", "x"):
        ours, theirs = (trace.nodes[site]["log_prob"] for trace in traces)
        torch.testing.assert_close(ours, theirs)


def test_the_prior_is_as_wide_as_it_says():
    vae = BayesianVAE((1, 8, 8), 2, 10, decoder=Conv, scale=3.0, spread=0.1)
    named = dict(zip(vae.shapes, vae.w_scale.split([shape.numel() for shape in vae.shapes.values()]), strict=True))
    for name, shape in vae.shapes.items():
        fan_in = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))[0] if len(shape) > 1 else 1
        torch.testing.assert_close(named[name], torch.full_like(named[name], 3 / math.sqrt(fan_in)))
    torch.testing.assert_close(vae.q_w().stddev, 0.1 * vae.p_w().stddev)
    torch.testing.assert_close(vae.q_w().mean, nn.utils.parameters_to_vector(vae.decoder.parameters()))


# What they say of new data.


def test_the_predictive_is_the_mean_over_the_weights_and_above_the_mean_of_logs(one):
    x = torch.tensor([[-2.5], [0.1], [1.0], [2.0], [3.5]])
    value, error = one.vae.posterior_predictive(x, draws=100, particles=200)
    with torch.no_grad():
        truth, mean_of_logs = quadrature(one.vae.q_w(), lambda w: evidence(w, x))
    assert (abs(value - truth) < 4 * error).all()
    assert (error < 0.15).all()
    assert (value > mean_of_logs).all()
    assert (truth - mean_of_logs).max() > 0.1  # else there would be nothing to see


def test_the_predictive_depends_on_the_seed_alone(small):
    x = binary(30)
    first = small.posterior_predictive(x, 3, 5)
    again = small.posterior_predictive(DataLoader(TensorDataset(x), batch_size=7), 3, 5)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], small.posterior_predictive(x, 3, 5, seed=1)[0])
    grey = Split(torch.rand(9, X), binarize="dynamic")
    assert torch.equal(small.posterior_predictive(grey, 3, 5)[0], small.posterior_predictive(grey, 3, 5)[0])


def test_of_weights_without_spread_it_is_the_plain_log_likelihood(one):
    one.vae.w_log_variance.data.fill_(-60)
    value, _ = one.vae.posterior_predictive(one.x, 3, 1000)
    expected, error = log_likelihood(one.vae.at(one.vae.q_w().mean), one.x, 1000)
    assert (abs(value - expected) < 5 * error).all()
    assert (error < 0.05).all()


def test_at_is_a_vae_of_its_own_that_answers_all_questions(small):
    w = small.q_w().sample()
    vae, x = small.at(w), binary()
    assert type(vae) is pyrovae.VAE
    z = torch.randn(7, 3)
    torch.testing.assert_close(vae.p_x(z).mean, small.p_x(z, w).mean)
    assert pyrovae.evaluate(vae, x, 5)["kl_estimator"] == "closed form"
    before = copy.deepcopy(small.state_dict())
    pyrovae.fit(vae, x, epochs=1)
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())


def test_new_data_are_drawn_at_trained_weights(one):
    one.vae.w_log_variance.data.fill_(-60)
    assert one.vae.sample(20000).var().item() == pytest.approx(1.2**2 + S**2, rel=0.05)


@pytest.mark.parametrize(
    "ask",
    [
        lambda vae, x: pyrovae.gaps(vae, x, 2),
        lambda vae, x: IWAE().loss(vae.model, vae.guide, x),
        lambda vae, x: FreeBits().loss(vae.model, vae.guide, x),
    ],
)
def test_what_needs_a_score_of_each_row_names_the_site(small, ask):
    with pytest.raises(ValueError, match=r"site 'w': .* found plates \[\]: all rows share it; fix its value"):
        ask(small, binary())


def test_evaluate_averages_over_the_weights(small):
    x = binary(30)
    found, each = pyrovae.evaluate(small, x, 5, draws=3), [pyrovae.evaluate(vae, x, 5) for vae in small.at_draws(3)]
    for name in ("elbo", "reconstruction", "kl"):
        assert found[name]["value"] == pytest.approx(sum(one[name]["value"] for one in each) / 3)
    log_p = torch.stack([log_likelihood(vae, x, 5)[0] for vae in small.at_draws(3)])
    assert found["log_likelihood"]["value"] == pytest.approx((log_p.logsumexp(0) - math.log(3)).mean().item())
    assert found["draws"] == 3
    assert "draws" not in each[0]
    assert -anomaly.surprisal(small, x, 5).mean().item() == pytest.approx(
        pyrovae.evaluate(small, x, 5)["log_likelihood"]["value"]
    )


@pytest.mark.slow
def test_evaluate_gives_the_posterior_predictive_and_bounds_its_error(small):
    x = binary(30)
    small.w_log_variance.data += 2
    found, again = pyrovae.evaluate(small, x, 200, draws=20), []
    for seed in range(6):
        log_p, _ = small.posterior_predictive(x, 20, 200, seed)
        again.append(log_p.double().mean())
    error = torch.stack(again).std().item()
    assert found["log_likelihood"]["value"] == pytest.approx(torch.stack(again).mean().item(), abs=4 * error)
    assert error < 2 * found["monte_carlo_error"]
    assert found["elbo"]["value"] < found["log_likelihood"]["value"]


# As Pyro programs.


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(small, parallel):
    drawn = Predictive(small.model, guide=small.guide, num_samples=4, parallel=parallel)(binary(10))
    assert drawn["z"].shape == (4, 10, 3)
    assert drawn["w"].flatten(1).shape == (4, len(small.w_scale))
    prior = Predictive(small.model, num_samples=4, parallel=parallel)(n=3)
    assert prior["x"].shape == (4, 3, X)


def test_each_particle_has_weights_of_its_own(small):
    z, w = torch.randn(5, 7, 3), small.p_w().sample((5, 1))
    together = small.p_x(z, w).mean
    for k in range(5):
        torch.testing.assert_close(together[k], small.at(w[k, 0]).p_x(z[k]).mean)
    torch.testing.assert_close(small.p_x(z[0], w).mean[3], small.p_x(z[0], w[3, 0]).mean)


@pytest.mark.parametrize("handler", [poutine.condition, poutine.do])
def test_given_weights_are_used(small, handler):
    w, z = small.p_w().sample(), torch.randn(9, 3)
    trace = poutine.trace(handler(small.model, {"w": w, "z": z})).get_trace()
    torch.testing.assert_close(trace.nodes["x"]["fn"].mean, small.at(w).p_x(z).mean)
    assert trace.nodes["x"]["value"].shape == (9, X)


def test_a_gradient_reaches_every_parameter(small):
    small.objective().loss_and_grads(small.model, small.guide, binary())
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


MLPS = partial(BayesianVAE, X, 3, 40, decoder=partial(MLP, hidden=(5,), norm=True))
RECORDED = {
    "closed KL": (MLPS, ANALYTIC, [binary]),
    "sampled KL": (MLPS, ELBO, [binary]),
    "a draw of w for each particle": (MLPS, lambda: ELBO(estimator=Trace_ELBO(**test_graphs.vectorised())), [binary]),
    "convolutions": (
        partial(BayesianVAE, (1, 4, 4), 2, 40, decoder=partial(Conv, channels=(4,), hidden=5)),
        ANALYTIC,
        [lambda: binary(20).repeat(1, 4).reshape(20, 1, 4, 4)],
    ),
}


@pytest.mark.parametrize("how", ["auto", pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_it_gives_the_loss_and_gradients_of_eager_pyro(name, how, double, monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", RECORDED[name])
    losses = test_graphs.compare("it", torch.float64, how)
    assert losses[0] != losses[1]


# In training.


def test_it_trains_on_batches_and_is_validated_on_more_rows_than_it_trains_on(small):
    records = pyrovae.fit(small, Splits("few", Split(binary()), Split(binary(60))), epochs=15, batch_size=8)
    assert records[-1]["loss"] < records[0]["loss"]
    assert all(math.isfinite(record["valid_loss"]) for record in records)


def test_convolutions_train():
    vae = BayesianVAE((1, 8, 8), 2, 10, encoder=Conv, decoder=partial(Conv, norm=True))
    first, last = pyrovae.fit(vae, vae.sample(10), epochs=2, batch_size=5)
    assert last["loss"] < first["loss"]


@pytest.mark.parametrize("data", [binary, lambda: DataLoader(TensorDataset(binary()), batch_size=5)])
def test_rows_that_are_not_those_of_the_data_are_refused(data):
    assert len(pyrovae.fit(BayesianVAE(X, 2, 20), data(), epochs=1)) == 1
    with pytest.raises(ValueError, match="training_rows: expected the number of training data, 20, found 30"):
        pyrovae.fit(BayesianVAE(X, 2, 30), data(), epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "training_rows: expected an integer >= 1, found None"),
        ({"training_rows": 0}, "training_rows: expected an integer >= 1, found 0"),
        ({"training_rows": 5, "scale": 0.0}, "scale: expected a number > 0, found 0"),
        ({"training_rows": 5, "spread": -1.0}, "spread: expected a number > 0, found -1"),
        ({"training_rows": 5, "decoder": lambda *_: nn.Identity()}, "decoder: expected a network with weights"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BayesianVAE(3, 3, **options)
