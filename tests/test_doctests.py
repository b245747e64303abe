"""The examples in docstrings: every public class has one, and every example gives the result that it shows."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest
import torch

import pyrovae
from pyrovae import distributions, guides, likelihoods, models, networks, objectives, priors
from pyrovae.data.split import Split, Splits
from pyrovae.evaluation.parts.part import Part
from pyrovae.networks.network import Network
from pyrovae.programs.traits import Traits

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
FOLDER = Path(pyrovae.__file__).parent
MODULES = sorted(
    ".".join(("pyrovae", *path.relative_to(FOLDER).with_suffix("").parts))
    for path in FOLDER.rglob("*.py")
    if path.stem != "__init__" and ">>> " in path.read_text()
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
    """The docstrings with examples of a module's own classes and functions (not of the lazy modules that it holds)."""
    members = [member for member in vars(module).values() if inspect.isclass(member) or inspect.isfunction(member)]
    own = [member for member in members if member.__module__ == module.__name__]
    return [test for member in own for test in doctest.DocTestFinder().find(member, globs=vars(module).copy())]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_gives_the_result_that_it_shows(name):
    tests = [test for test in examples(importlib.import_module(name)) if test.examples]
    assert len(tests) > 0
    for test in tests:
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
