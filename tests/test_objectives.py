"""beta, its schedules, and who counts."""

import pyro
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, TraceGraph_ELBO

import pyrovae
from pyrovae.objectives import ELBO, Constant, Cyclic, WarmUp


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
    ],
)
def test_schedules(schedule, values):
    assert {step: schedule(step) for step in values} == pytest.approx(values)


@pytest.mark.parametrize("schedule", [Constant(0.5), WarmUp(7, 0.5), Cyclic(12, 0.5, 0.5)])
def test_a_schedule_is_where_it_leads_once_settled(schedule):
    assert max(schedule(step) for step in range(100)) == pytest.approx(schedule.final)
    assert all(schedule(step) < schedule.final for step in range(1, min(schedule.settled, 6)))


def test_only_loss_and_grads_counts(vae, x):
    objective = ELBO(WarmUp(4))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
    betas = []
    for _ in range(6):
        betas.append(objective.beta)
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
        (lambda: Cyclic(0), "period: expected an integer >= 1"),
        (lambda: Cyclic(5, rise=0.0), "rise: expected a share"),
        (lambda: ELBO(2.0, RenyiELBO(alpha=0.0, num_particles=2)), "expected one with a differentiable_loss"),
        (lambda: ELBO(1.0, TraceGraph_ELBO()), "found TraceGraph_ELBO"),
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
