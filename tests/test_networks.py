"""The laws that every network keeps: a new one is one line in this table."""

from functools import partial

import pytest
import test_graphs
import torch
from conftest import kind
from safetensors.torch import load_model, save_model
from torch import nn

from pyrovae import VAE, networks
from pyrovae.networks import MLP, Conv, FilledIn, Log1p, ResNet
from pyrovae.networks.connect import _Channel, connect
from pyrovae.objectives import ELBO

NETWORKS = [
    MLP,
    partial(MLP, hidden=()),
    partial(MLP, hidden=(7, 5), activation=nn.Tanh),
    Conv,
    partial(Conv, channels=(3,), hidden=9, activation=nn.Softplus),
    partial(MLP, hidden=(7, 5), gated=True),
    partial(MLP, hidden=(7, 5), norm=True),
    partial(Conv, channels=(3, 4), hidden=9, norm=True),
    partial(ResNet, channels=(3, 4), hidden=9),
    FilledIn,
    Log1p,
    partial(ResNet, channels=(3,), hidden=9, activation=nn.SiLU, depth=2),
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


@pytest.mark.parametrize("network", NETWORKS[3:])
def test_recorded_it_gives_the_loss_and_gradients_of_eager_pyro(network, double, monkeypatch):
    def make():
        return VAE((1, 8, 8), 3, encoder=network, decoder=network)

    monkeypatch.setitem(test_graphs.TABLE, "it", (make, ELBO, [lambda: (torch.rand(6, 1, 8, 8) < 0.5).double()]))
    losses = test_graphs.compare("it", torch.float64, "auto")
    assert losses[0] != losses[1]


@pytest.mark.parametrize("network", NETWORKS)
def test_saved_and_loaded_it_is_the_same_network_in_either_mode(network, tmp_path):
    made, other = network((1, 8, 8), (4,)), network((1, 8, 8), (4,))
    x = torch.randn(5, 1, 8, 8)
    assert not torch.equal(made(x), other(x))
    save_model(made, tmp_path / "network.safetensors")
    load_model(other, tmp_path / "network.safetensors")
    assert torch.equal(made(x), other(x))
    assert torch.equal(made(x), other.eval()(x))


def test_a_gated_layer_is_an_affine_map_times_the_sigmoid_of_another():
    made = MLP(3, 2, hidden=(4,), gated=True)
    x, first, last = torch.randn(5, 3), made[0], made[-1]
    (w, v), (b, c) = first.weight.chunk(2), first.bias.chunk(2)
    hidden = (x @ w.T + b) * (x @ v.T + c).sigmoid()
    torch.testing.assert_close(made(x), hidden @ last.weight.T + last.bias)


def test_a_residual_network_without_its_residuals_is_the_convolutional_one():
    residual = ResNet((1, 8, 8), (4,), channels=(3, 5), hidden=9)
    plain = Conv((1, 8, 8), (4,), channels=(3, 5), hidden=9, norm=True)
    blocks = [layer for layer in residual if isinstance(layer, nn.Sequential)]
    assert len(blocks) == 2
    rest = [layer for layer in residual if layer not in blocks]
    for mine, theirs in zip(plain, rest, strict=True):
        mine.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 1, 8, 8)
    assert (residual(x) - plain(x)).abs().max() > 1e-3
    for block in blocks:
        nn.init.zeros_(block[-1].weight)
        nn.init.zeros_(block[-1].bias)
    torch.testing.assert_close(residual(x), plain(x))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_gradient_reaches_every_parameter(network):
    vae = VAE((1, 8, 8), 3, encoder=network, decoder=network)
    ELBO().loss_and_grads(vae.model, vae.guide, vae.sample(20))
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


# ---- networks of several inputs

LABEL, IMAGE = (3,), (2, 5, 4)


def joined(part, *inputs, output=(6,)):
    """A network of several inputs in float64, and values of them, (4, *shape) each."""
    made = connect(part, inputs, output, "network").double()
    return made, [torch.randn(4, *shape, dtype=torch.float64) for shape in inputs]


@pytest.mark.parametrize("network", [*(each for each in NETWORKS if kind(each) is MLP), FilledIn, Log1p])
@pytest.mark.parametrize("inputs", [(LABEL, IMAGE), ((6,), LABEL), ((3,), LABEL), ((6,), (1,), (2, 2))])
def test_beside_a_vector_all_are_one_vector(network, inputs):
    made, values = joined(network, *inputs)
    torch.testing.assert_close(made(*values), made.network(torch.cat([value.flatten(1) for value in values], 1)))


def test_an_image_that_is_flattened_stands_before_its_label():
    made, (x, y) = joined(MLP, IMAGE, LABEL)
    torch.testing.assert_close(made(x, y), made.network(torch.cat([x.flatten(1), y], 1)))


@pytest.mark.parametrize("network", [partial(Conv, channels=(3,), hidden=9), partial(ResNet, channels=(3,), hidden=9)])
def test_beside_an_image_another_is_channels_and_all_else_one_channel_more(network):
    made, (x, other, y) = joined(network, IMAGE, (3, 5, 4), LABEL)
    (affine,) = [channel.affine for channel in made.channels if isinstance(channel, _Channel)]
    plane = (y @ affine.weight.T + affine.bias).reshape(4, 1, 5, 4)
    torch.testing.assert_close(made(x, other, y), made.network(torch.cat([x, other, plane], 1)))


def test_an_image_of_another_size_is_one_channel():
    made, (x, other) = joined(partial(Conv, channels=(3,), hidden=9), IMAGE, (3, 4, 5))
    assert made.channels[0].affine.in_features == 60
    assert made.network[0].in_channels == 3
    assert made(x, other).shape == (4, 6)


@pytest.mark.parametrize("network", [MLP, Log1p, partial(Conv, channels=(3,), hidden=9)])
def test_every_pair_of_leading_dimensions_is_broadcast(network):
    """A label enumerated left of the particles stands beside an x that has neither: as if both had been repeated."""
    made, (x, y) = joined(network, IMAGE, LABEL)
    ys = torch.eye(3, dtype=torch.float64).reshape(3, 1, 1, 3)
    xs = torch.stack([x, x.flip(0)])
    for first, second, shape in ((x, ys, (3, 1, 4)), (xs, ys, (3, 2, 4)), (xs, y, (2, 4)), (x[:1], y, (4,))):
        found = made(first, second)
        assert found.shape == (*shape, 6)
        whole = made(first.expand(*shape, *IMAGE).reshape(-1, *IMAGE), second.expand(*shape, 3).reshape(-1, 3))
        torch.testing.assert_close(found, whole.reshape(*shape, 6), rtol=1e-9, atol=1e-9)


def test_a_network_of_several_inputs_that_is_built_already_is_used_as_it_is():
    mine = nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 6))
    made, (x, y) = joined(mine, (6,), LABEL)
    assert made.network is mine
    torch.testing.assert_close(made(x, y), mine(torch.cat([x, y], 1)))


@pytest.mark.parametrize("inputs", [((6,), LABEL), (IMAGE, LABEL)])
def test_a_gradient_reaches_every_parameter_of_a_network_of_several_inputs(inputs):
    made, values = joined(MLP if len(inputs[0]) == 1 else partial(Conv, channels=(3,), hidden=9), *inputs)
    made(*values).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in made.parameters())


def test_a_network_that_does_not_fit_its_joint_input_is_refused():
    with pytest.raises(ValueError, match=r"decoder: expected a network from \(N, 9\) to \(N, 6\), found RuntimeError"):
        connect(nn.Linear(6, 6), [(6,), LABEL], (6,), "decoder")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(3, 4, hidden=(0,)), "hidden: expected an integer >= 1, found 0"),
        (lambda: Conv((1, 3, 3), 4), "at least 4 x 4"),
        (lambda: ResNet((1, 8, 8), 4, depth=0), "depth: expected an integer >= 1, found 0"),
        (lambda: ResNet((3,), (4,)), r"ResNet: expected an image \(C, H, W\) and a vector"),
        (lambda: Conv((3,), (4,)), r"an image \(C, H, W\) and a vector"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_glorot_weights_keep_to_their_interval_and_fill_it():
    drawn = MLP(30, 20, (50,), glorot=True)
    for layer in (drawn[0], drawn[2]):
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.02)
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert not layer.bias.any()
    assert MLP(30, 20, (50,))[0].bias.any()
