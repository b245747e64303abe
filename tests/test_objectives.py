"""beta, its schedules, who counts; and what every objective is worth on a model whose numbers are known."""

import math
from functools import partial
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import two_layers
from pyro.infer import SVI, RenyiELBO, TraceGraph_ELBO
from torch import nn

import pyrovae
from pyrovae import objectives
from pyrovae.likelihoods import Normal
from pyrovae.models.completion_vae import Completion
from pyrovae.objectives import ELBO, Constant, Cyclic, Geometric, Objective, WarmUp
from pyrovae.objectives.mmd import mmd
from pyrovae.programs import traces


@pytest.fixture
def vae():
    return pyrovae.VAE(6, 2)


@pytest.fixture
def x(vae):
    return vae.sample(12)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(2.0), {0: 2.0, 1: 2.0, 999: 2.0}),
        (WarmUp(10), {0: 0.0, 1: 0.1, 5: 0.5, 10: 1.0, 99: 1.0}),
        (WarmUp(4, final=3.0), {0: 0.0, 2: 1.5, 4: 3.0}),
        (Cyclic(10), {0: 0.0, 2: 0.4, 5: 1.0, 9: 1.0, 10: 0.0, 15: 1.0}),
        (Cyclic(8, rise=1.0, final=2.0), {0: 0.0, 4: 1.0, 7: 1.75, 8: 0.0}),
        (Geometric(4, 0.01, 100.0, hold=3), {0: 0.01, 3: 0.01, 4: 0.1, 5: 1.0, 7: 100.0, 99: 100.0}),
        (Geometric(2, 4.0, 1.0), {0: 4.0, 1: 2.0, 2: 1.0}),
    ],
)
def test_schedules(schedule, values):
    assert {step: schedule(step) for step in values} == pytest.approx(values)


@pytest.mark.parametrize(
    "schedule", [Constant(0.5), WarmUp(7, 0.5), Cyclic(12, 0.5, 0.5), Geometric(5, 0.1, 0.5, hold=2)]
)
def test_a_schedule_is_where_it_leads_once_settled(schedule):
    assert max(schedule(step) for step in range(100)) == pytest.approx(schedule.final)
    assert all(schedule(step) < schedule.final for step in range(1, min(schedule.settled, 6)))


def test_only_loss_and_grads_counts(vae, x):
    objective = ELBO(WarmUp(4))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
    betas = []
    for _ in range(6):
        betas.append(objective.now)
        svi.step(x)
        svi.evaluate_loss(x)
        objective.differentiable_loss(vae.model, vae.guide, x)
        objective.final_loss(vae.model, vae.guide, x)
    assert betas == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    assert objective.step == 6


def test_final_loss_is_at_the_final_beta(vae, x):
    objective, plain = ELBO(WarmUp(5, final=2.0)), ELBO(2.0)
    torch.manual_seed(1)
    found = objective.final_loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    assert found == pytest.approx(plain.loss(vae.model, vae.guide, x), rel=1e-6)
    torch.manual_seed(1)
    assert objective.loss(vae.model, vae.guide, x) < found


def test_the_elbo_module_of_pyro_works(vae, x):
    module = ELBO()(vae.model, vae.guide)
    assert module(x).requires_grad
    assert module(x).item() == pytest.approx(ELBO().loss(vae.model, vae.guide, x), rel=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(-1.0), "beta: expected a finite number >= 0, found -1.0"),
        (lambda: ELBO(float("nan")), "beta: expected a finite number >= 0, found nan"),
        (lambda: ELBO("1"), "beta: expected a finite number"),
        (lambda: WarmUp(0), "steps: expected an integer >= 1, found 0"),
        (lambda: WarmUp(5, -2.0), "beta: expected"),
        (lambda: Geometric(5, 0.0), "beta: expected"),
        (lambda: Cyclic(0), "period: expected an integer >= 1"),
        (lambda: Cyclic(5, rise=0.0), "rise: expected a share"),
        (lambda: ELBO(2.0, RenyiELBO(alpha=0.0, num_particles=2)), "expected one with a differentiable_loss"),
        (lambda: ELBO(1.0, TraceGraph_ELBO()), "found TraceGraph_ELBO"),
        (lambda: ELBO(1.0, "analytical"), "unknown estimator 'analytical'; did you mean 'analytic'"),
        (lambda: objectives.IWAE(0), "k: expected an integer >= 1, found 0"),
        (lambda: objectives.Renyi(1.0), "alpha: expected a number other than 1"),
        (lambda: objectives.FreeBits(-1.0), "free: expected a finite number >= 0"),
        (lambda: objectives.Capacity(-1.0), "expected a finite number >= 0"),
        (lambda: objectives.MMD(-1.0), "weight: expected a finite number >= 0"),
    ],
)
def test_wrong_objectives_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_programs_without_the_data_plate_are_refused():
    def program():
        pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match='a plate named "data"'):
        ELBO().loss(program, program)


# ---- the laws of every objective

OBJECTIVES = {
    "ELBO": ELBO,
    "ELBO, analytic": partial(ELBO, 2.0, "analytic"),
    "ELBO, path derivative": partial(ELBO, 1.0, "path-derivative"),
    "Reconstruction": objectives.Reconstruction,
    "KL": objectives.KL,
    "FreeBits": partial(objectives.FreeBits, 0.2),
    "IWAE": partial(objectives.IWAE, 5),
    "IWAE, dreg": partial(objectives.IWAE, 5, dreg=True),
    "Renyi": partial(objectives.Renyi, 0.5, 5),
    "Capacity": partial(objectives.Capacity, 3.0, steps=9),
    "TotalCorrelation": objectives.TotalCorrelation,
    "MMD": partial(objectives.MMD, 10.0, beta=0.5),
    "ReweightedWakeSleep": partial(objectives.ReweightedWakeSleep, 5),
    "SemiSupervised": objectives.SemiSupervised,
}
# What a part of the programs has no gradient under, by what the objective is.
STILL = {"KL": "decoder"}


def test_the_table_holds_every_objective():
    kinds = {name for name in objectives.__all__ if isinstance(getattr(objectives, name), type)}
    kinds = {name for name in kinds if issubclass(getattr(objectives, name), Objective)} - {"Objective"}
    assert {name.partition(",")[0] for name in OBJECTIVES} == kinds


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_gradient_reaches_every_parameter(vae, x, name):
    objective = OBJECTIVES[name]()
    value = objective.loss_and_grads(vae.model, vae.guide, x)
    assert objective.step == 1
    assert torch.isfinite(torch.tensor(value))
    for parameter, tensor in vae.named_parameters():
        moves = tensor.grad is not None and tensor.grad.abs().max() > 0
        assert moves == (not parameter.startswith(STILL.get(name, "-"))), parameter


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_graph_of_it_is_the_same(name):
    """Loss and every gradient of a step, as recorded and run eagerly, with the same noise."""
    found = []
    for way in (True, False):
        torch.manual_seed(3)
        vae = pyrovae.VAE(6, 2, likelihood=Normal).double()
        x = torch.randn(12, 6, dtype=torch.float64)
        ours = pyrovae.SVI(vae.model, vae.guide, partial(torch.optim.SGD, lr=0.01), OBJECTIVES[name](), compile="auto")
        if way:
            ours.prepare(x)
            losses = [ours.step(x) for _ in range(4)]
            assert ours.path == "graph"
        else:
            losses = [ours_step(vae, ours.loss, x) for _ in range(4)]
        found.append((losses, torch.cat([p.detach().flatten() for p in vae.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-10)


def ours_step(vae, objective, x):
    optimizer = torch.optim.SGD(vae.parameters(), lr=0.01)
    optimizer.zero_grad()
    loss = objective.loss_and_grads(vae.model, vae.guide, x)
    optimizer.step()
    return loss


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_by_it_lowers_it(name, digits):
    """On one batch with one noise."""
    vae = pyrovae.VAE(digits.event_shape, 3)
    x = digits.train[:64]
    objective = OBJECTIVES[name]()

    def loss():
        torch.manual_seed(5)
        return objective.final_loss(vae.model, vae.guide, x)

    before = loss()
    records = pyrovae.fit(vae, x, epochs=20, batch_size=64, objective=objective, compile=False)
    assert objective.scheduled in records[-1]
    assert loss() < before


# ---- on the linear-Gaussian model, whose posterior and evidence are known


def repeated(objective, linear, times=200):
    with torch.no_grad():
        values = torch.tensor([objective.loss(linear.vae.model, linear.vae.guide, linear.x) for _ in range(times)])
    return values.mean().item(), values.std().item() / times**0.5


def seeded(objective, linear):
    """Its loss, with the same noise for every objective."""
    torch.manual_seed(8)
    return objective.loss(linear.vae.model, linear.vae.guide, linear.x)


def test_the_importance_weighted_bound_rises_with_k_to_the_evidence(linear):
    truth = -linear.evidence.log_prob(linear.x).mean().item()
    bounds = [repeated(objectives.IWAE(k), linear) for k in (1, 5, 50, 1000)]
    for (high, high_error), (low, low_error) in pairwise(bounds):
        assert high - low > 3 * (high_error + low_error)
    assert bounds[0][0] == pytest.approx(repeated(ELBO(), linear)[0], abs=4 * bounds[0][1])
    assert bounds[-1][0] == pytest.approx(truth, abs=0.05)


def test_renyi_at_zero_is_iwae_and_towards_one_the_elbo(linear):
    assert seeded(objectives.Renyi(0.0, 7), linear) == pytest.approx(seeded(objectives.IWAE(7), linear), rel=1e-12)
    pyros = pyro.infer.RenyiELBO(alpha=0.3, num_particles=7, vectorize_particles=True, max_plate_nesting=1)
    assert seeded(objectives.Renyi(0.3, 7), linear) == pytest.approx(seeded(pyros, linear) / len(linear.x), rel=1e-10)
    torch.manual_seed(8)  # as in `seeded`
    elbo = -traces.log_weights(linear.vae.model, linear.vae.guide, 7, linear.x).mean().item()
    assert seeded(objectives.Renyi(1 - 2e-3, 7), linear) == pytest.approx(elbo, abs=0.05)


def gradients(objective, linear, times, part="encoder"):
    """Draws of the gradient of one part's weights, each of them a mean of 40, (times, parameters)."""
    parameters, x = list(getattr(linear.vae, part).parameters()), linear.x.repeat(40, 1)
    drawn = []
    for _ in range(times):
        loss = objective.differentiable_loss(linear.vae.model, linear.vae.guide, x)
        drawn.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(drawn)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("plain", "other"),
    [
        (objectives.IWAE(8), objectives.IWAE(8, dreg=True)),
        (ELBO(), ELBO(1.0, "path-derivative")),
        (ELBO(3.0), ELBO(3.0, "path-derivative")),
        (ELBO(), ELBO(1.0, "analytic")),
    ],
    ids=["dreg", "path derivative", "path derivative at beta 3", "analytic"],
)
def test_other_gradients_have_the_same_mean(linear, plain, other, part):
    a, b = gradients(plain, linear, 50, part), gradients(other, linear, 50, part)
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() / error).max() < 4.5
    assert ((a.mean(0) + b.mean(0)).abs() / error).max() > 10  # the control: a wrong sign would be seen


def test_dreg_keeps_its_signal_where_iwae_loses_it(linear):
    """The encoder's signal-to-noise ratio, from 2 particles to 128; the guide has wider tails than the posterior."""
    q = linear.posterior(linear.x)
    with torch.no_grad():
        weight, bias = linear.vae.encoder.weight, linear.vae.encoder.bias
        solved = torch.linalg.lstsq(torch.cat([linear.x, torch.ones(40, 1)], 1), q.mean + 0.1).solution
        weight.copy_(torch.cat([solved[:-1].T, torch.zeros(2, 5)]))
        bias.copy_(torch.cat([solved[-1], (2.0 * q.variance[0]).log()]))

    def ratio(dreg, k):
        drawn = gradients(objectives.IWAE(k, dreg=dreg), linear, 40)
        return (drawn.mean(0).norm() / drawn.var(0).sum().sqrt()).item()

    assert ratio(True, 128) > ratio(True, 2)
    assert ratio(False, 128) < 0.5 * ratio(False, 2)


def test_the_path_derivative_has_no_variance_at_the_posterior(linear):
    """Where q is the posterior, log p(x, z) - log q(z|x) does not depend on z."""
    mean = nn.Parameter(linear.posterior(linear.x).mean.clone())

    def guide(x):
        with pyro.plate("data", len(x)):
            tril = linear.posterior(x).scale_tril.detach()
            pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=tril))

    def drawn(estimator):
        loss = ELBO(1.0, estimator).differentiable_loss(linear.vae.model, guide, linear.x)
        return torch.autograd.grad(loss, mean)[0].abs().max().item()

    assert drawn("path-derivative") < 1e-12
    assert drawn("sampled") > 1e-3


@pytest.mark.parametrize(
    "objective",
    [ELBO(1.0, "path-derivative"), objectives.IWAE(3, dreg=True), objectives.ReweightedWakeSleep(3)],
    ids=["path derivative", "dreg", "wake-sleep"],
)
def test_one_latent_is_scored_again_without_its_encoder(objective, vae, x):
    """Of two layers q(z2|z1) is another distribution at another z1: there the guide is run again."""
    two, calls = pyrovae.models.HierarchicalVAE(x.shape[1:], 3, above=2), []
    for model, network in ((vae, vae.encoder), (two, two.recognition.factors[0].network)):
        objective.differentiable_loss(model.model, model.guide, x)  # the first time, the layout of particles is checked
        network.register_forward_hook(lambda *_, model=model: calls.append(model))
        objective.differentiable_loss(model.model, model.guide, x)
    assert calls.count(vae) == 1
    assert calls.count(two) == (3 if isinstance(objective, objectives.IWAE) else 2)  # at the path's, at the score's


def test_without_the_data_the_guide_becomes_the_prior(digits):
    vae = pyrovae.VAE(digits.event_shape, 5)
    pyrovae.fit(
        vae,
        digits.train[:256],
        epochs=100,
        batch_size=128,
        objective=objectives.KL(estimator="analytic"),
        compile=False,
    )
    assert pyrovae.evaluate(vae, digits.train[:256], 1)["kl"]["value"] < 0.01


def test_the_two_parts_make_the_elbo(linear):
    parts = seeded(objectives.Reconstruction(), linear) + seeded(objectives.KL(2.5), linear)
    assert parts == pytest.approx(seeded(ELBO(2.5), linear), rel=1e-12)


def test_free_bits_cost_nothing_below_the_allowance(linear):
    each = pyrovae.evaluate(linear.vae, linear.x, 2)["kl_per_latent"]["z"]
    for free in (0.0, sum(each) / 2, 100.0):
        expected = seeded(objectives.Reconstruction(), linear) + sum(max(free, one) for one in each)
        assert seeded(objectives.FreeBits(free), linear) == pytest.approx(expected, rel=1e-9)


def test_capacity_asks_for_its_kl(linear):
    kl = pyrovae.evaluate(linear.vae, linear.x, 2)["kl"]["value"]
    found = seeded(objectives.Capacity(kl + 2, gamma=7), linear)
    assert found == pytest.approx(seeded(objectives.Reconstruction(), linear) + 14, rel=1e-9)


def test_total_correlation_is_the_elbo_at_beta_1_and_sees_dependence(linear):
    assert seeded(objectives.TotalCorrelation(1.0), linear) == pytest.approx(seeded(ELBO(), linear), rel=1e-10)
    # z = (a, a) + a little noise: KL(q(z) || q(z_1) q(z_2)) of a normal with correlation r is -log(1 - r^2) / 2
    codes, r = torch.randn(3000, 1, dtype=torch.float64).expand(3000, 2), 1 / (1 + 0.3**2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.3).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    parts = []
    for beta in (0.0, 1.0):
        torch.manual_seed(0)
        parts.append(objectives.TotalCorrelation(beta).loss(model, guide, codes))
    assert parts[1] - parts[0] == pytest.approx(-math.log(1 - r**2) / 2, abs=0.05)


def test_mmd_is_zero_between_equal_laws_and_not_between_others():
    torch.manual_seed(0)
    same = torch.stack([mmd(torch.randn(100, 2), torch.randn(100, 2)) for _ in range(200)])
    other = torch.stack([mmd(torch.randn(100, 2) + 1, torch.randn(100, 2)) for _ in range(200)])
    assert abs(same.mean()) < 4 * same.std() / 200**0.5
    assert other.mean() > 40 * other.std() / 200**0.5


def test_mmd_against_its_integral():
    """In one dimension with N(0, 1) and N(1, 1): E k over the normal differences, by quadrature."""
    d = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    kernel = 2 / (2 + d**2)

    def expected(shift):
        return torch.trapezoid(kernel * dist.Normal(shift, math.sqrt(2.0)).log_prob(d).exp(), d).item()

    truth = 2 * expected(0.0) - 2 * expected(1.0)
    draws = torch.stack([mmd(torch.randn(400, 1) + 1, torch.randn(400, 1)) for _ in range(100)])
    assert draws.mean().item() == pytest.approx(truth, abs=4 * draws.std().item() / 10)


def test_wake_sleep_values_and_learns_as_it_should(linear):
    """Its value is the importance-weighted bound; its gradients those of the two wake phases, by autograd."""
    programs = (linear.vae.model, linear.vae.guide)
    torch.manual_seed(4)
    value = objectives.ReweightedWakeSleep(6).differentiable_loss(*programs, linear.x)
    torch.manual_seed(4)
    assert value.item() == pytest.approx(objectives.Renyi(0.0, 6).loss(*programs, linear.x), rel=1e-12)
    torch.manual_seed(4)
    with torch.no_grad():
        z = linear.vae.q_z(linear.x).expand((6, 40)).rsample()
    log_q = linear.vae.q_z(linear.x).log_prob(z)
    log_p = linear.vae.p_z().log_prob(z) + linear.vae.p_x(z).log_prob(linear.x)
    log_w = log_p - log_q
    encoder, decoder = list(linear.vae.encoder.parameters()), list(linear.vae.decoder.parameters())
    wake_guide = -(log_w.softmax(0).detach() * log_q).sum(0).mean()
    wake_model = -(log_w.logsumexp(0) - math.log(6)).mean()
    truth = [*torch.autograd.grad(wake_guide, encoder, retain_graph=True), *torch.autograd.grad(wake_model, decoder)]
    found = torch.autograd.grad(value, [*encoder, *decoder])
    for a, b in zip(truth, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("objective", [ELBO(1.0, "path-derivative"), objectives.IWAE(3, dreg=True)])
def test_a_latent_without_a_path_is_refused(objective):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(weight)))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    weight = nn.Parameter(torch.zeros(()))
    with pytest.raises(ValueError, match="needs reparametrised latents: 'z' of Bernoulli is not"):
        objective.differentiable_loss(model, guide, torch.zeros(4))


NEEDS = [objectives.Capacity(), objectives.MMD(), objectives.IWAE(3, dreg=True), objectives.ReweightedWakeSleep()]


@pytest.mark.parametrize("objective", [*NEEDS, ELBO(1.0, "path-derivative")], ids=lambda each: type(each).__name__)
def test_a_model_without_latents_is_refused_by_what_is_about_them(objective):
    model = Completion(5, torch.arange(5) < 2)
    with pytest.raises(ValueError, match=": expected at least one latent site, found none"):
        objective.differentiable_loss(model.model, model.guide, torch.zeros(3, 5))


def test_two_layers_have_the_path_derivative_and_dreg():
    """z2 ~ q(z2|z1): the score of both sites is left out, the path through z1 stays."""
    pair = two_layers([0.3, -0.5, 0.8, 0.2], s=0.7)

    def drawn(objective):
        losses = (objective.differentiable_loss(pair.model, pair.guide, pair.x.repeat(40)) for _ in range(60))
        return torch.stack([torch.autograd.grad(loss, pair.w)[0] for loss in losses])

    for plain, other in ((ELBO(), ELBO(1.0, "path-derivative")), (objectives.IWAE(4), objectives.IWAE(4, dreg=True))):
        a, b = drawn(plain), drawn(other)
        error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() / error).max() < 4.5


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (objectives.IWAE(7, dreg=True), "IWAE(k=7, dreg=True)"),
        (objectives.FreeBits(0.5, WarmUp(9)), "FreeBits(free=0.5, beta=WarmUp(steps=9, final=1.0))"),
        (objectives.MMD(3.0), "MMD(weight=3.0, beta=0.0)"),
        (objectives.Capacity(5.0, 2.0), "Capacity(capacity=Constant(final=5.0), gamma=2.0)"),
        (objectives.Reconstruction(), "Reconstruction()"),
    ],
)
def test_repr_tells_the_options(objective, text):
    assert repr(objective) == text


def test_a_batch_of_one_row_has_no_mmd():
    assert mmd(torch.randn(1, 3), torch.randn(1, 3)) == 0
    pyrovae.fit(
        pyrovae.VAE(6, 2), (torch.rand(33, 6) < 0.5).float(), epochs=1, batch_size=16, objective=objectives.MMD()
    )


def test_a_learned_prior_learns_from_the_mmd(x):
    vae = pyrovae.VAE(6, 2, prior=pyrovae.priors.AutoregressiveFlow)
    objectives.MMD(beta=0.0).loss_and_grads(vae.model, vae.guide, x)
    assert max(parameter.grad.abs().max() for parameter in vae.prior.parameters()) > 0
