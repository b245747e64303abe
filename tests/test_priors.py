"""The laws that every prior keeps: a new one is one line in this table."""

import pytest
import torch
from conftest import kind

from pyrovae import priors

PRIORS = [priors.StandardNormal]


def test_the_table_holds_every_member():
    assert {kind(member).__name__ for member in PRIORS} == set(priors.__all__)


@pytest.mark.parametrize("prior", PRIORS)
def test_prior_integrates_to_one(prior):
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    density = prior(1).double()(lambda x: None).log_prob(z).exp()
    assert torch.trapezoid(density, z[:, 0]).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("prior", PRIORS)
def test_prior_samples_have_its_moments(prior):
    p = prior((3,))()
    z = p.sample((40000,))
    assert (z.mean(0) - p.mean).abs().max() < 4 * p.variance.max().sqrt() / 200
    assert (z.var(0) / p.variance - 1).abs().max() < 0.04
