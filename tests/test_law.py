"""Densities that are summed and integrated: known ones are laws, wrong ones are not, and what is no law says so."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_likelihoods import LIKELIHOODS, SOFT, model, name, shape_of

from pyrovae import VAE, examine, guides, likelihoods, models, priors
from pyrovae.data import Split
from pyrovae.evaluation import law
from pyrovae.evaluation.quadrature import law as integrated
from pyrovae.evaluation.quadrature import pair_law

M = torch.linspace(-2, 2, 50)
# Supports of every kind: the real line, half lines, intervals, a circle, lists of values, all whole numbers.
DISTRIBUTIONS = {
    "normal": dist.Normal(M, M.exp()),
    "of a tiny scale": dist.Normal(1e4 + M, 1e-2),
    "kink": dist.Laplace(M, M.exp()),
    "heavy tails": dist.Cauchy(M, M.exp()),
    "narrow modes": dist.MixtureSameFamily(
        dist.Categorical(torch.ones(50, 2)), dist.Normal(torch.stack([M - 3, M + 3], 1), 0.1)
    ),
    "edge at 0": dist.Gamma(M.exp(), 1.0),
    "long tail": dist.LogNormal(M, M.exp()),
    "two edges": dist.Beta(M.exp(), 1.3),
    "jumps": dist.Uniform(M, M + 1),
    "circle": dist.VonMises(M, M.exp()),
    "bits": dist.Bernoulli(logits=M),
    "counts": dist.Poisson(10 * M.exp()),
    "many counts": dist.Geometric(logits=M - 3),
    "classes": dist.Categorical(logits=torch.stack([M, -M, 0 * M], -1)),
    "one-hot": dist.OneHotCategorical(logits=torch.stack([M, -M, 0 * M], -1)),
    "bounded counts": dist.Binomial(10, logits=M),
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_known_densities_are_laws(kind):
    p = DISTRIBUTIONS[kind]
    found = integrated(p, p.sample((200,)), torch.arange(50))
    assert (found.total - 1).abs().max() < 2e-4
    assert found.pit.shape == (200, 50)
    assert law._p_value(found.pit.flatten()) > 1e-3


def test_the_transform_is_the_distribution_function():
    p = dist.Laplace(M, M.exp())
    x = p.sample((30,))
    torch.testing.assert_close(integrated(p, x, torch.arange(50)).pit, p.cdf(x).double(), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("wrong", "p_value"), [(dist.Normal(M + 0.2, 1.0), 1e-9), (dist.Normal(M, 1.1), 1e-3)])
def test_another_sampler_is_noticed(wrong, p_value):
    found = integrated(dist.Normal(M, 1.0), wrong.sample((200,)), torch.arange(50))
    assert (found.total - 1).abs().max() < 1e-6
    assert law._p_value(found.pit.flatten()) < p_value


def test_a_density_far_from_its_draws_is_found():
    found = integrated(dist.Normal(M, 0.01), dist.Normal(M + 20, 1.0).sample((200,)), torch.arange(50))
    assert (found.total - 1).abs().max() < 1e-4
    assert law._p_value(found.pit.flatten()) == 0


def test_p_values_are_uniform_themselves():
    p = dist.Normal(M, 1.0)
    values = [law._p_value(integrated(p, p.sample((60,)), torch.arange(10)).pit.flatten()) for _ in range(100)]
    # The smaller of two p-values, doubled, is at most this often below .1; and often enough to be no constant.
    assert 0.02 < (torch.tensor(values) < 0.1).double().mean() < 0.1 + 3 * math.sqrt(0.09 / 100)


def test_draws_outside_of_the_support_are_no_draws():
    found = integrated(dist.Uniform(M, M + 1), dist.Uniform(M, M + 1.05).sample((200,)), torch.arange(50))
    assert 0.02 < found.pit.isnan().double().mean() < 0.08
    assert law._p_value(found.pit.flatten()) == 0


def test_two_values_are_integrated_together():
    covariance = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
    p = dist.MultivariateNormal(torch.stack([M, -M], -1), covariance)
    found = pair_law(p, p.sample((100,)))
    assert (found.total - 1).abs().max() < 1e-4
    assert law._p_value(found.pit.flatten()) > 1e-3
    alone = dist.Normal(torch.stack([M, -M], -1), 1.0).to_event(1)  # the right marginals, drawn apart
    assert law._p_value(pair_law(p, alone.sample((100,))).pit.flatten()) < 1e-9


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=name)
def test_likelihoods_are_laws(likelihood):
    """Soft targets say of themselves that they are none."""
    found = law.check(model(likelihood), Split(torch.zeros(60, *shape_of(likelihood, (1, 4, 4)))))
    assert found["scored_alike"]
    if likelihood is SOFT:
        assert "the density of 'x' does not integrate to one" in found["verdict"]
        assert found["sites"]["x"]["largest_integral"] == pytest.approx(0.5, abs=0.02)
        return
    assert found["passed"], found["verdict"]
    assert found["smallest_integral"] == pytest.approx(1, abs=1e-4)
    assert found["p_value"] > law.REJECTED
    assert found["verdict"] == "the model draws what it scores, and its densities integrate to one"


Y = Split(torch.rand(60, 1, 4, 4).round(), torch.arange(60) % 3)
NOT_CHECKED = "law of 'z' not checked: 5 values are drawn together"
MODELS = {
    "conditional": (lambda: models.ConditionalVAE((1, 4, 4), 2, num_classes=3), ""),
    "semi-supervised": (lambda: models.SemiSupervisedVAE((1, 4, 4), 2, num_classes=3), ""),
    "two layers": (lambda: models.HierarchicalVAE((1, 4, 4), 2, above=2), ""),
    "clusters": (lambda: models.MixtureVAE((1, 4, 4), 1, 3), ""),
    "invariant": (lambda: models.InvariantVAE((1, 4, 4), 2), ""),
    "weights": (lambda: models.BayesianVAE((1, 4, 4), 2, 60), ""),
    "completion": (lambda: models.CompletionVAE((1, 4, 4), 2, mask=torch.ones(1, 4, 4).bool().triu()), ""),
    "two latents of a mixture": (lambda: VAE((1, 4, 4), 2, prior=partial(priors.Mixture, components=3)), ""),
    "five of a mixture": (lambda: VAE((1, 4, 4), 5, prior=priors.Mixture), NOT_CHECKED),
    "five of a flow": (lambda: VAE((1, 4, 4), 5, prior=priors.AutoregressiveFlow), NOT_CHECKED),
    "sphere": (
        lambda: VAE((1, 4, 4), 2, prior=priors.UniformSphere, guide=guides.PowerSpherical),
        "law of 'z' not checked: two joint values are integrated over all real numbers only, found Sphere",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_are_laws_or_say_why_not(kind):
    make, reason = MODELS[kind]
    found = law.check(make(), Y)
    assert found["faults"] == []
    assert found["passed"] == (not reason)
    assert found["verdict"].startswith(reason)
    assert 1 - 1e-3 < found["smallest_integral"] <= found["largest_integral"] < 1 + 1e-3


class Correlated(likelihoods.Likelihood):
    """Neighbours of one datum together, e.g. a user's full covariance; `constant` is what is missing of its log."""

    measure = likelihoods.Measure("density", "real values")

    def __init__(self, event_shape, constant=0.0):
        super().__init__()
        self.event_shape = self.param_shape = tuple(event_shape)
        self.constant = constant

    def forward(self, h):
        d = h.shape[-1]
        return Shifted(h, 0.5 * torch.eye(d) + 0.5, constant=self.constant)


class Shifted(dist.MultivariateNormal):
    def __init__(self, *args, constant=0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.constant = constant

    def log_prob(self, value):
        return super().log_prob(value) + self.constant

    def expand(self, batch_shape, _instance=None):
        return Shifted(self.loc.expand(*batch_shape, -1), self.covariance_matrix, constant=self.constant)


class Wrong(Correlated):
    def __init__(self, event_shape):
        super().__init__(event_shape, constant=0.3)


class Fixed(Correlated):
    def __init__(self, event_shape):
        super().__init__(event_shape)
        if self.event_shape != (6,):
            raise ValueError("of six values alone")


@pytest.mark.parametrize(
    ("likelihood", "verdict"),
    [
        (Correlated, "the model draws what it scores"),
        (Wrong, "law at fault: the density of 'x' does not integrate to one (1.35 to 1.35"),
        (Fixed, "law of 'x' not checked: 6 values are drawn together (Shifted), and Fixed cannot be built for two"),
    ],
)
def test_a_likelihood_of_many_values_is_built_for_two(likelihood, verdict):
    found = law.check(VAE(6, 2, likelihood=likelihood), Split(torch.zeros(60, 6)))
    assert found["verdict"].startswith(verdict)
    if likelihood is not Fixed:
        assert found["sites"]["x"]["checked"] == "built anew at an event of 2 values"
        expected = math.exp(0.3) if likelihood is Wrong else 1.0
        assert found["sites"]["x"]["largest_integral"] == pytest.approx(expected, rel=1e-3)


def test_what_is_no_law_says_so():
    """A factor, and a mask; the site beside them is checked."""

    def programs(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.factor("f", -z.square())
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found = law.check((programs, programs), Split(torch.zeros(60)[:, None])[:][:, 0])
    assert found["unchecked"] == ["law of 'f' not checked: a factor, not a distribution to draw from"]
    assert not found["passed"]
    assert found["sites"]["z"]["largest_integral"] == pytest.approx(1, abs=1e-5)


def test_of_a_run_it_is_a_part_like_the_others():
    found = examine(VAE((1, 4, 4), 2, likelihood=likelihoods.Normal), Y, parts=["law"], rows=50).numbers["law"]
    assert found["entries"] == 50
    assert "of_rows" not in found
    assert found == law.check(VAE((1, 4, 4), 2, likelihood=likelihoods.Normal), Y) | {
        key: found[key] for key in ("p_value", "smallest_integral", "largest_integral", "sites")
    }
    with pytest.raises(ValueError, match="entries: expected an integer >= 2, found 1"):
        law.check(VAE((1, 4, 4), 2), Y, entries=1)


def test_two_observed_sites_are_checked_but_not_scored_again():
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("b", dist.Normal(z, 2.0), obs=x)
            return pyro.sample("a", dist.Normal(z, 1.0), obs=x)

    found = law.check((model, model), Split(torch.zeros(60)))
    assert found["unchecked"] == [
        "law of 'model(n=...)' not checked: expected one observed site, found ['z', 'b', 'a'], to score its draws by "
        "model(x)"
    ]
    assert found["scored_alike"] is None
    assert not found["passed"]
    assert found["sites"]["b"]["smallest_integral"] == pytest.approx(1, abs=1e-5)


def test_a_score_that_is_no_number_is_at_fault():
    class NoNumber(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) * math.nan

    found = integrated(NoNumber(M, 1.0), dist.Normal(M, 1.0).sample((200,)), torch.arange(50))
    assert found.total.tolist() == [0] * 50
    assert law._p_value(found.pit.flatten()) == 0
