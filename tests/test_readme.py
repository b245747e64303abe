"""What README.md and the pages of runs/ show is what happens."""

import json
import re
from pathlib import Path

import pytest
import torch

import pyrovae
from pyrovae import experiments
from pyrovae.__main__ import main
from pyrovae.data import Splits

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs"
TEXT = (ROOT / "README.md").read_text()
MANUAL = RUNS / "README.md"
PAGES = [
    ROOT / "README.md",
    MANUAL,
    ROOT / "CONTRIBUTING.md",
    *(path for depth in ("*/", "*/*/*/") for path in sorted(RUNS.glob(f"{depth}*.md"))),
]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def ran(page, programs):
    """The names after these blocks of a page have run in order."""
    space = {}
    for block in programs:
        exec(compile(block, str(page), "exec"), space)
    return space


def test_the_programs_shown_are_the_programs():
    """Every line of the class in the README stands in the model's file, but for the plate's size."""
    source = (ROOT / "pyrovae" / "models" / "vae.py").read_text()
    shown = blocks(ROOT / "README.md")[0]
    for expression in re.findall(r"return .*|z = .*", shown):
        assert expression in source, expression
    assert len(re.findall(r"return .*|z = .*", shown)) == 6


def test_the_blocks_of_the_readme_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--epochs", "1", "--particles", "2"]) == 0
    space = ran(ROOT / "README.md", blocks(ROOT / "README.md")[1:])
    assert isinstance(space["digits"], Splits)
    assert space["images"].shape == (16, 1, 8, 8)
    assert -27 < space["scores"]["log_likelihood"]["value"] < -20  # pixels alone: -33
    assert space["vae"].latent_shape == (2,)


def test_the_blocks_of_the_manual_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = ran(MANUAL, blocks(MANUAL))
    assert isinstance(space["digits"], Splits)
    assert space["images"].shape == (16, 1, 8, 8)
    assert space["draws"]["x"].shape == (5, 16, 1, 8, 8)
    assert pyrovae.evaluate((space["model"], space["guide"]), torch.rand(9, 64), 2)["rows"] == 9


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES[3:] if blocks(page)], ids=lambda page: page.parent.name)
def test_the_blocks_of_other_pages_run_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran(page, blocks(page))
    assert re.search(r"-\d+\.\d\d", capsys.readouterr().out)


def links(page):
    """The files that a page links to or shows."""
    found = re.findall(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)|(?:src|srcset|href)=\"((?!http)[^\"]+)\"", page.read_text())
    return [page.parent / "".join(path) for path in found]


def test_links_and_pictures_exist():
    linked = {page: links(page) for page in PAGES}
    assert [str(path) for paths in linked.values() for path in paths if not path.exists()] == []
    assert len(linked[ROOT / "README.md"]) > 10
    assert sum(map(len, linked.values())) > 100


def test_links_to_headings_exist():
    found = [
        (page, *link) for page in PAGES for link in re.findall(r"\]\(((?!http)[^)#]*)#([^)]+)\)", page.read_text())
    ]
    for page, path, heading in found:
        text = (page.parent / path if path else page).read_text()
        headings = [
            re.sub(r"[^\w -]", "", line).strip().lower() for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        ]
        assert heading in [each.replace(" ", "-") for each in headings], (page, heading)
    assert len(found) >= 3


def test_the_gallery_is_that_of_the_findings():
    root = RUNS / "experiments"
    assert experiments.gallery(root) in (root / "README.md").read_text()


def test_the_comparisons_quoted_are_those_of_their_tables():
    whole = (RUNS / "compare" / "README.md").read_text()
    rows = re.findall(r"^\| `[^`]+` \| -\d+\.\d\d ± .* ± \d\.\d\d(?= \|$)", TEXT, re.MULTILINE)
    assert len(rows) == 7
    assert [row for row in rows if f"\n{row} |" not in whole] == []


WAYS = {
    "a typical loop: DataLoader, ToTensor, eager": "typical loop: PIL, ToTensor, DataLoader, eager",
    "pythae's trainer": "pythae's trainer",
    "Pyro's SVI": "Pyro's SVI, Trace_ELBO",
    "by hand: `torch.compile`, fused Adam, data in memory": "by hand, torch.compile, fused Adam",
    "`pyrovae.SVI`, as a graph": "ours, graph",
    "`pyrovae.SVI`, compiled": "ours, compiled",
}


@pytest.mark.parametrize("way", WAYS)
def test_the_times_quoted_are_those_that_were_measured(way):
    (row,) = re.findall(rf"^\| {re.escape(way)} \| (.*) \|$", TEXT, re.MULTILINE)
    sections = re.split(r"^### ", (RUNS / "bench" / "README.md").read_text(), flags=re.MULTILINE)
    for network, quoted in zip(("mlp", "wide", "conv"), row.split(" | "), strict=True):
        (section,) = [each for each in sections if each.startswith(f"{network}, batch 128\n")]
        (measured,) = re.findall(rf"^\| {re.escape(WAYS[way])} \| ([\d.]+) ", section, re.MULTILINE)
        assert float(quoted) == pytest.approx(float(measured), abs=0.051)


@pytest.mark.parametrize("package", ["priors", "likelihoods", "guides", "networks", "models", "objectives"])
def test_the_menu_is_complete(package):
    (row,) = re.findall(rf"^\| \*\*{package.replace('guides', 'guide families')}\*\*.*$", TEXT, re.MULTILINE)
    missing = [name for name in getattr(pyrovae, package).__all__ if f"`{name}`" not in row]
    assert missing == (["Objective"] if package == "objectives" else [])  # the base class


def test_numbers_quoted_are_those_of_the_runs():
    """Each 'ELBO -x, log p(x) -y' of a recipe stands in the evaluation.json of the run it names."""
    page = (RUNS / "recipes" / "README.md").read_text()
    rows = re.findall(r"`runs/recipes/([\w-]+)`.*?(-\d+\.\d\d) ± (\d\.\d\d).*?(-\d+\.\d\d) ± (\d\.\d\d)", page)
    assert {name for name, *_ in rows} == {"digits", "mnist"}
    for name, elbo, elbo_error, log_p, log_p_error in rows:
        results = json.loads((RUNS / "recipes" / name / "evaluation.json").read_text())
        assert results["elbo"]["value"] == pytest.approx(float(elbo), abs=0.005)
        assert results["elbo"]["standard_error"] == pytest.approx(float(elbo_error), abs=0.005)
        assert results["log_likelihood"]["value"] == pytest.approx(float(log_p), abs=0.005)
        assert results["log_likelihood"]["standard_error"] == pytest.approx(float(log_p_error), abs=0.005)
