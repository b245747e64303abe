"""A part of one's own is checked against the contract of its kind, and what is missing is named."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import VAE
from pyrovae.guides import GuideFamily
from pyrovae.likelihoods import Bernoulli, Likelihood, Measure
from pyrovae.likelihoods.measure import grey_levels
from pyrovae.models import BayesianVAE, ConditionalVAE, MixtureVAE
from pyrovae.priors import Prior
from pyrovae.programs.traits import Traits, traits


class Rounded(Likelihood):
    """A likelihood of one's own that keeps the contract: p(x|h) = Normal(x; h, 1)."""

    measure = Measure("density", "real values")

    def __init__(self, event_shape):
        super().__init__()
        self.event_shape = self.param_shape = event_shape

    def forward(self, h):
        return dist.Normal(h, 1.0).to_event(len(self.event_shape))


class Unmeasured(Rounded):
    measure = property()  # raises an AttributeError, as an attribute that was never set


class Shapeless(GuideFamily):
    def __init__(self, latent_shape):
        super().__init__()


class Nowhere(Prior):
    def __init__(self, latent_shape, event_shape):
        super().__init__()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"likelihood": nn.Identity()},
            "likelihood: expected a subclass of pyrovae.likelihoods.Likelihood",
        ),
        ({"guide": lambda shape: nn.Identity()}, "guide: expected a subclass of pyrovae.guides.GuideFamily, found Id"),
        ({"prior": lambda *shapes: 3}, "prior: expected a subclass of pyrovae.priors.Prior, found int"),
        ({"likelihood": Unmeasured}, "likelihood: expected Unmeasured to set `measure` "),
        ({"guide": Shapeless}, r"guide: expected Shapeless to set `latent_shape` .* and `param_shape` "),
        ({"prior": Nowhere}, "prior: expected Nowhere to set `latent_shape` "),
    ],
)
def test_what_is_missing_is_named(part, message):
    with pytest.raises(ValueError, match=message) as error:
        VAE(4, 2, **part)
    assert str(error.value).count("\n") == 0


def test_a_part_that_keeps_the_contract_is_used_as_it_is():
    vae = VAE(4, 2, likelihood=Rounded)
    results = pyrovae.evaluate(vae, torch.randn(20, 4), 5)
    assert results["measure"] == "density over real values"
    assert results["measure_fields"] == {"kind": "density", "over": "real values", "levels": 0, "note": ""}
    assert vae.likelihood.advice == ""
    assert not vae.likelihood.missing
    with pytest.raises(ValueError, match=r"begin: expected a likelihood with an inverse link .*, found Rounded"):
        vae.begin_at(torch.zeros(4))


@pytest.mark.parametrize("mean", [0.01, 0.5, 0.9])
def test_an_inverse_link_is_the_inverse(mean):
    likelihood = Bernoulli(3)
    assert likelihood(likelihood.inverse_link(torch.full((3,), mean))).mean.tolist() == pytest.approx([mean] * 3)


def test_a_measure_is_its_fields_and_prints_as_text():
    levels = grey_levels(256)
    assert (levels.levels, str(levels)) == (256, "mass over 256 levels")
    noted = levels.noted("of the entries present").noted("given y")
    assert str(noted) == "mass over 256 levels, of the entries present, given y"
    assert noted != levels
    point = levels.at_a_point()
    assert str(point) == "mass over 256 levels, at one point z: no likelihood"
    assert [each.is_likelihood for each in (levels, noted, point)] == [True, True, False]


def test_traits_are_those_of_the_object_that_has_the_programs():
    mixture, conditional = MixtureVAE(4, 2, clusters=3), ConditionalVAE(4, 2, num_classes=3)
    assert traits(mixture).initial_rows == 3
    assert traits(mixture).begins_alike
    assert traits((mixture.model, mixture.guide)).initial_rows == 3
    assert traits(conditional).encode_labels(torch.tensor([2])).tolist() == [[0, 0, 1]]
    assert traits((lambda x: x, lambda x: x)) == Traits()
    bayesian = BayesianVAE(4, 2, training_rows=10)
    assert len(traits(bayesian).at_draws(2, 0)) == 2
    # Two programs are asked as they stand: nobody has said that scores should average over w.
    assert traits((bayesian.model, bayesian.guide)).at_draws is None
    assert math.isfinite(traits(bayesian).training_rows)
