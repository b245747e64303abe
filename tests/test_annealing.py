"""Annealed importance sampling against closed forms: bounds, unbiased weights, and the errors that would bias them."""

import math
from functools import partial
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import X, binary, two_layers

import pyrovae
from pyrovae import anneal, guides, priors, sandwich
from pyrovae.data import Split
from pyrovae.evaluation import annealing
from pyrovae.models import Completion, CompletionVAE, ConditionalVAE, HierarchicalVAE, SemiSupervisedVAE
from pyrovae.networks import MLP
from pyrovae.programs import importance
from pyrovae.programs.pair import no_side_effects

FEW = {"chains": 4, "temperatures": 3, "leapfrog": 1, "start": "prior"}
SMALL = partial(MLP, hidden=(8,))


def z_score(found, truth):
    """How many standard errors the mean of the weights, over chains and data, is from p(x) in units of p(x)."""
    ratio = (found.value - truth).exp()
    return ((ratio - 1).mean() / ((ratio * found.standard_error).square().sum().sqrt() / len(ratio))).item()


def mean_score(difference):
    """A mean over data in its standard errors."""
    return (difference.mean() / (difference.std() / math.sqrt(len(difference)))).item()


@pytest.fixture
def counts():
    """p(z) = Gamma(2, 0.5), p(x|z) = Poisson(z), with a guide that is far too wide; p(x) is negative binomial."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal((x + 1).log(), 1.0))

    evidence = dist.NegativeBinomial(2.0, probs=torch.tensor(2 / 3))
    return SimpleNamespace(programs=(model, guide), x=torch.arange(12.0), log_p=lambda x: evidence.log_prob(x))


@pytest.fixture
def mirrored():
    """p(z) = N(0, 1), p(x|z) = N(|z|, 0.1^2): a posterior of two modes, of which the guide knows one."""
    s = 0.1

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.abs(), s), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, s))

    x = torch.linspace(1, 2, 8)
    z = torch.linspace(-6, 6, 20001)[:, None].double()
    log_p = (dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.abs(), s).log_prob(x)).logsumexp(0) + math.log(
        12 / 20000
    )
    return SimpleNamespace(programs=(model, guide), x=x, log_p=log_p)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_a_short_path_is_below_and_above_the_truth(linear, start):
    """Beyond four standard errors each, on data from the model."""
    found = sandwich(linear.vae, linear.vae.sample(150).detach(), 1, 4, 2, start)
    truth = linear.evidence.log_prob(found.data[0])
    assert mean_score(found.lower.value - truth) < -4
    assert mean_score(found.upper.value - truth) > 4
    told = found.summary()
    assert told["rows"] == 150
    assert told["gap"]["value"] == pytest.approx(told["upper"]["value"] - told["lower"]["value"], abs=1e-9)
    assert told["gap"]["value"] > 4 * told["gap"]["standard_error"]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_a_long_path_closes_the_gap(linear, start, schedule):
    found = sandwich(linear.vae, linear.x[:32], 16, 300, 5, start, schedule)
    truth = linear.evidence.log_prob(found.data[0])
    for each in (found.lower, found.upper):
        assert abs(mean_score(each.value - truth)) < 4
        assert (each.value - truth).mean().abs() < 0.04
        assert (each.value - truth).std() < 0.1
    assert found.lower.ess.mean() > 13


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_the_mean_of_the_weights_is_the_evidence(linear, start):
    found = anneal(linear.vae, linear.x[:32], 2000, 5, 3, start)
    assert abs(z_score(found, linear.evidence.log_prob(linear.x[:32]))) < 4
    assert (found.acceptance - annealing.TARGET).abs().mean() < 0.15


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_so_it_is_on_positive_latents(counts, start):
    found = anneal(counts.programs, counts.x, 5000, 5, 3, start)
    assert abs(z_score(found, counts.log_p(counts.x))) < 4
    assert found.ess.min() > 500


def learning(move, bridge, here, b, step, leapfrog):
    """Steps that learn while they are measured: each chain's is shortened until its move is accepted."""
    u = here.u
    for scale in (1, 0.99, 0.98, 0.97, 0.96):
        other, acceptance = move(bridge, here, b, scale * step, leapfrog)
        u = torch.where(u == here.u, other, u)
    return u, acceptance


def unless_it_diverges(rule, before, after):
    change = after - before
    return torch.where(change.abs() < 20, rule(change), -math.inf)


PLANTS = {
    "sign": ("accept", partial(unless_it_diverges, lambda change: (-change).clamp(max=0))),
    "no Metropolis": ("accept", partial(unless_it_diverges, torch.zeros_like)),
    "adapts": ("move", partial(learning, annealing.move)),
    "weights": ("SCHEDULES", {"sigmoid": lambda count: [0.95 * t / (count - 1) for t in range(count)]}),
}


@pytest.mark.parametrize("plant", ["none", *PLANTS])
def test_planted_errors_are_noticed(linear, monkeypatch, plant):
    """The controls: with each of them the mean of the weights is off by far; with none, at such steps, it is not."""
    monkeypatch.setattr(annealing, "TARGET", 0.3)
    if plant in PLANTS:
        monkeypatch.setattr(annealing, *PLANTS[plant])
    score = abs(
        z_score(anneal(linear.vae, linear.x[:32], 2000, 12, 1, "prior"), linear.evidence.log_prob(linear.x[:32]))
    )
    assert score < 4 if plant == "none" else score > 6


def test_a_missing_jacobian_is_noticed(counts, monkeypatch):
    call = annealing.Bridge.__call__
    monkeypatch.setattr(annealing.Bridge, "__call__", lambda bridge, u: (*call(bridge, u)[:2], 0.0))
    assert abs(z_score(anneal(counts.programs, counts.x, 5000, 5, 3, "prior"), counts.log_p(counts.x))) > 6


@pytest.mark.parametrize("temperatures", [2, 5])
def test_without_moves_it_is_importance_sampling(linear, temperatures):
    """At any temperatures: the weights telescope."""
    found = anneal(linear.vae, linear.x[:32], 2000, temperatures, 0, "guide")
    value, error = importance.log_likelihood(linear.vae, linear.x[:32], 2000)
    scores = (found.value - value) / torch.hypot(found.standard_error, error)
    assert scores.abs().max() < 6
    assert abs(scores.mean()) < 4 / math.sqrt(32)
    assert abs(z_score(found, linear.evidence.log_prob(linear.x[:32]))) < 4


def test_it_finds_the_mode_that_the_guide_misses(mirrored):
    """Importance sampling is sure of half the evidence; so is annealing from the same guide; the prior's chains are
    not misled, and on simulated data the guide's gap tells."""
    programs, x = mirrored.programs, mirrored.x
    value, error = importance.log_likelihood(programs, x, 500)
    torch.testing.assert_close(value.double(), mirrored.log_p - math.log(2), rtol=0, atol=0.02)
    assert error.max() < 0.05
    found = anneal(programs, x, 200, 60, 5, "prior")
    assert (found.value - mirrored.log_p).abs().max() < 0.5
    assert (found.value - mirrored.log_p).mean().abs() < 0.15
    misled = anneal(programs, x, 200, 20, 5, "guide")
    torch.testing.assert_close(misled.value, mirrored.log_p - math.log(2), rtol=0, atol=0.1)
    assert sandwich(programs, x, 10, 20, 5, "guide").summary()["gap"]["value"] > math.log(2)


def test_enumerated_latents_are_summed_out():
    """p(y) p(z|y) p(x|z) with z of another mean for each class."""
    means, shares, s = torch.tensor([-2.0, 0.0, 3.0]), torch.tensor([0.2, 0.5, 0.3]), 0.5

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(shares))
            z = pyro.sample("z", dist.Normal(means[y], 1.0))
            pyro.sample("x", dist.Normal(z, s), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal((x + means[y]) / 2, 1.0))

    x = torch.linspace(-3, 4, 10)
    truth = (shares.log() + dist.Normal(means, (1 + s**2) ** 0.5).log_prob(x[:, None])).logsumexp(1)
    for start in ("prior", "guide"):
        assert abs(z_score(anneal((model, guide), x, 3000, 5, 3, start), truth)) < 4


def test_several_latents_are_moved_together():
    pair = two_layers([0.1, 0.0, 0.1, 0.0], s=0.5)
    truth = dist.Normal(0.0, 2.25**0.5).log_prob(pair.x)
    for start in ("prior", "guide"):
        assert abs(z_score(anneal(pair, pair.x, 2000, 5, 3, start), truth)) < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_determined_by_seed_and_place(linear, dtype, monkeypatch):
    monkeypatch.setattr(annealing, "MOVES", 4)
    vae, x = linear.vae.to(dtype), linear.x.to(dtype)
    options = {"chains": 6, "temperatures": 4, "leapfrog": 1}
    together = anneal(vae, x, **options)
    assert torch.equal(together.value, anneal(vae, x, **options).value)
    assert not torch.equal(together.value, anneal(vae, x, seed=1, **options).value)
    for rows in (1, 33):
        for few, all_rows in zip(anneal(vae, x[:rows], **options), together, strict=True):
            torch.testing.assert_close(few, all_rows[:rows], rtol=0, atol=1e-4)
    loader = torch.utils.data.DataLoader(x, batch_size=7)
    torch.testing.assert_close(anneal(vae, loader, **options).value, together.value, rtol=0, atol=1e-4)
    assert len(pyro.get_param_store()) == 0
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_chains_are_chunked_without_changing_the_estimate(linear, monkeypatch):
    monkeypatch.setattr(importance, "FLOATS", annealing.ROWS * 5 * 700)
    found = anneal(linear.vae, linear.x[:32], 2000, 4, 2)
    assert abs(z_score(found, linear.evidence.log_prob(linear.x[:32]))) < 4


GUIDES = [guides.DiagonalNormal, guides.FullRankNormal, guides.LowRankNormal, guides.Mixture, guides.IAF]


@pytest.mark.parametrize("guide", [*GUIDES, guides.NeuralSpline])
def test_every_guide_with_a_density_is_a_start(guide):
    vae, x = pyrovae.VAE(X, 2, guide=guide, encoder=SMALL, decoder=SMALL), binary(6)
    found = anneal(vae, x, 500, 2, 0, "guide")
    value, error = importance.log_likelihood(vae, x, 500)
    assert ((found.value - value).abs() < 6 * torch.hypot(found.standard_error, error.double())).all()
    assert torch.isfinite(anneal(vae, x, **FEW | {"start": "guide"}).value).all()


@pytest.mark.parametrize("prior", sorted(set(priors.__all__) - {"UniformSphere"}))
def test_every_prior_on_the_reals_is_a_start(prior):
    vae, x = pyrovae.VAE(X, 2, prior=getattr(priors, prior), encoder=SMALL, decoder=SMALL), binary(6)
    found = anneal(vae, x, 200, 2, 0, "prior")
    value, error = importance.log_likelihood(vae, x, 200)
    assert ((found.value - value).abs() < 6 * torch.hypot(found.standard_error, error.double())).all()


def test_other_graphs_have_their_sandwich(monkeypatch):
    monkeypatch.setattr(annealing, "MOVES", 1)
    x, y = binary(6), torch.arange(6) % 3
    made = {"encoder": SMALL, "decoder": SMALL}
    labelled = [ConditionalVAE(X, 2, 3, **made), SemiSupervisedVAE(X, 2, 3, classifier=SMALL, **made)]
    plain = [HierarchicalVAE(X, 2, (2,), between=SMALL, **made), CompletionVAE(X, 2, torch.arange(X) < 2, **made)]
    cases = [(vae, Split(x, y)) for vae in labelled] + [(vae, x) for vae in (*plain, labelled[1])]
    cases.append((labelled[1], Split(x, torch.where(y == 0, -1, y))))
    for programs, data in cases:
        found = sandwich(programs, data, **FEW)
        assert torch.isfinite(torch.stack([found.lower.value, found.upper.value])).all()
        assert found.data[0].shape == (6, X)
    assert len(sandwich(*cases[0], **FEW).data) == 2
    assert (found.upper.value - found.lower.value).mean() > -0.5
    seen = sandwich(plain[1], x, **FEW).data[0]
    assert torch.equal(seen[:, :2], x[:, :2])  # what is given stays as it is


def test_what_diverges_is_refused_by_metropolis(counts):
    """A step that is far too long moves nothing, and breaks nothing."""
    with no_side_effects(counts.programs):
        bridge = annealing.Bridge(counts.programs, [counts.x])
        here = annealing.point(bridge, bridge.draw(50), 0.5)
        there, acceptance = annealing.move(bridge, here, 0.5, torch.full((12,), 1e4), 5)
    assert torch.equal(there, here.u)
    assert acceptance.max() == 0


def program(fn):
    """z ~ fn, x ~ N(0, 1), in plate "data"."""

    def model(x):
        with pyro.plate("data", len(x)):
            fn()
            return pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            fn()

    return model, guide


def drawn(fn, name="z", **options):
    return lambda: pyro.sample(name, fn, **options)


def moving():
    pyro.sample("b", dist.Uniform(0.0, pyro.sample("a", dist.Uniform(0.0, 1.0))))


ENUMERATE = {"infer": {"enumerate": "parallel"}}
REFUSED = {
    "expected at least one latent site, found none": lambda: None,
    "expected continuous latents, or ones that the guide enumerates, found 'z' of Poisson": drawn(dist.Poisson(3.0)),
    "but for enumerated ones: expected at least one latent": drawn(dist.Bernoulli(0.5), **ENUMERATE),
    "functions of as many reals, found 'z' on": drawn(priors.UniformSphere((3,))()),
    "expected supports that do not depend on a latent, found 'b' of Uniform": moving,
}


@pytest.mark.parametrize("message", REFUSED)
def test_latents_that_cannot_be_annealed_are_refused_by_name(message):
    for question in (anneal, sandwich):
        with pytest.raises(ValueError, match=message):
            question(program(REFUSED[message]), torch.zeros(3), **FEW)


def test_a_latent_with_too_many_values_is_refused_by_name():
    def both():
        pyro.sample("y", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1), **ENUMERATE)
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="expected a latent with few values to enumerate, found 'y' of Independent"):
        anneal(program(both), torch.zeros(3), **FEW)


def test_programs_with_other_latents_are_refused():
    model, guide = program(drawn(dist.Normal(0.0, 1.0)))[0], program(drawn(dist.Normal(0.0, 1.0), "u"))[1]
    with pytest.raises(
        ValueError, match=r"same latents in model and guide, found \['z'\] in the model, \['u'\] in the guide"
    ):
        anneal((model, guide), torch.zeros(3), **FEW)


@pytest.mark.parametrize(("guide", "found"), [(guides.Delta, "found a point"), (guides.Planar, "it has no inverse")])
def test_a_guide_without_a_density_is_no_start(guide, found):
    vae = pyrovae.VAE(X, 2, guide=guide, encoder=SMALL, decoder=SMALL)
    with pytest.raises(ValueError, match=f"start: expected a guide with a density.*{found}"):
        anneal(vae, binary(3), **FEW | {"start": "guide"})
    assert torch.isfinite(anneal(vae, binary(3), **FEW).value).all()


def test_observed_sites_that_are_no_arguments_cannot_be_simulated():
    def model(rows):
        with pyro.plate("data", len(rows)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=rows)

    programs = (model, program(drawn(dist.Normal(0.0, 1.0)))[1])
    with pytest.raises(
        ValueError, match=r"expected observed sites that are arguments \['rows'\] of the model, found 'x'"
    ):
        sandwich(programs, torch.zeros(3), **FEW)
    assert torch.isfinite(anneal(programs, torch.zeros(3), **FEW).value).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 0}, "chains: expected an integer >= 1, found 0"),
        ({"temperatures": 1}, "temperatures: expected an integer >= 2, found 1"),
        ({"leapfrog": -1}, "leapfrog: expected an integer >= 0, found -1"),
        ({"start": "posterior"}, "unknown start 'posterior'"),
        ({"schedule": "sigmoidal"}, "unknown schedule 'sigmoidal'; did you mean 'sigmoid'"),
    ],
)
def test_bad_options_are_refused_before_any_work(options, message):
    for question in (anneal, sandwich):
        with pytest.raises(ValueError, match=message):
            question((None.__init__, None.__init__), torch.zeros(3), **FEW | options)


def test_bad_data_are_refused(linear):
    x = linear.x.clone()
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"x: expected finite values, found nan at \(3, 1\)"):
        anneal(linear.vae, x, **FEW)
    with pytest.raises(ValueError, match="latent"):
        anneal(Completion(5, torch.arange(5) < 2), binary(3).repeat(1, 2)[:, :5], **FEW)


def test_one_chain_has_no_error(linear):
    found = anneal(linear.vae, linear.x[:2], 1, 3, 1)
    assert torch.isnan(torch.stack([found.standard_error, found.spread, found.bias])).all()
    assert found.verdict == "one chain: its error is unknown"
    assert torch.allclose(found.ess, torch.ones(2).double())


@pytest.mark.parametrize("name", ["sigmoid", "linear"])
def test_schedules_rise_from_0_to_1(name):
    b = annealing.SCHEDULES[name](11)
    assert b[0] == 0
    assert b[-1] == 1
    assert b == sorted(b)
    assert b[5] == pytest.approx(0.5)


def test_a_guide_that_is_elsewhere_is_refused_in_one_line():
    """Uniform, far from where the posterior is."""
    model, guide = program(drawn(dist.Normal(0.0, 1.0)))[0], program(drawn(dist.Uniform(50.0, 51.0)))[1]
    with pytest.raises(ValueError, match=r"^start: expected a guide with a density at the z of all simulated") as error:
        sandwich((model, guide), torch.zeros(3), **FEW | {"start": "guide"})
    assert len(str(error.value)) < 200
    gap = sandwich((model, guide), torch.zeros(3), **FEW).summary()["gap"]["value"]
    assert gap == pytest.approx(0, abs=1e-5)  # x is independent of z
