"""What the README shows is what happens."""

import re
from pathlib import Path

import pytest
import torch

import pyrovae
from pyrovae import experiments
from pyrovae.__main__ import main
from pyrovae.data import Splits

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "runs").glob("*/*.md")), *sorted((ROOT / "runs").glob("*/*/*/*.md"))]
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_programs_shown_are_the_programs():
    """Every line of the class in the README stands in the model's file, but for the plate's size."""
    source = (ROOT / "pyrovae" / "models" / "vae.py").read_text()
    for expression in re.findall(r"return .*|z = .*", BLOCKS[0]):
        assert expression in source, expression
    assert len(re.findall(r"return .*|z = .*", BLOCKS[0])) == 6


def test_the_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--epochs", "1", "--particles", "2"]) == 0
    space = {}
    for block in BLOCKS[1:]:
        exec(compile(block, "README.md", "exec"), space)
    assert isinstance(space["digits"], Splits)
    assert space["images"].shape == (16, 1, 8, 8)
    assert space["draws"]["x"].shape == (5, 16, 1, 8, 8)
    assert pyrovae.evaluate((space["model"], space["guide"]), torch.rand(9, 64), 2)["rows"] == 9


def links(page):
    """The files that a page links to or shows."""
    found = re.findall(r"\]\(((?!http)[^)#]+)\)|(?:src|srcset|href)=\"((?!http)[^\"]+)\"", page.read_text())
    return [page.parent / "".join(path) for path in found]


def test_links_and_pictures_exist():
    linked = {page: links(page) for page in PAGES}
    assert [str(path) for paths in linked.values() for path in paths if not path.exists()] == []
    assert len(linked[ROOT / "README.md"]) > 10
    assert sum(map(len, linked.values())) > 100


def test_the_gallery_is_that_of_the_findings():
    root = ROOT / "runs" / "experiments"
    assert experiments.gallery(root) in (root / "README.md").read_text()


def test_the_comparisons_quoted_are_those_of_their_tables():
    whole = (ROOT / "runs" / "compare" / "README.md").read_text()
    rows = re.findall(r"^\| `[^`]+` \| -\d+\.\d\d ± .* ± \d\.\d\d(?= \|$)", TEXT, re.MULTILINE)
    assert len(rows) == 7
    assert [row for row in rows if f"\n{row} |" not in whole] == []


def test_numbers_quoted_are_those_of_the_runs():
    """Each 'ELBO -x, log p(x) -y' in the README stands in the evaluation.json of the run it names."""
    import json

    rows = re.findall(r"`runs/recipes/([\w-]+)`.*?(-\d+\.\d\d) ± (\d\.\d\d).*?(-\d+\.\d\d) ± (\d\.\d\d)", TEXT)
    assert {name for name, *_ in rows} == {"digits", "mnist"}
    for name, elbo, elbo_error, log_p, log_p_error in rows:
        results = json.loads((ROOT / "runs" / "recipes" / name / "evaluation.json").read_text())
        assert results["elbo"]["value"] == pytest.approx(float(elbo), abs=0.005)
        assert results["elbo"]["standard_error"] == pytest.approx(float(elbo_error), abs=0.005)
        assert results["log_likelihood"]["value"] == pytest.approx(float(log_p), abs=0.005)
        assert results["log_likelihood"]["standard_error"] == pytest.approx(float(log_p_error), abs=0.005)
