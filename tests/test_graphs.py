"""A recorded step is the step: the same loss and gradients as eager Pyro, for programs of every kind."""

import math
from functools import partial
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.nn import functional as F  # noqa: N812

import pyrovae
from pyrovae import guides
from pyrovae.data import Split
from pyrovae.engine.graph import Elements, Graph
from pyrovae.evaluation.evaluate import scores
from pyrovae.likelihoods import Normal
from pyrovae.models import HierarchicalVAE, MixtureVAE, SemiSupervisedVAE
from pyrovae.networks import Conv
from pyrovae.objectives import ELBO, WarmUp
from pyrovae.priors import VampPrior
from pyrovae.programs import importance, traces
from pyrovae.programs.importance import by_row

D, K, N = 12, 3, 10
constraints = dist.constraints


def mlp(i, o, *middle):
    return nn.Sequential(nn.Linear(i, 16), *middle, nn.Softplus(), nn.Linear(16, o))


def bernoulli(logits):
    return dist.Bernoulli(logits=logits).to_event(1)


def x(n=N):
    return (torch.rand(n, D) < 0.4).to(torch.get_default_dtype())


def y(n=N):
    return F.one_hot(torch.arange(n) % 4, 4).to(torch.get_default_dtype())


class ByHand(nn.Module):
    """Programs as users write them: pyro.module inside the plate's function, scales by exp."""

    def __init__(self, **parts):
        super().__init__()
        self.encoder, self.decoder = mlp(D, 2 * K), mlp(K, D)
        for name, part in parts.items():
            setattr(self, name, part)

    def prior(self, x):
        return dist.Normal(x.new_zeros(len(x), K), 1.0).to_event(1)

    def posterior(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", bernoulli(self.decoder(z)), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


class Discrete(ByHand):
    def prior(self, x):
        return bernoulli(x.new_zeros(len(x), K))

    def posterior(self, x):
        return bernoulli(self.encoder(x).chunk(2, -1)[0])


class Relaxed(ByHand):
    def prior(self, x):
        return dist.RelaxedOneHotCategorical(x.new_tensor(0.5), logits=x.new_zeros(len(x), K))

    def posterior(self, x):
        return dist.RelaxedOneHotCategorical(x.new_tensor(0.5), logits=self.encoder(x).chunk(2, -1)[0])


class Positive(ByHand):
    """Gamma latents: a rejection sampler with implicit gradients, and no closed KL asked for."""

    def prior(self, x):
        return dist.Gamma(x.new_ones(len(x), K), 1.0).to_event(1)

    def posterior(self, x):
        a, b = F.softplus(self.encoder(x)).chunk(2, -1)
        return dist.Gamma(a + 0.5, b + 0.5).to_event(1)


class Flow(ByHand):
    def __init__(self):
        super().__init__(flow=dist.transforms.affine_autoregressive(K, hidden_dims=[8]))

    def posterior(self, x):
        pyro.module("flow", self.flow)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return dist.TransformedDistribution(dist.Normal(loc, log_scale.exp()), [self.flow])


class Constrained(ByHand):
    def prior(self, x):
        scale = pyro.param("scale", x.new_tensor(1.3), constraint=constraints.positive)
        loc = pyro.param("loc", x.new_full((K,), 0.1))
        return dist.Normal(loc.expand(len(x), K), scale).to_event(1)


class Labelled(nn.Module):
    """Kingma's M2: y is enumerated where it is not given."""

    def __init__(self):
        super().__init__()
        self.classifier, self.encoder, self.decoder = mlp(D, 4), mlp(D + 4, 2 * K), mlp(K + 4, D)

    def join(self, a, b):
        shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        return torch.cat([a.expand(*shape, -1), b.expand(*shape, -1)], -1)

    def model(self, x, y=None):
        pyro.module("m2", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(len(x), 4)), obs=y)
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), K), 1.0).to_event(1))
            pyro.sample("x", bernoulli(self.decoder(self.join(z, y))), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)))
            loc, log_scale = self.encoder(self.join(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def m2():
    made = Labelled()
    return SimpleNamespace(model=made.model, guide=config_enumerate(made.guide, "parallel", expand=True))


def mixture():
    """Three normals, the assignment summed out; every parameter a constrained pyro.param."""

    @config_enumerate
    def model(x):
        weights = pyro.param("weights", x.new_tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex)
        locs = pyro.param("locs", x.new_tensor([-1.0, 0.0, 1.0]))
        scale = pyro.param("scale", x.new_tensor(0.7), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[k], scale), obs=x[:, 0])

    return SimpleNamespace(model=model, guide=lambda x: None)


def chain():
    """A hidden Markov model, summed over its states; x is a sequence."""

    @config_enumerate
    def model(x):
        stay = pyro.param("stay", x.new_full((2, 2), 0.5), constraint=constraints.simplex)
        locs = pyro.param("locs", x.new_tensor([0.2, 0.9]))
        state = 0
        for t in pyro.markov(range(5)):
            state = pyro.sample(f"s{t}", dist.Categorical(stay[state]))
            pyro.sample(f"x{t}", dist.Normal(locs[state], 1.0), obs=x[t, 0])

    return SimpleNamespace(model=model, guide=lambda x: None)


class Regression(PyroModule):
    """Bayesian regression: a prior on the weights, a constrained noise, an automatic guide."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](D - 1, 1)
        self.linear.weight = PyroSample(dist.Normal(torch.tensor(0.0), 1.0).expand([1, D - 1]).to_event(2))
        self.noise = PyroParam(torch.tensor(0.8), constraint=constraints.positive)

    def forward(self, x):
        loc = self.linear(x[:, 1:])[:, 0]
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(loc, self.noise), obs=x[:, 0])


def regression(auto):
    model = Regression()
    return SimpleNamespace(model=model, guide=auto(model))


def subsampled():
    """The plate draws its own rows of a tensor that the programs hold; arguments by name, one of them None."""
    rows, net = x(40), mlp(D, 2)

    def model(scale, shift=None, times=None):
        pyro.module("net", net)
        with pyro.plate("data", len(rows), subsample_size=8) as index:
            loc, log_scale = net(rows[index]).unbind(-1)
            z = pyro.sample("z", dist.Normal(0.0 if shift is None else shift, scale))
            pyro.sample("y", dist.Normal(loc + z * times, log_scale.exp()), obs=rows[index, 0])

    def guide(scale, shift=None, times=None):
        loc = pyro.param("loc", torch.zeros(40))
        with pyro.plate("data", len(rows), subsample_size=8) as index:
            pyro.sample("z", dist.Normal(loc[index], scale))

    return SimpleNamespace(model=model, guide=guide)


def example():
    """Pyro's own VAE example: module "decoder" and "encoder", z_loc and z_scale, no validation of the grey image."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc21, self.fc22 = nn.Linear(D, 16), nn.Linear(16, K), nn.Linear(16, K)

        def forward(self, x):
            hidden = F.softplus(self.fc1(x.reshape(-1, D)))
            return self.fc21(hidden), torch.exp(self.fc22(hidden))

    class Example(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = Encoder(), mlp(K, D)

        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                zeros = torch.zeros(x.shape[0], K, dtype=x.dtype, device=x.device)
                z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
                loc = torch.sigmoid(self.decoder.forward(z))
                pyro.sample("obs", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=x.reshape(-1, D) * 0.7)
                return loc

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.shape[0]):
                z_loc, z_scale = self.encoder.forward(x)
                pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))

    return Example()


ours = partial(pyrovae.VAE, D, K)
vectorised = partial(dict, num_particles=4, vectorize_particles=True, max_plate_nesting=1)
TABLE = {
    "ours, KL sampled": (ours, Trace_ELBO, [x]),
    "ours, KL in closed form": (ours, TraceMeanField_ELBO, [x]),
    "ours, beta 0.5": (ours, lambda: ELBO(0.5), [x]),
    "ours, beta rising": (ours, lambda: ELBO(WarmUp(5)), [x]),
    "ours, convolutions": (
        lambda: pyrovae.VAE((1, 4, 4), K, encoder=Conv, decoder=Conv),
        ELBO,
        [lambda: F.pad(x(), (0, 4)).reshape(N, 1, 4, 4)],
    ),
    "ours, learned scale": (lambda: ours(likelihood=partial(Normal, learn="one")), ELBO, [x]),
    "by hand": (ByHand, Trace_ELBO, [x]),
    "by hand, a function as loss": (ByHand, lambda: TraceMeanField_ELBO().differentiable_loss, [x]),
    "particles, one by one": (ByHand, lambda: Trace_ELBO(num_particles=3), [x]),
    "particles, at once": (ByHand, lambda: Trace_ELBO(**vectorised()), [x]),
    "Renyi, one by one": (ByHand, lambda: RenyiELBO(alpha=0.5, num_particles=3, max_plate_nesting=1), [x]),
    "IWAE, at once": (ByHand, lambda: RenyiELBO(alpha=0, **vectorised()), [x]),
    "reweighted wake-sleep": (ByHand, lambda: ReweightedWakeSleep(**vectorised()), [x]),
    "dropout and batch norm": (
        lambda: ByHand(encoder=mlp(D, 2 * K, nn.BatchNorm1d(16), nn.Dropout(0.3))),
        TraceMeanField_ELBO,
        [x],
    ),
    "batch norm, evaluating": (lambda: ByHand(encoder=mlp(D, 2 * K, nn.BatchNorm1d(16))).eval(), Trace_ELBO, [x]),
    "relaxed categorical": (Relaxed, Trace_ELBO, [x]),
    "REINFORCE": (Discrete, Trace_ELBO, [x]),
    "REINFORCE, by graph": (Discrete, TraceGraph_ELBO, [x]),
    "gamma": (Positive, Trace_ELBO, [x]),
    "autoregressive flow": (Flow, Trace_ELBO, [x]),
    "constrained parameters": (Constrained, TraceMeanField_ELBO, [x]),
    "M2, labelled": (Labelled, Trace_ELBO, [x, y]),
    "M2, enumerated": (m2, lambda: TraceEnum_ELBO(max_plate_nesting=1), [x, lambda: None]),
    "mixture, enumerated": (mixture, lambda: TraceEnum_ELBO(max_plate_nesting=1), [x]),
    "hidden Markov model": (chain, lambda: TraceEnum_ELBO(max_plate_nesting=0), [x]),
    "PyroModule, AutoNormal": (lambda: regression(AutoNormal), Trace_ELBO, [x]),
    "PyroModule, low-rank guide": (lambda: regression(AutoLowRankMultivariateNormal), Trace_ELBO, [x]),
    "Pyro's VAE example": (example, Trace_ELBO, [x]),
    "subsampling, arguments by name": (subsampled, Trace_ELBO, [lambda: torch.tensor(0.9)]),
}  # fmt: skip
NAMED = {"subsampling, arguments by name": lambda: {"shift": None, "times": torch.tensor(0.5)}}
STILL = ["mixture, enumerated", "hidden Markov model"]  # no latent is drawn
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


class Noting(torch.optim.Optimizer):
    """Moves nothing, and notes the gradients."""

    def __init__(self, parameters):
        super().__init__(parameters, {})
        self.seen = []

    def step(self, closure=None):
        values = [value for group in self.param_groups for value in group["params"]]
        self.seen.append({id(value): value.grad.clone() for value in values if value.grad is not None})


@pytest.fixture
def dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def pyros(programs, loss, args, named):
    """Pyro's own loss and gradients, {id of the unconstrained parameter: gradient}."""
    with poutine.trace(param_only=True) as found:
        if hasattr(loss, "loss_and_grads"):
            value = loss.loss_and_grads(programs.model, programs.guide, *args, **named)
        else:
            value = loss(programs.model, programs.guide, *args, **named)
            value.backward()
    parameters = {id(p): p for p in (site["value"].unconstrained() for site in found.trace.nodes.values())}
    gradients = {key: p.grad for key, p in parameters.items() if p.grad is not None}
    for p in parameters.values():
        p.grad = None
    return sum(value) if isinstance(value, tuple) else torch.as_tensor(value).item(), gradients


def compare(name, dtype, compile):
    """The same noise twice, once for our step and once for Pyro's, from the same buffers."""
    make, loss, makes = TABLE[name]
    programs, loss = make(), loss()
    args, named = [each() for each in makes], NAMED.get(name, dict)()
    buffers = list(programs.buffers()) if isinstance(programs, nn.Module) else []
    svi = pyrovae.SVI(programs.model, programs.guide, Noting, loss, compile=compile)
    svi.prepare(*args, **named)
    assert svi.path == "graph"
    losses = []
    for seed in (3, 4):
        start = [value.clone() for value in buffers]
        torch.manual_seed(seed)
        ours = svi.step(*args, **named)
        ended = [value.clone() for value in buffers]
        for value, before in zip(buffers, start, strict=True):
            value.copy_(before)
        if isinstance(loss, ELBO):
            loss.step -= 1
        torch.manual_seed(seed)
        expected, gradients = pyros(programs, loss, args, named)
        ours = sum(ours) if isinstance(ours, tuple) else ours
        assert ours == pytest.approx(expected, rel=TOLERANCE[dtype])
        assert svi.optimizer.seen[-1].keys() == gradients.keys()
        largest = {key: gradient.abs().max().item() for key, gradient in gradients.items()}
        for key, gradient in gradients.items():
            # Some gradients are 0 but for rounding (a bias before batch norm): they are held against the others.
            bound = TOLERANCE[dtype] * max(largest[key], 1e-2 * max(largest.values()))
            torch.testing.assert_close(svi.optimizer.seen[-1][key], gradient, rtol=0, atol=bound)
        for value, after in zip(buffers, ended, strict=True):
            torch.testing.assert_close(value, after)
        losses.append(ours)
    assert svi.path == ("compiled" if compile is True else "graph")
    return losses


def cases(quick):
    """Every program in both dtypes; those not in `quick` are left to nox -s slow."""
    return pytest.mark.parametrize(
        ("name", "dtype"),
        [
            pytest.param(name, dtype, marks=[] if (name, dtype) in quick else pytest.mark.slow, id=f"{name}-{dtype}")
            for name in TABLE
            for dtype in TOLERANCE
        ],
        indirect=["dtype"],
    )


@cases([(name, torch.float64) for name in TABLE] + [("ours, convolutions", torch.float32)])
def test_a_graph_gives_the_loss_and_gradients_of_eager_pyro(name, dtype):
    losses = compare(name, dtype, "auto")
    assert (losses[0] != losses[1]) == (name not in STILL)  # fresh noise, where there is any


@cases([("ours, beta rising", torch.float32)])
def test_compiled_it_is_still_the_same(name, dtype):
    losses = compare(name, dtype, True)
    assert (losses[0] != losses[1]) == (name not in STILL)


SCORED = {
    "diagonal": lambda: pyrovae.VAE(D, K),
    "a flow": lambda: pyrovae.VAE(D, K, guide=guides.IAF),
    "grey": lambda: pyrovae.VAE(D, K, likelihood=Normal),
    "clusters, enumerated": lambda: MixtureVAE(D, K, clusters=3),
    "two layers": lambda: HierarchicalVAE(D, K, (2,)),
    "a prior of many parts": lambda: pyrovae.VAE(D, K, prior=partial(VampPrior, components=400)),
}


def scored(name, monkeypatch, pays):
    """Scores of 140 rows at 30 particles in chunks of 7, recorded from element `pays` on; which calls ran as graphs.

    At the end nothing is patched any more.
    """
    torch.manual_seed(0)
    made, ran, call = SCORED[name]().double(), [], Graph.__call__
    monkeypatch.setattr(importance, "FLOATS", 7 * importance.ROWS * D)
    monkeypatch.setattr(importance, "PAYS", pays)
    monkeypatch.setattr(Graph, "__call__", lambda graph, args: ran.append(graph.compiled) or call(graph, args))
    table, how = scores(made, x(140).double(), 30, 5)
    monkeypatch.undo()
    return table, how, ran


@pytest.mark.parametrize(("name", "pays"), [*((name, 0) for name in SCORED), ("diagonal", 7e6)])
def test_scores_from_a_graph_are_those_of_the_programs(name, pays, monkeypatch):
    monkeypatch.setattr(Graph, "compile", lambda graph: None)
    table, how, ran = scored(name, monkeypatch, pays)
    eager, expected, none = scored(name, monkeypatch, math.inf)
    assert (0 < len(ran) < 8 if pays else len(ran) == 8, len(none), how) == (True, 0, expected)
    assert table.keys() == eager.keys()
    for key, values in eager.items():
        torch.testing.assert_close(table[key], values, rtol=1e-9, atol=1e-9)


def test_rows_with_and_without_a_label_have_graphs_of_their_own(monkeypatch):
    torch.manual_seed(0)
    made = SemiSupervisedVAE(D, K, 4).double()
    data = Split(x(280).double(), torch.arange(280) % 6 % 5 - 1)

    def ran(pays):
        monkeypatch.setattr(importance, "FLOATS", 7 * importance.ROWS * D)
        monkeypatch.setattr(importance, "PAYS", pays)
        return by_row(made, data, 30, 5, numbers, lambda found: {name: each.mean(0) for name, each in found.items()})

    def numbers(q, p):
        """Of a row without a label one more, and before the others."""
        drawn = {"y": traces.log_weight(q, p) * 0} if "y" in traces.sites(q, False) else {}
        return drawn | {"log_weight": traces.log_weight(q, p), "x": traces.averaged(q, p.nodes["x"]["log_prob"])}

    monkeypatch.setattr(Graph, "compile", lambda graph: None)
    eager, recorded = ran(10**9), ran(0)
    for name in ("log_weight", "x"):
        torch.testing.assert_close(recorded[name], eager[name], rtol=1e-9, atol=1e-9)


def test_a_graph_pays_sooner_where_a_chunk_is_more_work(monkeypatch):
    ran = []
    for name in ("diagonal", "a prior of many parts"):
        monkeypatch.setattr(Graph, "compile", lambda graph: None)
        ran.append(len(scored(name, monkeypatch, 7e6)[2]))
    assert 0 < ran[0] < ran[1] == 8


def test_a_chunk_has_no_more_particles_than_memory_has_room_for(monkeypatch):
    torch.manual_seed(0)
    made = pyrovae.VAE(D, 8, prior=partial(VampPrior, components=100))
    one = 128 * 100 * 8
    for most, largest in ((5, 5), (1, 1), (10**6, 30)):
        monkeypatch.setattr(importance, "LARGEST", most * one)
        with Elements() as found:
            value, _ = importance.log_likelihood(made, x(128), 30)
        assert found.largest == largest * one
        assert len(value) == 128


def test_elements_are_of_all_that_is_made_and_not_looked_at():
    with Elements() as made:
        (torch.ones(3, 4).expand(5, 3, 4).clone()[:2] + 1).sum()
    assert (made.count, made.largest) == (12 + 60 + 24 + 1, 60)


@pytest.mark.slow
def test_scores_from_a_compiled_graph_are_those_of_the_programs(monkeypatch):
    table, _, ran = scored("diagonal", monkeypatch, 0)
    eager, *_ = scored("diagonal", monkeypatch, 10**9)
    assert ran[-1]
    torch.testing.assert_close(table["log_likelihood"], eager["log_likelihood"], rtol=1e-9, atol=1e-9)


def test_data_outside_their_support_are_refused_also_where_scores_are_recorded(monkeypatch):
    monkeypatch.setattr(importance, "PAYS", 0)
    monkeypatch.setattr(Graph, "compile", lambda graph: None)
    data = x(300)
    data[290, 0] = 0.5
    with pytest.raises(ValueError, match="support"):
        scores(pyrovae.VAE(D, K), data, 4, 0)
