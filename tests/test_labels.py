"""Labels: known, missing and given; what is summed over them, what is learned from them, and what is refused."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import test_graphs
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.distributions import kl_divergence
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

import pyrovae
from pyrovae import Training, TrainingError, fit, guides
from pyrovae.data import Split, Splits, load, with_labels
from pyrovae.evaluation.evaluate import accuracy, codes, scores
from pyrovae.evaluation.ranking import rank
from pyrovae.likelihoods import Bernoulli, Columns, Missing, Normal, Poisson
from pyrovae.models import ConditionalVAE, SemiSupervisedVAE
from pyrovae.networks import MLP, Conv, FilledIn
from pyrovae.objectives import ELBO, SemiSupervised, WarmUp
from pyrovae.objectives.semi_supervised import PartlyLabelled
from pyrovae.programs import importance, traces
from pyrovae.runs import figures

D, K, N = 6, 3, 30
NET, AFFINE = partial(MLP, hidden=(8,)), partial(MLP, hidden=())
CONV = partial(Conv, channels=(3,), hidden=9)
# Pyro's warning, rightly given, where a y that could be summed over is drawn.
DRAWN = "ignore:y\nIf you want to enumerate sites"
TRACE_ENUM = partial(TraceEnum_ELBO, max_plate_nesting=1, strict_enumeration_warning=False)


def made(model=SemiSupervisedVAE, shape=D, latents=2, **options):
    """A small model of K classes."""
    parts = {"encoder": NET, "decoder": NET} | ({"classifier": NET} if model is SemiSupervisedVAE else {})
    labels = {} if "label_shape" in options else {"num_classes": K}
    return model(shape, latents, **parts | labels | options)


def binary(rows=N):
    return (torch.rand(rows, D) < 0.5).to(torch.get_default_dtype())


def classes(rows=N, missing=0):
    """0, 1, 2, 0, ... of which the first `missing` are."""
    return torch.where(torch.arange(rows) < missing, -1, torch.arange(rows) % K)


def jolt(module, size=0.5):
    """Other parameters, those that start at 0 included."""
    with torch.no_grad():
        for value in module.parameters():
            value.add_(size * torch.randn_like(value))
    return module


def same_bits(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def at_seed(seed, function, *args, **kwargs):
    torch.manual_seed(seed)
    return function(*args, **kwargs)


# ---- a model whose every number is known


@pytest.fixture
def known():
    """p(y), p(z) = N(0, I) or N(m_y, S_y), p(x|z, y) = N(Wz + Vy + b, s^2 I) in float64: all of it is normal."""
    return partial(_known)


def _known(model=SemiSupervisedVAE, conditional=False):
    d, width, s = 2, 4, 0.7
    options = {"conditional_prior": guides.DiagonalNormal} if conditional else {}
    parts = {"likelihood": partial(Normal, scale=s), "encoder": AFFINE, "decoder": AFFINE}
    vae = jolt(made(model, width, d, **parts | options).double())
    w, v = vae.decoder.network[0].weight.detach().split([d, K], 1)
    b, one = vae.decoder.network[0].bias.detach(), torch.eye(width, dtype=torch.float64)
    kinds = torch.eye(K, dtype=torch.float64)
    with torch.no_grad():
        p_z = vae.p_z(kinds)
        m, variance = (each.expand(K, d) for each in (p_z.mean, p_z.variance))
        log_p_y = vae.p_y().log_prob(kinds)
    p_x = dist.MultivariateNormal(m @ w.T + v.T + b, w @ torch.diag_embed(variance) @ w.T + s**2 * one)

    def joint(x):
        """log p(x, y) for every y. (N, K)"""
        return log_p_y + p_x.log_prob(x[:, None])

    def posterior(x, y):
        precision = w.T @ w / s**2 + torch.diag_embed(1 / (y @ variance))
        shift = (x - y @ v.T - b) @ w / s**2 + (y @ m) / (y @ variance)
        mean = torch.linalg.solve(precision, shift[..., None])[..., 0]
        return dist.MultivariateNormal(mean, precision_matrix=precision)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                q_y = dist.OneHotCategorical(logits=joint(x))
                y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            return pyro.sample("z", posterior(x, y))

    y = dist.Categorical(logits=log_p_y).sample((140,))
    x = p_x.sample((140,))[torch.arange(140), y]
    return SimpleNamespace(vae=vae, exact=(vae.model, guide), joint=joint, x=x, y=y)


@pytest.mark.parametrize(
    ("particles", "conditional"),
    [
        (1, False),
        (7, True),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(7, False, marks=pytest.mark.slow),
    ],
)
def test_an_exact_guide_gives_the_evidence_of_both_kinds_of_rows(known, particles, conditional):
    """log p(x) of rows without a label, log p(x, y) of the others, each row in its place, for any K."""
    it = known(ConditionalVAE if conditional else SemiSupervisedVAE, conditional)
    joint, y = it.joint(it.x), it.y
    with_y, without = joint.gather(1, y[:, None])[:, 0], joint.logsumexp(1)
    hidden = torch.rand(140) < 0.6
    kinds = [(Split(it.x, y), with_y)]
    if not conditional:
        kinds += [(it.x, without), (Split(it.x, y.masked_fill(hidden, -1)), torch.where(hidden, without, with_y))]
    for data, truth in kinds:
        found, error = importance.log_likelihood(it.exact, data, particles)
        torch.testing.assert_close(found, truth, rtol=0, atol=1e-9)
        assert particles == 1 or error.max() < 1e-9
        told = pyrovae.evaluate(it.exact, data, particles)
        assert told["log_likelihood"]["value"] == pytest.approx(truth.mean().item(), abs=1e-9)
    assert abs(with_y - without).max() > 0.1


def test_the_elbo_of_an_exact_guide_is_the_evidence(known):
    it = known()
    q, p = traces.traces(*it.exact, 3, it.x, enumerated=True)
    summed = traces.averaged(q, traces.log_weight_of_each(q, p) - traces.sites(q, False)["y"]["log_prob"])
    torch.testing.assert_close(summed, it.joint(it.x).logsumexp(1).expand(3, -1), rtol=0, atol=1e-9)
    loss = ELBO(estimator="enumerated").loss(*it.exact, it.x)
    assert loss == pytest.approx(-it.joint(it.x).logsumexp(1).mean().item(), abs=1e-9)


def test_the_bound_closes_on_the_evidence_of_rows_without_labels(known):
    """The model's own guide, which knows nothing: below log p(x) in the mean, and close to it with many particles."""
    it = known()
    truth = it.joint(it.x).logsumexp(1)
    for parameter in it.vae.encoder.parameters():
        nn.init.zeros_(parameter)  # q(z|x, y) = N(0, I)
    few, many = (importance.log_likelihood(it.vae, it.x, particles)[0] for particles in (1, 1000))
    assert (truth - few).mean() > 0.5
    assert abs((truth - many).mean()) < 0.05


def test_a_label_is_worth_its_prior_and_its_likelihood(known):
    it = known()
    result = pyrovae.evaluate(it.vae, Split(it.x, it.y), 4)
    log_p_y = it.vae.p_y().log_prob(F.one_hot(it.y, K).double()).mean().item()
    assert result["observed_by_site"]["y"]["value"] == pytest.approx(log_p_y, abs=1e-9)
    parts = sum(each["value"] for each in result["observed_by_site"].values())
    assert parts == pytest.approx(result["reconstruction"]["value"], abs=1e-9)
    assert result["measure"] == "density over real values, and of y mass over classes"


# ---- sums over y, written out


def by_hand(vae, x, z, y, beta=1.0):
    """log p(x|z, y) + beta (log p(y) + log p(z|y) - log q(z|x, y))."""
    latents = vae.p_y().log_prob(y) + vae.p_z(y).log_prob(z) - vae.q_z(x, y).log_prob(z)
    return vae.p_x(z, y).log_prob(x) + beta * latents


def sum_by_hand(vae, x, beta=1.0):
    """-1/N sum_n sum_y q(y|x_n) [... - beta log q(y|x_n)], at one draw z_y of each q(z|x, y)."""
    y = torch.eye(K, dtype=x.dtype)[:, None]
    q_y = vae.q_y(x).probs.T
    z = vae.q_z(x, y).rsample()
    return -(q_y * (by_hand(vae, x, z, y, beta) - beta * q_y.log())).sum(0).mean()


@pytest.mark.parametrize("objective", [partial(ELBO, estimator="enumerated"), SemiSupervised])
@pytest.mark.parametrize("beta", [1.0, 0.3, 0.0, WarmUp(4)])
def test_the_enumerated_bound_and_its_gradient_are_the_sum_over_classes(double, objective, beta):
    vae, x = jolt(made()), binary()
    loss = objective(beta=beta)
    loss.step = 1
    found = at_seed(5, loss.differentiable_loss, vae.model, vae.guide, x)
    truth = at_seed(5, sum_by_hand, vae, x, loss.now)
    assert found.item() == pytest.approx(truth.item(), rel=1e-10)
    assert at_seed(5, loss.loss, vae.model, vae.guide, x) == pytest.approx(truth.item(), rel=1e-10)
    names, values = zip(*vae.named_parameters(), strict=True)
    ours, theirs = (torch.autograd.grad(each, values, allow_unused=True) for each in (found, truth))
    for name, a, b in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.filterwarnings(DRAWN)
def test_the_sampled_bound_has_the_enumerated_one_as_its_mean(double):
    """As a control of the sum, by drawing y: the same bound, with other noise."""
    vae, x = jolt(made()), binary(4).repeat(500, 1)
    drawn = torch.tensor([ELBO().loss(vae.model, vae.guide, x) for _ in range(20)])
    summed = torch.tensor([ELBO(estimator="enumerated").loss(vae.model, vae.guide, x) for _ in range(20)])
    error = ((drawn.var() + summed.var()) / 20).sqrt()
    assert abs(drawn.mean() - summed.mean()) < 4 * error
    assert error < 0.02


def test_weights_and_divergences_are_sums_over_classes(double, monkeypatch):
    """Of rows without a label: log p(x) = log sum_y p(x, y, z_y) / q(z_y|x, y), and each part of the KL."""
    vae, x = jolt(made()), binary(40)
    q, p = traces.traces(vae.model, vae.guide, 5, x, enumerated=True)
    z, y = q.nodes["z"]["value"], torch.eye(K)[:, None, None]
    assert z.shape == (K, 5, 40, 2)
    truth = by_hand(vae, x, z, y).logsumexp(0)
    torch.testing.assert_close(traces.log_weight(q, p), truth, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        q_y = vae.q_y(x)
        kl_y = kl_divergence(q_y, vae.p_y().expand((40,)))
        each = kl_divergence(vae.q_z(x, y[:, 0]), dist.Normal(torch.zeros(2), 1.0).to_event(1).expand((K, 40)))
        kl_z = (q_y.probs.T * each).sum(0)
    found, how = traces.kl(q, p)
    assert how == "closed form"
    torch.testing.assert_close(found["y"], kl_y.expand(5, -1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found["z"].sum(-1), kl_z.expand(5, -1), rtol=1e-9, atol=1e-11)
    # The same through `evaluate`, whose particles come in chunks.
    monkeypatch.setattr(importance, "FLOATS", 128 * D * 2)
    table, _ = scores(vae, x, 5, seed=1)
    torch.testing.assert_close(table["kl"], kl_y + kl_z, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(table["kl.y"], kl_y, rtol=1e-9, atol=1e-11)
    found = codes(vae, x)
    torch.testing.assert_close(found["y"][:, 0], q_y.probs, rtol=1e-9, atol=1e-11)
    assert max(noise[:, 1].max() for noise in found.values()) < 1e-30
    code = (q_y.probs.T[..., None] * vae.q_z(x, y[:, 0]).mean).sum(0)
    torch.testing.assert_close(found["z"][:, 0], code, rtol=1e-9, atol=1e-11)


def test_rows_of_both_kinds_are_scored_as_each_kind_alone(double):
    """In closed form, so that no noise is in the way: KL and classifier; over several blocks of rows."""
    vae, x, y = jolt(made()), binary(300), classes(300)
    y[torch.rand(300) < 0.5] = -1
    both, labelled, others = (scores(vae, data, 2, 0)[0] for data in (Split(x, y), Split(x, classes(300)), x))
    assert set(both) == set(labelled) & set(others) | {"observed.y", "kl.y"}
    truth = torch.where(y < 0, others["kl"], labelled["kl"])
    torch.testing.assert_close(both["kl"], truth, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(both["kl.y"], others["kl.y"] * (y < 0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(both["observed.y"], labelled["observed.y"] * (y >= 0), rtol=1e-10, atol=1e-12)
    result = pyrovae.evaluate(vae, Split(x, y), 2)
    assert result["rows"] == 300
    for whole, parts in (("kl", "kl_by_site"), ("reconstruction", "observed_by_site")):
        assert set(result[parts]) >= {"y"}
        total = sum(each["value"] for each in result[parts].values())
        assert total == pytest.approx(result[whole]["value"], rel=1e-10)
    hit = (vae.q_y(x).probs.argmax(-1) == y)[y >= 0].double().mean().item()
    assert result["accuracy"]["value"] == pytest.approx(hit, abs=1e-12)


def test_scores_of_rows_of_both_kinds_are_not_ranked_with_those_of_one_kind():
    """Neither log p(x) nor log p(x, y): better than the one, worse than the other, of one and the same model."""
    vae, x, y = jolt(made()), binary(60), classes(60)
    both = pyrovae.evaluate(vae, Split(x, classes(60, missing=30)), 3)
    assert both["measure"] == "mass over binary values, and of y mass over classes where it is known"
    for other in (pyrovae.evaluate(vae, x, 3), pyrovae.evaluate(vae, Split(x, y), 3)):
        assert other["log_likelihood"]["value"] != pytest.approx(both["log_likelihood"]["value"], abs=0.1)
        with pytest.raises(ValueError, match="expected the same measure"):
            rank({"one": other, "both": both})
    assert len(rank({"one": both, "same": both})) == 2


def test_scores_of_labelled_rows_do_not_change_with_how_they_come():
    vae, x, y = jolt(made(ConditionalVAE)), binary(200), classes(200)
    whole = importance.log_likelihood(vae, Split(x, y), 5)[0]
    for data in (TensorDataset(x, y), DataLoader(TensorDataset(x, y), batch_size=33)):
        assert torch.equal(importance.log_likelihood(vae, data, 5)[0], whole)
    some = importance.log_likelihood(vae, Split(x[:50], y[:50]), 5)[0]
    torch.testing.assert_close(some, whole[:50], rtol=0, atol=1e-5)
    hot = Split(x, F.one_hot(y))
    assert torch.equal(importance.log_likelihood(vae, hot, 5)[0], whole)


# ---- objectives of labels


def test_a_known_label_adds_its_cross_entropy(double):
    vae, x, y = jolt(made()), binary(), F.one_hot(classes()).double()
    plain = at_seed(2, ELBO().loss, vae.model, vae.guide, x, y)
    z = at_seed(2, vae.q_z(x, y).rsample)
    assert plain == pytest.approx(-by_hand(vae, x, z, y).mean().item(), rel=1e-10)
    entropy = F.cross_entropy(vae.classifier(x), classes())
    for alpha in (0.0, 0.1, 50.0):
        found = at_seed(2, SemiSupervised(alpha).loss, vae.model, vae.guide, x, y)
        named = at_seed(2, SemiSupervised(alpha).loss, vae.model, vae.guide, x, y=y)
        assert found == named == pytest.approx(plain + alpha * entropy.item(), rel=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 2.5])
def test_known_labels_teach_the_classifier_by_alpha_alone(double, alpha):
    vae, x, y = jolt(made()), binary(), F.one_hot(classes()).double()
    parameters = list(vae.classifier.parameters())
    truth = torch.autograd.grad(F.cross_entropy(vae.classifier(x), classes()), parameters)
    SemiSupervised(alpha).loss_and_grads(vae.model, vae.guide, x, y)
    for parameter, gradient in zip(parameters, truth, strict=True):
        torch.testing.assert_close(parameter.grad, alpha * gradient, rtol=1e-9, atol=1e-12)
        assert gradient.abs().max() > 1e-3
    vae.zero_grad()
    ELBO(estimator="enumerated").loss_and_grads(vae.model, vae.guide, x, y)
    assert all(parameter.grad is None for parameter in parameters)
    assert vae.h_y.grad.abs().max() > 0


@pytest.mark.filterwarnings(DRAWN)
@pytest.mark.parametrize("objective", [SemiSupervised, partial(ELBO, 0.5), partial(SemiSupervised, beta=WarmUp(3))])
def test_partly_labelled_is_the_mean_of_both_by_their_share(double, objective):
    vae, x, y, others = jolt(made()), binary(), F.one_hot(classes()).double(), binary(11)
    of = objective()
    loss = PartlyLabelled(of, 0.2)
    loss.step = of.step = 2
    parts = [at_seed(9, of.loss, vae.model, vae.guide, *args) for args in ((x, y), (others,))]

    def whole():
        torch.manual_seed(9)
        with torch.no_grad():
            labelled = of.value(of.now, vae.model, vae.guide, x, y)
            return 0.2 * labelled + 0.8 * of.value(of.now, vae.model, vae.guide, others)

    found = at_seed(9, loss.loss, vae.model, vae.guide, x, y, others)
    assert found == pytest.approx(float(whole()), rel=1e-12)
    assert loss.scheduled == of.scheduled
    assert loss.now == of.now
    for args, part in zip(((x, y), (others,)), parts, strict=True):
        assert at_seed(9, loss.loss, vae.model, vae.guide, *args) == pytest.approx(part, rel=1e-12)


class Noting(torch.optim.SGD):
    """Moves nothing, and notes the gradients."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.seen = []

    def step(self, closure=None):
        self.seen.append([value.grad.clone() for group in self.param_groups for value in group["params"]])


def point():
    """A model whose bound has no noise: its guide of z is a point."""
    return jolt(made(guide=guides.Delta).double())


@pytest.mark.parametrize(
    ("rows", "missing", "batch_size", "labelled"), [(30, 24, 6, 2), (30, 24, 7, 3), (30, 6, 9, 8), (27, 21, 6, 2)]
)
def test_the_expected_step_is_that_of_all_data(rows, missing, batch_size, labelled):
    """Without noise: the mean over an epoch of the steps' losses and gradients is the objective of all rows.

    Where the last batch is short (27 rows), all labelled rows are the same: it weighs its labels as the others do.
    """
    vae, x, y = point(), binary(rows).double(), classes(rows, missing)
    there = y >= 0
    if rows == 27:
        x[there], y[there] = x[-1].clone(), y[-1].clone()
    share, hot = there.double().mean().item(), vae.encode_labels(y[there])
    training = Training(
        vae, Split(x, y), epochs=1, batch_size=batch_size, labelled_batch_size=labelled, optimizer=Noting, compile=False
    )
    record = next(iter(training))
    whole = PartlyLabelled(SemiSupervised(), share)
    truth = whole.differentiable_loss(vae.model, vae.guide, x[there], hot, x[~there])
    assert record["loss"] == pytest.approx(truth.item(), rel=1e-9)
    assert record["step"] == len(training.batches.order) == len(training.svi.optimizer.seen)
    if rows == 30:
        parameters = [value for group in training.svi.optimizer.param_groups for value in group["params"]]
        gradients = [torch.stack(each).mean(0) for each in zip(*training.svi.optimizer.seen, strict=True)]
        for a, b in zip(gradients, torch.autograd.grad(truth, parameters), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("missing", [0, 13, 40])
def test_the_validation_loss_weighs_both_kinds_by_their_numbers(missing):
    vae, x, y = point(), binary(40).double(), classes(40, missing)
    splits = Splits("mine", Split(x, classes(40, 20)), Split(x, y))
    found = Training(vae, splits, epochs=1, batch_size=10, compile=False)._validate()
    objective, there = SemiSupervised(), y >= 0
    truth = 0.0
    if there.any():
        truth += there.sum().item() / 40 * objective.loss(vae.model, vae.guide, x[there], vae.encode_labels(y[there]))
    if not there.all():
        truth += (~there).sum().item() / 40 * objective.loss(vae.model, vae.guide, x[~there])
    assert found == pytest.approx(truth, rel=1e-9)


# ---- one class is no class


@pytest.mark.parametrize("beta", [1.0, 0.0])
def test_one_class_is_the_model_without_labels(double, digits, beta):
    """Its label is a constant, and its weights belong to the bias: same bound, same log p(x), to the last digits."""
    conditional = jolt(ConditionalVAE(digits.event_shape, 2, 1, encoder=NET, decoder=NET), 0.1)
    plain = pyrovae.VAE(digits.event_shape, 2, encoder=NET, decoder=NET)
    with torch.no_grad():
        for mine, theirs, size in (
            (plain.encoder, conditional.encoder.network, 64),
            (plain.decoder, conditional.decoder.network, 2),
        ):
            weight, bias = theirs[0].weight, theirs[0].bias
            mine.load_state_dict(theirs.state_dict() | {"0.weight": weight[:, :size], "0.bias": bias + weight[:, size]})
    x, y = digits.test[:].double(), torch.zeros(359, dtype=torch.long)
    losses = [
        at_seed(1, ELBO(beta).loss, conditional.model, conditional.guide, x, conditional.encode_labels(y)),
        at_seed(1, ELBO(beta).loss, plain.model, plain.guide, x),
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    results = [pyrovae.evaluate(conditional, Split(x, y), 5), pyrovae.evaluate(plain, x, 5)]
    for name in ("elbo", "kl", "reconstruction", "log_likelihood"):
        assert results[0][name]["value"] == pytest.approx(results[1][name]["value"], rel=1e-11)


# ---- each path of a step, and each moment of a training, gives the same numbers

CONDITIONAL = partial(made, ConditionalVAE)
KNOWN, UNKNOWN, BOTH = (lambda x, y: (x, y)), (lambda x, y: (x,)), (lambda x, y: (x[:4], y[:4], x[4:]))
STEPS = {
    "conditional": (CONDITIONAL, ELBO, KNOWN),
    "conditional prior": (partial(CONDITIONAL, conditional_prior=guides.DiagonalNormal), ELBO, KNOWN),
    "given": (partial(CONDITIONAL, label_shape=K), partial(ELBO, 1.0, "analytic"), KNOWN),
    "M2, labelled": (made, SemiSupervised, KNOWN),
    "M2, unlabelled": (made, SemiSupervised, UNKNOWN),
    "M2, both": (made, lambda: PartlyLabelled(SemiSupervised(), 0.3), BOTH),
    "M2, warm-up": (made, lambda: SemiSupervised(beta=WarmUp(5)), UNKNOWN),
    "M2, sampled": (made, ELBO, UNKNOWN),
    "M2, numbers": (partial(made, label_shape=1, label=Normal), SemiSupervised, UNKNOWN),
}


@pytest.mark.filterwarnings(DRAWN)
@pytest.mark.parametrize("name", STEPS)
def test_a_recorded_step_is_the_eager_one(name, double, monkeypatch):
    make, loss, choose = STEPS[name]
    args = choose(binary(10), F.one_hot(classes(10)).double())
    monkeypatch.setitem(test_graphs.TABLE, "it", (make, loss, [partial(lambda each: each, each) for each in args]))
    losses = test_graphs.compare("it", torch.float64, "auto")
    assert losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.filterwarnings(DRAWN)
@pytest.mark.parametrize("name", ["M2, both", "M2, sampled"])
def test_a_compiled_step_is_the_eager_one(name, double, monkeypatch):
    make, loss, choose = STEPS[name]
    args = choose(binary(10), F.one_hot(classes(10)).double())
    monkeypatch.setitem(test_graphs.TABLE, "it", (make, loss, [partial(lambda each: each, each) for each in args]))
    losses = test_graphs.compare("it", torch.float64, True)
    assert losses[0] != losses[1]


DATA = {
    "labels": lambda x, y: Split(x, y),
    "some missing": lambda x, y: Split(x, torch.where(torch.arange(len(y)) % 3 > 0, -1, y)),
    "grey, some missing": lambda x, y: Split((x * 200).byte(), torch.where(y == 2, -1, y), "dynamic"),
    "none": lambda x, y: Split(x),
}


@pytest.mark.parametrize(
    ("source", "dtype"),
    [
        ("grey, some missing", torch.float64),
        ("some missing", torch.float32),
        pytest.param("labels", torch.float64, marks=pytest.mark.slow),
        pytest.param("some missing", torch.float64, marks=pytest.mark.slow),
    ],
)
def test_every_path_trains_to_the_same_numbers(source, dtype):
    """Eager and as a graph; batches that do not divide the rows, and a valid part with and without labels."""

    def losses(compile):
        torch.manual_seed(3)
        vae, x = made().to(dtype), binary(31)
        splits = Splits("mine", DATA[source](x, classes(31)), Split(x[:9], classes(9, 4)))
        training = Training(vae, splits, epochs=2, batch_size=8, compile=compile)
        found = [(record["loss"], record["valid_loss"]) for record in training]
        assert training.svi.path == ("eager" if compile is False else "graph")
        assert {value.dtype for value in vae.parameters()} == {dtype}
        return torch.tensor(found, dtype=torch.float64)

    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(losses("auto"), losses(False), rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("model", "source", "compile"),
    [(ConditionalVAE, "labels", False), pytest.param(SemiSupervisedVAE, "some missing", "auto", marks=pytest.mark.slow)]
    + [(SemiSupervisedVAE, source, False) for source in DATA],
)
def test_a_resumed_training_is_bitwise_the_uninterrupted_one(model, source, compile):
    x, y = binary(24), classes(24)  # no last batch that is smaller: one graph

    def start(seed=7):
        torch.manual_seed(seed)
        objective = SemiSupervised(beta=WarmUp(9)) if model is SemiSupervisedVAE else ELBO(WarmUp(9))
        return Training(made(model), DATA[source](x, y), epochs=3, batch_size=8, objective=objective, compile=compile)

    whole, resumed = start(), start(seed=99)
    kept = [(record, whole.state()) for record in whole]
    assert not same_bits(resumed.programs, whole.programs)
    resumed.restore(kept[0][1])
    later = list(resumed)
    assert same_bits(whole.programs, resumed.programs)
    assert [r | {"seconds": 0} for r in later] == [r | {"seconds": 0} for r, _ in kept[1:]]


@pytest.mark.parametrize("missing", [0, 20])
def test_labels_train_alike_wherever_they_are_read(missing):
    """In memory, or row by row: the same bits."""
    x, y, start = binary(), classes(missing=missing), made()
    sources = [Split(x, y), TensorDataset(x, y), list(zip(x, y.tolist(), strict=True)), Split(x, F.one_hot(y % K))]
    found = []
    for data in sources if not missing else sources[:3]:
        vae = copy.deepcopy(start)
        fit(vae, data, epochs=2, batch_size=8, compile=False)
        found.append(vae)
    assert all(same_bits(found[0], vae) for vae in found[1:])
    assert not same_bits(found[0], start)


def test_labels_that_are_read_later_are_read_once():
    class Counting(TensorDataset):
        read = 0

        def __getitem__(self, row):
            Counting.read += 1
            return super().__getitem__(row)

    data = Counting(binary(), classes(missing=20))
    training = Training(made(), data, epochs=2, batch_size=10, compile=False)
    before = Counting.read
    list(training)
    assert Counting.read - before == 2 * sum(map(len, training.batches.order().split(10)))


def test_a_loader_of_rows_with_labels_trains():
    x, y, start = binary(), classes(), made(ConditionalVAE)
    twin = copy.deepcopy(start)
    records = fit(start, DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True), epochs=2, compile=False)
    assert records[-1]["step"] == 6
    assert not same_bits(start, twin)
    assert math.isfinite(records[-1]["loss"])


@pytest.mark.parametrize("labelled", [0, 1, 9])
def test_any_number_of_labelled_rows_in_a_batch_trains(labelled):
    vae = made()
    before = copy.deepcopy(vae.classifier)
    data = Split(binary(), classes(missing=20))
    training = Training(vae, data, epochs=1, batch_size=10, labelled_batch_size=labelled, compile=False)
    steps = {0: 2, 1: 10, 9: 20}[labelled]
    assert next(iter(training))["step"] == steps
    assert isinstance(training.objective, PartlyLabelled) == (labelled > 0)
    assert not same_bits(vae.classifier, before)


# ---- both are ordinary Pyro programs

PROGRAMS = {
    "conditional": CONDITIONAL,
    "conditional prior": partial(CONDITIONAL, conditional_prior=guides.DiagonalNormal),
    "M2": made,
    "given": partial(CONDITIONAL, label_shape=K),
}
each_program = pytest.mark.parametrize("name", PROGRAMS)


@pytest.mark.filterwarnings(DRAWN)
@each_program
def test_pyro_svi_trains_it(name):
    vae, x = PROGRAMS[name](), binary()
    x[:, :] = x[:1]
    for args in [(x, F.one_hot(classes()).float())] + ([(x,)] if name == "M2" else []):
        for loss in (Trace_ELBO(), TRACE_ENUM()):
            start = copy.deepcopy(vae)
            svi = SVI(start.model, start.guide, pyro.optim.Adam({"lr": 2e-2}), loss)
            losses = [svi.step(*args) for _ in range(40)]
            assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@each_program
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(name, parallel):
    vae, x, y = PROGRAMS[name](), binary(), F.one_hot(classes()).float()
    drawn = Predictive(vae.model, guide=vae.guide, num_samples=5, parallel=parallel)(x, y)
    assert drawn["z"].shape == (5, N, 2)
    new = Predictive(vae.model, num_samples=5, parallel=parallel)(y=y)
    assert new["x"].shape == (5, N, D)
    assert torch.equal(new["y"][3], y)
    if name == "M2":
        drawn = Predictive(vae.model, guide=vae.guide, num_samples=5, parallel=parallel)(x)
        assert drawn["y"].shape == (5, N, K)
        assert (drawn["y"].sum(-1) == 1).all()
    if name != "given":
        assert Predictive(vae.model, num_samples=5, parallel=parallel)(n=4)["x"].shape == (5, 4, D)


@each_program
@pytest.mark.parametrize("handler", [poutine.condition, poutine.do])
def test_given_sites_decide_how_many_are_generated(name, handler):
    vae, z, y = PROGRAMS[name](), torch.randn(7, 2), F.one_hot(classes(7)).float()
    assert handler(vae.model, {"y": y})().shape == (7, D)
    assert handler(vae.model, {"y": y, "z": z})().shape == (7, D)
    if name == "given":
        with pytest.raises(ValueError, match=r"y: expected labels, found none, and the model has no p\(y\)"):
            handler(vae.model, {"z": z})()
    else:
        assert handler(vae.model, {"z": z})().shape == (7, D)


@each_program
def test_a_style_takes_on_another_class(name):
    """do(y) changes what x is, and leaves z as it is."""
    vae, x = PROGRAMS[name](), binary()
    y, other = (F.one_hot(classes() * 0 + number, K).float() for number in (0, 2))
    q = poutine.trace(vae.guide).get_trace(x, y)
    model = poutine.replay(poutine.uncondition(vae.model), trace=q)
    changed = poutine.trace(poutine.do(model, {"y": other})).get_trace(x, y)
    z = q.nodes["z"]["value"]
    assert torch.equal(changed.nodes["z"]["value"], z)
    found = changed.nodes["x"]["fn"].mean
    torch.testing.assert_close(found, vae.p_x(z, other).mean)
    assert (found - vae.p_x(z, y).mean).abs().max() > 1e-4


@each_program
def test_uncondition_generates_labels_and_data(name):
    vae, x, y = PROGRAMS[name](), binary(), F.one_hot(classes()).float()
    trace = poutine.trace(poutine.uncondition(vae.model)).get_trace(x, y)
    assert not trace.nodes["x"]["is_observed"]
    assert trace.nodes["x"]["value"].shape == (N, D)
    assert torch.equal(trace.nodes["y"]["value"], y) == (name == "given")


def test_classes_are_generated_as_often_as_they_are():
    vae = made(ConditionalVAE)
    with torch.no_grad():
        vae.h_y.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
    y = poutine.trace(vae.model).get_trace(n=4000).nodes["y"]["value"]
    torch.testing.assert_close(y.mean(0), torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=0.035)


def test_data_of_a_class_have_its_mean():
    vae, z = jolt(made(ConditionalVAE), 2.0), torch.randn(4000, 2)
    with torch.no_grad():
        truth = [vae.p_x(z, F.one_hot(torch.full((4000,), k), K).float()).mean.mean(0) for k in range(K)]
    found = [vae.sample(4000, [k] * 4000).mean(0) for k in range(K)]
    torch.testing.assert_close(torch.stack(found), torch.stack(truth), rtol=0, atol=0.05)
    assert (truth[0] - truth[1]).abs().max() > 0.1
    torch.testing.assert_close(vae.sample(8000).mean(0), vae.p_y().probs @ torch.stack(truth), rtol=0, atol=0.05)


# ---- what a label can be

TABLE = partial(Columns, families=[Normal, Bernoulli, Poisson])
LABELS = {
    "classes": ({}, lambda n: classes(n)),
    "one-hot": ({}, lambda n: F.one_hot(classes(n), K)),
    "a number": ({"label_shape": 1, "label": Normal}, lambda n: torch.randn(n)),
    "numbers": ({"label_shape": (2,), "label": partial(Normal, learn="one")}, lambda n: torch.randn(n, 2)),
    "an image": ({"label_shape": (1, 2, 3), "label": Normal}, lambda n: torch.randn(n, 1, 2, 3)),
    "yes and no": ({"label_shape": 4, "label": Bernoulli}, lambda n: torch.rand(n, 4) < 0.5),
    "a table": (
        {"label_shape": 3, "label": TABLE},
        lambda n: torch.stack([torch.randn(n), (torch.rand(n) < 0.5).float(), torch.poisson(torch.ones(n))], 1),
    ),
    "given numbers": ({"label_shape": 2}, lambda n: torch.randn(n, 2)),
}


@pytest.mark.parametrize(
    ("name", "model"),
    [(name, SemiSupervisedVAE) for name in LABELS]
    + [
        pytest.param(name, ConditionalVAE, marks=[] if name in ("classes", "given numbers") else pytest.mark.slow)
        for name in LABELS
    ],
)
def test_every_kind_of_label_is_scored_trained_generated_and_may_be_missing(name, model, double):
    options, draw = LABELS[name]
    if name == "given numbers" and model is SemiSupervisedVAE:
        pytest.skip("a label that may be missing needs a p(y)")
    vae, x, y = made(model, **options), binary(), draw(N)
    encoded = vae.encode_labels(y)
    assert encoded.shape == (N, *vae.label_shape)
    assert encoded.dtype == torch.float64
    assert torch.equal(vae.encode_labels(encoded), encoded)
    result = pyrovae.evaluate(vae, Split(x, y), 3)
    expected = 0.0 if vae.label is None else vae.p_y().log_prob(encoded).mean().item()
    assert result["observed_by_site"]["y"]["value"] == pytest.approx(expected, abs=1e-9)
    assert ("and of y" in result["measure"]) == (vae.label is not None)
    before = copy.deepcopy(vae)
    record = fit(vae, Split(x, y), epochs=1, batch_size=7, compile=False)[0]
    assert math.isfinite(record["loss"])
    unmoved = [n for n, p in vae.named_parameters() if torch.equal(p, dict(before.named_parameters())[n])]
    assert unmoved == []
    assert vae.sample(5, y[:5]).shape == (5, D)
    if model is SemiSupervisedVAE:
        missing = y.double()
        missing = torch.where(torch.arange(N).reshape(-1, *[1] * (y.ndim - 1)) < 20, torch.nan, missing)
        if name == "classes":
            missing = classes(missing=20)
        records = fit(vae, Split(x, missing), epochs=2, batch_size=7, compile=False)
        assert all(math.isfinite(record["loss"]) for record in records)
        assert math.isfinite(pyrovae.evaluate(vae, Split(x, missing), 3)["elbo"]["value"])
        assert math.isfinite(pyrovae.evaluate(vae, x, 3)["log_likelihood"]["value"])


def test_given_labels_are_no_part_of_the_score(double):
    """Where there is no p(y) the site y is there, and worth nothing; scores are of x given y."""
    vae, x, y = made(ConditionalVAE, label_shape=2), binary(), torch.randn(N, 2)
    q, p = traces.traces(vae.model, vae.guide, 4, x, y)
    z = q.nodes["z"]["value"]
    truth = vae.p_x(z, y).log_prob(x) + vae.p_z(y).log_prob(z) - vae.q_z(x, y).log_prob(z)
    torch.testing.assert_close(traces.log_weight(q, p), truth, rtol=1e-10, atol=1e-10)
    result = pyrovae.evaluate(vae, Split(x, y), 3)
    assert result["measure"] == "mass over binary values, given y"
    assert not hasattr(vae, "h_y")


def test_a_number_that_is_missing_is_drawn(double):
    """A label that cannot be summed over is sampled, with the same bound in the mean: by quadrature over y."""
    vae = jolt(made(shape=2, likelihood=Normal, label_shape=1, label=Normal))
    x = torch.randn(1, 2).repeat(4000, 1)
    y = torch.linspace(-30, 30, 6001)[:, None]
    with torch.no_grad():
        q_y, p_y = vae.q_y(x[:1]), vae.p_y()
        q_z = vae.q_z(x[:1], y)
        z = q_z.rsample((400,))
        inner = (vae.p_x(z, y).log_prob(x[:1]) + vae.p_z(y).log_prob(z) - q_z.log_prob(z)).mean(0)
        log_q = q_y.log_prob(y)
        truth = torch.trapezoid(log_q.exp() * (inner + p_y.log_prob(y) - log_q), y[:, 0]).item()
    drawn = torch.tensor([-ELBO().loss(vae.model, vae.guide, x) for _ in range(10)])
    assert drawn.mean().item() == pytest.approx(truth, abs=4 * drawn.std().item() / math.sqrt(10) + 0.02)
    enumerated = torch.tensor([-SemiSupervised().loss(vae.model, vae.guide, x) for _ in range(10)])
    assert enumerated.mean().item() == pytest.approx(truth, abs=4 * enumerated.std().item() / math.sqrt(10) + 0.02)


def test_the_divergence_from_a_conditional_prior_is_in_closed_form(double):
    vae = jolt(made(ConditionalVAE, conditional_prior=guides.DiagonalNormal))
    x, y = binary(), classes()
    hot = vae.encode_labels(y)
    result = pyrovae.evaluate(vae, Split(x, y), 2)
    with torch.no_grad():
        p, q = vae.p_z(hot), vae.q_z(x, hot)
    ratio = q.variance / p.variance
    truth = 0.5 * (ratio + (q.mean - p.mean) ** 2 / p.variance - 1 - ratio.log()).sum(-1).mean()
    assert result["kl_estimator"] == "closed form"
    assert result["kl"]["value"] == pytest.approx(truth.item(), abs=1e-10)
    assert (p.mean[0] - p.mean[1]).abs().max() > 1e-3


def test_the_learned_prior_of_y_becomes_the_frequencies():
    x, y = binary(40), torch.tensor([0] * 24 + [1] * 12 + [2] * 4)
    vae = made(ConditionalVAE)
    assert vae.p_y().probs.tolist() == pytest.approx([1 / 3] * 3)
    fit(vae, Split(x, y), epochs=150, batch_size=40, learning_rate=0.05)
    assert vae.p_y().probs.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.02)


# ---- worst cases


@pytest.mark.parametrize(
    ("model", "network", "beta"),
    [
        (ConditionalVAE, NET, 1.0),
        (SemiSupervisedVAE, CONV, 0.0),
        pytest.param(ConditionalVAE, NET, 0.0, marks=pytest.mark.slow),
        pytest.param(ConditionalVAE, CONV, 0.0, marks=pytest.mark.slow),
        pytest.param(ConditionalVAE, CONV, 1.0, marks=pytest.mark.slow),
        pytest.param(SemiSupervisedVAE, NET, 0.0, marks=pytest.mark.slow),
        pytest.param(SemiSupervisedVAE, NET, 1.0, marks=pytest.mark.slow),
        pytest.param(SemiSupervisedVAE, CONV, 1.0, marks=pytest.mark.slow),
    ],
)
def test_images_of_three_channels_that_are_no_squares_train(model, network, beta):
    x, y = (torch.rand(23, 3, 6, 5) < 0.5).double(), classes(23, 9 if model is SemiSupervisedVAE else 0)
    parts = {"encoder": network, "decoder": network} | ({"classifier": network} if model is SemiSupervisedVAE else {})
    vae = made(model, (3, 6, 5), **parts).double()
    objective = SemiSupervised(beta=beta) if model is SemiSupervisedVAE else ELBO(beta)
    options = {"objective": objective, "learning_rate": 1e-2, "compile": False}
    records = fit(vae, Split(x, y), epochs=6, batch_size=9, **options)
    assert records[-1]["loss"] < records[0]["loss"]
    assert importance.reconstruct(vae, x[-3:], y[-3:]).shape == (3, 3, 6, 5)
    assert vae.sample(4, [0, 1, 2, 0]).dtype == torch.float64
    assert pyrovae.evaluate(vae, Split(x, y), 2)["rows"] == 23


@pytest.mark.parametrize("missing", [0, 1, 29])
def test_one_label_of_its_kind_is_enough(missing):
    vae, x, y = made(), binary(), classes(missing=missing)
    records = fit(vae, Split(x, y), epochs=2, batch_size=8, compile=False)
    assert all(math.isfinite(record["loss"]) for record in records)
    assert pyrovae.evaluate(vae, Split(x, y), 3)["rows"] == N
    assert pyrovae.evaluate(vae, Split(x[-1:], y[-1:]), 3)["rows"] == 1


def test_few_missing_labels_do_not_shorten_an_epoch():
    """One row of 30 without a label: an epoch still meets all others."""
    training = Training(made(), Split(binary(), classes(missing=1)), epochs=1, batch_size=6, compile=False)
    rows = training.batches.order()
    assert rows.unique().tolist() == list(range(N))
    assert next(iter(training))["step"] == 10


def test_both_entries_and_labels_may_be_missing(known):
    """Imputed, an entry is its mean given what is seen, over all classes."""
    it = known()
    likelihood = partial(Missing, of=partial(Normal, scale=0.7))
    net = partial(FilledIn, network=NET)
    vae = made(shape=4, likelihood=likelihood, encoder=net, classifier=net, decoder=it.vae.decoder.network).double()
    vae.h_y = it.vae.h_y
    x = it.x[:30].clone()
    holes = torch.rand(x.shape) < 0.4
    holes[:, 0] = False
    found = pyrovae.impute(vae, torch.where(holes, torch.nan, x), 5000)
    w, v = vae.decoder.network[0].weight.detach().split([2, K], 1)
    means = v.T + vae.decoder.network[0].bias.detach()
    covariance = w @ w.T + 0.49 * torch.eye(4)
    for row, seen, hole in zip(found, x, holes, strict=True):
        there = ~hole
        marginal = dist.MultivariateNormal(means[:, there], covariance[there][:, there])
        share = (vae.p_y().logits + marginal.log_prob(seen[there])).softmax(0)
        gain = covariance[hole][:, there] @ torch.linalg.inv(covariance[there][:, there])
        each = means[:, hole] + (seen[there] - means[:, there]) @ gain.T
        torch.testing.assert_close(row[hole], share @ each, rtol=0, atol=0.25)
        assert torch.equal(row[there], seen[there])
    records = fit(vae, Split(torch.where(holes, torch.nan, x), classes(30, 20)), epochs=1, batch_size=7, compile=False)
    assert math.isfinite(records[0]["loss"])
    with pytest.raises(ValueError, match="classifier: expected one that takes missing entries"):
        made(shape=4, likelihood=likelihood, encoder=net, classifier=NET)


@pytest.mark.parametrize(
    ("shape", "missing"),
    [
        ((1, 4, 5), 7),
        ((6,), 20),
        pytest.param((6,), 0, marks=pytest.mark.slow),
        pytest.param((6,), 7, marks=pytest.mark.slow),
        pytest.param((1, 4, 5), 0, marks=pytest.mark.slow),
        pytest.param((1, 4, 5), 20, marks=pytest.mark.slow),
    ],
)
def test_it_is_drawn_with_missing_labels_too(missing, shape):
    x, y = (torch.rand(20, *shape) < 0.5).float(), classes(20, missing)[torch.randperm(20)]
    drawn = set(figures.draw(made(shape=shape), Split(x, y)))
    pictures = {"classes", "transfer"} if missing < 20 else {"interpolation"}
    extra = pictures | {"variations"} if len(shape) == 3 else set()
    assert drawn == {"program", "samples", "reconstructions", "latents"} | extra


def test_the_program_is_drawn_as_it_runs_without_labels(monkeypatch):
    seen = []
    monkeypatch.setattr(figures.plots, "program_graph", lambda *drawn: seen.extend(drawn))
    figures._program(made(), Split(binary(20), classes(20, 9)))
    _, edges, inferred, observed, _ = seen
    assert set(edges) == {("y", "x"), ("z", "x")}
    assert set(inferred) == {("x", "y"), ("x", "z"), ("y", "z")}
    assert observed == ["x"]


def test_codes_of_rows_with_and_without_labels_are_drawn_in_their_places(monkeypatch):
    vae, x, y = jolt(made(guide=guides.Delta)), binary(20), classes(20, 9)[torch.randperm(20)]
    seen = {}
    monkeypatch.setattr(
        figures.plots, "latent_plane", lambda codes, kinds, decoded, site: seen.update(codes=codes, kinds=kinds)
    )
    with torch.no_grad():
        figures._latents(vae, Split(x, y), figures._codes(vae, Split(x, y)))
        truth = vae.q_z(x[y >= 0], vae.encode_labels(y[y >= 0])).mean
    torch.testing.assert_close(torch.from_numpy(seen["codes"])[y >= 0], truth)
    assert seen["kinds"].tolist() == y.tolist()


# ---- a hundred labels


@pytest.mark.slow
@pytest.mark.filterwarnings(DRAWN)
def test_a_hundred_labels_and_all_images_make_a_classifier():
    """M2 on 8 x 8 digits: right for most. The control: by bounds of drawn labels alone it learns no class."""
    digits = load("digits", binarize="none")
    net = partial(MLP, hidden=(64,))
    rates = {}
    for name, objective in {"M2": SemiSupervised(), "naive": ELBO()}.items():
        torch.manual_seed(0)
        vae = SemiSupervisedVAE(
            (1, 8, 8), 8, 10, likelihood=partial(Bernoulli, soft_targets=True), encoder=net, decoder=net, classifier=net
        )
        few = with_labels(digits, 100)
        fit(vae, few.train, epochs=5, batch_size=100, objective=objective, learning_rate=5e-3, compile=False)
        rates[name] = accuracy(vae, digits.test)["accuracy"]["value"]
    assert rates["M2"] > 0.8
    assert rates["naive"] < 0.4


# ---- what is refused


def data(kind):
    x, y = binary(), classes()
    return {
        "no labels": lambda: x,
        "out of range": lambda: Split(x, y + 1),
        "below -1": lambda: Split(x, y - 2),
        "floats": lambda: Split(x, y.float()),
        "booleans": lambda: Split(x, y.bool()),
        "a column": lambda: Split(x, y[:, None]),
        "two classes": lambda: Split(x, F.one_hot(y)[:, :2]),
        "no one-hot": lambda: Split(x, F.one_hot(y) * 2),
        "too few": lambda: Split(x, y[:29]),
        "too many": lambda: Split(x, torch.cat([y, y])),
        "all missing": lambda: Split(x, torch.full((N,), -1)),
        "some missing": lambda: Split(x, classes(missing=20)),
        "one missing, read late": lambda: Split((x * 255).byte(), classes(missing=1).flip(0), "dynamic"),
        "some missing, row by row": lambda: TensorDataset(x, classes(missing=20).flip(0)),
        "out of range, row by row": lambda: TensorDataset(x, torch.where(torch.arange(N) == 25, 7, y)),
        "a loader, missing": lambda: DataLoader(TensorDataset(x, classes(missing=20)), batch_size=10),
        "a loader without": lambda: DataLoader(TensorDataset(x), batch_size=10),
        "a loader, out of range": lambda: DataLoader(TensorDataset(x, y + 1), batch_size=10),
        "no rows": lambda: Split(x[:0], y[:0]),
        "one row": lambda: Split(x[:1], y[:1]),
    }[kind]()


NONE = "y: expected labels, found none; pass data with labels as Split"
RANGE = "y: expected classes from 0 to 2, found"
REFUSED = {  # by both models, in training and in evaluation
    "out of range": f"{RANGE} 3 in row 2",
    "below -1": f"{RANGE} -2 in row 0",
    "floats": "y: expected classes as integers, found torch.float32",
    "booleans": "y: expected classes as integers, found torch.bool",
    "a column": r"y: expected shape \(N, 3\), found \(30, 1\)",
    "two classes": r"y: expected shape \(N, 3\), found \(30, 2\)",
    "no one-hot": r"y: expected values in the support OneHot\(\), found \[2.0, 0.0, 0.0\]",
    "too few": "y: expected a label for each of 30 rows, found 29",
    "too many": "y: expected a label for each of 30 rows, found 60",
    "out of range, row by row": f"{RANGE} 7 in row 25",
    "a loader, out of range": f"{RANGE} 3 in row 2",
    "no rows": "expected data, found none",
}
IN_TRAINING = {"one row": "expected at least 2 rows to train on, found 1"}
OF_M2_IN_TRAINING = {
    "all missing": "y: expected some labels, found all 30 missing",
    "a loader, missing": "y: expected a Split or a Dataset if labels are missing, found a DataLoader",
}
OF_CONDITIONAL = {
    "no labels": NONE,
    "all missing": NONE,
    "some missing": NONE,
    "one missing, read late": NONE,
    "some missing, row by row": NONE,
    "a loader, missing": NONE,
    "a loader without": NONE,
}
OF_CONDITIONAL_IN_TRAINING = {
    "all missing": "y: expected the labels of all 30 rows, found 30 missing",
    "some missing": "y: expected the labels of all 30 rows, found 20 missing",
    "one missing, read late": "y: expected the labels of all 30 rows, found 1 missing",
    "some missing, row by row": "y: expected the labels of all 30 rows, found 20 missing",
}
CASES = [
    (model, ask, kind, message)
    for model in (ConditionalVAE, SemiSupervisedVAE)
    for ask in (fit, pyrovae.evaluate)
    for kind, message in (
        REFUSED
        | (IN_TRAINING if ask is fit else {})
        | (OF_CONDITIONAL if model is ConditionalVAE else OF_M2_IN_TRAINING if ask is fit else {})
        | (OF_CONDITIONAL_IN_TRAINING if model is ConditionalVAE and ask is fit else {})
    ).items()
]


@pytest.mark.parametrize(("model", "ask", "kind", "message"), CASES, ids=lambda part: getattr(part, "__name__", part))
def test_labels_that_do_not_fit_are_refused_before_any_work(model, ask, kind, message):
    vae = made(model)
    before = copy.deepcopy(vae)
    with pytest.raises(ValueError, match=message):
        ask(vae, data(kind), **({"batch_size": 10} if ask is fit and kind not in ("one row", "no rows") else {}))
    assert same_bits(vae, before)


def test_all_else_is_taken():
    """The complement of the table above: M2 takes rows without labels, in training and in evaluation."""
    for kind in ("no labels", "some missing", "one missing, read late", "some missing, row by row", "a loader without"):
        vae = made()
        assert fit(vae, data(kind), epochs=1, batch_size=10, compile=False)[0]["step"] > 0
        assert pyrovae.evaluate(vae, data(kind), 2)["rows"] == N
    assert pyrovae.evaluate(made(), data("a loader, missing"), 2)["rows"] == N
    assert pyrovae.evaluate(made(), data("all missing"), 2)["rows"] == N


def test_a_missing_label_that_a_loader_brings_later_stops_the_run_and_undoes_the_epoch():
    vae = made()
    before = copy.deepcopy(vae)
    training = Training(vae, DataLoader(TensorDataset(binary(), classes(missing=5).flip(0)), batch_size=10), epochs=2)
    with pytest.raises(TrainingError, match="expected a Split or a Dataset if labels are missing"):
        list(training)
    assert same_bits(vae, before)
    assert training.step == 0


def test_validation_labels_are_checked_too():
    x = binary()
    for y, message in ((classes() + 1, RANGE), (classes(missing=4).flip(0), "the labels of all 30 rows, found 4")):
        with pytest.raises(ValueError, match=message):
            fit(made(ConditionalVAE), Splits("mine", Split(x, classes()), Split(x, y)))


@pytest.mark.parametrize("model", [ConditionalVAE, SemiSupervisedVAE])
def test_a_number_that_is_missing_or_infinite(model):
    vae, x, y = made(model, label_shape=1, label=Normal), binary(), torch.randn(N)
    with pytest.raises(ValueError, match=r"y: expected finite values, found -?inf at \(3, 0\), 1 in all"):
        fit(vae, Split(x, torch.where(torch.arange(N) == 3, torch.inf, y)))
    holed = Split(x, torch.where(torch.arange(N) == 3, torch.nan, y))
    if model is SemiSupervisedVAE:
        assert math.isfinite(fit(vae, holed, epochs=1, batch_size=10, compile=False)[0]["loss"])
        assert "accuracy" not in pyrovae.evaluate(vae, holed, 2)
        return
    with pytest.raises(ValueError, match="y: expected the labels of all 30 rows, found 1 missing"):
        fit(vae, holed)
    with pytest.raises(ValueError, match=NONE):
        pyrovae.evaluate(vae, holed, 2)


@pytest.mark.filterwarnings(DRAWN)
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: made(ConditionalVAE, label_shape=2).sample(3), r"y: expected labels, found none, and .* no p\(y\)"),
        (lambda: made(ConditionalVAE).sample(3, [0, 1]), "y: expected 3 labels, found 2"),
        (lambda: made(ConditionalVAE).sample(3, 1), "y: expected 3 labels, found 1"),
        (lambda: made(ConditionalVAE).sample(2, [0, 3]), f"{RANGE} 3 in row 1"),
        (lambda: made(ConditionalVAE).sample(2, [0, -1]), f"{RANGE} -1 in row 1"),
        (lambda: made(ConditionalVAE).sample(2, [0.0, 1.0]), "y: expected classes as integers, found torch.float32"),
        (lambda: importance.sample(pyrovae.VAE(D, 2), 3, [0, 1, 2]), "y: expected no labels, because the model has no"),
        (lambda: importance.reconstruct(pyrovae.VAE(D, 2), binary(), classes()), "y: expected no labels, because"),
        (lambda: importance.reconstruct(made(ConditionalVAE), binary()), NONE),
        (lambda: importance.reconstruct(made(), binary(), classes(missing=1)), f"{RANGE} -1 in row 0"),
        (lambda: importance.reconstruct(made(), binary(), classes(29)), "a label for each of 30 rows, found 29"),
        (lambda: importance.classify(made(ConditionalVAE), binary()), r"expected a guide\(x, y=None\) that draws y"),
        (
            lambda: importance.classify(made(label_shape=1, label=Normal), binary()),
            "expected a guide whose y is a class, found one of Independent",
        ),
        (
            lambda: fit(made(ConditionalVAE), Split(binary(), classes()), objective=SemiSupervised()),
            r'SemiSupervised: expected a guide\(x, y=None\) with a site "y"',
        ),
        (
            lambda: fit(made(), Split(binary(), classes(missing=9)), objective=ELBO(estimator="analytic")),
            "analytic needs reparametrised latents: 'y' of OneHotCategorical is not",
        ),
        (lambda: SemiSupervised(-1.0), "alpha: expected a finite number >= 0, found -1.0"),
        (lambda: made(ConditionalVAE, num_classes=2, label_shape=2), "expected num_classes or label_shape, found 2"),
        (lambda: ConditionalVAE(D, 2), "expected num_classes or label_shape, found None and None"),
        (lambda: ConditionalVAE(D, 2, 0), "num_classes: expected an integer >= 1, found 0"),
        (lambda: made(label_shape=2), r"label: expected the family of p\(y\), which draws missing labels"),
        (
            lambda: made(ConditionalVAE, prior=pyrovae.priors.VampPrior),
            r"encoding: expected x -> q\(z\|x\), from which this prior",
        ),
    ],
)
def test_questions_without_an_answer_are_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labelled_batch_size": 10}, "labelled_batch_size: expected at most 9 of the 10 rows of a batch"),
        ({"labelled_batch_size": 11}, "labelled_batch_size: expected at most 9 of the 10 rows of a batch"),
        ({"labelled_batch_size": -1}, "labelled_batch_size: expected an integer >= 0, found -1"),
        ({"batch_size": 1}, "batch_size: expected at least 2 if some labels are missing, found 1"),
    ],
)
def test_batches_without_room_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(made(), Split(binary(), classes(missing=20)), **{"batch_size": 10} | options)


def test_labels_that_a_model_does_not_take_are_ignored_in_data():
    """Data have labels whether or not a model knows what to do with them."""
    x, start = binary(), pyrovae.VAE(D, 2, encoder=NET, decoder=NET)
    models = [copy.deepcopy(start) for _ in range(2)]
    for vae, split in zip(models, (Split(x), Split(x, classes(missing=9))), strict=True):
        fit(vae, split, epochs=1, batch_size=10, compile=False)
    assert same_bits(*models)
    assert pyrovae.evaluate(start, Split(x, classes(missing=9)), 2) == pyrovae.evaluate(start, x, 2)
