"""Estimates of gradients against their known means and variances: q(z) = N(m, s^2) beside p(z) = N(0, 1)."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import Trace_ELBO
from torch import nn

from pyrovae.evaluation.gradients import difference, gradients, variance
from pyrovae.objectives import ELBO

M, S, DRAWS = 1.5, 0.5, 400


class Shifted(nn.Module):
    """KL(q || p) = (s^2 + m^2 - 1) / 2 - log s, whose derivative by m is m."""

    def __init__(self, family=dist.Normal):
        super().__init__()
        self.m, self.family = nn.Parameter(torch.tensor(M)), family

    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1))

    def guide(self, x):
        pyro.module("shifted", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.family(self.m.expand(len(x)), S))


def drawn(loss, family=dist.Normal, rows=1):
    programs = Shifted(family)
    return gradients(loss, programs, programs.parameters(), [(torch.zeros(rows),)] * DRAWS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_the_sampled_one_varies_as_z_and_the_closed_form_not_at_all():
    sampled, closed = drawn(ELBO()), drawn(ELBO(estimator="analytic"))
    found = variance(sampled)  # d/dm of log q - log p along the path is z
    assert found["value"] == pytest.approx(S**2, abs=4 * found["standard_error"])
    assert found["standard_error"] == pytest.approx(S**2 * math.sqrt(2 / DRAWS), rel=0.3)
    torch.testing.assert_close(closed, torch.full((DRAWS, 1), M))
    assert variance(closed)["value"] == pytest.approx(0, abs=1e-10)


def test_the_path_derivative_has_the_variance_of_its_formula():
    found = variance(drawn(ELBO(estimator="path-derivative")))  # z - (z - m) / s^2
    assert found["value"] == pytest.approx((S - 1 / S) ** 2, abs=4 * found["standard_error"])


def test_the_score_function_has_the_same_mean_and_more_variance():
    path, score = drawn(ELBO()), drawn(ELBO(), NonreparameterizedNormal)
    assert abs(difference(path, score, torch.ones(1))["along"]) < 3
    assert variance(score)["value"] > 3 * variance(path)["value"]


def test_pyros_estimators_are_sums_over_the_data():
    assert drawn(Trace_ELBO(), rows=10).mean().item() == pytest.approx(10 * M, abs=4 * S * math.sqrt(10 / DRAWS))


def test_a_difference_of_means_is_found_in_its_size():
    a, b, shift = torch.randn(500, 2000), torch.randn(500, 2000), 0.1
    towards = -torch.ones(2000)
    equal, shifted = difference(a, b, towards), difference(a + shift, b, towards)
    assert equal["rms"] == pytest.approx(1, abs=0.06)
    assert abs(equal["along"]) < 3
    assert shifted["rms"] == pytest.approx(math.sqrt(1 + shift**2 * 250), rel=0.05)
    assert shifted["along"] == pytest.approx(equal["along"] - shift * math.sqrt(2000 * 250), rel=0.1)


def test_parameters_that_never_vary_have_no_say():
    a, b = torch.randn(50, 3), torch.randn(60, 3)
    still = [torch.cat([each, torch.zeros(len(each), 5)], 1) for each in (a, b)]
    assert difference(*still, torch.ones(8))["rms"] == pytest.approx(difference(a, b, torch.ones(3))["rms"])


def test_gradients_leave_no_trace_and_know_unused_parameters():
    programs = Shifted()
    aside, programs.m.grad = nn.Parameter(torch.zeros(2)), torch.tensor(7.0)
    found = gradients(ELBO(estimator="analytic"), programs, [programs.m, aside], [(torch.zeros(4),)] * 2)
    torch.testing.assert_close(found, torch.tensor([[M, 0.0, 0.0]] * 2))
    assert programs.m.grad is None
