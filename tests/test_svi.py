"""Our SVI: one graph and one optimiser, nothing shared, nothing left behind, no step on what is not finite."""

import copy
import math
import random
from functools import partial
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch._inductor import config as inductor

import pyrovae
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.training.svi import EAGER, KINDS

Adam = partial(torch.optim.Adam, lr=1e-3)


@pytest.fixture
def vae():
    return pyrovae.VAE(6, 2).double()


@pytest.fixture
def x(vae):
    return vae.sample(12)


def test_steps_equal_those_of_pyro(vae, x):
    """Same noise, same loss (a sum, for Pyro's estimators), same parameters after 20 steps of Adam."""
    twin = copy.deepcopy(vae)
    torch.manual_seed(1)
    theirs = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    their_losses = [theirs.step(x) for _ in range(20)]
    torch.manual_seed(1)
    ours = pyrovae.SVI(twin.model, twin.guide, Adam, Trace_ELBO())
    ours.prepare(x)
    our_losses = [ours.step(x) for _ in range(20)]
    assert our_losses == pytest.approx(their_losses, rel=1e-9)
    for a, b in zip(vae.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_evaluate_loss_changes_nothing(vae, x):
    svi = pyrovae.SVI(vae.model, vae.guide, Adam, TraceMeanField_ELBO())
    before = [value.clone() for value in vae.parameters()]
    torch.manual_seed(1)
    first = svi.evaluate_loss(x)
    torch.manual_seed(1)
    assert svi.evaluate_loss(x) == first
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert len(pyro.get_param_store()) == 0


def test_prepare_finds_the_parameters_without_using_random_numbers(vae, x):
    svi = pyrovae.SVI(vae.model, vae.guide, Adam, ELBO())
    state = torch.get_rng_state()
    svi.prepare(x)
    assert torch.equal(state, torch.get_rng_state())
    assert {id(value) for value in svi.parameters.values()} == {id(value) for value in vae.parameters()}


def test_a_frozen_network_stays_and_nothing_warns(vae, x):
    vae.encoder.requires_grad_(False)
    before = vae.encoder[0].weight.clone()
    svi = pyrovae.SVI(vae.model, vae.guide, Adam, ELBO())
    svi.step(x)
    assert torch.equal(vae.encoder[0].weight, before)
    assert len(svi.parameters) == len(list(vae.decoder.parameters()))


def test_clip_shortens_the_gradient(vae, x):
    """Plain SGD moves by learning rate times the clipped norm."""
    svi = pyrovae.SVI(vae.model, vae.guide, partial(torch.optim.SGD, lr=1.0), Trace_ELBO(), clip=0.01)
    before = torch.cat([value.detach().flatten().clone() for value in vae.parameters()])
    svi.step(x)
    after = torch.cat([value.detach().flatten() for value in vae.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_is_not_stepped(where):
    weight = nn.Parameter(torch.tensor(0.0))

    def model(x):
        pyro.module("w", holder)
        with pyro.plate("data", len(x)):
            # sqrt has an infinite gradient at 0, its value is fine; log 0 is not.
            loc = weight.abs().sqrt() if where == "gradient" else weight.log()
            with pyro.validation_enabled(False):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    holder = nn.Module()
    holder.w = weight
    svi = pyrovae.SVI(model, lambda x: None, Adam, Trace_ELBO())
    svi.step(torch.ones(3))
    assert svi.skipped == 1
    assert weight.item() == 0


def test_programs_without_parameters_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="expected programs with parameters"):
        pyrovae.SVI(model, lambda x: None, Adam, Trace_ELBO()).prepare(torch.zeros(3))


PATHS = {False: "eager", "auto": "graph"}


@pytest.fixture
def reals():
    """A model of reals with one constrained parameter of Pyro's store, and no latent: loss and gradient are exact."""

    def model(x, shift=None):
        scale = pyro.param("scale", x.new_tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Exponential(scale if shift is None else scale + shift), obs=x)

    return model, lambda x, shift=None: None


@pytest.mark.parametrize("compile", PATHS)
def test_a_bad_second_batch_is_named_and_moves_nothing(reals, compile):
    svi = pyrovae.SVI(*reals, partial(torch.optim.SGD, lr=0.1), Trace_ELBO(), compile=compile)
    svi.prepare(torch.ones(3))
    svi.step(torch.ones(3))
    assert svi.path == PATHS[compile]
    before = pyro.param("scale").item()
    with pytest.raises(ValueError, match=r"log_prob at site 'x'[\s\S]*to be within the support"):
        svi.step(torch.tensor([1.0, -1.0, 1.0]))
    assert pyro.param("scale").item() == before
    svi.step(torch.ones(3))
    assert pyro.param("scale").item() != before


@pytest.mark.parametrize("compile", PATHS)
@pytest.mark.parametrize("optim", [torch.optim.Adam, torch.optim.RMSprop])
def test_a_loss_that_is_not_finite_is_skipped_and_counted(reals, compile, optim):
    svi = pyrovae.SVI(*reals, partial(optim, lr=0.1), Trace_ELBO(), compile=compile)
    twin = [svi.step(torch.ones(3)) for _ in range(2)]
    pyro.clear_param_store()
    svi = pyrovae.SVI(*reals, partial(optim, lr=0.1), Trace_ELBO(), compile=compile)
    losses = [svi.step(torch.ones(3))]
    assert not math.isfinite(svi.step(torch.full((3,), torch.inf)))
    losses.append(svi.step(torch.ones(3)))
    assert svi.skipped == 1
    assert losses == pytest.approx(twin, rel=1e-6)


def test_a_site_that_is_not_validated_is_not_checked_by_the_graph():
    """Validation switched off by the program stays off: a value outside the support is its own affair."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=pyro.param("h", x.new_zeros(())), validate_args=False), obs=x)

    svi = pyrovae.SVI(model, lambda x: None, partial(torch.optim.SGD, lr=0.1), Trace_ELBO())
    svi.step(torch.zeros(2))
    assert svi.step(torch.full((2,), 0.7)) == pytest.approx(2 * 0.6667, rel=0.1)
    assert svi.skipped == 0


def test_a_python_branch_falls_back_to_eager_and_says_where():
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(2 * z if z.sum() > 0 else z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("q", torch.tensor(0.1)), 1.0))

    svi = pyrovae.SVI(model, guide, Adam, Trace_ELBO())
    with pytest.warns(UserWarning, match=r"run eagerly: Python reads the value .*test_svi.py, in model") as warned:
        svi.prepare(torch.ones(4))
    assert len(warned) == 1
    before = pyro.param("q").item()
    svi.step(torch.ones(4))  # and does not warn again
    assert svi.path == "eager"
    assert pyro.param("q").item() != before


def test_random_numbers_that_torch_does_not_draw_are_noticed():
    """They would be baked into the graph, the same for ever."""
    draw = random.Random(0)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.5)) + draw.random(), 1.0), obs=x)

    svi = pyrovae.SVI(model, lambda x: None, Adam, Trace_ELBO())
    with pytest.warns(UserWarning, match="results differ from run to run"):
        svi.prepare(torch.ones(4))
    assert svi.step(torch.ones(4)) != svi.step(torch.ones(4))


def test_too_many_kinds_of_arguments_run_eagerly(reals):
    svi = pyrovae.SVI(*reals, partial(torch.optim.SGD, lr=0.0), Trace_ELBO())
    with pytest.warns(UserWarning, match="more than 16 kinds of arguments") as warned:
        losses = [svi.step(torch.ones(3), shift=0.1 * number) for number in range(20)]
    assert len(warned) == 1
    assert losses == pytest.approx([3 * (s - math.log(s)) for s in (2 + 0.1 * n for n in range(20))], rel=1e-5)


def test_graphs_of_many_shapes_are_bounded(reals):
    """A stream of ever new shapes keeps KINDS entries, by whatever way it comes, and each step is right."""
    svi = pyrovae.SVI(*reals, partial(torch.optim.SGD, lr=0.0), Trace_ELBO())
    with pytest.warns(UserWarning, match="more than 16 kinds of arguments"):
        losses = [svi.prepare(torch.ones(n)) or svi.step(torch.ones(n)) for n in range(1, 3 * KINDS)]
    assert losses == pytest.approx([n * (2 - math.log(2)) for n in range(1, 3 * KINDS)], rel=1e-5)
    assert (len(svi._graphs), len(svi._eager)) == (KINDS, KINDS)
    for n in (2 * KINDS, 4 * KINDS):
        svi.prepare(torch.ones(n))
        svi.step_async(torch.ones(n))
    assert len(svi._graphs) == KINDS
    assert sum(len(graphs) for graphs in svi._graphs.values()) <= KINDS


def test_each_shape_and_mode_has_its_graph(vae, x):
    vae.encoder.append(nn.Dropout(0.5))
    svi = pyrovae.SVI(vae.model, vae.guide, partial(torch.optim.SGD, lr=0.0), TraceMeanField_ELBO())
    seen = {}
    for mode in (True, False, True):
        vae.train(mode)
        for n in (12, 5):
            svi.prepare(x[:n])
            torch.manual_seed(1)
            loss = svi.step(x[:n])
            torch.manual_seed(1)
            assert loss == pytest.approx(TraceMeanField_ELBO().loss(vae.model, vae.guide, x[:n]), rel=1e-9)
            seen[mode, n] = loss
    assert len(set(seen.values())) == 4


def test_seeds_reproduce_and_noise_is_fresh(vae, x):
    svi = pyrovae.SVI(vae.model, vae.guide, partial(torch.optim.SGD, lr=0.0), ELBO())
    svi.prepare(x)
    torch.manual_seed(5)
    first = [svi.step(x) for _ in range(5)]
    torch.manual_seed(5)
    assert [svi.step(x) for _ in range(5)] == first
    assert len(set(first)) == 5


def test_schedules_need_no_new_graph(vae, x):
    """beta rises, then the learning rate, through one graph; the loss is linear in beta."""
    svi = pyrovae.SVI(vae.model, vae.guide, partial(torch.optim.SGD, lr=0.0), ELBO(WarmUp(4), TraceMeanField_ELBO()))
    svi.prepare(x)
    losses = []
    for _ in range(6):
        torch.manual_seed(2)
        losses.append(svi.step(x))
    assert len(svi._graphs) == 1
    rises = [after - before for before, after in pairwise(losses)]
    assert rises[:4] == pytest.approx([rises[0]] * 4, rel=1e-6)
    assert rises[0] > 0
    assert rises[4] == pytest.approx(0, abs=1e-12)
    before = vae.encoder[0].weight.clone()
    svi.optimizer.param_groups[0]["lr"] = 0.1
    svi.step(x)
    assert not torch.equal(vae.encoder[0].weight, before)
    assert len(svi._graphs) == 1


def test_a_read_function_is_part_of_the_graph(vae, x):
    """Bytes, resident; a step takes the numbers of rows."""
    resident = (x * 255).to(torch.uint8)
    svi = pyrovae.SVI(
        vae.model, vae.guide, partial(torch.optim.SGD, lr=0.0), TraceMeanField_ELBO(),
        read=lambda rows: ((resident[rows] / 255).to(x.dtype),),
    )  # fmt: skip
    rows = torch.tensor([7, 1, 3])
    svi.prepare(rows)
    torch.manual_seed(1)
    loss = svi.step(rows)
    torch.manual_seed(1)
    assert loss == pytest.approx(TraceMeanField_ELBO().loss(vae.model, vae.guide, x[rows]), rel=1e-9)
    assert svi.path == "graph"


OPTIMS = {
    "PyroOptim": lambda: pyro.optim.Adam({"lr": 0.01}),
    "PyroOptim, clipped": lambda: pyro.optim.SGD({"lr": 0.01}, {"clip_norm": 0.5, "clip_value": 0.1}),
    "Pyro's own": lambda: pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.9}),
    "by name": lambda: pyro.optim.Adam(lambda name: {"lr": 0.02 if "decoder" in name else 0.005}),
    "scheduled": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.9}
    ),
}


@pytest.mark.parametrize("name", OPTIMS)
def test_pyros_optimisers_move_as_in_pyros_svi(vae, x, name):
    twin = copy.deepcopy(vae)
    torch.manual_seed(1)
    theirs = pyro.infer.SVI(vae.model, vae.guide, OPTIMS[name](), Trace_ELBO())
    expected = [theirs.step(x) for _ in range(6)]
    pyro.clear_param_store()
    torch.manual_seed(1)
    ours = pyrovae.SVI(twin.model, twin.guide, OPTIMS[name](), Trace_ELBO())
    ours.prepare(x)
    assert [ours.step(x) for _ in range(6)] == pytest.approx(expected, rel=1e-9)
    assert ours.path == "graph"
    assert (ours.optimizer is not None) == (name not in ("by name", "scheduled"))
    for a, b in zip(vae.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_an_optimiser_trains_what_it_holds(vae, x):
    before = copy.deepcopy(vae)
    optimizer = torch.optim.Adam(vae.decoder.parameters(), lr=0.01)
    svi = pyrovae.SVI(vae.model, vae.guide, optimizer, ELBO())
    svi.step(x)
    assert all(torch.equal(a, b) for a, b in zip(vae.encoder.parameters(), before.encoder.parameters(), strict=True))
    assert not torch.equal(vae.decoder[0].weight, before.decoder[0].weight)


def test_one_fused_optimiser_where_torch_has_one(vae, x):
    for optim in (Adam, pyro.optim.Adam({"lr": 1e-3})):
        svi = pyrovae.SVI(vae.model, vae.guide, optim, ELBO())
        svi.prepare(x)
        (group,) = svi.optimizer.param_groups
        assert group["fused"] is True
        assert len(group["params"]) == len(list(vae.parameters()))
    svi = pyrovae.SVI(vae.model, vae.guide, partial(torch.optim.Adam, foreach=True), ELBO())
    svi.prepare(x)
    assert not svi.optimizer.param_groups[0]["fused"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": 3}, "optim: expected torch.optim.Adam or its like, .* found 3"),
        ({"optim": partial(torch.optim.Adam, lr=-1)}, "optimizer: Invalid learning rate: -1"),
        ({"optim": partial(torch.optim.Adam, rate=1)}, "optimizer: .*rate"),
        ({"optim": torch.optim.LBFGS}, "expected one that steps on gradients, found LBFGS"),
        ({"compile": "fast"}, "compile: expected .auto., True or False, found 'fast'"),
        ({"clip": 0}, "clip: expected a number > 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(vae, x, options, message):
    with pytest.raises(ValueError, match=message):
        pyrovae.SVI(vae.model, vae.guide, **{"optim": Adam, "loss": ELBO(), **options}).prepare(x)


def test_without_a_compiler_the_graph_runs_uncompiled(vae, x, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    torch.compiler.reset()
    svi = pyrovae.SVI(vae.model, vae.guide, partial(torch.optim.SGD, lr=0.0), ELBO(), compile=True)
    svi.prepare(x)
    torch.manual_seed(1)
    without = inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with without, pytest.warns(UserWarning, match=r"as a graph, but uncompiled: .*[cC]ompiler"):
        loss = svi.step(x)
    assert svi.path == "graph"
    torch.manual_seed(1)
    assert loss == pytest.approx(ELBO().loss(vae.model, vae.guide, x), rel=1e-9)


def test_a_replay_changes_no_random_number(reals):
    """A flagged step runs twice, and draws once."""
    svi = pyrovae.SVI(*reals, partial(torch.optim.SGD, lr=0.1), Trace_ELBO())
    svi.step(torch.ones(3))
    torch.manual_seed(1)
    svi.step(torch.full((3,), torch.inf))
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_step_is_a_cuda_graph(vae, x):
    vae, x = vae.float().cuda(), x.float().cuda()
    svi = pyrovae.SVI(vae.model, vae.guide, Adam, ELBO(), compile=True)
    losses = [svi.step(x) for _ in range(50)]
    assert svi.path == "compiled"
    assert losses[-1] < losses[0]
    assert len(set(losses)) == 50


def test_loss_and_grads_are_those_of_the_loss(reals):
    """As Pyro's SVI has them: gradients are added to .grad, and no parameter moves."""
    found = []
    for loss in (Trace_ELBO(), lambda *args: Trace_ELBO().differentiable_loss(*args)):
        svi = pyrovae.SVI(*reals, partial(torch.optim.SGD, lr=0.1), loss)
        value = svi.loss_and_grads(*reals, torch.ones(3))
        (parameter,) = (p for _, p in pyro.get_param_store().named_parameters())
        found.append((torch.as_tensor(value).item(), parameter.grad.item()))
        parameter.grad = None
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0][1] != 0


def test_a_kind_of_arguments_is_recorded_once_it_is_met_often(reals):
    """Recording costs as much as many steps; kinds are counted, and their number is bounded."""
    svi = pyrovae.SVI(*reals, partial(torch.optim.SGD, lr=0.0), Trace_ELBO())
    losses = [svi.step(torch.ones(3)) for _ in range(EAGER)]
    assert svi.path == "eager"
    assert svi.step(torch.ones(3)) == pytest.approx(losses[0], rel=1e-6)
    assert svi.path == "graph"
    with pytest.warns(UserWarning, match="more than 16 kinds of arguments"):
        found = [svi.step(torch.ones(rows)) / rows for rows in range(4, 60)]
    assert found == pytest.approx([losses[0] / 3] * 56, rel=1e-6)
    assert len(svi._eager) + len(svi._graphs) <= 2 * KINDS
