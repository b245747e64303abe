"""The laws that every prior keeps: a new one is one line in this table."""

import copy
import math
from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import test_graphs
import torch
from conftest import X, binary, kind, named
from safetensors.torch import load_model, save_model
from scipy import stats
from torch import nn

import pyrovae
from pyrovae import VAE, guides, priors
from pyrovae.distributions.autoregressive import Autoregressive, affine
from pyrovae.distributions.spline import RationalQuadratic, parameter_count
from pyrovae.objectives import ELBO
from pyrovae.programs.importance import expectation

FLAT = [
    priors.StandardNormal,
    partial(priors.Laplace, scale=0.8),
    partial(priors.Mixture, components=3, spread=2.0),
    partial(priors.VampPrior, components=5),
    partial(priors.AutoregressiveFlow, hidden=(8, 8)),
    partial(priors.NeuralSpline, hidden=(8, 8), bins=4),
]
PRIORS = [*FLAT, priors.UniformSphere]
FLOWS = FLAT[-2:]
OPTIONS = {"Laplace": "scale=0.8", "Mixture": "components=3", "VampPrior": "components=5, pseudo='free'"}
OPTIONS |= {"AutoregressiveFlow": "in_features=2, out_features=8", "NeuralSpline": "bins=4"}


def each(members):
    return pytest.mark.parametrize("prior", members, ids=named)


class Encoding(nn.Module):
    """x -> q(z|x), for the prior that is made of it."""

    def __init__(self, dim):
        super().__init__()
        self.affine, self.family = nn.Linear(X, 2 * dim), guides.DiagonalNormal(dim)

    def forward(self, x):
        return self.family(self.affine(x))


def made(prior, dim):
    """p(z) in float64, with parameters away from their start."""
    built = prior((dim,), (X,)).double()
    for parameter in built.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return built(Encoding(dim).double())


def vae(prior, **parts):
    """A VAE with this prior; on the sphere, with a guide on the sphere."""
    guide = guides.PowerSpherical if kind(prior) is priors.UniformSphere else guides.DiagonalNormal
    return VAE((X,), 3, prior=prior, **{"guide": guide} | parts)


def test_the_table_holds_every_member():
    assert sorted(map(named, PRIORS)) == sorted(priors.__all__)


@each(FLAT)
def test_density_integrates_to_one_and_samples_have_its_moments(prior):
    p = made(prior, 1)
    z = torch.linspace(-60, 60, 60001, dtype=torch.float64)
    with torch.no_grad():
        density = p.log_prob(z[:, None]).exp()
        drawn = p.sample((40000,))
    assert torch.trapezoid(density, z).item() == pytest.approx(1, abs=1e-6)
    mean = torch.trapezoid(density * z, z)
    variance = torch.trapezoid(density * (z - mean) ** 2, z)
    assert abs(drawn.mean() - mean) < 4 * variance.sqrt() / 200
    assert (drawn.var() / variance).item() == pytest.approx(1, abs=0.05)
    if prior in FLOWS:
        with pytest.raises(NotImplementedError):
            _ = p.mean
        assert abs(expectation(p, 40000) - mean) < 4 * variance.sqrt() / 200
    else:
        assert p.mean.item() == pytest.approx(mean.item(), abs=1e-5)
        assert p.variance.item() == pytest.approx(variance.item(), rel=1e-5)


@each(FLAT[2:])
def test_density_of_two_latents_integrates_to_one_and_knows_how_they_hang_together(prior):
    p = made(prior, 2)
    side = torch.linspace(-15, 15, 601, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    with torch.no_grad():
        mass = p.log_prob(z).exp() * (side[1] - side[0]) ** 2
        drawn = p.sample((40000,))
    assert mass.sum().item() == pytest.approx(1, abs=2e-4)
    both = drawn.prod(-1)
    assert abs(both.mean() - (mass * z.prod(-1)).sum()) < 4 * both.std() / 200


def test_the_sphere_has_its_area_and_refuses_what_is_not_on_it():
    for d, area in ((2, 2 * math.pi), (3, 4 * math.pi), (5, 8 * math.pi**2 / 3)):
        p = priors.UniformSphere(d).double()()
        z = p.sample((40000,))
        assert (p.log_prob(z).exp() * area - 1).abs().max() < 1e-12
        assert z.mean(0).abs().max() < 4 / math.sqrt(d * 40000)
        assert (z.square().mean(0) - p.variance).abs().max() < 0.01
        assert p.entropy().item() == pytest.approx(math.log(area), abs=1e-12)
        with pytest.raises(ValueError, match="within the support"):
            p.log_prob(1.1 * z)
    with pytest.raises(ValueError, match="expected an integer >= 2, found 1"):
        priors.UniformSphere(1)


def test_the_normal_and_laplace_densities_are_scipys():
    z = torch.randn(7, 2, dtype=torch.float64)
    for prior, law in ((priors.StandardNormal, stats.norm()), (FLAT[1], stats.laplace(scale=0.8))):
        np.testing.assert_allclose(made(prior, 2).log_prob(z), law.logpdf(z).sum(-1), rtol=1e-6)


def test_a_mixture_is_its_weighted_parts():
    prior = priors.Mixture((2,), components=3).double()
    nn.init.normal_(prior.log_weight)
    z = torch.randn(7, 2, dtype=torch.float64)
    parts = zip(prior.log_weight.softmax(0), prior.mean.detach(), prior.log_scale.exp().detach(), strict=True)
    expected = sum(w.item() * stats.norm(m, s).pdf(z).prod(-1) for w, m, s in parts)
    np.testing.assert_allclose(prior().log_prob(z).exp().detach(), expected, rtol=1e-10)


def test_the_vamp_prior_is_the_mean_of_the_encodings_of_its_pseudo_inputs():
    prior, encoding = priors.VampPrior((2,), (X,), components=5).double(), Encoding(2).double()
    z = torch.randn(7, 2, dtype=torch.float64)
    expected = torch.stack([encoding(u).log_prob(z).exp() for u in prior.inputs]).mean(0)
    torch.testing.assert_close(prior(encoding).log_prob(z).exp(), expected, rtol=1e-12, atol=0)
    assert ((prior.inputs >= 0) & (prior.inputs <= 1)).all()


def test_pseudo_inputs_from_the_data_are_different_rows_of_them():
    prior, x = priors.VampPrior((2,), (X,), components=5, pseudo="data"), torch.arange(40.0).reshape(10, X)
    with pytest.raises(ValueError, match="expected initialise"):
        prior(Encoding(2))
    with pytest.raises(ValueError, match="at least components = 5 rows, found 4"):
        prior.initialise(x[:4])
    with pytest.raises(ValueError, match=r"expected shape \(N, 4\)"):
        prior.initialise(x[:, :3])
    rows = {tuple(row.tolist()) for row in prior.initialise(x).inputs}
    assert len(rows) == 5
    assert rows <= {tuple(row.tolist()) for row in x}
    assert prior(Encoding(2)).log_prob(torch.zeros(2)).isfinite()
    loaded = priors.VampPrior((2,), (X,), components=5, pseudo="data")
    loaded.load_state_dict(prior.state_dict())
    assert loaded(Encoding(2)).batch_shape == ()


@pytest.mark.parametrize("guide", [guides.Planar, guides.Delta])
def test_the_vamp_prior_refuses_guides_without_a_density_at_other_points(guide):
    refused = vae(partial(priors.VampPrior, components=5), guide=guide)
    with pytest.raises(ValueError, match=r"density at any z, found .* that scores only its own samples"):
        ELBO().loss_and_grads(refused.model, refused.guide, binary())


@pytest.mark.parametrize("guide", sorted(set(guides.__all__) - {"Planar", "Delta", "PowerSpherical"}))
def test_the_vamp_prior_is_the_mean_encoding_with_any_other_guide(guide):
    made = vae(partial(priors.VampPrior, components=5), guide=getattr(guides, guide)).double()
    z = torch.randn(2, 7, 3, dtype=torch.float64)
    expected = torch.stack([made.q_z(u).log_prob(z).exp() for u in made.prior.inputs]).mean(0)
    torch.testing.assert_close(made.p_z().expand((2, 7)).log_prob(z).exp(), expected, rtol=1e-9, atol=0)


@each(FLOWS)
def test_a_flow_inverts_and_its_jacobian_is_autograds(prior):
    p = made(prior, 3)
    flow = dist.transforms.ComposeTransform(p.transforms)
    e = 2 * torch.randn(6, 3, dtype=torch.float64)
    z = flow(e)
    torch.testing.assert_close(flow.inv(z.clone()), e, rtol=0, atol=1e-8)
    torch.testing.assert_close(flow(e.clone()), z, rtol=0, atol=1e-8)
    for one, there in zip(e, z, strict=True):
        jacobian = torch.autograd.functional.jacobian(flow, one)
        determinant = flow.log_abs_det_jacobian(one, there)
        assert determinant.item() == pytest.approx(jacobian.slogdet().logabsdet.item(), abs=1e-8)


@each(FLOWS)
def test_a_flow_takes_latents_to_noise_by_its_first_transform_first(prior):
    built = prior((3,)).double()
    z = e = torch.randn(6, 3, dtype=torch.float64)
    log_determinant = torch.zeros(6, dtype=torch.float64)
    for transform in built.transforms:
        f, x = transform(), e
        e = f(x)
        log_determinant = log_determinant + f.log_abs_det_jacobian(x, e)
    expected = dist.Normal(0.0, 1.0).log_prob(e).sum(-1) + log_determinant
    torch.testing.assert_close(built().log_prob(z), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("elementwise", "count"), [(affine, 2), (RationalQuadratic, 11)], ids=["affine", "spline"])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_autoregressive_transform_looks_only_at_the_values_before(elementwise, count, reverse):
    made = Autoregressive(4, elementwise, count, hidden=(9, 7), reverse=reverse).double()
    jacobian = torch.autograd.functional.jacobian(made(), torch.randn(4, dtype=torch.float64))
    strict = jacobian.triu(1) if not reverse else jacobian.tril(-1)
    other = jacobian.tril(-1) if not reverse else jacobian.triu(1)
    assert strict.abs().max() == 0
    assert (other != 0).sum() == 6  # and at all of them


def test_the_spline_is_the_identity_at_zero_and_outside_and_monotone_everywhere():
    x = torch.linspace(-7, 7, 1001, dtype=torch.float64)
    still = RationalQuadratic(torch.zeros(1001, 23, dtype=torch.float64))
    torch.testing.assert_close(still(x), x, rtol=0, atol=1e-12)
    bent = RationalQuadratic((5 * torch.randn(23, dtype=torch.float64)).expand(1001, -1))
    y = bent(x)
    assert (y.diff() > 0).all()
    outside = x.abs() > 5
    assert torch.equal(y[outside], x[outside])
    torch.testing.assert_close(bent.inv(y), x, rtol=0, atol=1e-8)
    slope = torch.autograd.functional.jacobian(bent, x).diagonal()
    torch.testing.assert_close(bent.log_abs_det_jacobian(x, y).exp(), slope, rtol=1e-8, atol=1e-12)


def test_the_spline_of_most_bins_is_still_monotone():
    bent = RationalQuadratic((5 * torch.randn(parameter_count(999), dtype=torch.float64)).expand(1001, -1))
    assert (bent.x.diff() > 0).all()
    assert (bent.y.diff() > 0).all()
    assert (bent(torch.linspace(-5, 5, 1001, dtype=torch.float64)).diff() > 0).all()


@each(PRIORS)
def test_a_gradient_reaches_every_parameter(prior):
    made = vae(prior)
    ELBO().loss_and_grads(made.model, made.guide, binary())
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@each(PRIORS)
def test_leading_dimensions_and_precision_change_no_density(prior):
    p = made(prior, 3)
    z = p.expand((2, 5)).sample()
    whole = p.expand((2, 5)).log_prob(z)
    assert whole.shape == (2, 5)
    torch.testing.assert_close(whole[1, 3], p.log_prob(z[1, 3]), rtol=0, atol=1e-10)
    built, encoding = prior((3,), (X,)).double(), Encoding(3).double()
    z = built(encoding).sample((6,))
    exact = built(encoding).log_prob(z)
    single = built.float()(encoding.float()).log_prob(z.float())
    torch.testing.assert_close(single, exact.float(), rtol=1e-4, atol=1e-4)


@each(PRIORS)
def test_saved_and_loaded_it_is_the_same_density_and_a_copy_is_its_own(prior, tmp_path):
    built, encoding = prior((3,), (X,)), Encoding(3)
    z = built(encoding).sample((6,))
    before = built(encoding).log_prob(z)
    save_model(built, tmp_path / "prior.safetensors")
    torch.manual_seed(1)
    other = prior((3,), (X,))
    load_model(other, tmp_path / "prior.safetensors")
    assert torch.equal(other(encoding).log_prob(z), before)
    twin = copy.deepcopy(built)
    for parameter in twin.parameters():
        parameter.data += 0.5
    assert torch.equal(built(encoding).log_prob(z), before)
    assert torch.equal(twin(encoding).log_prob(z), before) == (not list(twin.parameters()))


@each(PRIORS)
def test_recorded_it_gives_the_loss_and_gradients_of_eager_pyro(prior, double, monkeypatch):
    monkeypatch.setitem(test_graphs.TABLE, "it", (partial(vae, prior), ELBO, [binary]))
    losses = test_graphs.compare("it", torch.float64, "auto")
    assert losses[0] != losses[1]


@each(PRIORS)
def test_it_trains_and_is_evaluated(prior):
    made, x = vae(prior), binary(40)
    if hasattr(made.prior, "initialise"):
        made.prior.initialise(x)
    first, last = pyrovae.fit(made, x, epochs=2, batch_size=20, compile=False)
    assert last["loss"] < first["loss"] + 0.5
    found = pyrovae.evaluate(made, x, particles=5)
    assert found["log_likelihood"]["value"] >= found["elbo"]["value"] - 0.3
    assert made.sample(3).shape == (3, X)


@each([prior for prior in PRIORS if named(prior) in OPTIONS])
def test_its_name_tells_its_options(prior):
    text = repr(prior((2,), (X,)))
    assert named(prior) in text
    assert OPTIONS[named(prior)] in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.Mixture(2, components=0), "components: expected an integer >= 1, found 0"),
        (lambda: priors.Mixture(2, spread=0), "spread: expected a number > 0, found 0"),
        (lambda: priors.Laplace(2, scale=-1), "scale: expected a number > 0, found -1"),
        (lambda: priors.VampPrior(2), "event_shape: expected the shape of a datum"),
        (lambda: priors.VampPrior(2, 4)(), "encoding: expected x -> q"),
        (lambda: priors.VampPrior(2, 4, pseudo="dat"), "did you mean 'data'"),
        (lambda: priors.AutoregressiveFlow(2, hidden=()), "hidden: expected at least 1 size"),
        (lambda: priors.AutoregressiveFlow((2, 3)), "expected the shape of a vector, found"),
        (lambda: priors.NeuralSpline(2, bins=1), "bins: expected an integer >= 2, found 1"),
        (lambda: priors.NeuralSpline(2, bins=1000), "bins: expected an integer >= 2 and < 1000, found 1000"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pseudo_inputs_that_were_not_loaded_are_not_ready():
    prior = priors.VampPrior(2, 4, components=3, pseudo="data")
    prior.load_state_dict({}, strict=False)
    with pytest.raises(ValueError, match="expected initialise"):
        prior(lambda x: None)
    with pytest.raises(ValueError, match="expected finite values, found nan"):
        prior.initialise(torch.full((9, 4), torch.nan))
    prior.load_state_dict({"inputs": torch.ones(3, 4)})
    assert prior.ready
    assert prior.inputs.sum() == 12
