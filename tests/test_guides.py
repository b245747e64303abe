"""The laws that every guide family keeps: a new one is one line in this table."""

import copy
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import test_graphs
import torch
from conftest import X, binary, kind, named
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from safetensors.torch import load_model, save_model
from scipy import stats
from torch import nn
from torch.distributions import kl_divergence

import pyrovae
from pyrovae import VAE, guides, priors
from pyrovae.distributions import PowerSpherical, UniformSphere
from pyrovae.likelihoods import Normal
from pyrovae.objectives import ELBO, Reconstruction
from pyrovae.programs import importance
from pyrovae.programs.importance import expectation
from pyrovae.programs.traces import log_weights

NORMAL = [guides.DiagonalNormal, guides.FullRankNormal, partial(guides.LowRankNormal, rank=1)]
FLOWS = [
    partial(guides.IAF, hidden=(8,), context=3),
    partial(guides.NeuralSpline, hidden=(8,), context=3, bins=4),
]
FLAT = [*NORMAL, *FLOWS, partial(guides.Mixture, components=2)]
OWN = [partial(guides.Planar, transforms=3), guides.Delta]  # they score their own samples only
GUIDES = [*FLAT, *OWN, guides.PowerSpherical]
OPTIONS = {"LowRankNormal": "rank=1", "IAF": "context=3", "NeuralSpline": "bins=4, context=3"}
OPTIONS |= {"Mixture": "components=2", "Planar": "transforms=3"}
D = 3


def each(members):
    return pytest.mark.parametrize("guide", members, ids=named)


def made(guide, dim, *batch):
    """q(z|h) in float64 at a random h (*batch, *param_shape)."""
    built = guide((dim,)).double()
    return built(torch.randn(*batch, *built.param_shape, dtype=torch.float64))


def vae(guide, **parts):
    """A VAE with this guide; on the sphere, with a prior on the sphere."""
    prior = priors.UniformSphere if kind(guide) is guides.PowerSpherical else priors.StandardNormal
    return VAE((X,), D, **{"guide": guide, "prior": prior} | parts)


def test_the_table_holds_every_member():
    assert sorted(map(named, GUIDES)) == sorted(guides.__all__)


@each(FLAT)
def test_density_integrates_to_one_and_samples_as_it_scores(guide):
    q = made(guide, 1)
    z = torch.linspace(-40, 40, 80001, dtype=torch.float64)
    with torch.no_grad():
        density = q.log_prob(z[:, None]).exp()
        drawn = q.sample((40000,))
    assert torch.trapezoid(density, z).item() == pytest.approx(1, abs=1e-6)  # a spline's density has kinks
    mean = torch.trapezoid(density * z, z)
    spread = torch.trapezoid(density * (z - mean) ** 2, z).sqrt()
    assert abs(drawn.mean() - mean) < 4 * spread / 200
    assert (drawn.std() / spread).item() == pytest.approx(1, abs=0.03)
    if guide in FLOWS:
        with pytest.raises(NotImplementedError):
            _ = q.mean
        assert abs(expectation(q, 40000) - mean) < 4 * spread / 200
    else:
        assert q.mean.item() == pytest.approx(mean.item(), abs=1e-6)


def plane(q, side=15.0, points=401):
    """A grid (points, points, 2) and the mass of q in each cell."""
    side = torch.linspace(-side, side, points, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    with torch.no_grad():
        return z, q.log_prob(z).exp() * (side[1] - side[0]) ** 2


@each(FLAT)
def test_density_of_two_latents_integrates_to_one_and_knows_how_they_hang_together(guide):
    q = made(guide, 2)
    z, mass = plane(q)
    drawn = q.sample((40000,))
    assert mass.sum().item() == pytest.approx(1, abs=1e-4)
    both = drawn.prod(-1)
    assert abs(both.mean() - (mass * z.prod(-1)).sum()) < 4 * both.std() / 200
    if guide not in FLOWS:
        mean = (mass[..., None] * z).sum((0, 1))
        torch.testing.assert_close(q.mean, mean, rtol=0, atol=1e-3)
        torch.testing.assert_close(q.variance, (mass[..., None] * (z - mean) ** 2).sum((0, 1)), rtol=1e-3, atol=0)


def test_a_delta_is_no_density():
    assert plane(made(guides.Delta, 2))[1].sum() == 0
    q = made(guides.Delta, 2, 5)
    assert q.log_prob(q.sample()).tolist() == [0.0] * 5


def test_planar_flow_samples_as_it_scores_itself_and_refuses_the_rest():
    """E_q[1/q(z) on a set] is the area of the set, where all of it has been drawn."""
    q = made(partial(guides.Planar, transforms=3), 2)
    z = q.sample((200000,))
    log_q = q.log_prob(z).detach()
    centre = z.median(0).values
    inside = (z - centre).abs().max(-1).values < 0.2
    area = (inside * (-log_q).exp()).mean()
    error = (inside * (-log_q).exp()).std() / math.sqrt(len(z))
    assert error < 0.004
    assert abs(area - 0.16) < 4 * error
    with pytest.raises(ValueError, match="it has no inverse"):
        q.log_prob(z.clone())


def test_planar_maps_stay_one_to_one_where_u_would_fold_them():
    w, u = torch.tensor([2.0, 0.0]).double(), torch.tensor([-5.0, 0.0]).double()
    fold = pyrovae.distributions.Planar(u, w, torch.zeros(()).double())
    x = torch.stack([torch.linspace(-3, 3, 101), torch.zeros(101)], -1).double()
    assert ((w * fold.u).sum()) > -1
    assert (fold(x)[:, 0].diff() > 0).all()


@each([*FLOWS, OWN[0]])
def test_a_flow_jacobian_is_autograds_and_what_can_be_inverted_is(guide):
    q = made(guide, 3)
    flow = dist.transforms.ComposeTransform(q.transforms)
    for start in 2 * torch.randn(6, 3, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(flow, start)
        z = flow(start)
        determinant = flow.log_abs_det_jacobian(start, z)
        assert determinant.item() == pytest.approx(jacobian.slogdet().logabsdet.item(), abs=1e-8)
        if guide in FLOWS:
            torch.testing.assert_close(flow.inv(z.clone()), start, rtol=0, atol=1e-8)


@each(FLOWS)
def test_a_flow_scores_its_own_samples_without_running_its_networks_and_others_alike(guide):
    built = guide((D,)).double()
    q = built(torch.randn(5, *built.param_shape, dtype=torch.float64))
    passes = []
    for transform in built.transforms:
        transform.network.register_forward_hook(lambda *_: passes.append(1))
    z = q.rsample()
    own = q.log_prob(z)
    assert len(passes) == len(built.transforms)
    torch.testing.assert_close(q.log_prob(z.clone()), own, rtol=0, atol=1e-8)
    assert len(passes) > 2 * len(built.transforms)


@each(GUIDES)
def test_leading_dimensions_and_precision_change_no_number(guide):
    built = guide((D,)).double()
    h = torch.randn(2, 5, *built.param_shape, dtype=torch.float64)
    whole = built(h)
    z = whole.rsample()
    assert z.shape == (2, 5, D)
    assert whole.has_rsample
    score = whole.log_prob(z)
    assert score.shape == (2, 5)
    if guide not in OWN:
        torch.testing.assert_close(score[1, 3], built(h[1, 3]).log_prob(z[1, 3]), rtol=0, atol=1e-9)
        torch.testing.assert_close(built(h[1]).expand((2, 5)).log_prob(z)[1], score[1], rtol=0, atol=1e-9)
        single = built.float()(h.float()).log_prob(z.float())
        torch.testing.assert_close(single, score.float(), rtol=1e-3, atol=1e-3)


@each(GUIDES)
def test_a_gradient_reaches_every_parameter(guide):
    made = vae(guide)
    ELBO().loss_and_grads(made.model, made.guide, binary())
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@each(GUIDES)
def test_gradients_of_samples_are_those_of_their_expectations(guide):
    """The samples' own path gives d/dh E[f(z)], for an f that tells all means and covariances."""
    built = guide((D,)).double()
    h = torch.randn(*built.param_shape, dtype=torch.float64, requires_grad=True)
    step = 0.1 * torch.randn_like(h)

    def value(h, seed):
        torch.manual_seed(seed)
        z = built(h).rsample((4000,))
        return (z.square() * torch.tensor([1.0, 2.0, 0.5]) + z * z.roll(1, -1) + z).sum(-1).mean()

    paths = torch.stack([(torch.autograd.grad(value(h, seed), h)[0] * step).sum() for seed in range(10)])
    with torch.no_grad():
        slopes = torch.stack([(value(h + step, seed) - value(h - step, seed)) / 2 for seed in range(10)])
    error = ((paths.var() + slopes.var()) / 10).sqrt()
    assert abs(paths.mean() - slopes.mean()) < 5 * error + 0.03 * slopes.mean().abs()
    assert error < 0.25 * slopes.mean().abs()


@each(GUIDES)
def test_saved_and_loaded_it_is_the_same_density_and_a_copy_is_its_own(guide, tmp_path):
    built = guide((D,))
    h = torch.randn(6, *built.param_shape)
    z = built(h).sample()
    score = (lambda family: family(h).log_prob(z)) if kind(guide) is not guides.Planar else lambda family: h.sum()
    before = score(built)
    save_model(built, tmp_path / "guide.safetensors")
    torch.manual_seed(1)
    other = guide((D,))
    load_model(other, tmp_path / "guide.safetensors")
    assert torch.equal(score(other), before)
    twin = copy.deepcopy(built)
    for parameter in twin.parameters():
        parameter.data += 0.5
    assert torch.equal(score(built), before)
    assert torch.equal(score(twin), before) == (not list(twin.parameters()))


@each(GUIDES)
def test_recorded_it_gives_the_loss_and_gradients_of_eager_pyro(guide, double, monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", (partial(vae, guide), ELBO, [binary]))
    losses = test_graphs.compare("it", torch.float64, "auto")
    assert (losses[0] != losses[1]) == (kind(guide) is not guides.Delta)


@each(GUIDES)
def test_it_is_weighed_trained_and_evaluated(guide):
    made, x = vae(guide), binary(40)
    assert log_weights(made.model, made.guide, 7, x).shape == (7, 40)
    first, last = pyrovae.fit(made, x, epochs=2, batch_size=20, compile=False)
    assert last["loss"] < first["loss"] + 1
    found = pyrovae.evaluate(made, x, particles=5)
    if kind(guide) is guides.Delta:
        assert found["kl_estimator"] == "none: the guide is a point"
        return
    assert found["log_likelihood"]["value"] >= found["elbo"]["value"] - 0.3
    closed = kind(guide) in (*map(kind, NORMAL), guides.PowerSpherical)
    assert found["kl_estimator"] == ("closed form" if closed else "sampled")


@each([guide for guide in GUIDES if named(guide) in OPTIONS])
def test_its_name_tells_its_options(guide):
    text = repr(guide((2,)))
    assert named(guide) in text
    assert OPTIONS[named(guide)] in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guides.LowRankNormal(2, rank=0), "rank: expected an integer >= 1, found 0"),
        (lambda: guides.IAF(2, transforms=0), "transforms: expected an integer >= 1, found 0"),
        (lambda: guides.IAF((2, 3)), "expected the shape of a vector, found"),
        (lambda: guides.NeuralSpline(2, bins=1), "bins: expected an integer >= 2, found 1"),
        (lambda: guides.NeuralSpline(2, bins=1000), "bins: expected an integer >= 2 and < 1000, found 1000"),
        (lambda: guides.Planar(2, transforms=-1), "transforms: expected an integer >= 1, found -1"),
        (lambda: guides.Mixture(2, components=1), "components: expected an integer >= 2, found 1"),
        (lambda: guides.PowerSpherical(1), "latent_shape of a sphere: expected an integer >= 2, found 1"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_diagonal_normal_reads_mean_and_log_variance():
    q = guides.DiagonalNormal((2,))(torch.tensor([[1.0, -2.0, 0.0, math.log(9.0)]]))
    assert q.mean.tolist() == [[1.0, -2.0]]
    assert q.base_dist.scale.flatten().tolist() == pytest.approx([1.0, 3.0], rel=1e-6)


def test_full_rank_normal_reads_mean_log_scales_and_a_unit_triangle():
    h = torch.tensor([1.0, 2.0, 3.0, 0.0, math.log(2), math.log(3), 4.0, 5.0, 6.0], dtype=torch.float64)
    q = guides.FullRankNormal(3)(h)
    factor = (np.eye(3) + np.array([[0, 0, 0], [4, 0, 0], [5, 6, 0]]) / math.sqrt(3)) @ np.diag([1, 2, 3])
    law = stats.multivariate_normal([1, 2, 3], factor @ factor.T)
    z = torch.randn(7, 3, dtype=torch.float64)
    np.testing.assert_allclose(q.log_prob(z), law.logpdf(z), rtol=1e-10)


def test_low_rank_normal_reads_mean_log_variance_and_factor():
    h = torch.tensor([1.0, 2.0, 0.0, math.log(4), 3.0, -1.0], dtype=torch.float64)
    q = guides.LowRankNormal(2, rank=1)(h)
    law = stats.multivariate_normal([1, 2], np.array([[9, -3], [-3, 1]]) + np.diag([1, 4]))
    z = torch.randn(7, 2, dtype=torch.float64)
    np.testing.assert_allclose(q.log_prob(z), law.logpdf(z), rtol=1e-10)


@each(NORMAL)
def test_the_closed_kl_from_a_diagonal_normal_is_the_sampled_one(guide):
    q, p = made(guide, 3, 2), dist.Normal(torch.randn(3).double(), torch.rand(3).double() + 0.5).to_event(1)
    z = q.sample((200000,))
    sampled = q.log_prob(z) - p.log_prob(z)
    assert ((kl_divergence(q, p) - sampled.mean(0)).abs() < 4 * sampled.std(0) / math.sqrt(len(z))).all()
    with pytest.raises(NotImplementedError):
        kl_divergence(made(guides.FullRankNormal, 3), dist.Laplace(torch.zeros(3), 1.0).to_event(1))


def test_a_mixtures_gradients_are_those_of_its_moments():
    """Of all parameters, where E[z_i z_j] is known: Pyro's own MixtureOfDiagNormals fails this in the weights."""
    built = guides.Mixture(3, components=2).double()
    h = torch.randn(*built.param_shape, dtype=torch.float64, requires_grad=True)
    q = built(h)
    parts, w = q.component_distribution.base_dist, q.mixture_distribution.probs[:, None, None]
    second = (w * (parts.variance.diag_embed() + parts.loc[:, :, None] * parts.loc[:, None, :])).sum(0)
    tilt = torch.randn(3, 3, dtype=torch.float64)
    (expected,) = torch.autograd.grad((tilt * second).sum(), h)
    found = []
    for _ in range(10):
        z = built(h).rsample((20000,))
        found.append(torch.autograd.grad(torch.einsum("ni,ij,nj->", z, tilt, z) / len(z), h)[0])
    error = torch.stack(found).std(0) / math.sqrt(10)
    assert ((torch.stack(found).mean(0) - expected).abs() < 5 * error + 1e-12).all()
    assert (error < 0.1 * expected.abs().max()).all()


# On the sphere.


def power(d, concentration):
    direction = nn.functional.normalize(torch.randn(d, dtype=torch.float64), dim=0)
    return PowerSpherical(direction, torch.tensor(concentration, dtype=torch.float64))


@pytest.mark.parametrize("concentration", [0.0, 0.7, 20.0])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_the_power_spherical_density_integrates_to_one_with_its_moments_and_its_kl(d, concentration):
    """By quadrature over the angle from its direction m: the sphere's slice there has area A_(d-1) sin^(d-2)."""
    q, uniform = power(d, concentration), UniformSphere(torch.zeros(d, dtype=torch.float64))
    angle = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    across = torch.linalg.qr(torch.stack([q.direction, torch.ones_like(q.direction)], -1)).Q[:, 1]
    z = angle.cos()[:, None] * q.direction + angle.sin()[:, None] * across
    slices = 2 * math.pi ** ((d - 1) / 2) / math.gamma((d - 1) / 2) * angle.sin() ** (d - 2)
    mass = q.log_prob(z).exp() * slices
    assert torch.trapezoid(mass, angle).item() == pytest.approx(1, abs=1e-7)
    cosine = torch.trapezoid(mass * angle.cos(), angle)
    torch.testing.assert_close(q.mean, cosine * q.direction, rtol=0, atol=1e-7)
    assert ((q.variance + q.mean.square()).sum()).item() == pytest.approx(1, abs=1e-12)  # E|z|^2
    log_q = q.log_prob(z)
    kl = torch.trapezoid(mass * (log_q.clamp_min(-1e3) + uniform.entropy()), angle)
    assert kl_divergence(q, uniform).item() == pytest.approx(kl.item(), abs=1e-6)
    assert q.entropy().item() == pytest.approx(uniform.entropy().item() - kl.item(), abs=1e-6)


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("first", [1.0, -1.0, 0.3])
def test_power_spherical_samples_lie_on_the_sphere_with_its_moments_and_its_kl(d, first):
    direction = torch.tensor([first, *[math.sqrt((1 - first**2) / (d - 1))] * (d - 1)], dtype=torch.float64)
    q = PowerSpherical(direction, torch.tensor(3.0, dtype=torch.float64))
    z = q.sample((100000,))
    assert (torch.linalg.vector_norm(z, dim=-1) - 1).abs().max() < 1e-12
    assert ((z.mean(0) - q.mean).abs() < 5 * z.std(0) / math.sqrt(len(z))).all()
    torch.testing.assert_close(z.var(0), q.variance, rtol=0.02, atol=1e-3)
    uniform = UniformSphere(torch.zeros(d, dtype=torch.float64))
    sampled = q.log_prob(z) - uniform.log_prob(z)
    assert abs(kl_divergence(q, uniform) - sampled.mean()) < 4 * sampled.std() / math.sqrt(len(z))


def test_power_spherical_is_exact_in_float32_and_refuses_what_is_not_on_the_sphere():
    q = PowerSpherical(nn.functional.normalize(torch.randn(1000, 5), dim=-1), torch.full((1000,), 300.0))
    assert q.log_prob(q.sample()).isfinite().all()  # validated: the support has a tolerance of rounding
    with pytest.raises(ValueError, match="within the support"):
        q.log_prob(2 * q.sample())
    with pytest.raises(ValueError, match="direction"):
        PowerSpherical(torch.ones(3), torch.tensor(1.0))


# On the linear model, whose posterior is known; and the autoencoder without a KL, which is PCA.


def train(vae, x, loss, steps=40):
    """The encoder alone, to the optimum of a loss without noise."""
    optimizer = torch.optim.LBFGS(vae.encoder.parameters(), max_iter=25, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(vae, x)
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)
    return -loss(vae, x).item()


def negative_elbo(vae, x):
    """-ELBO in closed form for an affine decoder and a q(z|x) of known mean and variance or covariance."""
    q = vae.q_z(x)
    covariance = q.covariance_matrix if hasattr(q, "covariance_matrix") else q.variance.diag_embed()
    w, s = vae.decoder.weight.detach(), vae.likelihood.scale
    residual = (x - vae.decoder(q.mean)).square().sum(-1) + ((w @ covariance) * w).sum((-1, -2))
    log_p = -residual / (2 * s**2) - x.shape[1] * (s.log() + math.log(2 * math.pi) / 2)
    return (kl_divergence(q, vae.p_z().expand((len(x),))) - log_p).mean()


@pytest.mark.parametrize(
    "guide", [guides.DiagonalNormal, guides.FullRankNormal, partial(guides.LowRankNormal, rank=1)], ids=named
)
def test_on_a_linear_model_the_gap_is_that_of_the_family(linear, guide):
    """log p(x) - ELBO = KL(q || posterior): 0 for full rank, 1/2 (sum_i log P_ii - log|P|) for the best diagonal."""
    family = guide(2)
    encoder = nn.Linear(5, family.param_shape[0])
    made = VAE(5, 2, likelihood=partial(Normal, scale=linear.s), guide=family, encoder=encoder).double()
    made.decoder = linear.vae.decoder
    found = train(made, linear.x, negative_elbo)
    by_pyro = -TraceMeanField_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=1).loss(
        made.model, made.guide, linear.x
    ) / len(linear.x)
    assert by_pyro == pytest.approx(found, abs=0.05)
    gap = linear.evidence.log_prob(linear.x).mean().item() - found
    precision = linear.posterior(linear.x).precision_matrix[0].detach()
    assert (precision - precision.diagonal().diag()).abs().max() > 0.1  # the columns of W are not orthogonal
    lost = (precision.diagonal().log().sum() - precision.logdet()).item() / 2
    assert lost > 0.01
    assert gap == pytest.approx(lost if guide is guides.DiagonalNormal else 0.0, abs=1e-6)


@each([FLOWS[0], OWN[0]])
def test_a_trained_flow_gives_the_evidence_of_the_linear_model(linear, guide):
    """E_q[p(x, z) / q(z|x)] = p(x) whatever the guide: a wrong Jacobian would show."""
    encoder = partial(pyrovae.networks.MLP, hidden=())
    made = VAE(5, 2, likelihood=partial(Normal, scale=linear.s), guide=guide, encoder=encoder).double()
    made.decoder = linear.vae.decoder
    optimizer = torch.optim.Adam([*made.encoder.parameters(), *made.family.parameters()], lr=2e-2)
    svi = pyrovae.SVI(made.model, made.guide, optimizer, ELBO(estimator=Trace_ELBO()))
    for _ in range(120):
        svi.step(linear.x)
    value, error = importance.log_likelihood(made, linear.x, particles=500)
    assert error.max() < 0.2
    assert ((value - linear.evidence.log_prob(linear.x)).abs() < 5 * error + 0.01).all()


def test_a_delta_guide_at_beta_zero_is_principal_component_analysis(double):
    x = torch.randn(50, 6) * torch.tensor([2.0, 1.5, 0.4, 0.3, 0.2, 0.1]) @ torch.linalg.qr(torch.randn(6, 6)).Q + 1
    autoencoder = VAE(6, 2, likelihood=Normal, guide=guides.Delta, encoder=nn.Linear(6, 2), decoder=nn.Linear(2, 6))
    options = {"max_iter": 300, "history_size": 50, "tolerance_grad": 1e-9, "tolerance_change": 1e-14}
    optimizer = torch.optim.LBFGS(autoencoder.parameters(), line_search_fn="strong_wolfe", **options)
    objective = Reconstruction()

    def closure():
        optimizer.zero_grad()
        loss = objective.differentiable_loss(autoencoder.model, autoencoder.guide, x)
        loss.backward()
        return loss

    optimizer.step(closure)
    error = 2 * (closure().item() - 3 * math.log(2 * math.pi))  # of -log Normal(x; decoded, 1), summed over six values
    discarded = np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False)[2:]
    assert error == pytest.approx((discarded**2).sum() / 50, rel=1e-8)


def test_a_delta_guide_at_beta_one_is_the_largest_joint_density():
    made = vae(guides.Delta)
    x = binary()
    z = made.q_z(x).v
    joint = made.p_z().log_prob(z) + made.p_x(z).log_prob(x)
    assert ELBO().loss(made.model, made.guide, x) == pytest.approx(-joint.mean().item(), rel=1e-6)


@each(GUIDES)
def test_plain_pyro_trains_it(guide):
    made, x = vae(guide), binary()
    before = [parameter.clone() for parameter in made.encoder.parameters()]
    svi = pyro.infer.SVI(made.model, made.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert math.isfinite(svi.step(x))
    assert all(not torch.equal(new, old) for new, old in zip(made.encoder.parameters(), before, strict=True))


@pytest.mark.parametrize("dim", [2, 3])
def test_a_power_spherical_draw_near_the_far_pole_has_a_score(dim):
    """Where it is almost uniform, one draw in ten thousand on a circle lies where 1 + m.x rounds to 0."""
    m = torch.nn.functional.normalize(torch.randn(1000, dim), dim=-1).requires_grad_()
    q = PowerSpherical(m, torch.full((1000,), 1e-2))
    away = torch.nn.functional.normalize(-m.detach() + 1e-7 * torch.randn_like(m), dim=-1)
    for x in (away, -m.detach()):
        score = q.log_prob(x)
        (gradient,) = torch.autograd.grad(score.sum(), m, retain_graph=True)
        assert score.isfinite().all()
        assert gradient.isfinite().all()
        assert (score - q.log_prob(m.detach())).mean() < -0.1
