"""The examples in docstrings: every public class has one, and every example gives the result that it shows."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import pyrovae
from pyrovae import guides, likelihoods, models, networks, objectives, priors

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(pyrovae.__path__, "pyrovae.") if "__main__" not in module.name
)
ROOMS = (priors, likelihoods, guides, networks, models, objectives)
PUBLIC = [getattr(room, name) for room in ROOMS for name in room.__all__]
CONTRACTS = [
    likelihoods.Likelihood,
    likelihoods.Measure,
    guides.GuideFamily,
    priors.Prior,
]


def examples(module):
    """The docstrings of a module that contain an example."""
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


def failures(test):
    """The number of examples of one docstring that fail, and the number of examples that were run."""
    torch.manual_seed(0)
    return doctest.DocTestRunner(optionflags=OPTIONS).run(test)


@pytest.mark.parametrize("name", MODULES)
def test_every_example_gives_the_result_that_it_shows(name):
    for test in examples(importlib.import_module(name)):
        result = failures(test)
        assert result.failed == 0
        assert result.attempted + result.skipped == len(test.examples) > 0


@pytest.mark.parametrize("member", [*PUBLIC, *CONTRACTS], ids=lambda member: f"{member.__module__}.{member.__name__}")
def test_every_public_class_has_an_example_with_a_result(member):
    own = inspect.getdoc(member) if "__doc__" in vars(member) else ""
    found = doctest.DocTestParser().get_examples(own or "")
    assert sum(bool(example.want) for example in found) > 0


def test_a_wrong_result_is_noticed():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    result = doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None)
    assert (result.failed, result.attempted) == (1, 1)
