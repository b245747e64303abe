"""A VAE is two ordinary Pyro programs: everything that Pyro can do with programs works."""

import copy
import gc
import math
import re
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn

import pyrovae
from pyrovae import likelihoods, models, objectives
from pyrovae.networks import MLP, Conv
from pyrovae.objectives import ELBO
from pyrovae.programs import handlers, traces
from pyrovae.programs.pair import no_side_effects


@pytest.fixture
def vae():
    return pyrovae.VAE((1, 4, 4), 2)


@pytest.fixture
def x():
    return (torch.rand(10, 1, 4, 4) < 0.3).float()


def total(module):
    return sum(value.double().sum().item() for value in module.state_dict().values())


@pytest.mark.parametrize(
    "loss",
    [Trace_ELBO(), TraceMeanField_ELBO(), RenyiELBO(alpha=0.5, num_particles=3), pyrovae.objectives.ELBO()],
    ids=lambda loss: type(loss).__name__,
)
def test_pyro_svi_trains_it(vae, x, loss):
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    losses = [svi.step(x) for _ in range(150)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_pyro_elbo_is_the_sum_and_ours_the_mean(vae, x):
    with torch.no_grad():
        torch.manual_seed(3)
        theirs = TraceMeanField_ELBO().loss(vae.model, vae.guide, x)
        torch.manual_seed(3)
        ours = pyrovae.objectives.ELBO(estimator=TraceMeanField_ELBO()).loss(vae.model, vae.guide, x)
    assert theirs == pytest.approx(10 * ours, rel=1e-6)


def test_a_subsampled_plate_is_still_per_datum(vae):
    """Pyro scales the plate to the whole data, we divide by the whole data."""
    data = torch.bernoulli(torch.full((10, 1, 4, 4), 0.3))
    data[:] = data[:1]

    def part(program):
        def run():
            with pyro.plate("data", 10, subsample_size=4) as rows:
                z = pyro.sample("z", vae.q_z(data[rows]) if program == "guide" else vae.p_z())
                if program == "model":
                    pyro.sample("x", vae.p_x(z), obs=data[rows])

        return run

    objective = pyrovae.objectives.ELBO(estimator=TraceMeanField_ELBO(num_particles=3000, vectorize_particles=True))
    with torch.no_grad():
        subsampled = objective.loss(part("model"), part("guide"))
        whole = objective.loss(vae.model, vae.guide, data)
    assert subsampled == pytest.approx(whole, abs=0.1)


def test_nothing_observed_generates(vae):
    assert vae.model(n=5).shape == (5, 1, 4, 4)
    trace = poutine.trace(vae.model).get_trace(n=5)
    assert not trace.nodes["x"]["is_observed"]
    assert set(vae.sample(400).unique().tolist()) == {0.0, 1.0}


def test_samples_have_the_model_mean(vae):
    z = torch.randn(20000, 2)
    with torch.no_grad():
        truth = vae.p_x(z).mean.mean(0)
    assert (vae.sample(20000).mean(0) - truth).abs().max() < 0.02


@pytest.mark.parametrize("handler", [poutine.condition, poutine.do])
def test_given_latents_decide_how_many_are_generated(vae, handler):
    z = torch.randn(16, 2)
    assert handler(vae.model, {"z": z})().shape == (16, 1, 4, 4)


def test_conditioned_latents_are_used(vae):
    z = torch.randn(16, 2)
    trace = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace()
    trace.compute_log_prob()
    assert torch.equal(trace.nodes["z"]["value"], z)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], vae.p_z().log_prob(z))
    torch.testing.assert_close(trace.nodes["x"]["fn"].mean, vae.p_x(z).mean)


def test_uncondition_and_replay_generate_from_the_guide(vae, x):
    q = poutine.trace(vae.guide).get_trace(x)
    assert poutine.replay(vae.model, trace=q)().shape == x.shape
    again = poutine.trace(poutine.uncondition(vae.model)).get_trace(x)
    assert not again.nodes["x"]["is_observed"]
    assert again.nodes["x"]["value"].shape == x.shape


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(vae, x, parallel):
    drawn = Predictive(vae.model, guide=vae.guide, num_samples=6, parallel=parallel)(x)
    assert drawn["z"].shape == (6, 10, 2)
    prior = Predictive(vae.model, num_samples=6, parallel=parallel)(n=3)
    assert prior["x"].shape == (6, 3, 1, 4, 4)


def test_nuts_finds_the_posterior_of_a_linear_model(linear):
    x = linear.x[:1]
    kernel = NUTS(linear.vae.model)
    mcmc = MCMC(kernel, num_samples=300, warmup_steps=100, disable_progbar=True)
    mcmc.run(x)
    z = mcmc.get_samples()["z"].reshape(-1, 2)
    truth = linear.posterior(x)
    spread = truth.variance.sqrt()
    assert ((z.mean(0) - truth.mean).abs() / spread).max() < 0.35
    assert (z.std(0) / spread - 1).abs().max() < 0.3


def other(vae):
    return {"another": pyrovae.VAE((1, 4, 4), 2), "a deep copy": copy.deepcopy(vae)}


@pytest.mark.parametrize("which", ["another", "a deep copy"])
@pytest.mark.parametrize("trainer", ["pyro", "ours"])
def test_two_models_never_share_a_tensor(vae, x, which, trainer):
    if trainer == "pyro":
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    second = other(vae)[which]
    first_before, second_before = total(vae), total(second)
    if trainer == "pyro":
        SVI(second.model, second.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    else:
        pyrovae.fit(second, x, epochs=1)
    assert total(vae) == pytest.approx(first_before, abs=0)
    assert abs(total(second) - second_before) > 1e-3


def test_names_do_not_come_back_after_garbage_collection(x):
    names = set()
    for _ in range(8):
        vae = pyrovae.VAE((1, 4, 4), 2)
        names |= {name.split("$$$")[0] for name in poutine.trace(vae.guide).get_trace(x).nodes if "$$$" in name}
        del vae
        gc.collect()
    assert len(names) == 8


def test_a_replaced_network_is_the_one_that_is_trained(vae, x):
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    vae.decoder = MLP((2,), (1, 4, 4))
    before = total(vae.decoder)
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    assert abs(total(vae.decoder) - before) > 1e-3


def test_asking_leaves_the_process_as_it_was(vae, x):
    vae.train()
    vae.encoder.eval()
    state = torch.get_rng_state()
    pyrovae.evaluate(vae, x, 3)
    pyrovae.fit(vae, x, epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(pyro.get_param_store()) == 0
    assert vae.training
    assert not vae.encoder.training
    assert torch.get_float32_matmul_precision() == "highest"


def test_evaluation_never_moves_a_weight_or_a_buffer():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    vae = pyrovae.VAE((1, 4, 4), 2, encoder=encoder)
    x = vae.sample(9)
    before = copy.deepcopy(vae.state_dict())
    first = pyrovae.evaluate(vae, x, 3)
    assert pyrovae.evaluate(vae, x, 3) == first
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert before["encoder.network.2.num_batches_tracked"].item() == 0


def test_any_module_of_the_right_shapes_is_a_network():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)))
    vae = pyrovae.VAE((1, 4, 4), 2, encoder=encoder, decoder=decoder)
    x = vae.sample(5)
    with torch.no_grad():
        log_w = traces.log_weights(vae.model, vae.guide, 3, x)
        torch.testing.assert_close(vae.q_z(x).mean, encoder(x)[:, :2])
    assert log_w.shape == (3, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pyrovae.VAE((1, 4, 4), 0), "latent_dim: expected an integer >= 1, found 0"),
        (lambda: pyrovae.VAE((1, 4, 4), 2.5), "latent_dim: expected an integer >= 1, found 2.5"),
        (lambda: pyrovae.VAE((0, 4), 2), "event_shape: expected an integer >= 1, found 0"),
        (
            lambda: pyrovae.VAE(16, 2, encoder=nn.Linear(16, 5)),
            r"encoder: expected a network from \(N, 16\) to \(N, 4\), found output \(N, 5\)",
        ),
        (lambda: pyrovae.VAE(16, 2, decoder=nn.Linear(3, 16)), r"decoder: expected .*\(N, 2\).*found RuntimeError"),
        (lambda: pyrovae.VAE(16, 2, decoder=lambda i, o: 3), "decoder: expected a network .* found 3"),
        (lambda: pyrovae.VAE((1, 3, 3), 2, encoder=Conv), "at least 4 x 4"),
        (
            lambda: pyrovae.VAE(6, 2, prior=3),
            "prior: expected a module, or a class or function that builds one, found 3$",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


MODELS = {
    models.VAE: ["prior", "likelihood", "guide", "encoder", "decoder"],
    partial(models.ConditionalVAE, num_classes=3): ["label", "conditional_prior", "encoder", "decoder"],
    partial(models.CompletionVAE, mask=torch.arange(6) < 3): ["likelihood", "guide", "conditional_prior"],
    models.MixtureVAE: ["conditional_prior"],
    partial(models.HierarchicalVAE, above=3): ["likelihood", "guide", "conditional_prior", "between"],
}


@pytest.mark.parametrize(("model", "role"), [(model, role) for model, roles in MODELS.items() for role in roles])
def test_a_part_given_by_its_name_is_refused(model, role):
    message = f"{role}: expected a module, .* found 'normal'; names work only on the command line and in run.toml"
    with pytest.raises(ValueError, match=message):
        model(6, latent_dim=2, **{role: "normal"})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 1, 4, 5), r"x: expected shape \(N, 1, 4, 4\), found \(3, 1, 4, 5\)"),
        (torch.zeros(3, 16), r"expected shape \(N, 1, 4, 4\), found \(3, 16\)"),
        (torch.zeros(0, 1, 4, 4), "expected at least one row"),
        (torch.full((2, 1, 4, 4), float("nan")), "expected finite values, found nan"),
        (torch.full((2, 1, 4, 4), 0.5), "found 0.5 .*binarise the data"),
        (torch.full((2, 1, 4, 4), 2.0), r"support Boolean\(\), found 2"),
    ],
)
def test_data_that_do_not_fit_are_refused(vae, x, message):
    with pytest.raises(ValueError, match=message):
        vae.check(x)


def test_scale_latents_leaves_everything_else_alone(vae, x):
    plain = poutine.trace(vae.guide).get_trace(x)
    model = poutine.replay(vae.model, trace=plain)
    scaled = poutine.trace(handlers.scale_latents(0.25)(model)).get_trace(x)
    unscaled = poutine.trace(model).get_trace(x)
    for trace in (scaled, unscaled):
        trace.compute_log_prob()
    torch.testing.assert_close(scaled.nodes["z"]["log_prob"], 0.25 * unscaled.nodes["z"]["log_prob"])
    torch.testing.assert_close(scaled.nodes["x"]["log_prob"], unscaled.nodes["x"]["log_prob"])
    assert torch.equal(scaled.nodes["z"]["value"], unscaled.nodes["z"]["value"])


def test_beta_zero_removes_the_latents_score(vae, x):
    objective = pyrovae.objectives.ELBO(0.0)
    with torch.no_grad():
        torch.manual_seed(1)
        loss = objective.loss(vae.model, vae.guide, x)
        torch.manual_seed(1)
        z = vae.q_z(x).rsample()
    assert loss == pytest.approx(-vae.p_x(z).log_prob(x).mean().item(), rel=1e-5)


def test_own_parameters_still_uses_the_store_for_param_sites(x):
    def model(x):
        p = pyro.param("p", torch.full((16,), 0.4), constraint=dist.constraints.unit_interval)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(p).to_event(1), obs=x.flatten(1))

    def guide(x):
        pass

    pyrovae.fit((model, guide), x, epochs=400, learning_rate=0.05)
    torch.testing.assert_close(pyro.param("p").detach(), x.flatten(1).mean(0).clamp(0.02, 0.98), rtol=0, atol=0.03)
    assert list(pyro.get_param_store().keys()) == ["p"]


class Loc(PyroModule):
    """One constrained parameter; every object of it calls itself the same."""

    def __init__(self, start):
        super().__init__("same")
        self.scale = PyroParam(torch.tensor(start), constraint=dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, self.scale), obs=x)


def test_modules_of_one_name_never_take_each_others_parameters():
    x = torch.ones(4)
    first, second = Loc(2.0), Loc(3.0)
    SVI(first, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)  # leaves its own in the store
    trained = first.scale.item()
    assert trained != pytest.approx(2.0)
    ours = pyrovae.SVI(second, lambda x: None, partial(torch.optim.Adam, lr=0.1), Trace_ELBO())
    ours.step(x)
    assert second.scale.item() == pytest.approx(3.0 * math.exp(-0.1), rel=1e-4)  # a step of Adam, in log scale
    assert first.scale.item() == trained
    assert pyro.get_param_store()["same.scale"].item() == pytest.approx(trained)


def test_two_models_may_share_a_network(x):
    """Both run eagerly, its tensors stand in Pyro's store under two names."""
    one = pyrovae.VAE(x.shape[1:], 2)
    other = pyrovae.VAE(x.shape[1:], 2, encoder=one.encoder, decoder=one.decoder)
    fresh = pyrovae.evaluate(one, x, 3)
    for vae in (one, other):
        ELBO().loss(vae.model, vae.guide, x)
    names = set(pyro.get_param_store().keys())
    assert len(names) == 2 * len(list(one.parameters()))
    assert [pyrovae.evaluate(vae, x, 3) for vae in (one, other)] == [fresh, fresh]
    assert set(pyro.get_param_store().keys()) == names
    for vae in (one, other):
        vae.decoder = pyrovae.VAE(x.shape[1:], 2).decoder
        svi = pyrovae.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), ELBO())
        before = vae.encoder[0].weight.clone()
        svi.step(x)
        assert not torch.equal(vae.encoder[0].weight, before)
        ELBO().loss(vae.model, vae.guide, x)
    assert set(pyro.get_param_store().keys()) == names


@pytest.mark.parametrize("optim", [pyro.optim.SGD({"lr": 0.1}), partial(torch.optim.SGD, lr=0.1)])
def test_a_tensor_of_two_names_is_trained_once(optim):
    weight = nn.Linear(1, 1)

    def model(x):
        for name in ("one", "two"):
            pyro.module(name, weight)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(weight(x), 1.0).to_event(1), obs=x)

    before, error = weight.bias.item(), (weight(torch.ones(1)) - 1).item()
    svi = pyrovae.SVI(model, lambda x: None, optim, Trace_ELBO())
    svi.step(torch.ones(3, 1))
    assert weight.bias.item() == pytest.approx(before - 0.1 * 3 * error, rel=1e-5)
    assert list(svi.parameters) == ["one$$$weight", "one$$$bias"]
    assert len(pyro.get_param_store()) == 0


def test_parameters_of_one_name_are_all_trained():
    weights = [nn.Linear(1, 1), nn.Linear(1, 1)]

    def model(x):
        for weight in weights:
            pyro.module("w", weight)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(weights[0](x) + weights[1](x), 1.0).to_event(1), obs=x)

    before = [weight.bias.item() for weight in weights]
    svi = pyrovae.SVI(model, lambda x: None, partial(torch.optim.SGD, lr=0.1), Trace_ELBO())
    svi.step(torch.ones(3, 1))
    assert len(svi.parameters) == 4
    assert all(weight.bias.item() != old for weight, old in zip(weights, before, strict=True))


def test_answering_leaves_no_parameter_behind():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("new", torch.zeros(())), 1.0), obs=x)

    with no_side_effects((model, model)):
        model(torch.zeros(3))
        assert "new" in pyro.get_param_store()
    assert len(pyro.get_param_store()) == 0


def test_networks_that_mix_leading_dimensions_are_folded(x):
    """A softmax over dimension 1 means another thing for (particles, N, ...) than for (N, ...)."""
    mixing = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Softmax(1))
    vae = pyrovae.VAE((1, 4, 4), 2, encoder=mixing)
    twice = torch.stack([x, x.flip(0)])
    torch.testing.assert_close(vae.encoder(twice)[1], mixing(x.flip(0)))


def test_answering_needs_programs():
    with pytest.raises(ValueError, match="expected an object with a model and a guide"), no_side_effects(3):
        pass


def test_a_decoder_that_begins_at_the_mean_says_it():
    x = torch.bernoulli(torch.rand(6).expand(500, 6))
    vae = pyrovae.VAE(6, 2, decoder=partial(MLP, hidden=(8,)))
    vae.begin_at_the_mean(x)
    nn.init.zeros_([each for each in vae.decoder.modules() if isinstance(each, nn.Linear)][-1].weight)
    torch.testing.assert_close(vae.p_x(torch.randn(3, 2)).mean, x.mean(0).clamp(1e-3, 1 - 1e-3).expand(3, 6))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"likelihood": likelihoods.Laplace}, "with an inverse link from its mean (Bernoulli), found Laplace"),
        ({"decoder": Conv}, "ends in a linear layer of 64 with bias"),
    ],
)
def test_a_beginning_that_cannot_be_is_refused(parts, message):
    vae = pyrovae.VAE((1, 8, 8), 2, **parts)
    with pytest.raises(ValueError, match=re.escape(message)):
        vae.begin_at_the_mean(torch.zeros(4, 1, 8, 8))


def misnamed(linear):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("zz", linear.posterior(x))

    return linear.vae.model, guide


ASK = {
    "evaluate": lambda pair, x: pyrovae.evaluate(pair, x, 3),
    "gaps": lambda pair, x: pyrovae.gaps(pair, x, 1, particles=3),
    "diagnose": lambda pair, x: pyrovae.diagnose(pair, x, 25),
    "information": lambda pair, x: pyrovae.information.kl_decomposition(pair, x, 2),
    "predictive": lambda pair, x: pyrovae.calibration.predictive(pair, x, replicates=2),
    "anneal": lambda pair, x: pyrovae.anneal(pair, x, 2, 3),
    "sandwich": lambda pair, x: pyrovae.sandwich(pair, x, 2, 3),
    "IWAE": lambda pair, x: objectives.IWAE(2).differentiable_loss(*pair, x),
    "dreg": lambda pair, x: objectives.IWAE(2, dreg=True).differentiable_loss(*pair, x),
    "wake-sleep": lambda pair, x: objectives.ReweightedWakeSleep(2).differentiable_loss(*pair, x),
}


@pytest.mark.parametrize("ask", ASK)
def test_programs_that_do_not_belong_together_are_refused(linear, ask):
    found = r"same latents in model and guide, found \['z'\] in the model, \['zz'\] in the guide"
    with pytest.raises(ValueError, match=found):
        ASK[ask](misnamed(linear), linear.x)
    with pytest.raises(ValueError, match=r"expected \(model, guide\), found 'x' observed only in the guide"):
        ASK[ask](linear.exact[::-1], linear.x)


def test_a_label_may_be_observed_in_the_model_alone_and_values_that_are_computed_in_either(linear):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.deterministic("twice", 2 * pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1).to_event(1)))
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=x[..., 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1).to_event(1))
            pyro.deterministic("half", z / 2, event_dim=1)

    truth = dist.Normal(0.0, 1.0).log_prob(linear.x[:, 0]).mean().item()
    assert pyrovae.evaluate((model, guide), linear.x, 3)["log_likelihood"]["value"] == pytest.approx(truth)
