"""The laws that every network keeps: a new one is one line in this table."""

from functools import partial

import pytest
import torch
from conftest import kind
from torch import nn

from pyrovae import VAE, networks
from pyrovae.networks import MLP, Conv
from pyrovae.objectives import ELBO

NETWORKS = [
    MLP,
    partial(MLP, hidden=()),
    partial(MLP, hidden=(7, 5), activation=nn.Tanh),
    Conv,
    partial(Conv, channels=(3,), hidden=9, activation=nn.Softplus),
]
IMAGES = [(1, 8, 8), (3, 5, 7), (1, 28, 28), (2, 9, 4)]


def test_the_table_holds_every_member():
    assert {kind(member).__name__ for member in NETWORKS} == set(networks.__all__)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("network", NETWORKS)
def test_network_keeps_its_shapes_and_its_rows_apart(network, image):
    down, up = network(image, (6,)).double(), network((6,), image).double()
    x = torch.randn(3, 4, *image, dtype=torch.float64)
    h = down(x)
    assert h.shape == (3, 4, 6)
    assert up(h).shape == x.shape
    torch.testing.assert_close(h[1, 2], down(x[1, 2]), rtol=0, atol=1e-12)
    torch.testing.assert_close(up(h)[1, 2], up(h[1, 2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_gradient_reaches_every_parameter(network):
    vae = VAE((1, 8, 8), 3, encoder=network, decoder=network)
    ELBO().loss_and_grads(vae.model, vae.guide, vae.sample(20))
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(3, 4, hidden=(0,)), "hidden: expected an integer >= 1, found 0"),
        (lambda: Conv((1, 3, 3), 4), "at least 4 x 4"),
        (lambda: Conv((3,), (4,)), r"an image \(C, H, W\) and a vector"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
