"""The laws that every guide family keeps: a new one is one line in this table."""

import math

import pytest
import torch
from conftest import kind

from pyrovae import guides

GUIDES = [guides.DiagonalNormal]


def test_the_table_holds_every_member():
    assert {kind(member).__name__ for member in GUIDES} == set(guides.__all__)


@pytest.mark.parametrize("guide", GUIDES)
def test_guide_integrates_to_one_and_samples_as_it_scores(guide):
    made = guide(1).double()
    q = made(torch.randn(made.param_shape, dtype=torch.float64))
    z = torch.linspace(-40, 40, 80001, dtype=torch.float64)[:, None]
    density = q.log_prob(z).exp()
    assert torch.trapezoid(density, z[:, 0]).item() == pytest.approx(1, abs=1e-8)
    mean = torch.trapezoid(density * z[:, 0], z[:, 0])
    spread = torch.trapezoid(density * (z[:, 0] - mean) ** 2, z[:, 0]).sqrt()
    assert abs(q.sample((40000,)).mean() - mean) < 4 * spread / 200
    assert q.mean.item() == pytest.approx(mean.item(), abs=1e-6)


def test_diagonal_normal_reads_mean_and_log_variance():
    q = guides.DiagonalNormal((2,))(torch.tensor([[1.0, -2.0, 0.0, math.log(9.0)]]))
    assert q.mean.tolist() == [[1.0, -2.0]]
    assert q.base_dist.scale.flatten().tolist() == pytest.approx([1.0, 3.0], rel=1e-6)
