"""Grids of runs: which cells there are, that finished ones are kept, and what the tables and the page say."""

import json
import math
from pathlib import Path

import pytest
import torch

from pyrovae import files, names, runs
from pyrovae.__main__ import main
from pyrovae.comparison import Comparison, collect, tables
from pyrovae.grid import Grid
from pyrovae.recipe import Recipe

QUICK = ["--epochs", "1", "--particles", "2", "--latent-dim", "2"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def asked(*arguments):
    return main(["compare", *map(str, arguments)])


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


def test_finished_cells_are_kept_and_interrupted_ones_go_on(capsys):
    assert asked("--betas", "1,2", "--root", "grid", *QUICK) == 0
    first = capsys.readouterr().out
    assert "nats per datum: mass over binary values" in first
    written = Path("grid/1+seed-0/evaluation.json")
    before = written.stat().st_mtime_ns
    Path("grid/2+seed-0/evaluation.json").unlink()
    assert asked("--betas", "1,2", "--root", "grid", *QUICK) == 0
    assert written.stat().st_mtime_ns == before
    assert Path("grid/2+seed-0/evaluation.json").exists()
    assert first.splitlines()[-4:] == capsys.readouterr().out.splitlines()[-4:]
    rows = json.loads(Path("grid/compare.json").read_text())
    assert [row["beta"] for row in rows] == ["1", "2"]
    value = json.loads(written.read_text())["log_likelihood"]["value"]
    assert rows[0]["log_likelihood"]["value"] == pytest.approx(value, abs=1e-9)
    assert asked("--betas", "1,2", "--root", "grid", *QUICK, "--epochs", "2") == 2
    assert "--epochs: grid was made with 1, found 2; compare.toml in it can be added to" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_with_uncertain_weights_is_ranked_among_the_others(capsys):
    assert asked("--models", "vae,bayesian-vae", "--network", "mlp(hidden=[8])", "--root", "weights", *QUICK) == 0
    printed = capsys.readouterr().out
    assert printed.count("nats per datum") == 1
    for name in ("vae", "bayesian-vae"):
        (row,) = (row for row in json.loads(Path("weights/compare.json").read_text()) if row["model"] == name)
        assert f"| `{name}` | {row['elbo']['value']:.2f} | {row['log_likelihood']['value']:.2f} |" in printed


def results(root, name, log_p, measure, scores=None, **other):
    """A run that is evaluated: its log p(x), or that of each datum."""
    of_each = torch.tensor([log_p] if scores is None else scores, dtype=torch.float64)
    number = {"value": of_each.mean().item(), "standard_error": 0.1}
    about = {"measure": measure, "split": "test", "particles": 100, "seed": 0, "data": "digits", "binarize": "dynamic"}
    about |= {"rows": len(of_each), "weights_sha256": name} | other
    (root / name).mkdir(parents=True, exist_ok=True)
    scored = {field: about[field] for field in runs.SCORED}
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
        (["--guides", "planar", "--objective", "iwae(dreg=True)"], "planar: expected the sample that this planar flow"),
        (["--betas", "1,"], "expected values separated by commas"),
        (["--guides", ""], "expected values separated by commas, found ''"),
        ([], "expected something to compare, a bad/compare.toml or any of --models, --priors, --likelihoods,"),
        (["--guides", "iaf,planar", "--guide", "iaf"], "guide: expected one of guide and guides, found both"),
        (["--guides", "iaf,planar", "--gaps", "3"], "gaps: expected an integer >= 50, found 3"),
        (["--guides", "iaf,planar", "--jobs", "-1"], "jobs: expected an integer >= 0, found -1"),
        (["--guide-s", "iaf,planar"], "unknown option '--guide-s'; did you mean '--guides'"),
        (["--guides", "diagonal-normal,diagonal"], "unknown guide 'diagonal'"),
        (["--objectives", "elbo,iwae(k=0)"], "iwae(k=0): k: expected an integer >= 1"),
        (["--seeds", "0"], "seeds: expected an integer >= 1"),
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
        f"test data, {field} {each}, nats per datum: mass" for each in (usual, value)
    ]
    assert [row["behind"]["value"] for row in both.rows] == [0, 0]  # each is the best of its own
    with pytest.raises(
        ValueError, match=f"a and b: expected the same {field}, found .*: there is no better of the two"
    ):
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
    assert old.rows[1]["behind"] is None
    with pytest.raises(ValueError, match=r"a and b: expected runs of one seed with scores.safetensors, found none"):
        old.difference("a", "b")


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
