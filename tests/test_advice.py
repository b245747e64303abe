"""What a failed training says of its data: the advice fits what the data are, wherever it fails."""

import math
from functools import partial

import pytest
import torch

import pyrovae
from pyrovae import TrainingError, fit
from pyrovae.likelihoods import (
    Bernoulli,
    CategoricalLevels,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Laplace,
    Normal,
    Poisson,
)
from pyrovae.networks import Conv, ResNet
from pyrovae.training.faults import advice

GREYS = torch.randint(0, 256, (300, 6), generator=torch.Generator().manual_seed(0)).float()
HINT = "(x is as large as 255: if it is not of order 1, standardise it)"
BYTES = "These are bytes as floats: divide them by 255, or give them as uint8"


def failure(x, likelihood, **options):
    """What training on x says."""
    with pytest.raises((TrainingError, ValueError)) as stopped:
        fit(pyrovae.VAE(x.shape[1:], 2, likelihood=likelihood), x, epochs=60, compile=False, **options)
    assert "\n" not in str(stopped.value)
    return str(stopped.value)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("likelihood", [Normal, partial(Normal, learn="one"), partial(Normal, scale=1e-3), Laplace])
@pytest.mark.parametrize("rate", [1e-3, 30.0])
def test_bytes_under_a_likelihood_of_real_values_are_to_be_standardised(likelihood, rate):
    """At the first step or at a later one."""
    assert HINT in failure(GREYS, likelihood, learning_rate=rate)


def test_a_fault_in_validation_has_the_advice_too():
    splits = pyrovae.data.Splits("x", pyrovae.data.Split(GREYS / 255), pyrovae.data.Split(GREYS * 1e18))
    with pytest.raises(TrainingError, match=r"in validation.*\(x is as large as 2.55e\+20: .* standardise it\)"):
        fit(pyrovae.VAE(6, 2, likelihood=Normal), splits, epochs=1, compile=False)


def test_data_of_the_order_of_one_get_no_advice():
    """There it is the learning rate."""
    said = failure(torch.rand(300, 6), Normal, learning_rate=1e6)
    assert "learning rate that is too high (here 1e+06" in said
    assert "standardise" not in said
    assert [advice(pyrovae.VAE(6, 2), GREYS * scale) for scale in (1 / 255, 0.39, math.nan)] == [""] * 3


def test_counts_are_not_standardised():
    said = advice(pyrovae.VAE(6, 2, likelihood=Poisson), GREYS)
    assert said == " (x is as large as 255: if it is not of order 1, give the encoder their logarithms " + (
        "(networks.Log1p))"
    )


@pytest.mark.parametrize(
    "likelihood",
    [Bernoulli, ContinuousBernoulli, DiscretizedLogistic, DiscretizedLogisticMixture, CategoricalLevels],
)
def test_floats_that_are_bytes_are_named(likelihood):
    assert BYTES in failure(GREYS, likelihood)
    assert BYTES not in failure(GREYS + 0.5, likelihood)
    if likelihood is DiscretizedLogistic:  # and what the advice says can be done
        fitted = fit(pyrovae.VAE(6, 2, likelihood=likelihood), GREYS / 255, epochs=1, compile=False)
        assert math.isfinite(fitted[-1]["loss"])


@pytest.mark.parametrize("network", [Conv, ResNet])
def test_channels_come_first(network):
    with pytest.raises(ValueError, match=r"found \(28, 28, 3\); channels come first: x.permute\(0, 3, 1, 2\) turns"):
        pyrovae.VAE((28, 28, 3), 2, encoder=network)
    with pytest.raises(ValueError, match=r"at least 4 x 4, found \(1, 3, 3\)$"):
        pyrovae.VAE((1, 3, 3), 2, encoder=network)
    permuted = torch.zeros(2, 28, 28, 3).permute(0, 3, 1, 2)
    assert pyrovae.VAE(permuted.shape[1:], 2, encoder=network).event_shape == (3, 28, 28)
