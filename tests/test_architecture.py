"""The house keeps its floors: a module imports only from lower ones, and never from inside a function."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae

PACKAGE = Path(pyrovae.__file__).parent
FLOORS = """
checks files lazy modes randomness                what every room uses
data distributions engine networks plots scores   data, densities, graphs, tensors to tensors, figures, means
guides likelihoods priors                         factors: one member, one file
programs                                          questions to any (model, guide)
evaluation objectives                             numbers from trained programs; what SVI minimises
models training                                   one generative program a file; the loop
runs                                              a run as a directory
comparison experiments                            grids of runs; questions with answers
__init__ __main__                                 the public names; the command line
"""
ROOMS = [line.split("  ")[0].split() for line in FLOORS.strip().splitlines()]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(node):
    """The rooms of ours that an import statement names."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module] if node.module != "pyrovae" else [f"pyrovae.{alias.name}" for alias in node.names]
    return [name.split(".")[1] for name in names if name and name.startswith("pyrovae.")]


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} == set(FLOOR)


def test_few_modules_lie_loose():
    assert len([path for path in FILES if path.parent == PACKAGE]) <= 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    tree = ast.parse(path.read_text())
    here = FLOOR[room(path)]
    for node in ast.walk(tree):
        for other in imported(node):
            assert other == room(path) or FLOOR[other] < here, f"{path.name} imports {other} from above"
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            hidden = [name for node in ast.walk(function) for name in imported(node)]
            assert hidden == [], f"{path.name}: {function.name} hides an import"


def test_the_test_can_fail():
    assert imported(ast.parse("from pyrovae.runs import load").body[0]) == ["runs"]
    assert imported(ast.parse("from pyrovae import train").body[0]) == ["train"]


def test_the_pictures_know_no_model():
    paths = sorted((PACKAGE / "plots").glob("*.py"))
    others = {other for path in paths for node in ast.walk(ast.parse(path.read_text())) for other in imported(node)}
    assert others == {"plots", "files"}


@pytest.mark.parametrize("package", ["priors", "likelihoods", "guides", "networks", "models", "objectives"])
def test_members_are_documented_by_an_equation(package):
    members = getattr(pyrovae, package)
    for name in members.__all__:
        text = getattr(members, name).__doc__
        assert text, name
        if package in ("priors", "likelihoods", "guides", "models", "objectives"):
            assert re.search(r"=", text.splitlines()[0]), f"{name}: the first line states no equation"


def test_public_names_exist_and_are_documented():
    for name in pyrovae.__all__:
        assert getattr(pyrovae, name).__doc__, name
    assert len(pyrovae.__all__) == len(set(pyrovae.__all__))


HEAVY = ("jinja2", "matplotlib", "networkx", "scipy", "sklearn", "tensorboard", "torchvision")
# A lazily loaded package is in sys.modules from the start: its parts are there once it is used.
LOADED = "import sys; print({name.split('.')[0] for name in sys.modules if '.' in name and name.count('.') < 2})"


@pytest.mark.parametrize("use", ["", "pyrovae.VAE; pyrovae.fit; pyrovae.evaluate; pyrovae.examine; pyrovae.load"])
def test_what_is_heavy_is_imported_where_it_is_used(use):
    code = f"import pyrovae; {use}\n{LOADED}"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(found.stdout)
    assert len(loaded & set(HEAVY)) == 0, loaded & set(HEAVY)
    assert ("torch" in loaded) == bool(use)


def test_what_is_heavy_stays_away_while_torch_looks_through_all_modules():
    """As torch does where it compiles; lazy_loader's stand-ins in sys.modules would be imported by it."""
    code = f"import inspect, pyrovae; pyrovae.VAE; pyrovae.load; inspect.getmodule(inspect.currentframe())\n{LOADED}"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert len(ast.literal_eval(found.stdout) & set(HEAVY)) == 0
