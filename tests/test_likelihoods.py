"""The laws that every likelihood keeps: a new one is one line in this table."""

import math
from functools import partial
from itertools import permutations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from conftest import kind
from safetensors.torch import load, save
from scipy import stats
from test_graphs import Noting
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae import VAE, likelihoods
from pyrovae.distributions import Concatenated, Levels, NaNMasked, OpenBeta
from pyrovae.evaluation.bits import bits_per_dimension
from pyrovae.likelihoods import Bernoulli, Beta, CategoricalLevels, Measure, Missing, Normal, Poisson
from pyrovae.networks import MLP, FilledIn, Log1p
from pyrovae.objectives import ELBO
from pyrovae.objectives.squared_error import squared_error
from pyrovae.programs.traces import log_weights, over

SOFT = partial(likelihoods.Bernoulli, soft_targets=True)
OPTIMAL = partial(likelihoods.Normal, learn="optimal")
FAMILIES = [Normal, Bernoulli, partial(Normal, learn="per-input"), Poisson, Beta, partial(CategoricalLevels, levels=7)]

LIKELIHOODS = [
    likelihoods.Bernoulli,
    SOFT,
    likelihoods.Beta,
    partial(likelihoods.CategoricalLevels, levels=16),
    partial(likelihoods.Columns, families=FAMILIES),
    likelihoods.ContinuousBernoulli,
    likelihoods.DiscretizedLogistic,
    partial(likelihoods.DiscretizedLogistic, learn="per-input", levels=16),
    partial(likelihoods.DiscretizedLogisticMixture, components=3, levels=64),
    partial(likelihoods.Laplace, scale=0.5),
    partial(likelihoods.Laplace, learn="per-input"),
    likelihoods.Missing,
    partial(likelihoods.Missing, of=likelihoods.ContinuousBernoulli),
    partial(likelihoods.NegativeBinomial, total_count=3.0),
    partial(likelihoods.Normal, scale=0.3),
    partial(likelihoods.Normal, learn="one"),
    partial(likelihoods.Normal, learn="per-value", scale=2.0),
    partial(likelihoods.Normal, learn="per-input", scale=0.5),
    OPTIMAL,
    likelihoods.OneHotCategorical,
    likelihoods.Poisson,
    partial(likelihoods.StudentT, df=9.0, learn="one"),
    partial(likelihoods.StudentT, df=12.0, learn_df=True, learn="per-value"),
]


def name(member):
    return "-".join([kind(member).__name__, *(str(value) for value in getattr(member, "keywords", {}).values())])[:60]


def shape_of(member, otherwise):
    """The event shape that a member can have: Columns has one column for each family, classes are a vector."""
    vectors = {likelihoods.Columns: (len(FAMILIES),), likelihoods.OneHotCategorical: (math.prod(otherwise),)}
    return vectors.get(kind(member), otherwise)


def made_with_noise(member, shape, *leading, spread=1.0):
    """A member in evaluation mode and float64, and its distribution at some h."""
    made = member(shape_of(member, shape)).double().eval()
    return made, made(spread * torch.randn(*leading, *made.param_shape, dtype=torch.float64))


def model(member, shape=(1, 4, 4)):
    encoder = FilledIn if kind(member) is Missing else MLP
    return VAE(shape_of(member, shape), 2, likelihood=member, encoder=encoder)


every = pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=name)


def test_the_table_holds_every_member():
    assert {kind(member).__name__ for member in LIKELIHOODS} == set(likelihoods.__all__)


def parts(p):
    """The distributions of numbers that p is made of; a class stays whole."""
    if isinstance(p, dist.OneHotCategorical):
        return [p]
    inner = p.base_dist.whole if isinstance(p.base_dist, NaNMasked) else p.base_dist
    return inner.columns if isinstance(inner, Concatenated) else [inner]


def grid(p):
    """Values and weights whose sum is a sum or an integral over the support. Two (G, *batch_shape)"""
    support = getattr(p.support, "base_constraint", p.support)
    if support is constraints.one_hot:
        values = p.enumerate_support()
        return values, torch.ones_like(values[..., :1])
    if support is constraints.boolean:
        values = torch.tensor([0.0, 1.0], dtype=torch.float64)
    elif isinstance(support, Levels):
        values = support.values(torch.zeros((), dtype=torch.float64))
    elif support is constraints.nonnegative_integer:
        values = torch.arange(6000, dtype=torch.float64)
    else:  # Gauss and Legendre, on panels in t; those of real values part at the mean, where Laplace's has its kink
        nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(24))
        t = (torch.arange(-33, 33).double()[:, None] + 0.5 + nodes / 2).flatten()
        weights = (weights / 2).repeat(66)
        t, weights = (each.reshape(-1, *[1] * len(p.batch_shape)) for each in (t, weights))
        if support is constraints.real:
            return p.mean + t.sinh(), (weights * t.cosh()).expand(-1, *p.batch_shape)
        inside = weights * t.sigmoid() * (-t).sigmoid()
        return t.sigmoid().expand(-1, *p.batch_shape), inside.expand(-1, *p.batch_shape)
    values = values.reshape(-1, *[1] * len(p.batch_shape)).expand(-1, *p.batch_shape)
    return values, torch.ones_like(values)


@every
def test_likelihood_is_normalised_and_has_its_mean_and_variance(likelihood):
    """Sums over the support, or integrals: of p, of x p and of (x - mean)^2 p. Soft targets are the counterexample."""
    # Where a Beta is steep, mass lies nearer to 1 than float64 can say.
    spread = 0.05 if kind(likelihood) in (Beta, likelihoods.Columns) else 1.0
    for p in parts(made_with_noise(likelihood, (2,), 5, spread=spread)[1]):
        x, weights = grid(p)
        mass = over(p.log_prob(x).exp(), x) * weights
        if likelihood is SOFT:
            assert (mass.sum(0) - 1).abs().min() > 0.1
            continue
        one = torch.ones_like(mass[0])
        torch.testing.assert_close(mass.sum(0), one, rtol=0, atol=1e-9)
        torch.testing.assert_close((mass * x).sum(0), p.mean, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close((mass * (x - p.mean) ** 2).sum(0), p.variance * one, rtol=1e-6, atol=1e-9)


@every
def test_the_sampler_has_the_mean_and_the_variance_of_the_distribution(likelihood):
    n = 40000
    p = made_with_noise(likelihood, (3,))[1]
    x = p.sample((n,))
    away = (x - p.mean).square()
    assert ((x.mean(0) - p.mean).abs() < 5 * (p.variance / n).sqrt()).all()
    assert ((away.mean(0) - p.variance).abs() < 5 * away.std(0) / math.sqrt(n) + 1e-9).all()
    assert p.support.check(x).all()


@every
def test_likelihood_sums_over_the_event_alone(likelihood):
    """Rows and particles stay apart; each value of the event counts once."""
    p = made_with_noise(likelihood, (1, 2, 3), 4, 5)[1]
    x = p.sample()
    assert p.batch_shape == (4, 5)
    assert p.event_shape == shape_of(likelihood, (1, 2, 3))
    each = p.logits * x if isinstance(p, dist.OneHotCategorical) else p.base_dist.log_prob(x)
    torch.testing.assert_close(p.log_prob(x), each.flatten(2).sum(-1), rtol=0, atol=1e-10)
    changed = torch.where(torch.arange(5)[:, *[None] * len(p.event_shape)] == 2, p.sample(), x)
    same = p.log_prob(changed) == p.log_prob(x)
    assert same.all(0).tolist() == [True, True, False, True, True]


@every
def test_extra_leading_dimensions_change_no_number(likelihood):
    vae = model(likelihood).double().eval()
    x = vae.sample(5)
    z = torch.randn(7, 5, 2, dtype=torch.float64)
    together = vae.p_x(z).log_prob(x)
    torch.testing.assert_close(together[3], vae.p_x(z[3]).log_prob(x), rtol=0, atol=1e-10)
    assert log_weights(vae.model, vae.guide, 7, x).shape == (7, 5)


@every
def test_float64_agrees_with_float32(likelihood):
    vae = model(likelihood).eval()
    x, z = vae.sample(5), torch.randn(5, 2)
    single = vae.p_x(z).log_prob(x)
    double = vae.double().p_x(z.double()).log_prob(x.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@every
def test_a_gradient_reaches_every_parameter(likelihood):
    vae = model(likelihood, (1, 8, 8)).double()
    loss = ELBO()
    loss.loss_and_grads(vae.model, vae.guide, vae.sample(6))
    gradients = {key: value.grad for key, value in vae.named_parameters()}
    assert [key for key, g in gradients.items() if g is None or not g.isfinite().all() or not g.abs().sum() > 0] == []


@every
def test_a_saved_and_loaded_likelihood_scores_the_same(likelihood):
    vae, other = model(likelihood).double(), model(likelihood).double()
    with torch.no_grad():
        for value in vae.parameters():
            value.add_(0.1 * torch.randn_like(value))
    x, z = vae.sample(4), torch.randn(4, 2, dtype=torch.float64)
    vae.p_x(z).log_prob(x)  # in training mode, where an optimal scale is remembered
    other.load_state_dict(load(save(vae.state_dict())))
    vae.eval(), other.eval()
    assert torch.equal(vae.p_x(z).log_prob(x), other.p_x(z).log_prob(x))


@every
def test_a_recorded_step_is_the_eager_one(likelihood):
    vae = model(likelihood, (6,)).double()
    x = vae.sample(5)
    buffers = {key: value.clone() for key, value in vae.named_buffers()}
    found = []
    for compile in ("auto", False):
        vae.load_state_dict(buffers, strict=False)
        svi = pyrovae.SVI(vae.model, vae.guide, Noting, ELBO(), compile=compile)
        svi.prepare(x)
        assert svi.path == ("graph" if compile else "eager")
        torch.manual_seed(3)
        found.append((svi.step(x), svi.optimizer.seen[-1], [value.clone() for value in vae.buffers()]))
    (loss, gradients, after), (expected, truth, expected_after) = found
    assert loss == pytest.approx(expected, rel=1e-10)
    assert gradients.keys() == truth.keys()
    for key, gradient in truth.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after, expected_after)


@pytest.mark.parametrize(
    ("likelihood", "value", "message"),
    [
        (Bernoulli, 0.5, r"support Boolean\(\), found 0.5 at \(1, 2\), 1 of 8 in all. A Bernoulli has no grey values"),
        (SOFT, 1.5, r"support Interval\(lower_bound=0.0, upper_bound=1.0\), found 1.5"),
        (likelihoods.ContinuousBernoulli, -0.25, "found -0.25 .*Divide by the largest value"),
        (Beta, 0.0, r"support 0 < x < 1, found 0 at .*dequantize"),
        (Beta, 1.0, r"support 0 < x < 1, found 1 at .*dequantize"),
        (likelihoods.DiscretizedLogistic, 0.5, r"support of the levels k/255, k = 0, ..., 255, found 0.5 at"),
        (likelihoods.DiscretizedLogistic, 256 / 255, "found 1.00392 at .*as many levels as the data have"),
        (likelihoods.DiscretizedLogisticMixture, -1 / 255, "levels k/255.*found -0.00392157 at"),
        (partial(CategoricalLevels, levels=4), 0.5, "levels k/3, k = 0, ..., 3, found 0.5 at"),
        (Poisson, 1.5, "found 1.5 at .*Counts are non-negative integers"),
        (likelihoods.NegativeBinomial, -1.0, "found -1 at .*Counts are non-negative integers"),
        (partial(likelihoods.Missing, of=Bernoulli), 0.5, r"Boolean\(\), or NaN where missing, found 0.5 at \(1, 2\)"),
        (Normal, math.nan, "expected finite values, found nan"),
        (
            likelihoods.OneHotCategorical,
            0.5,
            r"support OneHot\(\), found \[.*0.5.*\] at \(1,\), 1 of 2 in all. "
            "One of the K columns has to be 1, the others 0",
        ),
    ],
    ids=lambda part: name(part) if callable(part) else str(part)[:20],
)
def test_values_outside_the_support_are_refused(likelihood, value, message):
    vae = VAE(4, 2, likelihood=likelihood, encoder=FilledIn if kind(likelihood) is Missing else MLP)
    x = vae.sample(2)
    vae.check(x)
    x[1, 2] = value
    with pytest.raises(ValueError, match=message):
        vae.check(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(3, scale=0.0), "scale: expected a number > 0, found 0.0"),
        (lambda: Normal(3, scale=1e-4, learn="one"), "above min_scale = 0.001"),
        (lambda: Normal(3, learn="on"), "did you mean 'one'"),
        (lambda: Normal(3, learn="one", min_scale=-1.0), "min_scale: expected a number > 0, found -1.0"),
        (lambda: likelihoods.Laplace(3, learn="optimal"), "unknown choice for learn 'optimal'"),
        (lambda: likelihoods.StudentT(3, df=2.0), "df: expected a number above 2, .*, found 2.0"),
        (lambda: likelihoods.DiscretizedLogistic(3, levels=1), "levels: expected an integer >= 2, found 1"),
        (lambda: likelihoods.DiscretizedLogisticMixture(3, components=0), "components: expected an integer >= 1"),
        (lambda: CategoricalLevels(3, levels=0), "levels: expected an integer >= 2, found 0"),
        (lambda: likelihoods.NegativeBinomial(3, total_count=0), "total_count: expected a number > 0"),
        (lambda: likelihoods.Columns(3, [Normal]), r"one for each column of event_shape \(3,\), found 1"),
        (lambda: likelihoods.Missing(3, OPTIMAL), "expected independent values, found learn='optimal'"),
        (lambda: Bernoulli(()), "event_shape: expected at least 1 size"),
        (lambda: likelihoods.OneHotCategorical((1, 2)), r"event_shape: expected the shape of a vector, found \(1, 2\)"),
        (lambda: squared_error(3, 2, "total"), "unknown choice of squares 'total'"),
        (lambda: squared_error(3, 2, averaged="none"), "unknown choice of averaged 'none'"),
        (lambda: squared_error(3, 2, batch_size=0), "batch_size: expected an integer >= 1"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (Bernoulli(3, soft_targets=True), ["event_shape=(3,)", "soft_targets=True"]),
        (Normal(3, scale=0.25), ["scale=0.25"]),
        (Normal(3, learn="one", scale=0.25, min_scale=0.01), ["'one'", "scale=0.25", "min_scale=0.01"]),
        (Normal(3, learn="per-value", scale=0.25), ["'per-value'", "scale=0.25"]),
        (Normal(3, learn="per-input", scale=0.25), ["'per-input'", "scale=0.25"]),
        (Normal(3, learn="optimal", min_scale=0.01), ["'optimal'", "min_scale=0.01"]),
        (likelihoods.Laplace(3, learn="per-value"), ["'per-value'"]),
        (likelihoods.StudentT(3, df=7.0, learn_df=True), ["df=7", "learn_df=True"]),
        (likelihoods.DiscretizedLogistic(3, levels=16), ["levels=16"]),
        (likelihoods.DiscretizedLogisticMixture(3, components=4, scale=0.3), ["components=4", "scale=0.3"]),
        (CategoricalLevels(3, levels=16), ["levels=16"]),
        (likelihoods.NegativeBinomial(3, total_count=2.5), ["total_count=2.5"]),
        (likelihoods.Columns(2, [Normal, Poisson]), ["Normal", "Poisson"]),
        (likelihoods.Missing(3, of=Poisson), ["Poisson"]),
        (Beta(3), ["event_shape=(3,)"]),
        (Poisson((3, 2)), ["event_shape=(3, 2)"]),
        (likelihoods.ContinuousBernoulli(3), ["event_shape=(3,)"]),
        (likelihoods.OneHotCategorical(3), ["event_shape=(3,)"]),
    ],
    ids=lambda part: type(part).__name__,
)
def test_the_repr_tells_the_options(made, options):
    assert [option for option in options if option not in repr(made)] == []


def test_each_measure_says_what_is_measured():
    found = {name(member): str(member(shape_of(member, (2,))).measure) for member in LIKELIHOODS}
    assert set(found.values()) == {
        "mass over binary values",
        "cross-entropy of soft targets, no likelihood",
        "density over [0, 1]",
        "density over real values",
        "mass over 256 levels",
        "mass over 64 levels",
        "mass over 16 levels",
        "mass over counts",
        "mass over classes",
        "mixed: density over real values (columns 0 2), mass over binary values (columns 1), "
        "mass over counts (columns 3), density over [0, 1] (columns 4), mass over 7 levels (columns 5)",
        "density over [0, 1], of the entries present",
        "density over real values, of the entries present",
    }
    assert likelihoods.Columns(2, [Normal, likelihoods.Laplace]).measure == Measure("density", "real values")
    assert str(likelihoods.Missing(2, Poisson).measure) == "mass over counts, of the entries present"
    assert Bernoulli.measure == Bernoulli(2).measure == Measure("mass", "binary values")


# Numbers of single members: against scipy, or a closed form.

LOGITS = [-800.0, -20.0, -0.3, 0.0, 4.0]


def score(made, h, x):
    """log p(x|h), elementwise, of a likelihood of one value."""
    h = torch.as_tensor(h, dtype=torch.float64).reshape(-1, *made.param_shape)
    return made.double()(h).log_prob(torch.as_tensor(x, dtype=torch.float64).reshape(-1, 1))


@pytest.mark.parametrize("soft", [False, True])
def test_bernoulli_against_the_closed_form(soft):
    made = Bernoulli(1, soft_targets=soft)
    for x in (0.0, 1.0) + ((0.3,) if soft else ()):
        truth = [-x * math.log1p(math.exp(-h)) - (1 - x) * math.log1p(math.exp(h)) for h in LOGITS[1:]]
        assert score(made, LOGITS[1:], x).tolist() == pytest.approx(truth, rel=1e-12)
    assert score(made, LOGITS[0], 1.0).item() == pytest.approx(-800, rel=1e-12)


def test_soft_targets_have_the_mean_and_the_samples_of_the_bernoulli():
    p = SOFT(3)(torch.tensor([-1.0, 0.0, 2.0]))
    torch.testing.assert_close(p.mean, torch.tensor([-1.0, 0.0, 2.0]).sigmoid())
    assert p.sample((50,)).unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("scale", [1e-4, 0.01, 0.3, 5.0])
def test_normal_and_laplace_against_scipy_and_the_closed_form(scale):
    h = [-2.0, 0.0, 1.5]
    found = score(Normal(1, scale=scale), h, 0.7)
    assert found.tolist() == pytest.approx(stats.norm.logpdf(0.7, h, scale).tolist(), rel=1e-10)
    found = score(likelihoods.Laplace(1, scale=scale), h, 0.7)
    assert found.tolist() == pytest.approx([-abs(0.7 - m) / scale - math.log(2 * scale) for m in h], rel=1e-10)


@pytest.mark.parametrize(("df", "scale"), [(2.1, 0.3), (4.0, 1.0), (30.0, 0.01)])
@pytest.mark.parametrize("learn_df", [False, True])
def test_student_t_against_scipy(df, scale, learn_df):
    h = [-2.0, 0.0, 1e6]
    found = score(likelihoods.StudentT(1, df=df, scale=scale, learn_df=learn_df), h, 0.7)
    assert found.tolist() == pytest.approx(stats.t.logpdf(0.7, df, h, scale).tolist(), rel=1e-6)


@pytest.mark.parametrize("likelihood", [Normal, likelihoods.Laplace, likelihoods.StudentT])
def test_a_scale_per_input_is_the_decoders(likelihood):
    """h = (m, v), s = min_scale + (scale - min_scale) e^v."""
    made = likelihood(1, learn="per-input", scale=0.5, min_scale=0.1)
    for v in (-3.0, 0.0, 1.0):
        fixed = likelihood(1, scale=0.1 + 0.4 * math.exp(v))
        assert score(made, [0.3, v], 0.7).item() == pytest.approx(score(fixed, [0.3], 0.7).item(), rel=1e-10)


@pytest.mark.parametrize(("logit", "log_half"), [(0.0, 0.0), (-2.0, 1.0), (3.0, 4.0), (0.5, -2.0)])
def test_beta_against_scipy(logit, log_half):
    m, c = 1 / (1 + math.exp(-logit)), 2 * math.exp(log_half)
    x = [1e-9, 0.003, 0.5, 0.999]
    h = torch.tensor([logit, log_half]).expand(4, 2)
    assert score(Beta(1), h, x).tolist() == pytest.approx(stats.beta.logpdf(x, c * m, c * (1 - m)).tolist(), rel=1e-6)


def test_beta_stays_finite_for_extreme_decoders():
    h = torch.tensor([[[-200.0], [0.0]], [[200.0], [3.0]], [[0.0], [-30.0]]], requires_grad=True)
    p = Beta(1)(h)
    p.log_prob(torch.tensor([[0.5]])).sum().backward()
    assert h.grad.isfinite().all()
    assert p.support.check(p.sample((1000,))).all()
    assert isinstance(p.base_dist, OpenBeta)


def test_counts_against_scipy():
    h, x = [-3.0, 0.0, 2.0, 5.0], [0.0, 3.0, 1.0, 150.0]
    rate = np.exp(h)
    assert score(Poisson(1), h, x).tolist() == pytest.approx(stats.poisson.logpmf(x, rate).tolist(), rel=1e-10)
    for r in (0.2, 3.0, 50.0):
        found = score(likelihoods.NegativeBinomial(1, total_count=r), h, x)
        assert found.tolist() == pytest.approx(stats.nbinom.logpmf(x, r, r / (r + rate)).tolist(), rel=1e-8)
    p = likelihoods.NegativeBinomial(1, total_count=3.0)(torch.tensor([2.0]))
    assert p.mean.item() == pytest.approx(math.exp(2), rel=1e-5)
    assert p.variance.item() == pytest.approx(math.exp(2) + math.exp(4) / 3, rel=1e-5)


def test_a_poisson_whose_rate_vanishes_has_a_gradient():
    h = torch.full((1,), -200.0, requires_grad=True)
    Poisson(1)(h).log_prob(torch.zeros(1)).backward()
    assert h.grad.item() == 0


def test_categorical_levels_against_the_softmax():
    logits = torch.randn(5, 4, dtype=torch.float64)
    found = score(CategoricalLevels(1, levels=4), logits, [0.0, 1 / 3, 2 / 3, 1.0, 1.0])
    assert found.tolist() == pytest.approx(logits.log_softmax(-1)[range(5), [0, 1, 2, 3, 3]].tolist(), rel=1e-12)


def test_a_mixture_is_the_sum_of_its_logistics():
    h = torch.randn(3, 2, 1, dtype=torch.float64)
    made = likelihoods.DiscretizedLogisticMixture(1, components=2)
    each = [
        score(likelihoods.DiscretizedLogistic(1, learn="per-input"), h[1:, j], [0.0, 80 / 255, 1.0]) for j in (0, 1)
    ]
    truth = torch.logsumexp(h[0].log_softmax(0) + torch.stack(each), 0)
    torch.testing.assert_close(score(made, h, [0.0, 80 / 255, 1.0]), truth, rtol=1e-10, atol=0)


def test_a_mixture_of_one_logistic_is_the_logistic():
    h = torch.randn(6, 3, 1, 4, dtype=torch.float64)
    mixed = likelihoods.DiscretizedLogisticMixture(4, components=1)(h)
    alone = likelihoods.DiscretizedLogistic(4, learn="per-input")(h[:, 1:, 0])
    x = alone.sample()
    torch.testing.assert_close(mixed.log_prob(x), alone.log_prob(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(mixed.mean, alone.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed.variance, alone.variance, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("learn", "shape"), [("one", ()), ("per-value", (2, 3))])
def test_normal_learns_the_scale_of_the_residuals(learn, shape):
    """At the optimum s^2 is the mean squared residual, per value or over all of them."""
    torch.manual_seed(1)
    x = torch.randn(500, 2, 3, dtype=torch.float64) * torch.tensor([[0.2, 1.0, 3.0], [0.5, 0.5, 2.0]])
    made = Normal((2, 3), learn=learn).double()
    optimizer = torch.optim.LBFGS(made.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -made(torch.zeros_like(x)).log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    truth = x.square().mean(0).sqrt() if learn == "per-value" else x.square().mean().sqrt()
    assert made.scale.shape == shape
    torch.testing.assert_close(made.scale.detach(), truth, rtol=1e-4, atol=0)


def test_a_constant_pixel_does_not_send_the_scale_to_zero():
    made = Normal(1, learn="one", scale=0.1, min_scale=0.01)
    with torch.no_grad():
        made.scaling.log_excess.fill_(-1e4)
    assert made.scale.item() == pytest.approx(0.01, rel=1e-6)
    assert torch.isfinite(made(torch.zeros(3, 1)).log_prob(torch.zeros(3, 1))).all()
    best = Normal(1, learn="optimal", min_scale=0.01)
    assert best(torch.zeros(3, 1)).log_prob(torch.zeros(3, 1))[0].item() == pytest.approx(
        -math.log(0.01) - math.log(2 * math.pi) / 2, rel=1e-5
    )


# The scale of a batch that fits it best (sigma-VAE).


def test_the_optimal_scale_is_the_root_mean_square_of_the_batch():
    made = OPTIMAL((2, 3)).double()
    h, x = torch.randn(4, 5, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    s = (x - h).square().mean().sqrt().item()
    found = made(h).log_prob(x)
    truth = stats.norm.logpdf(x.numpy(), h.numpy(), s).sum((-1, -2))
    np.testing.assert_allclose(found.numpy(), truth, rtol=1e-10)
    assert made.scale.item() == pytest.approx(s, rel=1e-6)


def test_no_other_scale_scores_the_batch_better():
    made, h = OPTIMAL(3).double(), torch.randn(50, 3, dtype=torch.float64)
    x = h + 0.3 * torch.randn_like(h)
    best = made(h).log_prob(x).sum().item()
    s = made.scale.item()
    others = [Normal(3, scale=s * factor)(h).log_prob(x).sum().item() for factor in (0.9, 0.99, 1.01, 1.1)]
    assert max(others) < best == pytest.approx(Normal(3, scale=s)(h).log_prob(x).sum().item(), rel=1e-6)


def test_the_optimal_scale_adds_nothing_to_the_gradient():
    """By the envelope theorem: -n/2 log mean (x - h)^2, differentiated whole, is what the constant scale gives."""
    h = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 3, dtype=torch.float64)
    (found,) = torch.autograd.grad(OPTIMAL(3).double()(h).log_prob(x).sum(), h)
    (truth,) = torch.autograd.grad(-h.numel() / 2 * (x - h).square().mean().log(), h)
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=0)


def test_evaluation_takes_the_running_mean_of_the_optimal_scales_and_changes_nothing():
    made = OPTIMAL(2).double()
    h = torch.zeros(1, 2, dtype=torch.float64)
    for size in (1.0, 3.0):
        made(h).log_prob(h + size)
    assert made.scale.item() == pytest.approx(math.sqrt((1 + 9) / 2), rel=1e-6)
    made.eval()
    assert made(h).log_prob(h + 7).item() == pytest.approx(2 * stats.norm.logpdf(7, 0, math.sqrt(5)), rel=1e-6)
    assert made.scale.item() == pytest.approx(math.sqrt(5), rel=1e-6)
    made.train()
    before = made.scaling.state_dict()["mean_square"].clone()
    made.scaling.estimate(torch.tensor(math.nan))
    assert torch.equal(made.scaling.mean_square, before)


# Columns, and missing entries.


def test_columns_score_each_column_by_its_own_family():
    made = likelihoods.Columns(3, [partial(Normal, learn="per-input"), Bernoulli, Poisson])
    assert made.param_shape == (4,)
    h = torch.tensor([[0.5, 0.2, -1.0, 0.7]], dtype=torch.float64)
    x = torch.tensor([[1.5, 1.0, 4.0]], dtype=torch.float64)
    s = 1e-3 + 0.999 * math.exp(0.2)
    truth = stats.norm.logpdf(1.5, 0.5, s) - math.log1p(math.e) + stats.poisson.logpmf(4, math.exp(0.7))
    assert made(h).log_prob(x).item() == pytest.approx(truth, rel=1e-10)
    means = [0.5, 1 / (1 + math.e), math.exp(0.7)]
    assert made(h).mean[0].tolist() == pytest.approx(means, rel=1e-10)
    assert made(h).variance[0].tolist() == pytest.approx([s**2, means[1] * (1 - means[1]), means[2]], rel=1e-10)


def test_a_refused_table_names_the_column():
    vae = VAE(4, 2, likelihood=partial(likelihoods.Columns, families=[Normal, Bernoulli, Poisson, Bernoulli]))
    x = torch.zeros(3, 4)
    vae.check(x)
    x[2, 1] = 0.5
    message = (
        r"Boolean\(\) in column 1, 3; .*found 0.5 at \(2, 1\), 1 of 12 in all"
        r".*its column: 0 Normal, 1 Bernoulli, 2 Poisson, 3 Bernoulli"
    )
    with pytest.raises(ValueError, match=message):
        vae.check(x)


@pytest.mark.parametrize(
    "of",
    [Normal, Bernoulli, Beta, Poisson, likelihoods.DiscretizedLogisticMixture, CategoricalLevels],
    ids=name,
)
def test_missing_entries_leave_the_score(of):
    whole, made = of(6), likelihoods.Missing(6, of=of)
    h = torch.randn(4, *made.param_shape, dtype=torch.float64, requires_grad=True)
    x = whole(h).sample()
    hidden = torch.rand(4, 6) < 0.5
    hidden[0], hidden[1] = True, False
    holed = x.masked_fill(hidden, math.nan)
    p = made(h)
    found = p.log_prob(holed)
    each = whole(h).base_dist.log_prob(x)
    torch.testing.assert_close(found, (each * ~hidden).sum(-1), rtol=1e-12, atol=0)
    assert found[0].item() == 0
    (gradient,) = torch.autograd.grad(found.sum(), h)
    (truth,) = torch.autograd.grad((each * ~hidden).sum(), h)
    torch.testing.assert_close(gradient, truth, rtol=1e-10, atol=1e-14)
    assert p.support.check(holed).all()
    torch.testing.assert_close(p.mean, whole(h).mean)
    assert p.sample().isfinite().all()


def test_missing_entries_of_a_table():
    of = partial(likelihoods.Columns, families=FAMILIES)
    whole, made = of(6), likelihoods.Missing(6, of=of)
    h = torch.randn(5, *made.param_shape, dtype=torch.float64, requires_grad=True)
    x = whole(h).sample()
    diagonal = torch.eye(6, dtype=torch.bool)[:5]
    found = made(h).log_prob(x.masked_fill(diagonal, math.nan))
    torch.testing.assert_close(found, (whole(h).base_dist.log_prob(x) * ~diagonal).sum(-1), rtol=1e-12, atol=0)
    found.sum().backward()
    assert h.grad.isfinite().all()
    assert made.missing


# What the numbers are worth elsewhere.


@pytest.mark.parametrize(
    ("squares", "kl", "scale", "beta", "at_one"),
    [
        ("sum", "sum", math.sqrt(1 / 2), 1.0, math.sqrt(1 / 2)),
        ("half-sum", "sum", 1.0, 1.0, 1.0),
        ("mean", "sum", math.sqrt(392), 1.0, math.sqrt(392)),
        ("mean", "mean", math.sqrt(392), 1 / 20, math.sqrt(392 / 20)),
        ("sum", "mean", math.sqrt(1 / 2), 1 / 20, math.sqrt(1 / 40)),
    ],
)
def test_a_squared_error_is_a_normal_likelihood_and_a_beta(squares, kl, scale, beta, at_one):
    found = squared_error((1, 28, 28), 20, squares, kl)
    assert (found.scale, found.beta, found.scale_at_beta_one) == pytest.approx((scale, beta, at_one), rel=1e-12)
    x, *two = torch.randn(3, 3, 784, dtype=torch.float64)
    divergences = torch.rand(2, 20, dtype=torch.float64)
    error = {"sum": lambda r: r.sum(-1), "half-sum": lambda r: r.sum(-1) / 2, "mean": lambda r: r.mean(-1)}[squares]
    losses = [error((x - h).square()) + getattr(d, kl)() for h, d in zip(two, divergences, strict=True)]
    for s, weight, factor in ((found.scale, found.beta, 1.0), (found.scale_at_beta_one, 1.0, found.beta)):
        made = Normal(784, scale=s)
        ours = [-made(h).log_prob(x) + weight * d.sum() for h, d in zip(two, divergences, strict=True)]
        torch.testing.assert_close(factor * (ours[0] - ours[1]), losses[0] - losses[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kl", ["sum", "mean", "mean-per-value"])
@pytest.mark.parametrize("squares", ["sum", "mean"])
@pytest.mark.parametrize("averaged", ["both", "squares", "kl"])
def test_the_gradient_of_a_squared_error_over_a_batch_is_that_of_its_elbo(double, squares, kl, averaged):
    """As tutorials write it, with its sums and means over the batch: a multiple of ours, one for all parameters."""
    n, d, values = 5, 2, 6
    found = squared_error(values, d, squares, kl, averaged, n)
    vae, x = VAE(values, d, likelihood=partial(Normal, scale=found.scale)), torch.rand(n, values)
    divergences = torch.distributions.kl_divergence(vae.q_z(x), vae.p_z().expand((n,)))
    torch.manual_seed(1)
    errors = (x - vae.decoder(vae.q_z(x).rsample())).square()
    theirs = errors.sum() * {"sum": 1, "mean": 1 / values}[squares] * (1 / n if averaged != "kl" else 1)
    weight = {"sum": 1, "mean": 1 / d, "mean-per-value": 1 / values}[kl] * (1 / n if averaged != "squares" else 1)
    theirs = theirs + divergences.sum() * weight
    torch.manual_seed(1)
    ours = ELBO(found.beta, "analytic").differentiable_loss(vae.model, vae.guide, x)
    factor = weight * n / found.beta
    for one, other in zip(*(torch.autograd.grad(each, list(vae.parameters())) for each in (theirs, ours)), strict=True):
        torch.testing.assert_close(one, factor * other, rtol=1e-9, atol=1e-12)


def test_reductions_of_one_scale_are_one_model():
    image, d, n = (1, 28, 28), 20, 128
    same = squared_error(image, d), squared_error(image, d, "mean", "mean-per-value")
    assert [each.scale_at_beta_one**2 for each in same] == pytest.approx([0.5, 0.5], rel=1e-12)
    apart = (
        squared_error(image, d, averaged="squares", batch_size=n),
        squared_error(image, d, averaged="kl", batch_size=n),
    )
    assert [each.scale_at_beta_one**2 for each in apart] == pytest.approx([n / 2, 1 / (2 * n)], rel=1e-12)
    full = squared_error(image, d, "mean", averaged="squares", batch_size=n)
    assert full.scale_at_beta_one**2 == pytest.approx(784 * n / 2, rel=1e-12)


def test_bits_per_dimension_of_masses_and_of_densities():
    uniform = CategoricalLevels(10)(torch.zeros(256, 10)).log_prob(torch.zeros(10))
    assert bits_per_dimension(uniform, 10, CategoricalLevels(10).measure).item() == pytest.approx(8, rel=1e-6)
    coarse = CategoricalLevels(10, levels=16)
    assert bits_per_dimension(-10 * math.log(16), 10, coarse.measure) == pytest.approx(4, rel=1e-12)
    density = likelihoods.ContinuousBernoulli(10)
    flat = density(torch.zeros(3, 10)).log_prob(torch.rand(3, 10))
    assert bits_per_dimension(flat, 10, density.measure, dequantized=True).tolist() == pytest.approx([8] * 3, abs=1e-6)


def test_dequantised_bits_bound_the_bits_of_the_mass():
    """The mass of level k is the integral of the density over [k, k + 1] / 256; its log is above the mean log."""
    s, m, k = 0.02, 0.31, 80
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    log_density = Normal(1, scale=s)(torch.tensor([m], dtype=torch.float64)).log_prob((k + u[:, None]) / 256)
    bound = bits_per_dimension(log_density.mean().item(), 1, Measure("density", "real values"), dequantized=True)
    exact = -math.log2(stats.norm.cdf((k + 1) / 256, m, s) - stats.norm.cdf(k / 256, m, s))
    assert exact < bound < exact + 0.01


@pytest.mark.parametrize(
    ("measure", "dequantized", "message"),
    [
        (
            Measure("mass", "binary values"),
            True,
            "expected a mass over levels or a density, found 'mass over binary values'",
        ),
        (Measure("mass", "counts"), False, "found 'mass over counts'"),
        (Measure("none", "cross-entropy of soft targets, no likelihood"), True, "found 'cross-entropy of soft targets"),
        (Measure("density", "real values"), False, "expected bytes with uniform noise"),
        (Measure("density", "[0, 1]"), False, "expected bytes with uniform noise"),
        (Measure("mixed", "density over real values x mass over counts"), True, "found 'mixed"),
        (Measure("mass", "256 levels", 256, "of the entries present"), False, "found 'mass over 256 levels, of the"),
        (Measure("density", "[0, 1]", note="of the entries present"), True, "found 'density over"),
    ],
)
def test_other_measures_have_no_bits(measure, dequantized, message):
    with pytest.raises(ValueError, match=message):
        bits_per_dimension(-100.0, 10, measure, dequantized)


def test_likelihoods_are_modules_whose_first_shape_is_that_of_the_decoder():
    """What the decoder must give comes before the shape of x, so that a convolution gives it as channels."""
    made = [Beta((1, 8, 8)), Normal((1, 8, 8), learn="per-input"), CategoricalLevels((1, 8, 8), 5)]
    assert [each.param_shape for each in made] == [(2, 1, 8, 8), (2, 1, 8, 8), (5, 1, 8, 8)]
    assert likelihoods.DiscretizedLogisticMixture((1, 8, 8), 4).param_shape == (3, 4, 1, 8, 8)
    assert all(isinstance(each, nn.Module) for each in made)


@pytest.mark.parametrize(
    ("single", "double"),
    [
        (lambda t: likelihoods.NegativeBinomial(1, total_count=1e5)(t([[3.0]])).log_prob(t([[20.0]])), -2.4211),
        (lambda t: likelihoods.StudentT(1, df=1e6)(t([[0.3]])).log_prob(t([[1.0]])), -1.16393),
        (lambda t: likelihoods.Beta(1)(t([[[0.3]], [[14.0]]]).transpose(0, 1)).log_prob(t([[0.5744]])), 7.1),
    ],
    ids=["negative binomial", "student t", "beta"],
)
def test_large_parameters_keep_their_digits_in_float32(single, double):
    """Differences of log-gammas of 1e5 are wrong by whole nats where they are taken in float32."""
    found, exact = (single(partial(torch.tensor, dtype=dtype)) for dtype in (torch.float32, torch.float64))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)
    assert exact.item() == pytest.approx(double, abs=0.1)


@pytest.mark.parametrize("mean", [20.0, 1000.0])
@pytest.mark.parametrize("likelihood", [Poisson, likelihoods.NegativeBinomial])
def test_counts_train_from_any_start(likelihood, mean):
    """Raw counts, an encoder of their logarithms: finite from the first step, and better than at the start."""
    for seed in range(5):
        torch.manual_seed(seed)
        x = torch.poisson(torch.full((200, 20), mean))
        vae = VAE(20, 2, likelihood=likelihood, encoder=Log1p)
        records = pyrovae.fit(vae, x, epochs=4, compile=False)
        assert records[-1]["loss"] < records[0]["loss"]


def test_columns_of_other_orders_have_other_measures():
    measures = [likelihoods.Columns(3, families).measure for families in permutations([Normal, Poisson, Bernoulli])]
    assert len(set(measures)) == 6
    assert str(likelihoods.Columns(2, [Normal, Normal]).measure) == "density over real values"


def test_an_optimal_scale_has_no_place_among_missing_entries():
    columns = partial(likelihoods.Columns, families=[partial(Normal, learn="optimal"), Poisson])
    with pytest.raises(ValueError, match="expected independent values"):
        Missing(2, of=columns)
    assert str(Missing(2).measure) == "density over real values, of the entries present"
