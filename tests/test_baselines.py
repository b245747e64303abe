"""Densities of binary data are exact: they sum to one over all data, and find what was planted."""

import itertools
import math
from functools import partial

import pytest
import torch

from pyrovae import baselines

ALL = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64).reshape(-1, 2, 3)


def planted(n=4000):
    torch.manual_seed(0)
    means = torch.tensor([[0.9, 0.9, 0.9, 0.1, 0.1, 0.1], [0.1, 0.2, 0.1, 0.9, 0.8, 0.9]]).double().reshape(2, 2, 3)
    return baselines.BernoulliMixture(torch.tensor([0.3, 0.7]).double(), means), n


@pytest.mark.parametrize("kind", ["pixels", "mixture", "windows"])
def test_each_sums_to_one_over_all_data(kind):
    truth, _ = planted()
    x = truth.sample(50)
    build = {"mixture": lambda: baselines.mixture(x, 3), "windows": lambda: baselines.windows(x, x[:5])}
    found = build.get(kind, lambda: baselines.pixels(x))()
    assert found.log_prob(ALL).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_pixels_are_a_mixture_of_one():
    x = planted()[0].sample(100)
    one = baselines.mixture(x, 1, steps=1)
    torch.testing.assert_close(one.log_prob(ALL), baselines.pixels(x).log_prob(ALL))
    m = (x.sum(0) + 1) / 102
    exact = (ALL * m.log() + (1 - ALL) * (1 - m).log()).sum((1, 2))
    torch.testing.assert_close(one.log_prob(ALL), exact)


def test_the_mixture_finds_what_was_planted():
    truth, n = planted()
    x = truth.sample(n)
    found = baselines.mixture(x, 2, steps=50)
    order = found.weights.argsort()
    torch.testing.assert_close(found.weights[order], truth.weights, atol=0.03, rtol=0)
    torch.testing.assert_close(found.means[order], truth.means, atol=0.04, rtol=0)
    entropy = -(truth.log_prob(ALL).exp() * truth.log_prob(ALL)).sum()
    assert -found.log_prob(truth.sample(n)).mean().item() == pytest.approx(entropy.item(), abs=0.05)
    assert baselines.pixels(x).log_prob(x).mean() < found.log_prob(x).mean() - 0.5


def test_draws_are_scored_as_they_are_drawn():
    truth, n = planted()
    drawn = (truth.sample(n)[:, None] == ALL).flatten(2).all(2).double().mean(0)
    error = (truth.log_prob(ALL).exp() / n).sqrt().max().item()
    torch.testing.assert_close(drawn, truth.log_prob(ALL).exp(), atol=5 * error, rtol=0)


def test_windows_turn_over_as_much_as_held_out_data_do():
    torch.manual_seed(0)
    x = (torch.rand(40, 200) < 0.5).double()
    turned = torch.rand(40, 200) < 0.1
    found = baselines.windows(x, torch.where(turned, 1 - x, x))
    rate = found.means.min().item()
    assert rate == pytest.approx(0.1)
    differ = turned.sum(1).double()
    nearest = differ * math.log(rate) + (200 - differ) * math.log(1 - rate) - math.log(40)
    torch.testing.assert_close(found.log_prob(torch.where(turned, 1 - x, x)), nearest, atol=1e-6, rtol=0)


def test_the_marginal_is_the_sum_over_what_is_not_seen():
    truth, _ = planted()
    seen = torch.tensor([[True, False, True], [False, False, True]])
    first = ALL[:, seen] == ALL[11][seen]
    summed = truth.log_prob(ALL)[first.all(1)].logsumexp(0)
    torch.testing.assert_close(truth.marginal(seen).log_prob(ALL[11:12, seen])[0], summed)


@pytest.mark.parametrize("build", [baselines.pixels, partial(baselines.mixture, components=2)])
def test_what_is_not_binary_is_refused(build):
    x = (torch.rand(6, 4) < 0.5).float()
    assert build(x).log_prob(x).sum().item() < 0
    for wrong, found in ((x * 0.5, "0.5"), (x.fill_diagonal_(torch.nan), "nan"), (x[:0], "none")):
        with pytest.raises(ValueError, match=f"zeros and ones, found .*{found}"):
            build(wrong)


def test_more_components_than_data_are_refused():
    with pytest.raises(ValueError, match="at most one for each datum, 3, found 4"):
        baselines.mixture(torch.ones(3, 2), 4)
