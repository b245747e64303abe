"""The laws that every likelihood keeps: a new one is one line in this table."""

import math
from functools import partial

import pytest
import torch
from conftest import kind
from scipy import stats
from torch.distributions import constraints

from pyrovae import VAE, inference, likelihoods

LIKELIHOODS = [
    likelihoods.Bernoulli,
    partial(likelihoods.Normal, scale=0.3),
    partial(likelihoods.Normal, learn="one"),
    partial(likelihoods.Normal, learn="per-value", scale=2.0),
]


def test_the_table_holds_every_member():
    assert {kind(member).__name__ for member in LIKELIHOODS} == set(likelihoods.__all__)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_likelihood_is_normalised(likelihood):
    p = likelihood(1).double()(torch.tensor([0.4], dtype=torch.float64))
    if isinstance(p.support.base_constraint, type(constraints.boolean)):
        total = p.log_prob(torch.tensor([[0.0], [1.0]], dtype=torch.float64)).exp().sum()
    else:
        x = torch.linspace(-30, 30, 60001, dtype=torch.float64)
        total = torch.trapezoid(p.log_prob(x[:, None]).exp(), x)
    assert total.item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_likelihood_sums_over_the_event_alone(likelihood):
    """Rows and particles stay apart; each value of the event counts once."""
    made = likelihood((1, 2, 3)).double()
    h = torch.randn(4, 5, *made.param_shape, dtype=torch.float64)
    p = made(h)
    x = p.sample()
    assert p.batch_shape == (4, 5)
    assert p.event_shape == (1, 2, 3)
    each = p.base_dist.log_prob(x)
    torch.testing.assert_close(p.log_prob(x), each.sum((-1, -2, -3)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_likelihood_mean_is_its_samples_mean(likelihood):
    p = likelihood((4,))(torch.tensor([-3.0, -0.5, 0.0, 2.0]))
    x = p.sample((40000,))
    assert (x.mean(0) - p.mean).abs().max() < 4 * p.variance.max().sqrt() / 200


def test_bernoulli_against_scipy():
    h = torch.tensor([-800.0, -20.0, -0.3, 0.0, 4.0], dtype=torch.float64)
    p = likelihoods.Bernoulli(1)(h[:, None])
    for x in (0.0, 1.0):
        found = p.log_prob(torch.full((5, 1), x, dtype=torch.float64))
        truth = [float(-torch.nn.functional.softplus(-v if x else v)) for v in h]
        assert found.tolist() == pytest.approx(truth, rel=1e-12)
    assert p.log_prob(torch.zeros(5, 1, dtype=torch.float64))[3].item() == pytest.approx(math.log(0.5), rel=1e-12)


@pytest.mark.parametrize("scale", [0.01, 0.3, 5.0])
def test_normal_against_scipy(scale):
    h = torch.tensor([[-2.0], [0.0], [1.5]], dtype=torch.float64)
    found = likelihoods.Normal(1, scale=scale)(h).log_prob(torch.full((3, 1), 0.7, dtype=torch.float64))
    assert found.tolist() == pytest.approx(stats.norm.logpdf(0.7, h[:, 0], scale).tolist(), rel=1e-10)


@pytest.mark.parametrize(("learn", "shape"), [("one", ()), ("per-value", (2, 3))])
def test_normal_learns_the_scale_of_the_residuals(learn, shape):
    """At the optimum s^2 is the mean squared residual, per value or over all of them."""
    torch.manual_seed(1)
    x = torch.randn(500, 2, 3, dtype=torch.float64) * torch.tensor([[0.2, 1.0, 3.0], [0.5, 0.5, 2.0]])
    made = likelihoods.Normal((2, 3), learn=learn).double()
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
    made = likelihoods.Normal(1, learn="one", scale=0.1, min_scale=0.01)
    with torch.no_grad():
        made.log_excess.fill_(-1e4)
    assert made.scale.item() == pytest.approx(0.01, rel=1e-6)
    assert torch.isfinite(made(torch.zeros(3, 1)).log_prob(torch.zeros(3, 1))).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_extra_leading_dimensions_change_no_number(likelihood):
    vae = VAE((1, 4, 4), 2, likelihood=likelihood).double()
    x = vae.sample(5)
    z = torch.randn(7, 5, 2, dtype=torch.float64)
    together = vae.p_x(z).log_prob(x)
    torch.testing.assert_close(together[3], vae.p_x(z[3]).log_prob(x), rtol=0, atol=1e-10)
    assert inference.log_weights(vae.model, vae.guide, x, 7).shape == (7, 5)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_float64_agrees_with_float32(likelihood):
    vae = VAE((1, 4, 4), 2, likelihood=likelihood)
    x, z = vae.sample(5), torch.randn(5, 2)
    single = vae.p_x(z).log_prob(x)
    double = vae.double().p_x(z.double()).log_prob(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: likelihoods.Normal(3, scale=0.0), "scale: expected a number > 0, found 0.0"),
        (lambda: likelihoods.Normal(3, scale=1e-4, learn="one"), "above min_scale = 0.001"),
        (lambda: likelihoods.Normal(3, learn="on"), "did you mean 'one'"),
        (lambda: likelihoods.Bernoulli(()), "event_shape: expected at least 1 size"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
