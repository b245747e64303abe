"""The examples in docstrings: every public class has one, and every example gives the result that it shows."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import pyrovae
from pyrovae import distributions, guides, likelihoods, models, networks, objectives, priors
from pyrovae.data.split import Split, Splits
from pyrovae.evaluation.parts.part import Part
from pyrovae.networks.network import Network
from pyrovae.programs.traits import Traits

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(pyrovae.__path__, "pyrovae.") if "__main__" not in module.name
)
ROOMS = (priors, likelihoods, guides, networks, models, objectives, distributions)
PUBLIC = [getattr(room, name) for room in ROOMS for name in room.__all__]
CONTRACTS = [
    likelihoods.Likelihood,
    likelihoods.Measure,
    guides.GuideFamily,
    priors.Prior,
    Network,
    Traits,
    Part,
    Split,
    Splits,
    pyrovae.SVI,
    pyrovae.Training,
]


def examples(module):
    """The docstrings of a module that contain an example."""
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_gives_the_result_that_it_shows(name):
    for test in examples(importlib.import_module(name)):
        torch.manual_seed(0)
        result = doctest.DocTestRunner(optionflags=OPTIONS).run(test)
        assert result.failed == 0
        assert result.attempted >= sum(not example.options.get(doctest.SKIP) for example in test.examples)


@pytest.mark.parametrize("member", [*PUBLIC, *CONTRACTS], ids=lambda member: f"{member.__module__}.{member.__name__}")
def test_every_public_class_has_an_example_with_a_result(member):
    steps = doctest.DocTestParser().get_examples(vars(member)["__doc__"] or "")
    assert sum(bool(step.want) and not step.options.get(doctest.SKIP) for step in steps) > 0


def test_a_wrong_result_is_noticed():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    result = doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None)
    assert (result.failed, result.attempted) == (1, 1)
