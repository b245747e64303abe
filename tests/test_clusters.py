"""Clusters without labels: closed forms of a linear mixture, where clusters start, and scores against labels."""

import copy
import itertools
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import test_graphs
import torch
from conftest import X, binary
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO
from torch import nn
from torch.distributions import kl_divergence

import pyrovae
from pyrovae import guides, plots, priors
from pyrovae.data import Split
from pyrovae.evaluation.clusters import agreement, responsibilities
from pyrovae.likelihoods import Normal
from pyrovae.models import MixtureVAE, SemiSupervisedVAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO, MMD, Capacity, Constant, FreeBits, WarmUp
from pyrovae.objectives.schedules import Late
from pyrovae.programs import traces
from pyrovae.programs.importance import classify
from pyrovae.runs import build, figures
from pyrovae.runs.recipe import Recipe

D, K, WIDTH, S = 2, 3, 5, 0.7
SMALL = partial(MLP, hidden=(8,))
made = partial(MixtureVAE, X, D, clusters=K, encoder=SMALL, decoder=SMALL, spread=1.0)
diagonal = partial(made, conditional_prior=guides.DiagonalNormal)


@pytest.fixture
def linear(double):
    """p(y), p(z|y) = N(m_y, C_y), p(x|z) = N(Wz + b, s^2 I), and log p(x, y) and p(z|x, y) in closed form."""
    likelihood, encoder, decoder = partial(Normal, scale=S), nn.Linear(WIDTH, 2 * D), nn.Linear(D, WIDTH)
    vae = MixtureVAE(WIDTH, D, K, likelihood, encoder=encoder, decoder=decoder, spread=1.0)
    nn.init.normal_(vae.prior.h_y)
    w, b = (each.detach() for each in vae.decoder.parameters())
    # q(z|x): least squares, twice as wide as their error, so that its weights vary little.
    vae.encoder.weight.data = torch.cat([torch.linalg.pinv(w), torch.zeros(D, WIDTH)])
    width = (4 * S**2 * torch.linalg.inv(w.T @ w).diagonal()).log()
    vae.encoder.bias.data = torch.cat([-torch.linalg.pinv(w) @ b, width])
    with torch.no_grad():
        shares, p_z = vae.prior.h_y.log_softmax(0), vae.p_z(torch.eye(K))
    p_x = dist.MultivariateNormal(p_z.mean @ w.T + b, w @ p_z.covariance_matrix @ w.T + S**2 * torch.eye(WIDTH))
    precisions = p_z.precision_matrix + w.T @ w / S**2

    def log_joint(x):
        """log p(x, y), (N, K)."""
        return shares + p_x.log_prob(x.unsqueeze(-2))

    def posterior(x, y):
        """p(z|x, y), for x (..., N, 1, WIDTH) or (N, WIDTH), and y (..., N, K)."""
        pull = p_z.precision_matrix @ p_z.mean.unsqueeze(-1) + ((x - b) @ w / S**2)[..., None, :, None]
        mean = (y[..., None] * torch.linalg.solve(precisions, pull).squeeze(-1)).sum(-2)
        return dist.MultivariateNormal(mean, precision_matrix=torch.tensordot(y, precisions, 1))

    y = dist.Categorical(logits=shares).sample((30,))
    return SimpleNamespace(vae=vae, x=p_x.sample((30,))[range(30), y], log_joint=log_joint, posterior=posterior)


def exact(linear, first):
    """The posterior as a guide: y and then z, y enumerated; or z of whichever y, and then y by Bayes' rule."""

    def guide(x):
        with pyro.plate("data", len(x)):
            p_y = dist.OneHotCategorical(logits=linear.log_joint(x))
            if first == "y":
                y = pyro.sample("y", p_y, infer={"enumerate": "parallel"})
                return pyro.sample("z", linear.posterior(x, y))
            each = linear.posterior(x.unsqueeze(-2), torch.eye(K).expand(len(x), K, K))
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=p_y.logits), each))
            return pyro.sample("y", linear.vae.q_y(z), infer={"enumerate": "parallel"})

    return linear.vae.model, guide


def test_the_evidence_of_a_linear_mixture_is_that_of_its_normals(linear):
    found = pyrovae.evaluate(linear.vae, linear.x, particles=4000)
    truth = linear.log_joint(linear.x).logsumexp(-1).mean().item()
    assert found["log_likelihood"]["value"] == pytest.approx(truth, abs=0.05)
    assert found["elbo"]["value"] < truth - 0.1
    assert set(found["kl_by_site"]) == {"y", "z"}


@pytest.mark.parametrize("first", ["y", "z"])
def test_the_posterior_as_guide_gives_the_evidence_in_every_draw(linear, first):
    programs, truth = exact(linear, first), linear.log_joint(linear.x).logsumexp(-1)
    with torch.no_grad():
        q, p = traces.traces(*programs, 7, linear.x, enumerated=True)
        torch.testing.assert_close(traces.log_weight(q, p), truth.expand(7, -1), rtol=0, atol=1e-9)
    found = pyrovae.evaluate(programs, linear.x, particles=5)
    assert found["log_likelihood"]["value"] == pytest.approx(truth.mean().item(), abs=1e-9)
    assert ELBO(estimator="enumerated").loss(*programs, linear.x) == pytest.approx(-truth.mean().item(), abs=1e-9)
    share = responsibilities(programs, linear.x, particles=4000)
    torch.testing.assert_close(share, linear.log_joint(linear.x).softmax(-1), rtol=0, atol=0.05)


@pytest.mark.parametrize("beta", [1.0, 0.3, 0.0])
def test_the_enumerated_bound_is_the_sum_over_the_clusters(double, beta):
    vae, x = made(), binary()
    torch.manual_seed(1)
    found = ELBO(beta, "enumerated").loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    with torch.no_grad():
        z, total = vae.q_z(x).rsample(), 0.0
        for y in torch.eye(K):
            q_y = (vae.p_y().log_prob(y) + vae.p_z(y).log_prob(z)).exp() / sum(
                (vae.p_y().log_prob(other) + vae.p_z(other).log_prob(z)).exp() for other in torch.eye(K)
            )
            kl = q_y.log() + vae.q_z(x).log_prob(z) - vae.p_y().log_prob(y) - vae.p_z(y).log_prob(z)
            total += (q_y * (vae.p_x(z).log_prob(x) - beta * kl)).mean().item()
    assert found == pytest.approx(-total, rel=1e-12)


def twins():
    """Clusters that are diagonal normals, and a VAE with the same mixture as its prior."""
    mixture = diagonal()
    vae = pyrovae.VAE(X, D, partial(priors.Mixture, components=K))
    vae.encoder, vae.decoder = copy.deepcopy(mixture.encoder), copy.deepcopy(mixture.decoder)
    mean, log_variance = mixture.prior.h_z.data.chunk(2, -1)
    vae.prior.mean.data, vae.prior.log_scale.data = mean.clone(), log_variance / 2
    nn.init.normal_(mixture.prior.h_y)
    vae.prior.log_weight.data = mixture.prior.h_y.data.clone()
    return mixture, vae


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_with_the_clusters_summed_out_it_is_the_vae_with_a_mixture_prior(double, beta):
    (mixture, vae), x = twins(), binary()
    for programs, estimator in ((mixture, "enumerated"), (vae, "sampled")):
        torch.manual_seed(1)
        programs.found = ELBO(beta, estimator).differentiable_loss(programs.model, programs.guide, x)
        programs.found.backward()
    assert mixture.found.item() == pytest.approx(vae.found.item(), rel=1e-12)
    torch.testing.assert_close(mixture.prior.h_z.grad[:, :D], vae.prior.mean.grad)
    torch.testing.assert_close(mixture.prior.h_z.grad[:, D:] * 2, vae.prior.log_scale.grad)
    torch.testing.assert_close(mixture.prior.h_y.grad, vae.prior.log_weight.grad)
    for ours, others in zip(mixture.encoder.parameters(), vae.encoder.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, others.grad)
    pyro.clear_param_store()
    here, there = (pyrovae.evaluate(each, x, particles=20) for each in (mixture, vae))
    for name in ("elbo", "kl", "reconstruction", "log_likelihood"):
        assert here[name]["value"] == pytest.approx(there[name]["value"], rel=1e-9)


def test_its_gaps_are_those_of_the_vae_with_a_mixture_prior(double):
    (mixture, vae), x = twins(), binary()
    here, there = (pyrovae.gaps(each, x, steps=20, particles=20) for each in (mixture, vae))
    for name in ("elbo", "amortisation_gap", "approximation_gap", "log_likelihood"):
        assert here[name]["value"] == pytest.approx(there[name]["value"], rel=1e-6)
    assert here["amortisation_gap"]["value"] > 0.01


def test_alike_the_clusters_are_a_vae_and_stay_alike(double):
    mixture, x = made(spread=0.0), binary()
    vae = pyrovae.VAE(X, D)
    vae.encoder, vae.decoder = copy.deepcopy(mixture.encoder), copy.deepcopy(mixture.decoder)
    losses = []
    for programs, objective in ((mixture, ELBO(estimator="enumerated")), (vae, ELBO())):
        torch.manual_seed(1)
        losses.append(objective.loss(programs.model, programs.guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    pyrovae.fit(mixture, x, epochs=3, compile=False)
    assert mixture.prior.h_z.abs().max() > 1e-3
    torch.testing.assert_close(mixture.prior.h_z, mixture.prior.h_z[:1].expand(K, -1))
    torch.testing.assert_close(responsibilities(mixture, x), torch.full((20, K), 1 / K))


def test_a_gradient_reaches_every_parameter():
    vae = made()
    vae.objective().loss_and_grads(vae.model, vae.guide, binary())
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("beta", [1.0, WarmUp(5)])
def test_recorded_it_gives_the_loss_and_gradients_of_eager_pyro(beta, double, monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", (made, lambda: ELBO(beta, "enumerated"), [binary]))
    losses = test_graphs.compare("it", torch.float64, "auto")
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_compiled_it_is_still_the_same(monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", (made, lambda: ELBO(estimator="enumerated"), [binary]))
    test_graphs.compare("it", torch.float32, True)


def test_pyro_s_own_estimator_trains_it():
    vae, x = made(), binary()
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_data_are_generated_from_a_cluster():
    vae = diagonal(likelihood=Normal)
    vae.prior.h_z.data = torch.tensor([[-3.0, -3.0, -4.0, -4.0], [0.0, 0.0, -4.0, -4.0], [3.0, 3.0, -4.0, -4.0]])
    y = torch.eye(K).repeat_interleave(50, 0)
    drawn = poutine.trace(poutine.condition(vae.model, {"y": y})).get_trace().nodes
    assert drawn["x"]["value"].shape == (150, X)
    torch.testing.assert_close(
        drawn["z"]["value"].unflatten(0, (K, 50)).mean(1), vae.prior.h_z[:, :D], rtol=0, atol=0.1
    )
    assert (vae.q_y(drawn["z"]["value"]).probs * y).sum(-1).min() > 0.99
    sampled = Predictive(vae.model, num_samples=2)(n=5)
    assert {name: tuple(value.shape) for name, value in sampled.items()} == {
        "y": (2, 5, K),
        "z": (2, 5, D),
        "x": (2, 5, X),
    }
    assert vae.sample(4).shape == (4, X)


def blobs(rows=90, classes=K):
    """Rows of X numbers about a centre for each class, and their classes."""
    y = torch.arange(rows) % classes
    return 4 * torch.eye(X)[y] + 0.3 * torch.randn(rows, X), y


def told_apart(**parts):
    """An encoder that keeps the blobs apart: z are the first two numbers, with a standard deviation of 0.3."""
    vae = made(likelihood=Normal, encoder=nn.Linear(X, 2 * D), **parts)
    vae.encoder.weight.data = torch.cat([torch.eye(D, X), torch.zeros(D, X)])
    vae.encoder.bias.data = torch.tensor([0.0] * D + [2 * math.log(0.3)] * D)
    return vae


@pytest.mark.parametrize("family", [guides.FullRankNormal, guides.DiagonalNormal])
def test_clusters_start_where_em_finds_them(family):
    """Two numbers of a blob go together, which only the full-rank clusters can tell."""
    y = torch.arange(3).repeat_interleave(torch.tensor([600, 300, 600]))
    x = 4 * torch.eye(X)[y] + 0.3 * torch.randn(1500, X)
    x[:, 1] += x[:, 0] - 4 * torch.eye(X)[y, 0]
    vae = told_apart(conditional_prior=family).initialise(x)
    share = responsibilities(vae, x)
    found = agreement(share.argmax(1), y)
    assert found["accuracy"] == 1
    assert share.max(1).values.mean() > 0.99
    of_class = sorted(range(K), key=lambda each: found["matching"][str(each)])
    p_z = vae.p_z(torch.eye(K)[of_class])
    torch.testing.assert_close(vae.p_y().probs[of_class], torch.tensor([0.4, 0.2, 0.4]), rtol=0, atol=0.01)
    torch.testing.assert_close(p_z.mean, torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]), rtol=0, atol=0.1)
    together = 0.3**2 if family is guides.FullRankNormal else 0.0
    covariance = torch.tensor([[0.3**2, together], [together, 2 * 0.3**2]]) + 0.3**2 * torch.eye(D)
    drawn = p_z.sample((20000,)).movedim(1, 0)
    for each in drawn:
        torch.testing.assert_close(each.T.cov(), covariance, rtol=0.25, atol=0.02)


def test_the_start_is_of_torch_s_seed_and_changes_nothing_else():
    x, encoder = blobs()[0], nn.Sequential(nn.BatchNorm1d(X), nn.Linear(X, 2 * D))
    vae = made(likelihood=Normal, encoder=encoder)
    before = {name: value.clone() for name, value in vae.state_dict().items() if "prior" not in name}
    starts = []
    for _ in range(2):
        torch.manual_seed(5)
        starts.append(vae.initialise(x).prior.h_z.clone())
    torch.testing.assert_close(*starts, rtol=0, atol=0)
    assert all(torch.equal(vae.state_dict()[name], value) for name, value in before.items())
    assert vae.training
    assert all(parameter.requires_grad for parameter in vae.parameters())


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_clusters_of_one_row_or_of_equal_ones_are_finite():
    vae = made(clusters=4, likelihood=Normal, guide=guides.Delta)
    for values in ([0.0] * 5, [0.0, 0.0, 0.0, 1.0, 2.0, 9.0], [0.0, 1.0, 2.0, 3.0]):
        x = torch.tensor(values)[:, None].expand(-1, X)
        vae.initialise(x)
        assert all(value.isfinite().all() for value in (vae.prior.h_y, vae.prior.h_z, responsibilities(vae, x)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made(clusters=1), "clusters: expected an integer >= 2, found 1"),
        (lambda: made(spread=0.0, conditional_prior=guides.Mixture), "to start from data, found Mixture.*a spread > 0"),
        (lambda: made(spread=-1.0), "spread: expected a finite number >= 0, found -1.0"),
        (lambda: made(conditional_prior=guides.PowerSpherical), "guide: expected one on the unit sphere, like the"),
        (lambda: made().initialise(binary(2)), "x: expected at least clusters = 3 rows, found 2"),
        (lambda: made().initialise(torch.zeros(5, 2)), r"x: expected shape \(N, 4\), found \(5, 2\)"),
        (lambda: made().initialise(torch.full((5, X), 0.5)), "x: expected values in the support"),
        (
            lambda: made(conditional_prior=guides.PowerSpherical, guide=guides.PowerSpherical).initialise(binary()),
            r"conditional_prior: expected DiagonalNormal or FullRankNormal to start from data, found PowerSpherical",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


PARTS = [
    {"conditional_prior": guides.DiagonalNormal},
    {"conditional_prior": partial(guides.Mixture, components=2)},
    {"guide": guides.FullRankNormal},
    {"guide": guides.PowerSpherical, "conditional_prior": guides.PowerSpherical},
]


@pytest.mark.parametrize("parts", PARTS)
def test_other_parts_train(parts):
    vae, x = made(**parts), binary(64)
    training = pyrovae.Training(vae, x, epochs=3, batch_size=32)
    assert torch.tensor([record["loss"] for record in training]).isfinite().all()
    assert training.svi.path == "graph"
    torch.testing.assert_close(responsibilities(vae, x).sum(-1), torch.ones(64))


def test_labels_in_the_data_are_not_looked_at():
    x, y = binary(40), torch.arange(40) % 2
    losses = []
    for data in (Split(x), Split(x, y)):
        torch.manual_seed(0)
        vae = made()
        losses.append([record["loss"] for record in pyrovae.fit(vae, data, epochs=2, batch_size=20, compile=False)])
        torch.testing.assert_close(responsibilities(vae, data), responsibilities(vae, x))
    assert losses[0] == losses[1]


def test_found_between_two_epochs_clusters_are_trained_on():
    """Nothing is copied or recorded anew: the graph of the step reads the clusters where they are."""
    x, y = blobs(300)
    vae = MixtureVAE(X, D, K, partial(Normal, scale=0.3), encoder=SMALL, decoder=SMALL)
    training = pyrovae.Training(vae, x, epochs=40, batch_size=100, learning_rate=0.02)
    for record in training:
        if record["epoch"] == 20:
            assert agreement(responsibilities(vae, x).argmax(1), y)["nmi"] < 0.2
            start = vae.initialise(x).prior.h_z.clone()
    assert training.svi.path == "graph"
    assert (vae.prior.h_z - start).abs().max() > 0.01
    assert agreement(responsibilities(vae, x).argmax(1), y)["accuracy"] > 0.95


def test_one_training_that_initialises_is_two_with_initialise_between():
    torch.manual_seed(1)
    one, x = made(spread=0.0), binary(64)
    two = copy.deepcopy(one)
    schedule = Late(6, Constant(1.0))
    whole = pyrovae.Training(one, x, epochs=5, batch_size=32, initialise=3, objective=ELBO(schedule, "enumerated"))
    records = [record for _, record in zip(range(3), whole, strict=False)]
    first = pyrovae.fit(two, x, epochs=3, batch_size=32, objective=ELBO(0.1, "enumerated"))
    assert [record["loss"] for record in records] == pytest.approx([record["loss"] for record in first], rel=1e-6)
    for name, value in two.state_dict().items():
        if "prior" not in name:
            torch.testing.assert_close(one.state_dict()[name], value)
    assert one.prior.h_z.std(0).max() > 0.1
    assert two.prior.h_z.std(0).max() == 0
    assert not whole.svi.optimizer.state
    before = one.prior.h_z.clone()
    (later,) = pyrovae.fit(copy.deepcopy(one), x, epochs=1, batch_size=32)
    record = next(iter(whole))
    assert record["loss"] == pytest.approx(later["loss"], abs=0.2)
    assert 0 < (one.prior.h_z - before).abs().max() < 0.01
    assert whole.best_epoch == 4


def test_a_resumed_training_finds_the_same_clusters_to_the_bit():
    x = binary(64)

    def start():
        torch.manual_seed(1)
        return pyrovae.Training(made(spread=0.0), x, epochs=4, batch_size=32, initialise=2, compile=False)

    whole, states = start(), []
    for _ in whole:
        states.append(whole.state())
    for state in states[:-1]:
        resumed = start()
        resumed.restore(state)
        list(resumed)
        assert all(torch.equal(value, states[-1][0][name]) for name, value in resumed.state()[0].items())


@pytest.mark.parametrize(
    ("options", "epochs", "beta"),
    [
        ({}, 60, Late(600, Constant(1.0))),
        ({"clusters_after": 5, "beta_warmup": 2}, 5, Late(50, WarmUp(20))),
        ({"clusters_after": 0}, 0, 1.0),
        ({"model": "mixture-vae(spread=1.0)"}, 0, 1.0),
        ({"objective": "elbo(beta=0.5, estimator='enumerated')"}, 60, 0.5),
    ],
)
def test_a_recipe_says_when_clusters_are_found_and_at_which_beta(options, epochs, beta):
    recipe = Recipe(**{"model": "mixture-vae"} | options)
    vae = build.model(recipe, (X,))
    assert build.before_clusters(recipe, vae) == epochs
    assert build.objective(recipe, 10, vae).beta == beta


def test_programs_that_find_nothing_in_data_are_not_initialised():
    for programs, epochs in ((pyrovae.VAE(X, D), 1), (made(), 3)):
        with pytest.raises(ValueError, match="initialise: expected a model with `initialise`, and at most 2 epochs"):
            pyrovae.Training(programs, binary(), epochs=2, initialise=epochs)


def test_fewer_rows_than_clusters_are_refused_before_the_first_step():
    with pytest.raises(ValueError, match="initialise: expected at least 100 rows of training data, found 20"):
        pyrovae.Training(MixtureVAE(X, D, clusters=100), binary()[:20], epochs=2, initialise=1)


def test_it_clusters_the_digits():
    """Chance is .1. k-means on the pixels is right about .78, this after a longer training about .83."""
    data = pyrovae.data.load("digits", binarize="none")
    likelihood, network = partial(Normal, scale=0.2), partial(MLP, hidden=(100,))
    vae = MixtureVAE(data.event_shape, 10, 10, likelihood, encoder=network, decoder=network)
    pyrovae.fit(vae, data, epochs=8, learning_rate=5e-3, objective=ELBO(0.1, "enumerated"), compile=False)
    before = agreement(responsibilities(vae, data.test).argmax(1), data.test.y)
    vae.initialise(data.train[:])
    pyrovae.fit(vae, data, epochs=4, learning_rate=2e-3, compile=False)
    found = agreement(responsibilities(vae, data.test).argmax(1), data.test.y)
    assert before["accuracy"] < 0.4
    assert found["accuracy"] > 0.6
    assert found["nmi"] > 0.6
    assert len(found["sizes"]) == 10


def joint(x):
    """M2 without labels in double precision, and -log q(y|x) and the rest of its bound for each class, at one noise."""
    vae = SemiSupervisedVAE(X, D, K, encoder=SMALL, decoder=SMALL, classifier=SMALL)
    torch.manual_seed(1)
    with torch.no_grad():
        z = (q_z := vae.q_z(x, torch.eye(K).unsqueeze(1))).rsample()  # (K, N, D): a draw for each class
        y = torch.eye(K).unsqueeze(1)
        kl = vae.q_y(x).log_prob(y) + q_z.log_prob(z) - vae.p_y().log_prob(y) - vae.p_z(y).log_prob(z)
        return vae, -(vae.q_y(x).log_prob(y).exp() * (vae.p_x(z, y).log_prob(x) - kl)).sum(0).mean().item()


def test_without_any_labels_m2_sums_over_the_classes(double):
    """p(y) p(z) p(x|z, y), a discrete latent beside continuous ones.  (Dupont 2018)"""
    x = binary()
    vae, by_hand = joint(x)
    torch.manual_seed(1)
    assert ELBO(estimator="enumerated").loss(vae.model, vae.guide, x) == pytest.approx(by_hand, rel=1e-12)
    vae.objective().loss_and_grads(vae.model, vae.guide, x)
    assert all(parameter.grad.abs().sum() > 0 for parameter in vae.parameters())
    torch.testing.assert_close(responsibilities(vae, x), classify(vae, x))


def parts_of_m2(x):
    """M2 without labels; its E log p(x|z, y), KL of z by latent and KL of y, as sums over y at one draw z of each."""
    vae = SemiSupervisedVAE(X, D, K, encoder=SMALL, decoder=SMALL, classifier=SMALL)
    torch.manual_seed(1)
    y, q_y = torch.eye(K).unsqueeze(1), vae.q_y(x)
    q_z = vae.q_z(x, y)
    score = (q_y.probs.T * vae.p_x(q_z.rsample(), y).log_prob(x)).sum(0)
    each = kl_divergence(q_z.base_dist, dist.Normal(0.0, 1.0))
    kl_z = (q_y.probs.T.unsqueeze(-1) * each).sum(0).mean(0)
    return vae, score.mean(), kl_z, kl_divergence(q_y, vae.p_y().expand([len(x)])).mean()


def parts_of_a_mixture(x):
    """The same of a mixture at one draw z, where the KL of z is one number."""
    vae = made()
    torch.manual_seed(1)
    q_z, y = vae.q_z(x), torch.eye(K).unsqueeze(1)
    z = q_z.rsample()
    log_q = (vae.p_y().log_prob(y) + vae.p_z(y).log_prob(z)).log_softmax(0)
    kl_z = q_z.log_prob(z) - (log_q.exp() * vae.p_z(y).log_prob(z)).sum(0)
    kl_y = (log_q.exp() * (log_q - vae.p_y().log_prob(y))).sum(0)
    return vae, vae.p_x(z).log_prob(x).mean(), kl_z.mean(), kl_y.mean()


@pytest.mark.parametrize("parts", [parts_of_m2, parts_of_a_mixture])
@pytest.mark.parametrize("capacity", [0.0, 9.0])
def test_capacity_and_its_gradient_are_sums_over_the_classes(double, parts, capacity):
    x = binary()
    vae, score, kl_z, kl_y = parts(x)
    same_as(Capacity(capacity, gamma=3.0), vae, x, 3 * (kl_z.sum() + kl_y - capacity).abs() - score)


@pytest.mark.parametrize("parts", [parts_of_m2, parts_of_a_mixture])
@pytest.mark.parametrize("free", [0.0, 0.07])
def test_free_bits_and_their_gradient_are_sums_over_the_classes(double, parts, free):
    """One allowance for y, and one for each latent of z."""
    x = binary()
    vae, score, kl_z, kl_y = parts(x)
    allowance = free * D / kl_z.numel()
    cost = kl_z.clamp(min=allowance).sum() + kl_y.clamp(min=free)
    same_as(FreeBits(free, 0.5), vae, x, 0.5 * cost - score)


def same_as(objective, vae, x, truth):
    torch.manual_seed(1)
    found = objective.differentiable_loss(vae.model, vae.guide, x)
    assert found.item() == pytest.approx(truth.item(), rel=1e-12)
    names, values = zip(*vae.named_parameters(), strict=True)
    ours, theirs = (torch.autograd.grad(each, values, materialize_grads=True) for each in (found, truth))
    for name, a, b in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
        assert not name.startswith("classifier") or a.abs().max() > 1e-4


@pytest.mark.parametrize("objective", [Capacity, FreeBits])
def test_recorded_their_sums_are_the_eager_ones(objective, double, monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", (made, objective, [binary]))
    losses = test_graphs.compare("it", torch.float64, "auto")
    assert losses[0] != losses[1]


@pytest.mark.filterwarnings("ignore:y\nIf you want to enumerate sites")
def test_the_mmd_of_a_class_is_refused():
    message = r"MMD needs .* 'y' of OneHotCategorical is not; ELBO\(estimator=\"enumerated\"\) sums over its values"
    with pytest.raises(ValueError, match=message):
        MMD().loss_and_grads(made().model, made().guide, binary())


def test_without_any_labels_m2_finds_what_is_discrete():
    """Three patterns with 5 % of their bits flipped, one continuous latent: y tells of them, but not of each.

    z can say the same, and nothing keeps a value of y from being left out.
    """
    y = torch.arange(300) % 3
    patterns = (torch.rand(3, 12) < 0.5).float()
    x = (patterns[y] - (torch.rand(300, 12) < 0.05).float()).abs()
    vae = SemiSupervisedVAE(12, 1, 3, encoder=SMALL, decoder=SMALL, classifier=SMALL)
    first, *_, last = pyrovae.fit(vae, x, epochs=30, batch_size=100, learning_rate=0.02, compile=False)
    assert last["loss"] < first["loss"] - 2
    assert agreement(responsibilities(vae, x).argmax(1), y)["nmi"] > 0.4
    assert pyrovae.evaluate(vae, x, particles=5)["kl_by_site"]["y"]["value"] > 0.3


def best_matching(clusters, labels):
    """The largest share of rows that any renaming of the clusters makes right, by trying all."""
    names = sorted({*clusters.tolist(), *labels.tolist()})
    return max(
        (
            torch.tensor([names.index(c) for c in clusters.tolist()])
            == torch.tensor([order.index(y) for y in labels.tolist()])
        )
        .double()
        .mean()
        .item()
        for order in itertools.permutations(names)
    )


@pytest.mark.parametrize(("found", "classes"), [(4, 4), (2, 5), (5, 2), (1, 3)])
def test_the_matched_accuracy_is_the_best_of_all_matchings(found, classes):
    for _ in range(5):
        c, y = torch.randint(found, (30,)), torch.randint(classes, (30,))
        scores = agreement(c, y)
        assert scores["accuracy"] == pytest.approx(best_matching(c, y), abs=1e-12)
        right = [scores["matching"].get(str(a)) == b for a, b in zip(c.tolist(), y.tolist(), strict=True)]
        assert scores["accuracy"] == pytest.approx(sum(right) / 30)
        assert scores["sizes"] == {str(each): int((c == each).sum()) for each in c.unique().tolist()}


def test_what_a_cluster_or_a_class_is_called_changes_no_score():
    c, y = torch.randint(5, (200,)), torch.randint(4, (200,))
    c[:100] = y[:100]
    names, kinds = torch.randperm(5), torch.tensor([7, 3, 100, 0])
    before, after = agreement(c, y), agreement(names[c], kinds[y])
    for name in ("rows", "accuracy", "nmi", "ari"):
        assert after[name] == pytest.approx(before[name], abs=1e-12)
    assert after["matching"] == {str(names[int(a)].item()): kinds[b].item() for a, b in before["matching"].items()}


def test_the_scores_of_known_clusterings():
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    same = agreement(torch.tensor([4, 4, 9, 9, 2, 2]), y)
    assert (same["accuracy"], same["nmi"], same["ari"]) == (1.0, pytest.approx(1.0), 1.0)
    one = agreement(torch.zeros(6).long(), y)
    assert (one["accuracy"], one["nmi"], one["ari"]) == (pytest.approx(1 / 3), 0.0, 0.0)
    united = agreement(torch.tensor([0, 0, 1, 1, 1, 1]), y)
    assert united["accuracy"] == pytest.approx(4 / 6)
    mutual, entropies = math.log(3) - 4 / 6 * math.log(2), math.log(3) + math.log(3) - 2 / 3 * math.log(2)
    assert united["nmi"] == pytest.approx(2 * mutual / entropies)
    # Pairs: 3 of 15 kept together by both, 7 by the clusters, 3 by the labels; 1.4 in the mean of chance.
    assert united["ari"] == pytest.approx((3 - 7 * 3 / 15) / ((7 + 3) / 2 - 7 * 3 / 15))
    chance = agreement(torch.randint(3, (3000,)), torch.randint(3, (3000,)))
    assert abs(chance["ari"]) < 0.01


def test_rows_without_a_label_are_left_out():
    c, y = torch.tensor([0, 0, 1, 1, 5]), torch.tensor([3, 3, 4, 4, -1])
    assert agreement(c, y) == agreement(c[:4], y[:4])


@pytest.mark.parametrize(
    ("c", "y", "message"),
    [
        (torch.arange(3), torch.arange(4), "labels: expected one for each of 3 rows, found 4"),
        (torch.arange(0), torch.arange(0), "labels: expected at least two classes, found 0 in 0 rows with a label"),
        (torch.arange(3), torch.ones(3).long(), "labels: expected at least two classes, found 1 in 3 rows"),
        (torch.arange(3), -torch.ones(3).long(), "labels: expected at least two classes, found 0 in 0 rows"),
        (torch.rand(3), torch.arange(3), r"clusters: expected integers \(N,\), found torch.float32 \(3,\)"),
        (torch.arange(3), torch.eye(3).long(), r"labels: expected integers \(N,\), found torch.int64 \(3, 3\)"),
        (torch.arange(2), torch.tensor([True, False]), r"labels: expected integers \(N,\), found torch.bool"),
    ],
)
def test_what_cannot_be_scored_is_refused(c, y, message):
    with pytest.raises(ValueError, match=message):
        agreement(c, y)


def test_the_cluster_is_that_of_any_guide_with_a_class():
    """Also of a number 0..K-1 instead of a one-hot vector, and where another latent is drawn before it."""

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, 0], 1.0))
            pyro.sample("y", dist.Categorical(logits=torch.stack([z, -z], -1)))

    x = torch.linspace(-2, 2, 300).unsqueeze(-1)
    found = responsibilities((guide, guide), x, particles=4000)
    z = x[:, 0] + torch.linspace(-5, 5, 2001)[:, None]
    weight = dist.Normal(0.0, 1.0).log_prob(torch.linspace(-5, 5, 2001)).exp()[:, None] * 0.005
    torch.testing.assert_close(found[:, 0], (weight * (2 * z).sigmoid()).sum(0), rtol=0, atol=0.04)
    assert torch.equal(responsibilities((guide, guide), x), responsibilities((guide, guide), Split(x, x)))


def binary_y(x):
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(0.5 * torch.ones(len(x))))


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        (lambda: pyrovae.VAE(X, D), 'guide: expected a categorical site "y", found none'),
        (lambda: (binary_y, binary_y), 'guide: expected a categorical site "y", found Bernoulli'),
    ],
)
def test_a_guide_without_a_class_has_no_clusters(programs, message):
    with pytest.raises(ValueError, match=message):
        responsibilities(programs(), binary())


def test_a_named_table_has_a_name_beside_each_row():
    images = np.random.default_rng(0).random((3, 4, 1, 8, 6))
    figure = plots.named_table(["a", "b", "a longer name"], {"data": images, "samples": images[:, :2]})
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "b", "a longer name"]
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    for row, text in enumerate(figure.axes[0].texts):
        height = round(text.get_position()[1] + 0.5)  # in the middle of its row of images
        np.testing.assert_allclose(sheet[height - 4 : height + 4, :6, 0], images[row, 0, 0])


def test_colourings_show_the_same_points_by_each_of_several_classes():
    points, by = (
        np.random.default_rng(0).normal(size=(50, 2)),
        {"clusters": np.arange(50) % 4, "labels": np.arange(50) // 25},
    )
    figure = plots.colourings(points, by)
    for axes, (title, classes) in zip(figure.axes, by.items(), strict=True):
        assert axes.get_title() == title
        assert len(axes.get_xticks()) == 0
        assert len(axes.collections) == len(set(classes))
        for label, dots in enumerate(axes.collections):
            np.testing.assert_allclose(dots.get_offsets(), points[classes == label])
    assert plots.colourings(points, by, "$z_1$", "$z_2$").axes[0].get_xlabel() == "$z_1$"


def test_in_figures_a_cluster_has_the_number_of_the_label_that_it_matches():
    labels = torch.tensor([3, 3, 3, 5, 5, -1, 5])
    clusters = torch.tensor([1, 1, 2, 0, 0, 0, 2])
    assert figures._as_matched(clusters, labels).tolist() == [3, 3, 8, 5, 5, 5, 8]
    assert figures._as_matched(clusters, None) is clusters
    assert figures._as_matched(clusters, labels.double()) is clusters
