"""Grids of runs: which cells there are, that finished ones are kept, and what the tables and the page say."""

import csv
import errno
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import pyrovae
from pyrovae import comparison, files, runs
from pyrovae.__main__ import main
from pyrovae.comparison import Comparison, collect, grid, tables
from pyrovae.comparison.grid import Grid
from pyrovae.comparison.tables import COLUMNS
from pyrovae.runs import names, recipe
from pyrovae.runs.recipe import Recipe

ROOTS = Path(__file__).parents[1] / "runs" / "compare"
QUICK = ["--epochs", "1", "--particles", "2", "--latent-dim", "2"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def asked(*arguments):
    return main(["compare", *map(str, arguments)])


@pytest.fixture
def _in_process(monkeypatch):
    """Each run in this process, since one of its own takes seconds to start."""

    def run(command, stdout, **options):
        with redirect_stdout(stdout), redirect_stderr(stdout):
            return subprocess.CompletedProcess(command, main(command[3:]))

    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(run=run, STDOUT=None))


@pytest.fixture
def _without_pictures(monkeypatch):
    monkeypatch.setattr(runs, "draw", lambda *args: {})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a", ["a"]),
        ("a, b", ["a", "b"]),
        ("normal(scale=0.1, learn='one'),bernoulli", ["normal(scale=0.1, learn='one')", "bernoulli"]),
        ("mlp(hidden=[5,5]),conv", ["mlp(hidden=[5,5])", "conv"]),
    ],
)
def test_commas_inside_brackets_do_not_separate(text, values):
    assert names.split(text) == values


def test_a_grid_is_the_product_of_its_axes_and_seeds():
    cells = Grid({"betas": ["1", "4"], "networks": ["mlp", "mlp(hidden=[5])"]}, Recipe(seed=3), 2).cells()
    assert len(cells) == 8
    assert {cell.recipe.beta for cell in cells} == {1.0, 4.0}
    assert {cell.recipe.seed for cell in cells} == {3, 4}
    assert len({cell.name for cell in cells}) == 8
    assert cells[-1].name == "4+mlp_hidden=_5+seed-4"


@pytest.mark.parametrize("where", ["_in_process", pytest.param("tmp_path", marks=pytest.mark.slow)])
def test_finished_cells_are_kept_and_interrupted_ones_go_on(where, request, capsys):
    """In this process, or each in one of its own, two at a time."""
    request.getfixturevalue(where)
    words = ["--root", "grid", *QUICK, "--network", "mlp(hidden=[8])"] + ["--jobs", "1"] * (where == "_in_process")
    assert asked("--betas", "1,2", *words) == 0
    first = capsys.readouterr().out
    assert "nats per datum: mass over binary values" in first
    written = Path("grid/1+seed-0/evaluation.json")
    before = written.stat().st_mtime_ns
    Path("grid/2+seed-0/evaluation.json").unlink()
    assert asked("--betas", "1,2", *words) == 0
    assert written.stat().st_mtime_ns == before
    assert Path("grid/2+seed-0/evaluation.json").exists()
    assert first.splitlines()[-4:] == capsys.readouterr().out.splitlines()[-4:]
    rows = json.loads(Path("grid/compare.json").read_text())
    assert [row["beta"] for row in rows] == ["1", "2"]
    value = json.loads(written.read_text())["log_likelihood"]["value"]
    assert rows[0]["log_likelihood"]["value"] == pytest.approx(value, abs=1e-9)
    assert asked("--betas", "1,2", *words, "--epochs", "2") == 2
    assert "--epochs: grid was made with 1, found 2; compare.toml in it can be added to" in capsys.readouterr().err


@pytest.mark.usefixtures("_in_process", "_without_pictures")
def test_runs_on_data_that_were_replaced_are_not_mixed_with_others(capsys):
    """They are refused before any run, and stay as they are."""
    options = ["--data", "x.npy", "--likelihood", "normal", "--batch-size", "20", "--root", "grid", *QUICK[:4]]
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32))
    assert asked("--latent-dims", "2", *options, "--jobs", "1") == 0
    written = Path("grid/2+seed-0/evaluation.json").read_text()
    toml = Path("grid/compare.toml").read_text()
    Path("grid/compare.toml").write_text(toml.replace("    2,\n", "    2,\n    4,\n"))
    np.save("x.npy", np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32))
    capsys.readouterr()
    assert asked("grid") == 2
    assert "grid/2+seed-0: expected x as it was trained on, found other data" in capsys.readouterr().err
    assert Path("grid/2+seed-0/evaluation.json").read_text() == written
    assert not Path("grid/4+seed-0").exists()


@pytest.mark.slow
def test_a_model_with_uncertain_weights_is_ranked_among_the_others(capsys):
    assert asked("--models", "vae,bayesian-vae", "--network", "mlp(hidden=[8])", "--root", "weights", *QUICK) == 0
    printed = capsys.readouterr().out
    assert printed.count("nats per datum") == 1
    for name in ("vae", "bayesian-vae"):
        (row,) = (row for row in json.loads(Path("weights/compare.json").read_text()) if row["model"] == name)
        shown = numbers_of(printed)[f"`{name}`"]
        assert shown[:2] == [f"{row[score]['value']:.2f}" for score in ("elbo", "log_likelihood")]


BOUND = "log p(x) by 100 importance samples, a lower bound on average, tighter for a guide closer to the posterior"


def results(root, name, log_p, measure, scores=None, **other):
    """A run that is evaluated: its log p(x), or that of each datum."""
    of_each = torch.tensor([log_p] if scores is None else scores, dtype=torch.float64)
    number = {"value": of_each.mean().item(), "standard_error": 0.1}
    about = {"measure": measure, "split": "test", "particles": 100, "seed": 0, "data": "digits", "binarize": "dynamic"}
    about |= {"rows": len(of_each), "weights_sha256": name} | other
    (root / name).mkdir(parents=True, exist_ok=True)
    scored = {field: about.get(field) for field in runs.SCORED}
    files.write_tensors(root / name / "scores.safetensors", {score: of_each.clone() for score in runs.SCORES}, scored)
    files.write_json(root / name / "evaluation.json", about | dict.fromkeys(("elbo", "log_likelihood", "kl"), number))


def found(root, asked):
    return Comparison(root, asked, collect(root, asked, "test"), {})


def test_the_table_has_mean_and_error_over_seeds_and_one_measure_a_ranking(tmp_path):
    asked = Grid({"likelihoods": ["bernoulli", "normal", "normal(scale=0.1)"]}, Recipe(), 2)
    scores = iter([(-100.0, "mass"), (-104.0, "mass"), (1.0, "density"), (3.0, "density"), (5.0, "density")])
    for cell in asked.cells()[:-1]:
        results(tmp_path, cell.name, *next(scores))
    rows = collect(tmp_path, asked, "test")
    assert [row["seeds"] for row in rows] == [2, 2, 1]
    assert rows[0]["elbo"]["value"] == pytest.approx(-102)
    assert rows[0]["elbo"]["standard_error"] == pytest.approx(2.0)
    assert math.isnan(rows[2]["elbo"]["standard_error"])
    mass, density = tables(rows)
    assert "-102.00 ± 2.00" in mass
    assert "normal" not in mass
    assert density.index("normal(scale=0.1)") < density.index("`normal`")
    assert numbers_of(density)["`normal(scale=0.1)`"][0] == "5.00"


def numbers_of(table):
    """The lines of a table in Markdown: what it is of, and its numbers."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {name: numbers for name, *numbers in lines[2:]}


@pytest.mark.parametrize("changed", [{"split": "train"}, {"particles": 3}, {"seed": 5}])
def test_an_evaluation_that_asked_something_else_is_no_number_of_the_table(tmp_path, changed):
    asked = Grid({"betas": ["1", "2"]}, Recipe())
    for cell, other in zip(asked.cells(), (changed, {}), strict=True):
        results(tmp_path, cell.name, -9.0, "mass", **other)
    (row,) = collect(tmp_path, asked, "test")
    assert row["beta"] == "2"
    assert row["elbo"]["value"] == -9.0


def test_what_is_no_likelihood_is_not_ranked(tmp_path):
    asked = Grid({"guides": ["a", "b"]}, Recipe())
    for cell, value in zip(asked.cells(), (-9.0, -3.0), strict=True):
        results(tmp_path, cell.name, value, "cross-entropy of soft targets, no likelihood")
    rows = collect(tmp_path, asked, "test")
    (table,) = tables(rows)
    assert table.index("`a`") < table.index("`b`")
    assert "behind" not in table
    with pytest.raises(ValueError, match="a: expected the measure of a likelihood, found 'cross-entropy"):
        found(tmp_path, asked).difference("a", "b")
    assert numbers_of(table)["`a`"][0] == "-9.00"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--betas", "1,many"], "beta: expected float, found 'many'"),
        (["--betas", "1,1"], "expected values that differ"),
        (["--betas", "0.1,1e-1"], "expected values that differ"),
        (["--objectives", "elbo,total-correlation"], "expected total-correlation with a beta"),
        (["--objectives", "elbo,mmd(beta=0.5)", "--beta", "2"], "mmd(beta=0.5) has its own; expected 1"),
        (["--guides", "planar", "--objective", "iwae(dreg=True)"], "planar: expected the last sample of this planar"),
        (["--betas", "1,"], "expected values separated by commas"),
        (["--guides", ""], "expected values separated by commas, found ''"),
        ([], "expected something to compare, a bad/compare.toml or any of --models, --priors, --likelihoods,"),
        (["--guides", "iaf,planar", "--guide", "iaf"], "guide: expected one of guide and guides, found both"),
        (["--guides", "iaf,planar", "--gaps", "3"], "gaps: expected an integer >= 50, found 3"),
        (["--guides", "iaf,planar", "--jobs", "-1"], "jobs: expected an integer >= 0, found -1"),
        (["--guide-s", "iaf,planar"], "unknown option '--guide-s'; did you mean '--guides'"),
        (["--guides", "diagonal-normal,diagonal"], "unknown guide 'diagonal'"),
        (["--objectives", "elbo,iwae(k=0)"], "iwae(k=0): k: expected an integer >= 1"),
        (["--betas", "1,2", "--lr-schedule", "nope"], "unknown lr_schedule 'nope'"),
        (["--betas", "1,2", "--optimizer", "adam(lr=1)"], "unknown option of optimizer 'adam' 'lr'"),
        (["--betas", "1,2", "--optimizer", "sgd(momentum='a')"], "1: optimizer: sgd(momentum='a'): TypeError: '<' not"),
        (["--betas", "1,2", "--batch-size", "9999"], "batch_size: expected at most the 1258 training rows, found 9999"),
        (["--betas", "1,2", "--patience", "3", "--valid", "0"], "patience: expected validation data to watch"),
        (
            ["--label-counts", "20,5", "--model", "semi-supervised-vae"],
            "5: num_labels: expected from 10 (one of each class) to 1258, found 5",
        ),
        (["--guides", "iaf,os:path"], "os:path: guide: expected a class or a function, found 'os:path', a module"),
        (["--guides", "iaf,json:dumps"], "json:dumps: expected that it builds a Module, found '[2]'"),
        (["--betas", "1,2", "--seeds", "0"], "seeds: expected an integer >= 1"),
        (["--likelihoods", "normal,bernoulli", "--binarize", "none"], "bernoulli: x: expected values in the support"),
    ],
)
def test_bad_grids_are_refused_before_any_run(arguments, message, capsys):
    assert asked(*arguments, "--root", "bad", *QUICK) == 2
    assert message in capsys.readouterr().err
    assert not Path("bad").exists()


@pytest.mark.parametrize(("field", "value"), [("data", "mnist"), ("binarize", "fixed"), ("rows", 5)])
def test_what_is_not_alike_is_in_two_tables_and_has_no_difference(tmp_path, field, value):
    asked = Grid({"guides": ["a", "b"]}, Recipe())
    usual = {"data": "digits", "binarize": "dynamic", "rows": 1}[field]
    for cell, other in zip(asked.cells(), (usual, value), strict=True):
        results(tmp_path, cell.name, -9.0, "mass", **{field: other})
    both = found(tmp_path, asked)
    assert [table.splitlines()[0] for table in tables(both.rows)] == [
        f"test data, {field} {each}, nats per datum: mass; {BOUND}" for each in (usual, value)
    ]
    assert [row["behind"]["value"] for row in both.rows] == [0, 0]  # each is the best of its own
    with pytest.raises(ValueError, match=f"a and b: expected the same {field}, found .*: they cannot be compared"):
        both.difference("a", "b")


def test_differences_are_paired_by_datum_and_by_seed(tmp_path):
    """a - b is 1, and 2 with the other seed, at every datum: no error over the data, half a nat over the seeds."""
    asked = Grid({"guides": ["a", "b"]}, Recipe(), 2)
    hard = (7 * torch.randn(50)).tolist()
    for cell, lead in zip(asked.cells(), (1.0, 2.0, 0.0, 0.0), strict=True):
        results(tmp_path, cell.name, None, "mass", [each + lead for each in hard])
    both = found(tmp_path, asked)
    assert [row["behind"]["value"] for row in both.rows] == pytest.approx([0, 1.5])
    assert both.rows[1]["behind"]["standard_error"] == pytest.approx(0.5)
    assert both.difference("b", "a")["value"] == pytest.approx(-1.5)
    with pytest.raises(ValueError, match="unknown choice 'c'"):
        both.difference("a", "c")


def test_only_seeds_that_both_have_are_paired(tmp_path):
    asked = Grid({"guides": ["a", "b"]}, Recipe(), 3)
    scores = {"a+seed-0": [0.0, 0.0, 0.0], "a+seed-1": [9.0, 9.0, 9.0], "b+seed-0": [-1.0, -2.0, -3.0]}
    for name, each in scores.items():
        results(tmp_path, name, None, "mass", each)
    row = found(tmp_path, asked).rows[1]
    assert row["behind"]["value"] == pytest.approx(2.0)
    assert row["behind"]["standard_error"] == pytest.approx(1 / math.sqrt(3))
    (tmp_path / "b+seed-0" / "scores.safetensors").unlink()
    old = found(tmp_path, asked)
    assert old.rows[1]["elbo"]["value"] == pytest.approx(-2.0)  # an earlier version's: finished, but never paired
    assert old.rows[1].get("behind") is None
    with pytest.raises(ValueError, match=r"a and b: expected runs of one seed with scores.safetensors, found none"):
        old.difference("a", "b")


def test_unlike_seeds_are_ranked_by_those_that_all_share(tmp_path):
    """b's only seed is a hard one: by its mean a is ahead, and on the seed that both have behind."""
    asked = Grid({"guides": ["a", "b"]}, Recipe(), 2)
    scores = {"a+seed-0": [-20.0, -21.0], "a+seed-1": [-1.0, -2.0], "b+seed-0": [-19.5, -20.25]}
    for name, each in scores.items():
        results(tmp_path, name, None, "mass", each)
    both = found(tmp_path, asked)
    a, b = both.rows
    assert a["log_likelihood"]["value"] > b["log_likelihood"]["value"]
    assert (b["place"], b["behind"]["value"], a["place"]) == (1, 0.0, 2)
    assert a["behind"]["value"] == pytest.approx(both.difference("b", "a")["value"]) == pytest.approx(0.625)
    page = read(both.html())
    (table,) = tables(both.rows)
    assert [line[0][1].strip() for line in page.tables[0][1:]] == [*"ba"]
    assert [name.strip("`") for name in numbers_of(table)] == [*"ba"]
    assert "b has the highest bound on log p(x); the next, a, is behind by 0.6" in page.text
    assert "no lead is claimed with 1 seed, compare at least 3" in page.text
    for text in (table, page.text):
        assert "he rows have different seeds: the order and the differences use the common ones: 0" in text


def test_where_no_seed_is_shared_there_is_no_order(tmp_path):
    asked = Grid({"guides": ["a", "b"]}, Recipe(), 2)
    for name, each in {"a+seed-0": [-20.0, -21.0], "b+seed-1": [-1.0, -2.0]}.items():
        results(tmp_path, name, None, "mass", each)
    both = found(tmp_path, asked)
    assert [(row["place"], row.get("behind")) for row in both.rows] == [(None, None)] * 2
    text = read(both.html()).text
    assert "The rows have different seeds, and none in common: there is no order" in text
    assert "highest" not in text
    assert list(numbers_of(str(both))) == ["`a`", "`b`"]


@pytest.mark.parametrize("damaged", ["evaluation.json", "scores.safetensors"])
def test_a_damaged_result_is_no_result(tmp_path, damaged):
    asked = Grid({"guides": ["a", "b"]}, Recipe())
    for cell, value in zip(asked.cells(), (-9.0, -3.0), strict=True):
        results(tmp_path, cell.name, value, "mass")
    path = tmp_path / "a+seed-0" / damaged
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"a\\+seed-0/{damaged}: .* damaged"):
        runs.evaluation(tmp_path / "a+seed-0")
    (row,) = collect(tmp_path, asked, "test")
    assert (row["guide"], row["elbo"]["value"]) == ("b", -3.0)


def test_scores_of_another_evaluation_are_none_of_this_one(tmp_path):
    results(tmp_path, "a", -9.0, "mass")
    told = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert runs.evaluation(tmp_path / "a")[1]["elbo"].tolist() == [-9.0]
    files.write_json(tmp_path / "a" / "evaluation.json", told | {"weights_sha256": "b"})
    with pytest.raises(ValueError, match=r"expected scores of the weights_sha256 in evaluation.json, 'b', found 'a'"):
        runs.evaluation(tmp_path / "a")


GUIDES = Grid({"guides": ["iaf", "planar"], "betas": ["1", "0.5"]}, Recipe(threads=1, latent_dim=3), 2, 50)


def test_a_grid_comes_back_from_its_file(tmp_path):
    odd = {"likelihoods": ["normal(learn='one', scale=0.1)", 'bernoulli(soft_targets="x")'], "latent_dims": ["2", "16"]}
    for asked in (GUIDES, replace(GUIDES, axes=odd, start=Recipe(threads=1))):
        grid.write(asked, tmp_path / "compare.toml")
        assert grid.read(tmp_path / "compare.toml") == asked
        assert grid.asked(tmp_path, {"seeds": 2, "threads": 1}) == asked
    written = tomllib.loads((tmp_path / "compare.toml").read_text())
    assert {"likelihood", "latent_dim", "betas"} & written.keys() == set()
    assert written["latent_dims"] == [2, 16]


def test_numbers_are_one_value_however_they_are_written():
    cells = [grid.from_options({"betas": each, "seeds": 2}).cells() for each in ("1,0.25", [1, 0.25], ["1.0", ".25"])]
    assert cells[0] == cells[1] == cells[2]
    assert [cell.recipe.beta for cell in cells[0]] == [1.0, 1.0, 0.25, 0.25]
    assert {cell.recipe.threads for cell in cells[0]} == {1}


def test_the_paths_of_a_grid_are_relative_to_its_file(tmp_path, monkeypatch):
    (tmp_path / "x.npy").touch()
    asked = grid.asked(Path("sub"), {"data": "x.npy", "betas": "1,2"})
    Path("sub").mkdir()
    grid.write(asked, Path("sub/compare.toml"))
    assert str(tmp_path) not in Path("sub/compare.toml").read_text()
    monkeypatch.chdir("sub")
    assert grid.asked(Path(), {}).start.data == str(tmp_path / "x.npy")
    assert len(grid.asked(Path(), {}).cells()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"guides": "iaf"},
            r"--guides: here was made with \['iaf', 'planar'\], found \['iaf'\]; compare.toml in it can",
        ),
        (
            {"seeds": 3},
            "--seeds: here was made with 2, found 3; compare.toml in it can be added to, --root starts anot",
        ),
        ({"latent_dim": 4}, "--latent-dim: here was made with 3, found 4"),
        ({"gaps": 0}, "--gaps: here was made with 50, found 0"),
        ({"priors": "laplace,vamp-prior"}, r"--priors: here was made without, found \['laplace', 'vamp-prior'\]"),
        ({"guide": "iaf"}, "guide: expected one of guide and guides, found both"),
    ],
)
def test_options_that_contradict_the_file_are_refused(tmp_path, options, message):
    Path("here").mkdir()
    grid.write(GUIDES, Path("here/compare.toml"))
    before = Path("here/compare.toml").read_bytes()
    with pytest.raises(ValueError, match=message):
        pyrovae.compare("here", **options)
    assert Path("here/compare.toml").read_bytes() == before
    assert len(list(Path("here").iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guides = ['iaf'", "compare.toml: expected TOML, found a damaged file"),
        ("schema = 1\nguides = ['iaf', 'planer']", "planer: unknown guide 'planer'; did you mean 'planar'?"),
        ("schema = 1\nguide_s = ['iaf']", "compare.toml: unknown option 'guide_s'; did you mean 'guides'?"),
        ("schema = 1\nguides = []", "compare.toml: guides: expected at least one value, found none"),
        ("schema = 1\nguides = [1]", "compare.toml: guides: expected names, found 1"),
        ("schema = 1\nbetas = [true]", "compare.toml: beta: expected float, found 'True'"),
        ("schema = 1\nlatent_dims = [2.5]", "compare.toml: latent_dim: expected int, found '2.5'"),
        ("schema = 1\nguides = 3", "compare.toml: guides: expected a list of values, found 3"),
        ("schema = 1\nepochs = 3", "compare.toml: expected something to compare, any of models, priors"),
        ("schema = 7\nguides = ['iaf']", "compare.toml: expected schema = 1"),
    ],
)
def test_a_file_that_cannot_be_meant_is_named(text, message, capsys):
    Path("here").mkdir()
    Path("here/compare.toml").write_text(text)
    assert asked("here") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert len(list(Path("here").iterdir())) == 1


@pytest.mark.usefixtures("_in_process", "_without_pictures")
def test_a_run_that_fails_says_why_and_stops_no_other(capsys):
    options = {"learning_rates": [1e-3, 1e30], "seeds": 2, "epochs": 2, "particles": 2, "network": "mlp(hidden=[8])"}
    found = pyrovae.compare("rates", jobs=1, **options)
    assert found.failed.keys() == {"1e_30+seed-0", "1e_30+seed-1"}
    assert all(re.match("training stopped at .*(loss|gradient)", why) for why in found.failed.values())
    (row,) = json.loads(Path("rates/compare.json").read_text())
    assert (row["learning_rate"], row["seeds"], row["steps"]) == ("0.001", 2, 20)
    assert row["parameters"] == sum(p.numel() for p in pyrovae.load("rates/0.001+seed-0").parameters())
    written = Path("rates/0.001+seed-1/evaluation.json").stat().st_mtime_ns
    assert asked("rates", "--jobs", "1") == 1
    printed = capsys.readouterr()
    assert f"1e_30+seed-0 failed: {found.failed['1e_30+seed-0']}" in printed.out
    assert "2 of 4 runs: look at rates/1e_30+seed-0.log" in printed.err
    assert Path("rates/0.001+seed-1/evaluation.json").stat().st_mtime_ns == written
    page = read(Path("rates/report.html").read_text())
    assert [name for name in found.failed if name in page.text] == list(found.failed)
    assert found.failed["1e_30+seed-1"] in page.text


def full(number):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("_in_process")
def test_what_a_comparison_shows_is_what_its_runs_found(capsys, monkeypatch):
    options = {"latent_dims": [1, 2], "epochs": 1, "particles": 3, "network": "mlp(hidden=[8])", "gaps": 50}
    found = pyrovae.compare("dims", jobs=1, **options)
    assert str(found).count("nats per datum: mass over binary values; gaps of 50 random rows") == 1
    told = json.loads(Path("dims/compare.json").read_text())
    for row, name in zip(told, ("1+seed-0", "2+seed-0"), strict=True):
        evaluation, scores = runs.evaluation(Path("dims", name))
        assert row["log_likelihood"]["value"] == pytest.approx(scores["log_likelihood"].mean().item())
        assert row["amortisation_gap"] == evaluation["examination"]["diagnosis"]["gaps"]["amortisation_gap"]
        assert row["active_units"]["value"] == evaluation["active_units"]["z"]
    values = [row["log_likelihood"]["value"] for row in told]
    assert max(row["behind"]["value"] for row in told) == pytest.approx(abs(values[0] - values[1]))
    lines = list(csv.DictReader(Path("dims/compare.csv").read_text().splitlines()))
    assert [float(line["elbo"]) for line in lines] == [row["elbo"]["value"] for row in told]
    assert [float(line["behind"]) for line in lines] == [row["behind"]["value"] for row in told]
    page = read(Path("dims/report.html").read_text())
    assert page.pictures.keys() >= {"samples of 1", "reconstructions of 2", "samples of 2"}
    assert "pyrovae compare --root dims --latent-dims 1,2 --gaps 50 --network 'mlp(hidden=[8])' --epochs 1" in page.text
    same_numbers(page, told)
    monkeypatch.setattr(files.os, "fsync", full)  # the numbers are printed, whatever can be written
    assert asked("dims") == 1
    printed = capsys.readouterr()
    assert str(found) in printed.out
    assert "No space left on device" in printed.err


def test_figures_that_are_left_are_drawn_and_nothing_else_is_done(monkeypatch):
    """A plot that fails is told, at every call; once it is made the page has the pictures that it would have had."""

    def fails(*args):
        raise MemoryError("no room for pictures")

    monkeypatch.setattr(runs, "draw", fails)
    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(run=_failing_in_process, STDOUT=None))
    options = {"latent_dims": [2], "epochs": 1, "particles": 3, "network": "mlp(hidden=[8])"}
    asked, root = grid.from_options(options), Path("dims")
    cells = asked.cells()
    for _ in range(2):
        assert grid.carry_out(root, cells, "test", 1) == {"2+seed-0": "MemoryError: no room for pictures"}
    assert len(found(root, asked).rows) == 1
    before = {path: path.stat().st_mtime_ns for path in (root / "2+seed-0").iterdir() if path.is_file()}
    assert {path.name for path in before} >= {"evaluation.json", "best.safetensors", "metrics.jsonl"}
    drawn = []
    monkeypatch.setattr(runs, "draw", lambda *args: drawn.append(1) or {"samples": Figure(figsize=(1, 1))})
    for _ in range(2):
        assert (grid.carry_out(root, cells, "test", 1), len(drawn)) == ({}, 1)
    (root / "2+seed-0" / "figures" / "loss.png").unlink()  # the last of them: as if interrupted before it
    assert (grid.carry_out(root, cells, "test", 1), len(drawn)) == ({}, 2)
    assert "samples of 2" in read(found(root, asked).html()).pictures
    assert {path: path.stat().st_mtime_ns for path in before} == before


def _failing_in_process(command, stdout, **options):
    """What a process of its own would do: its last line says why, and its status is 1."""
    with redirect_stdout(stdout), redirect_stderr(stdout):
        try:
            return subprocess.CompletedProcess(command, main(command[3:]))
        except MemoryError as error:
            print(f"MemoryError: {error}")
            return subprocess.CompletedProcess(command, 1)


@pytest.mark.usefixtures("_in_process", "_without_pictures")
def test_what_is_damaged_is_made_again_and_what_is_added_is_made():
    options = {"betas": [1, 2], "epochs": 1, "particles": 3, "network": "mlp(hidden=[8])"}
    first = pyrovae.compare("grid", jobs=1, **options)
    paths = [Path("grid", name) for name in ("1+seed-0", "2+seed-0")]
    weights = [(path / "best.safetensors").stat().st_mtime_ns for path in paths]
    for path, name in zip(paths, ("evaluation.json", "scores.safetensors"), strict=True):
        (path / name).write_bytes((path / name).read_bytes()[:99])
    assert collect(Path("grid"), grid.read(Path("grid/compare.toml")), "test") == []
    text = Path("grid/compare.toml").read_text()
    assert text.count("    2.0,\n") == 1
    Path("grid/compare.toml").write_text(text.replace("    2.0,\n", "    2.0,\n    4.0,\n"))
    again = pyrovae.compare("grid", jobs=1)
    assert [row["beta"] for row in again.rows] == ["1", "2", "4"]
    for name in ("elbo", "log_likelihood"):
        before, after = ([row[name]["value"] for row in each.rows] for each in (first, again))
        assert after[:2] == pytest.approx(before)
    assert [(path / "best.safetensors").stat().st_mtime_ns for path in paths] == weights
    assert again.difference("4", "4") == {"value": 0, "standard_error": 0, "margin": 0}


def test_gaps_have_the_errors_of_rows_and_seeds(tmp_path):
    asked = Grid({"guides": ["a", "b", "c", "d"]}, Recipe(), 2, 50)
    told = {"a+seed-0": (1.0, 0.3), "a+seed-1": (3.0, 0.5), "b+seed-0": (2.0, None), "c+seed-0": "refused"}
    for name, gap in told.items():
        number = dict(zip(("value", "standard_error"), gap, strict=False))
        gaps = {"amortisation_gap": number, "approximation_gap": number}
        diagnosis = {"refused": "why"} if gap == "refused" else {"rows": 1, "of_rows": 9, "gaps": gaps}
        results(tmp_path, name, -9.0, "mass", examination={"diagnosis": diagnosis})
    results(tmp_path, "d+seed-0", -9.0, "mass")  # whose gaps nobody has asked for yet
    of_first = {"rows": 1, "gaps": {"amortisation_gap": {"value": 9.0}}}  # of an earlier version, which took other rows
    results(tmp_path, "d+seed-1", -9.0, "mass", examination={"diagnosis": of_first})
    a, b, c = collect(tmp_path, asked, "test")
    assert a["amortisation_gap"] == {"value": 2.0, "standard_error": pytest.approx(math.hypot(0.4, 1.0))}
    assert b["approximation_gap"]["value"] == 2.0
    assert math.isnan(b["approximation_gap"]["standard_error"])
    assert c["amortisation_gap"] is None
    assert [row["gap_rows"] for row in (a, b, c)] == [1, 1, 0]


def test_a_run_of_another_recipe_is_kept_and_no_grid_is_written():
    cell = Grid({"betas": ["1"]}, Recipe(threads=1)).cells()[0]
    Path("grid", cell.name).mkdir(parents=True)
    recipe.write(replace(cell.recipe, epochs=7), Path("grid", cell.name, "run.toml"))
    with pytest.raises(ValueError, match=r"--epochs: grid/1\+seed-0 was made with 7, found 100; --root starts another"):
        pyrovae.compare("grid", betas=[1])
    assert len(list(Path("grid").iterdir())) == 1


class Page(HTMLParser):
    """What stands in a page: its tags, closed in order, its text, its tables, its pictures."""

    EMPTY = ("meta", "link", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tables, self.pictures, self.references = [], "", [], {}, []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.open += [] if tag in self.EMPTY else [tag]
        self.references += [value for name, value in attributes.items() if name in ("src", "href", "srcset", "action")]
        if tag == "img":
            self.pictures[attributes["alt"]] = attributes["src"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append([attributes.get("data-value"), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1][1] += data


def read(html):
    """A page that is well-formed, and needs nothing but itself."""
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    assert [each for each in page.references if not each.startswith("data:")] == []
    assert re.findall(r"https?://|@import|url\(", html) == []
    return page


def same_numbers(page, rows):
    """Every number of the tables is that of its row, and what is shown begins like it."""
    by_head = {column.head: column.name for column in COLUMNS}
    seen = []
    for heads, *lines in page.tables:
        for (_, choice), *cells in lines:
            (row,) = [each for each in rows if choice.strip() in (each.get("latent_dim"), each.get("likelihood"))]
            seen.append(choice)
            for (_, head), (value, text) in zip(heads[1:], cells, strict=True):
                number = row[by_head[head]]
                number = number["value"] if isinstance(number, dict) else number
                assert value == ("" if number is None else str(number))
                assert text.split(" ± ")[0] == "" or float(text.split(" ± ")[0]) == pytest.approx(number, abs=0.05)
    assert len(seen) == len(rows)


def made(root, *kinds):
    """A comparison of likelihoods, each with a seed, and the measure and scores of its run."""
    asked = Grid({"likelihoods": [name for name, *_ in kinds]}, Recipe())
    for cell, (_, measure, scores) in zip(asked.cells(), kinds, strict=True):
        results(root, cell.name, None, measure, scores)
    return found(root, asked)


def test_the_page_keeps_measures_apart_and_holds_every_number(tmp_path):
    both = made(
        tmp_path,
        ("bernoulli", "mass", [-9.0, -7.0]),
        ("normal", "density", [3.0, 5.0]),
        ("normal(scale=0.1)", "density", [4.0, 6.5]),
    )
    page = read(both.html())
    assert [[line[0][1].strip() for line in lines[1:]] for lines in page.tables] == [
        ["bernoulli"],
        ["normal(scale=0.1)", "normal"],
    ]
    both.write()
    same_numbers(page, json.loads((tmp_path / "compare.json").read_text()))
    told = "By the density, normal(scale=0.1) has the highest bound on log p(x); the next, normal, is behind by 1.25"
    assert f"{told} ± 3.18" in page.text  # 12.7 times the standard error over two data, 0.25


@pytest.mark.parametrize(("lead", "clear"), [(0.5, True), (0.1, False)])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_a_lead_is_claimed_with_three_seeds_and_beyond_its_margin(tmp_path, seeds, lead, clear):
    """Over 16 data the standard error is 0.13, and its margin 2.13 times that; seeds differ by next to nothing."""
    noise = [0.5, -0.5] * 8
    asked = Grid({"likelihoods": ["a", "b"]}, Recipe(), seeds)
    for cell in asked.cells():
        of_seed = 1e-6 * cell.recipe.seed * (1 if cell.choice == ("a",) else -1)
        ahead = [lead + each + of_seed for each in noise] if cell.choice == ("a",) else [0.0] * 16
        results(tmp_path, cell.name, None, "mass", ahead)
    text = read(found(tmp_path, asked).html()).text
    assert f"the next, b, is behind by {lead:.2f} ± 0.28 nats per datum" in text
    assert ("within its 95 % margin of 3 seeds, no clear winner" in text) is (seeds == 3 and not clear)
    few = f"no lead is claimed with {seeds} seed{'s' * (seeds > 1)}, compare at least 3"
    assert (few in text) is (seeds < 3)


@pytest.mark.parametrize(("axis", "guides_alone"), [("guides", True), ("objectives", True), ("priors", False)])
def test_a_higher_bound_is_told_as_a_bound(tmp_path, axis, guides_alone):
    """K, the word, and, where the guide varies, that its nearness may be all: log p(x) of one model is one number."""
    asked = Grid({axis: ["a", "b"]}, Recipe())
    for cell, lead in zip(asked.cells(), (0.0, 1.0), strict=True):
        results(tmp_path, cell.name, None, "mass", [lead - 9, lead - 8.5], particles=100)
    both = found(tmp_path, asked)
    text = read(both.html()).text
    assert str(both).count(BOUND) == text.count(BOUND) == 1
    assert "b has the highest bound on log p(x); the next, a, is behind by 1.00" in text
    assert ("may only reflect a tighter bound" in text) is guides_alone
    assert "highest log p(x)" not in text


@pytest.mark.parametrize(("spread", "clear"), [(0.1, True), (0.6, False)])
def test_the_same_margin_is_in_every_form(tmp_path, spread, clear):
    """b is behind by a nat, with a standard deviation over three seeds: Tukey's margin is 4.30 standard errors."""
    asked = Grid({"priors": ["a", "b"]}, Recipe(), 3)
    for cell, of_each in zip(asked.cells(), (1.0 + spread, 1.0 - spread, 1.0, 0.0, 0.0, 0.0), strict=True):
        results(tmp_path, cell.name, None, "mass", [of_each] * 3)
    both = found(tmp_path, asked)
    margin = 4.30265 * spread / math.sqrt(3)
    assert both.rows[1]["behind"]["margin"] == pytest.approx(margin, rel=1e-4)
    both.write()
    shown = f"1.00 ± {margin:.2f}"
    assert shown in str(both)
    assert shown in (tmp_path / "compare.md").read_text()
    page = read((tmp_path / "report.html").read_text())
    assert shown in page.tables[0][2][3][1]
    assert f"is behind by {shown} nats per datum" in page.text
    assert ("within its 95 % margin of 3 seeds, no clear winner" in page.text) is not clear
    of_json = json.loads((tmp_path / "compare.json").read_text())[1]["behind"]
    (_, of_csv) = csv.DictReader((tmp_path / "compare.csv").read_text().splitlines())
    assert of_json["margin"] == float(of_csv["behind_margin"]) == pytest.approx(margin, rel=1e-4)
    for text in (str(both), page.text):
        assert "ehind the best: mean difference ± its 95 % margin over the data and 3 seeds; it accounts for" in text


def test_what_is_written_by_others_is_text_in_the_page(tmp_path):
    asked = Grid({"guides": ["a<b>&'\"c"]}, Recipe())
    results(tmp_path, asked.cells()[0].name, -9.0, "mass")
    bad = replace(found(tmp_path, asked), failed={"x": "<script>alert(1)</script>"})
    html = bad.html()
    assert html.count("<script") == 1
    page = read(html)
    assert page.tables[0][1][0][1].strip() == "a<b>&'\"c"
    assert "<script>alert(1)</script>" in page.text
    assert page.tables[0][1][1][0] == "-9.0"


def test_where_all_runs_failed_the_page_says_so(tmp_path):
    page = read(Comparison(tmp_path, GUIDES, [], {"iaf+1+seed-0": "no space", "planar+1+seed-0": "status 3"}).html())
    assert "2 runs failed" in page.text
    assert "planar+1+seed-0: status 3" in page.text
    assert len(page.tables) == 0


def test_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch):
    both = made(tmp_path, ("a", "mass", [1.0, 2.0]), ("b", "mass", [0.0, 0.0]))
    both.write()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert before.keys() == {"compare.md", "compare.json", "compare.csv", "report.html"}
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        replace(both, failed={"c": "why"}).write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("cores", "threads", "jobs"), [(1, 1, 1), (None, 1, 1), (8, 1, 8), (8, 3, 2), (4, 0, 4), (2, 8, 1)]
)
def test_as_many_runs_at_a_time_as_there_are_cores(cores, threads, jobs, monkeypatch):
    monkeypatch.setattr(comparison.os, "cpu_count", lambda: cores)
    assert comparison.at_a_time(Grid({"betas": ["1"]}, Recipe(threads=threads))) == jobs
    assert comparison.at_a_time(Grid({"betas": ["1"]}, Recipe()), 5) == 5


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('a'); print('pyrovae: all wrong'); print(); exit(3)", "all wrong"),
        ("exit(3)", "status 3, without output"),
        ("import os; print('far', flush=True); os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("raise RuntimeError('odd')", "RuntimeError: odd"),
        ("print('done')", ""),
    ],
)
def test_the_reason_is_the_last_line(tmp_path, monkeypatch, code, why):
    (cell,) = Grid({"betas": ["1"]}, Recipe()).cells()

    def run(command, **options):
        return subprocess.run([sys.executable, "-c", code], **options)

    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
    failed = grid.carry_out(tmp_path, [cell], "test", 1)
    assert failed == ({cell.name: why} if why else {})
    assert len(list(tmp_path.glob("*.log"))) == 1


def test_a_comparison_is_named_by_its_data_and_axes(monkeypatch):
    seen = []
    monkeypatch.setattr(grid, "asked", lambda root, options: seen.append(str(root)) or Grid({}, Recipe()))
    for options in (["--guides", "iaf"], ["here"], ["--root", "there"], ["--data", "a/b.npy", "--latent-dims", "1"]):
        assert asked(*options) == 2
    assert seen == ["runs/compare/digits-guides", "here", "there", "runs/compare/b-latent-dims"]
    assert asked("here", "--root", "there") == 2
    assert len(seen) == 4


@pytest.mark.parametrize("path", sorted(ROOTS.glob("*/compare.toml")), ids=lambda path: path.parent.name)
def test_the_grids_that_are_kept_can_be_carried_out(path):
    cells = grid.read(path).cells()
    assert grid.check(cells) == "test"
    assert len({cell.recipe.seed for cell in cells}) == 3
