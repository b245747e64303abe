"""What was drawn, and how it lies: exact laws of poses, of the guide that finds them, and what is learned."""

import copy
import math
from functools import partial

import pyro
import pytest
import test_graphs
import torch
from conftest import kind
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn
from torch.distributions import Normal, kl_divergence

import pyrovae
from pyrovae import evaluate, guides, likelihoods, priors
from pyrovae.data import Split
from pyrovae.distributions import Circular, PowerSpherical, UniformAngle
from pyrovae.models import InvariantVAE
from pyrovae.models.invariant_vae import RotationAverage
from pyrovae.networks import MLP, Conv, FilledIn
from pyrovae.networks.fourier import FourierDecoder, turned, upright
from pyrovae.objectives import ELBO
from pyrovae.runs import figures

SMALL = partial(MLP, hidden=(16,))
SHAPE = (1, 8, 8)
made = partial(InvariantVAE, SHAPE, 3, encoder=SMALL, decoder=SMALL, pose_encoder=SMALL, waves=6)
EXACT = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(autouse=True)
def _double(double):
    """All of it in float64."""


def turn(x, times=1):
    """Images turned anticlockwise by right angles."""
    return torch.rot90(x, times, (-2, -1))


def pose(*leading):
    """A random pose."""
    shift = torch.randn(*leading, 2) / 10
    return {"angle": 2 * torch.randn(*leading, 1), "shift": shift, "scale": torch.randn(*leading, 1).div(5).exp()}


def binary(rows=12, shape=SHAPE):
    return (torch.rand(rows, *shape) < 0.3).double()


def drawn(shape=SHAPE, **options):
    """The decoder of a model of images of this shape, as a function of z and the pose."""
    return FourierDecoder(SMALL, (3,), shape, waves=5, **options)


# Drawing in a pose.


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 7), (2, 3, 6, 4)])
def test_each_pixel_is_the_sum_of_waves_at_its_own_point(shape):
    """By the definition: f(z, R(-angle) (c - shift) / scale) at every pixel's centre c, pixel by pixel."""
    draw, z, lies = drawn(shape), torch.randn(2, 3), pose(2)
    height, width = shape[-2:]
    coefficients, side = draw.network(z), max(height, width)
    for n in range(2):
        angle, shift, scale = (lies[site][n] for site in ("angle", "shift", "scale"))
        for i in range(height):
            for j in range(width):
                c = torch.tensor([j - (width - 1) / 2, (height - 1) / 2 - i]) / side
                point = turned((c - shift)[None], -angle)[0] / scale
                phase = 2 * math.pi * draw.frequencies @ point
                features = torch.cat([torch.ones(1), phase.cos(), phase.sin()])
                torch.testing.assert_close(draw(z, **lies)[n, ..., i, j], coefficients[n] @ features, **EXACT)


@pytest.mark.parametrize("times", [1, 2, 3, -1])
@pytest.mark.parametrize("shape", [SHAPE, (3, 7, 7)])
def test_at_right_angles_it_is_the_image_turned(shape, times):
    draw, z, lies = drawn(shape), torch.randn(4, 3), pose(4)
    quarter = torch.tensor([times * math.pi / 2])
    torch.testing.assert_close(draw(z, angle=quarter), turn(draw(z), times), **EXACT)
    after = {"shift": turned(lies["shift"][:, None], quarter)[:, 0], "angle": lies["angle"] + quarter}
    torch.testing.assert_close(draw(z, **lies | after), turn(draw(z, **lies), times), **EXACT)


def test_pixels_are_squares():
    """A quarter turn of an oblong image turns its central square; a half turn all of it."""
    draw, z = drawn((2, 5, 9)), torch.randn(4, 3)
    quarter = draw(z, angle=torch.tensor([math.pi / 2]))
    torch.testing.assert_close(quarter[..., 2:7], turn(draw(z)[..., 2:7]), **EXACT)
    torch.testing.assert_close(draw(z, angle=torch.tensor([math.pi])), draw(z).flip(-1, -2), **EXACT)


@pytest.mark.parametrize("shape", [SHAPE, (2, 5, 9), (1, 9, 4)])
def test_a_shift_by_pixels_moves_it_by_pixels(shape):
    """Two to the right and one up."""
    draw, z, lies = drawn(shape), torch.randn(4, 3), pose(4)
    step = torch.tensor([2.0, 1.0]) / max(shape[1:])
    torch.testing.assert_close(draw(z, shift=step)[..., :-1, 2:], draw(z)[..., 1:, :-2], **EXACT)
    moved = draw(z, **lies | {"shift": lies["shift"] + step})
    torch.testing.assert_close(moved[..., :-1, 2:], draw(z, **lies)[..., 1:, :-2], **EXACT)


def test_at_scale_two_it_is_the_middle_of_the_image_of_twice_the_size():
    draw, large, z = drawn((1, 4, 6)), drawn((1, 8, 12)), torch.randn(4, 3)
    large.load_state_dict(draw.state_dict())
    torch.testing.assert_close(draw(z, scale=torch.tensor([2.0])), large(z)[..., 2:6, 3:9], **EXACT)


def test_poses_and_codes_broadcast():
    draw, z, lies = drawn(), torch.randn(5, 4, 3), pose(4)
    whole = draw(z, **lies)
    assert whole.shape == (5, 4, *SHAPE)
    torch.testing.assert_close(whole[2, 3], draw(z[2, 3], **{site: value[3] for site, value in lies.items()}), **EXACT)
    torch.testing.assert_close(draw(z[0, 0], **lies)[1], draw(z[0, 0], **{k: v[1] for k, v in lies.items()}), **EXACT)


def test_single_precision_turns_as_exactly():
    draw, z = drawn((3, 28, 28)).float(), torch.randn(4, 3).float()
    found = draw(z, angle=torch.tensor([math.pi / 2]).float())
    torch.testing.assert_close(found, turn(draw(z)), rtol=0, atol=1e-5)
    torch.testing.assert_close(draw.double()(z.double()).float(), draw.float()(z), rtol=0, atol=1e-5)


# Seeing from the image's own frame.


def test_seen_from_its_frame_an_image_stands_upright():
    x = torch.rand(4, 3, 7, 7)
    quarter, step = torch.full((4, 1), math.pi / 2), torch.tensor([2.0, 1.0]) / 7
    torch.testing.assert_close(upright(turn(x), angle=quarter), x, **EXACT)
    moved = upright(x, shift=step)
    torch.testing.assert_close(moved[..., 1:, :-2], x[..., :-1, 2:], **EXACT)
    torch.testing.assert_close(upright(x[..., 1:6, :], angle=2 * quarter), x[..., 1:6, :].flip(-1, -2), **EXACT)
    assert torch.equal(upright(x), upright(x, scale=torch.ones(4, 1)))


def test_what_is_drawn_in_a_pose_is_seen_as_it_was_drawn():
    """But for the error of bilinear values, which goes with the square of a pixel; away from the edges."""
    z, lies = torch.randn(6, 3), {"angle": 3 * torch.randn(6, 1), "shift": torch.randn(6, 2) / 30, "scale": None}
    lies["scale"] = torch.full((6, 1), 0.9)
    errors = []
    for side in (32, 64):
        torch.manual_seed(1)
        draw = drawn((1, side, side), detail=1.0)
        inner = slice(side // 4, -side // 4)
        error = upright(draw(z, **lies), **lies) - draw(z)
        errors.append(error[..., inner, inner].square().mean().sqrt().item())
    assert errors[1] < 0.3 * errors[0] < 0.01


def test_upright_broadcasts_as_particles_do():
    x, lies = torch.rand(4, 2, 5, 9), pose(3, 4)
    torch.testing.assert_close(
        upright(x, **lies)[2, 1], upright(x[1], **{k: v[2, 1] for k, v in lies.items()}), **EXACT
    )


# The guide.


def test_a_turned_image_has_the_turned_pose_and_the_same_content():
    vae, x = made(scale=0.2), binary()
    before, after = vae.q_pose(x), vae.q_pose(turn(x))
    torch.testing.assert_close((after["angle"].mean - before["angle"].mean).cos(), torch.zeros(12, 1), **EXACT)
    torch.testing.assert_close((after["angle"].mean - before["angle"].mean).sin(), torch.ones(12, 1), **EXACT)
    torch.testing.assert_close(
        after["shift"].mean, turned(before["shift"].mean[:, None], torch.tensor([math.pi / 2]))[:, 0], **EXACT
    )
    torch.testing.assert_close(after["scale"].mean, before["scale"].mean, **EXACT)
    torch.testing.assert_close(vae.q_z(turn(x)).mean, vae.q_z(x).mean, **EXACT)
    assert vae.q_z(x).mean.std(0).min() > 0.01


def test_one_look_is_not_enough():
    """The control."""
    vae, x = made(looks=1), binary()
    assert (vae.q_z(turn(x)).mean - vae.q_z(x).mean).abs().max() > 0.01


def test_how_an_image_lies_changes_no_bound():
    vae, x = made(shift=None), binary()
    upright_one, other = evaluate(vae, x, 20), evaluate(vae, turn(x), 20)
    for name in ("elbo", "kl", "log_likelihood"):
        assert upright_one[name]["value"] == pytest.approx(other[name]["value"], abs=1e-9)


def test_looks_find_the_turn_of_an_image_by_an_eighth():
    """Of a smooth one, and but for the error of bilinear values."""
    draw, z = drawn((1, 32, 32), detail=0.7), torch.randn(5, 3)
    side = torch.linspace(-1, 1, 32)
    within = (1 - side[:, None] ** 2 - side**2).clamp(min=0)
    eighth = torch.tensor([math.pi / 4])
    looks = RotationAverage(MLP((1, 32, 32), 3, hidden=()), vectors=1, looks=8)
    before, after = (looks(draw(z, **lies) * within) for lies in ({}, {"angle": eighth}))
    torch.testing.assert_close(after[:, :2], turned(before[:, None, :2], eighth)[:, 0], rtol=0, atol=0.02)
    torch.testing.assert_close(after[:, 2], before[:, 2], rtol=0, atol=0.02)
    assert (after[:, :2] - before[:, :2]).abs().max() > 0.1


@pytest.mark.parametrize("options", [{}, {"angle": 0.5, "scale": 0.3}, {"angle": None, "scale": 0.3}])
def test_the_kl_of_each_part_of_a_pose_is_the_closed_form(options):
    """-H(q) + log 2 pi on the circle; log(s/t) + (t^2 + m^2) / (2 s^2) - 1/2 of each normal, by hand."""
    vae, x = made(**options), binary(40)
    found = evaluate(vae, x, 3)
    assert found["kl_estimator"] == "closed form at draws"
    assert list(found["kl_by_site"]) == [*vae.pose, "z"]
    with torch.no_grad():
        q_pose, p_pose = vae.q_pose(x), vae.p_pose()
    for site, s in {"angle": options.get("angle", math.inf), "shift": 0.1, "scale": 0.3}.items():
        if site not in q_pose:
            continue
        q = q_pose[site].base_dist
        if site == "angle" and s == math.inf:
            truth = math.log(2 * math.pi) - q.entropy()
        else:
            m, t = (q.loc, q.scale.expand_as(q.loc))
            truth = (s / t).log() + (t.square() + m.square()) / (2 * s**2) - 0.5
        torch.testing.assert_close(kl_divergence(q, p_pose[site].base_dist), truth)
        assert found["kl_by_site"][site]["value"] == pytest.approx(truth.sum(-1).mean().item(), abs=1e-9)


# Angles.


@pytest.mark.parametrize("k", [0.0, 0.6, 7.0, 900.0])
def test_the_circular_density_is_that_of_the_power_spherical_and_integrates_to_one(k):
    q = Circular(torch.tensor(2.5), torch.tensor(k))
    a = torch.linspace(-math.pi, math.pi, 40001)
    on_the_circle = torch.stack([a.cos(), a.sin()], -1)
    same = PowerSpherical(torch.tensor([math.cos(2.5), math.sin(2.5)]), q.concentration)
    near = (a - 2.5).cos() > -0.99
    torch.testing.assert_close(q.log_prob(a)[near], same.log_prob(on_the_circle)[near])
    density = q.log_prob(a).exp()
    assert torch.trapezoid(density, a).item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(q.log_prob(a + 4 * math.pi), q.log_prob(a))
    kl = torch.trapezoid(density * (q.log_prob(a) + math.log(2 * math.pi)), a)
    assert kl_divergence(q, UniformAngle(torch.tensor(0.0))).item() == pytest.approx(kl.item(), abs=1e-6)
    assert kl_divergence(q, UniformAngle(torch.tensor(0.0))).item() >= -1e-12


@pytest.mark.parametrize("k", [0.0, 0.6, 7.0, 900.0])
def test_circular_samples_have_its_moments_and_their_gradients(k):
    """E cos(a - m) = k / (k + 1), and its derivative 1 / (k + 1)^2; both from samples."""
    m, k = torch.tensor(-3.0, requires_grad=True), torch.tensor(k, requires_grad=True)
    a = Circular(m, k).rsample((200000,))
    assert a.abs().max() <= math.pi
    cosine, sine = (a + 3).cos(), (a + 3).sin()
    for values, truth in ((cosine, k / (k + 1)), (sine, 0 * k)):
        assert abs(values.mean() - truth) < 5 * values.std() / math.sqrt(len(a))
    by_k, by_m = torch.autograd.grad(cosine.mean(), k, retain_graph=True)[0], torch.autograd.grad(sine.mean(), m)[0]
    assert by_k.item() == pytest.approx(1 / (k.item() + 1) ** 2, rel=0.05)
    assert by_m.item() == pytest.approx(k.item() / (k.item() + 1), rel=0.05, abs=0.01)


@pytest.mark.parametrize("k", [1e-6, 1e-2, 1e3, 1e6])
def test_a_circular_is_finite_in_single_precision(k):
    k = torch.full((2000,), k, dtype=torch.float32, requires_grad=True)
    q = Circular(torch.linspace(-3.2, 3.2, 2000, dtype=torch.float32), k)
    a = q.rsample()
    opposite = q.log_prob((q.centre + math.pi).detach())
    gradients = torch.autograd.grad((q.log_prob(a) + opposite + q.entropy()).sum(), k)[0]
    assert all(values.isfinite().all() for values in (a, q.log_prob(a), opposite, gradients))
    if k[0] > 100:  # all but a normal of variance 2 / k
        law = Normal(q.centre, (2 / k).sqrt())
        torch.testing.assert_close(q.entropy(), law.entropy(), rtol=0, atol=2e-3)


# The programs.

PARTS = [
    {"event_shape": (3, 6, 9)},
    {"angle": None, "shift": None, "scale": 0.2},
    {"angle": 0.5, "shift": None},
    {"angle": None},
    {"likelihood": partial(likelihoods.Normal, learn="per-input"), "event_shape": (2, 6, 9)},
    {"likelihood": partial(likelihoods.DiscretizedLogisticMixture, components=2), "event_shape": (3, 6, 6)},
    {"likelihood": partial(likelihoods.CategoricalLevels, levels=4)},
    {"likelihood": likelihoods.Missing, "encoder": FilledIn, "pose_encoder": FilledIn},
    {"prior": partial(priors.VampPrior, components=4)},
    {"prior": priors.UniformSphere, "guide": guides.PowerSpherical},
    {"prior": priors.NeuralSpline, "guide": guides.FullRankNormal},
    {"guide": guides.IAF, "encoder": Conv, "pose_encoder": Conv, "scale": 0.2},
    {"decoder": lambda _, shape: nn.Sequential(nn.Linear(3, math.prod(shape)), nn.Unflatten(-1, shape))},
]


def ids(parts):
    return " ".join(getattr(kind(value), "__name__", str(value)) for value in parts.values())


@pytest.mark.parametrize("parts", PARTS, ids=ids)
def test_parts_of_every_kind_train(parts):
    vae = made(**parts) if "event_shape" not in parts else InvariantVAE(**{"latent_dim": 3, "waves": 6} | parts)
    x = vae.sample(40)
    vae.check(x)
    assert x.shape == (40, *vae.event_shape)
    losses = [record["loss"] for record in pyrovae.fit(vae, x, epochs=2, batch_size=20, compile=False)]
    assert torch.tensor(losses).isfinite().all()
    assert math.isfinite(evaluate(vae, x, 4)["log_likelihood"]["value"])


@pytest.mark.parametrize("options", [{"scale": 0.2}, {"angle": 0.5}, {"angle": None, "scale": 0.2}])
def test_a_gradient_reaches_every_parameter_and_every_site(options):
    vae, x = made(**options), binary()
    ELBO().loss_and_grads(vae.model, vae.guide, x)
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    q = poutine.trace(vae.guide).get_trace(x)
    values = {site: q.nodes[site]["value"] for site in (*vae.pose, "z")}
    p_x = vae.p_x(**values).log_prob(x).sum()
    for site, gradient in zip(values, torch.autograd.grad(p_x, values.values()), strict=True):
        assert gradient.abs().min() > 0, site
    by_pose = torch.autograd.grad(
        vae.q_z(x, **{k: v for k, v in values.items() if k != "z"}).mean.sum(), values["shift"]
    )
    assert by_pose[0].abs().max() > 0


RECORDED = [({"scale": 0.2}, ELBO), ({"angle": 0.5}, partial(ELBO, 0.5, "analytic")), ({"angle": None}, ELBO)]


@pytest.mark.parametrize(("options", "objective"), RECORDED)
def test_recorded_it_gives_the_loss_and_gradients_of_eager_pyro(options, objective, monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", (partial(made, **options), objective, [binary]))
    losses = test_graphs.compare("it", torch.float64, "auto")
    assert losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "objective"), RECORDED)
def test_compiled_it_is_still_the_same(options, objective, monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", (partial(made, **options), objective, [binary]))
    test_graphs.compare("it", torch.float64, True)


def test_each_part_of_a_pose_is_a_site():
    vae, x = made(scale=0.2), binary()
    p = poutine.trace(vae.model).get_trace(x)
    q = poutine.trace(vae.guide).get_trace(x)
    shapes = {"angle": (12, 1), "shift": (12, 2), "scale": (12, 1), "z": (12, 3)}
    assert {site: tuple(p.nodes[site]["value"].shape) for site in shapes} == shapes
    assert {site: tuple(q.nodes[site]["value"].shape) for site in shapes} == shapes
    assert [site for site in p.stochastic_nodes if site in shapes] == list(shapes)
    drawn_before = Predictive(vae.model, num_samples=4)(n=5)
    assert drawn_before["x"].shape == (4, 5, *SHAPE)
    found = Predictive(vae.model, guide=vae.guide, num_samples=4, parallel=True)(x)
    assert found["angle"].shape == (4, 12, 1)


def test_the_priors_have_the_scales_that_were_asked_for():
    drawn_poses = Predictive(made(angle=0.5, shift=0.2, scale=0.3).model, num_samples=1)(n=20000)
    assert drawn_poses["angle"].std().item() == pytest.approx(0.5, rel=0.03)
    assert drawn_poses["shift"].std().item() == pytest.approx(0.2, rel=0.03)
    assert drawn_poses["scale"].log().std().item() == pytest.approx(0.3, rel=0.03)
    every = Predictive(made().model, num_samples=1)(n=20000)["angle"]
    assert every.abs().max() <= math.pi
    assert every.std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize("handler", [poutine.condition, poutine.do])
def test_a_given_angle_turns_the_sample(handler):
    vae = made(shift=None)
    z, quarters = torch.randn(3), torch.arange(4.0).unsqueeze(-1) * (math.pi / 2)
    trace = poutine.trace(handler(vae.model, {"z": z, "angle": quarters})).get_trace()
    means = trace.nodes["x"]["fn"].mean
    assert means.shape == (4, *SHAPE)
    for times in range(4):
        torch.testing.assert_close(means[times], turn(means[0], times), **EXACT)
    assert (means[1] - means[0]).abs().max() > 0.01
    assert handler(vae.model, {"angle": torch.zeros(1)})(n=7).shape == (7, *SHAPE)


def test_content_is_decoded_upright():
    vae, x = made(), binary()
    p_x = vae.p_x(vae.q_z(x).mean)
    given = {"z": vae.q_z(x).mean, "angle": torch.zeros(1), "shift": torch.zeros(2)}
    trace = poutine.trace(poutine.condition(vae.model, given)).get_trace()
    torch.testing.assert_close(trace.nodes["x"]["fn"].mean, p_x.mean)


def test_plain_pyro_trains_it():
    vae, x = made(scale=0.2), binary()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_copy_is_another_model_and_a_loaded_one_the_same():
    vae, x = made(), binary()
    twin, other = copy.deepcopy(vae), made()
    pyrovae.fit(twin, x, epochs=2, compile=False)
    assert not any(torch.equal(a, b) for a, b in zip(vae.parameters(), twin.parameters(), strict=True))
    other.load_state_dict(twin.state_dict())
    found = [evaluate(each, x, 3)["elbo"]["value"] for each in (vae, twin, other)]
    assert found[0] != found[1] == found[2]


def test_its_figures_are_drawn():
    vae = made(scale=0.2).float()
    drawn_figures = figures.draw(vae, Split(vae.sample(14)))
    assert {"program", "samples", "reconstructions", "latents-angle", "latents-z"} <= drawn_figures.keys()


# What is learned.


def hooks(angle, length, side=12):
    """A stroke with a foot to the right, of this length (N,), turned by these angles (N, 1): black or white."""
    right = (torch.arange(side) - (side - 1) / 2) / side
    points = torch.stack(torch.meshgrid(right, -right, indexing="xy"), -1).flatten(0, 1)
    right, up = turned(points.expand(len(angle), -1, -1), -angle).unbind(-1)
    half = length[:, None] / 2
    stem = torch.hypot(right + 0.12, (up.abs() - 0.32).clamp(min=0))
    foot = torch.hypot(((right + 0.12 - half).abs() - half).clamp(min=0), up + 0.32)
    return (torch.minimum(stem, foot) < 0.08).float().unflatten(-1, (1, side, side))


def spread_of_turned_copies(vae, length):
    """Mean distance of the codes of one image in twelve turns, over that of different images."""
    turns = torch.arange(12)[:, None] * (math.pi / 6)
    with torch.no_grad():
        codes = torch.stack([vae.q_z(hooks(turns, each.expand(12))).mean for each in length])
    return (torch.cdist(codes, codes).mean() / torch.pdist(codes[:, 0]).mean()).item()


def test_it_learns_what_was_drawn_and_how_it_lies():
    torch.set_default_dtype(torch.float32)
    angle, length = (2 * torch.rand(400, 1) - 1) * math.pi, 0.15 + 0.35 * torch.rand(400)
    x, network = hooks(angle, length), partial(MLP, hidden=(64,))
    parts, training = {"encoder": network, "decoder": network}, {"epochs": 10, "batch_size": 40, "learning_rate": 5e-3}
    vae = InvariantVAE((1, 12, 12), 2, shift=None, pose_encoder=network, waves=32, looks=4, **parts)
    plain = pyrovae.VAE((1, 12, 12), 2, **parts)
    loss, plain_loss = (pyrovae.fit(each, x, compile=False, **training)[-1]["loss"] for each in (vae, plain))
    assert loss < plain_loss - 10
    off = vae.q_pose(x)["angle"].mean - angle
    assert torch.polar(torch.ones(400, 1), off).mean().abs() > 0.98  # 1 if it is the true one, but for a constant
    assert spread_of_turned_copies(vae, length[:30]) < 0.5
    assert spread_of_turned_copies(plain, length[:30]) > 2
    content = vae.p_x(vae.q_z(x).mean).mean
    assert (content - content.mean(0)).square().mean() < 0.3 * (x - x.mean(0)).square().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_shape": (64,)}, r"event_shape: expected that of an image \(C, H, W\), found \(64,\)"),
        ({"angle": None, "shift": None}, "expected an angle, a shift or a scale, found none"),
        ({"angle": 0.0}, "angle: expected a number > 0, found 0.0"),
        ({"angle": math.nan}, "angle: expected a finite number, found nan"),
        ({"shift": -0.1}, "shift: expected a number > 0, found -0.1"),
        ({"scale": math.inf}, "scale: expected a finite number, found inf"),
        ({"looks": 0}, "looks: expected an integer >= 1, found 0"),
        ({"waves": 0}, "waves: expected an integer >= 1, found 0"),
        ({"detail": 0.0}, "detail: expected a number > 0, found 0.0"),
        ({"decoder": nn.Linear(3, 4)}, r"decoder: expected a network from \(N, 3\) to \(N, 1, 13\), found output"),
        ({"pose_encoder": nn.Flatten()}, r"pose_encoder: expected a network from \(N, 1, 8, 8\) to \(N, 6\)"),
        ({"encoder": nn.Flatten()}, r"encoder: expected a network from \(N, 1, 8, 8\) to \(N, 6\)"),
        ({"prior": priors.UniformSphere}, "guide: expected one on the unit sphere"),
        ({"likelihood": likelihoods.Missing, "encoder": FilledIn}, "encoder: expected one that takes missing entries"),
    ],
)
def test_bad_input_is_told_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        InvariantVAE(**{"event_shape": SHAPE, "latent_dim": 3, "waves": 6} | options)


def test_data_are_checked():
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 1, 8, 8\), found \(20, 1, 8, 9\)"):
        pyrovae.fit(made(), torch.zeros(20, 1, 8, 9), epochs=1)
    with pytest.raises(ValueError, match="x: expected values in the support"):
        pyrovae.fit(made(), torch.full((20, *SHAPE), 0.5), epochs=1)
    with pytest.raises(ValueError, match=r"FourierDecoder: expected an output \(\*k, C, H, W\), found \(5,\)"):
        FourierDecoder(SMALL, (3,), (5,))
