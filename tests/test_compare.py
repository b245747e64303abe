"""Grids of runs: which cells there are, that finished ones are kept, and what the table ranks."""

import json
import math
from pathlib import Path

import pytest

from pyrovae import compare, files
from pyrovae.__main__ import main
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
    assert compare.split(text) == values


def test_a_grid_is_the_product_of_its_axes_and_seeds():
    cells = compare.grid(Recipe(seed=3), {"betas": ["1", "4"], "networks": ["mlp", "mlp(hidden=[5])"]}, 2)
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
    assert "made with other options" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_with_uncertain_weights_is_ranked_among_the_others(capsys):
    assert asked("--models", "vae,bayesian-vae", "--network", "mlp(hidden=[8])", "--root", "weights", *QUICK) == 0
    printed = capsys.readouterr().out
    assert printed.count("nats per datum") == 1
    for name in ("vae", "bayesian-vae"):
        (row,) = (row for row in json.loads(Path("weights/compare.json").read_text()) if row["model"] == name)
        assert f"| `{name}` | {row['elbo']['value']:.2f} | {row['log_likelihood']['value']:.2f} |" in printed


def results(root, name, log_p, measure):
    (root / name).mkdir(parents=True)
    numbers = {key: {"value": log_p, "standard_error": 0.1} for key in ("elbo", "log_likelihood", "kl")}
    files.write_json(
        root / name / "evaluation.json", {"measure": measure, "split": "test", "particles": 100, "seed": 0} | numbers
    )


def test_the_table_has_mean_and_error_over_seeds_and_one_measure_a_ranking(tmp_path):
    axes = {"likelihoods": ["bernoulli", "normal", "normal(scale=0.1)"]}
    cells = compare.grid(Recipe(), axes, 2)
    scores = iter([(-100.0, "mass"), (-104.0, "mass"), (1.0, "density"), (3.0, "density"), (5.0, "density")])
    for cell in cells[:-1]:
        results(tmp_path, cell.name, *next(scores))
    rows = compare.collect(tmp_path, cells, axes, "test")
    assert [row["seeds"] for row in rows] == [2, 2, 1]
    assert rows[0]["elbo"]["value"] == pytest.approx(-102)
    assert rows[0]["elbo"]["standard_error"] == pytest.approx(2.0)
    assert math.isnan(rows[2]["elbo"]["standard_error"])
    mass, density = compare.tables(rows)
    assert "-102.00 ± 2.00" in mass
    assert "normal" not in mass
    assert density.index("normal(scale=0.1)") < density.index("`normal`")
    assert "| 5.00 |" in density


@pytest.mark.parametrize("changed", [{"split": "train"}, {"particles": 3}, {"seed": 5}])
def test_an_evaluation_that_asked_something_else_is_no_number_of_the_table(tmp_path, changed):
    axes = {"betas": ["1", "2"]}
    cells = compare.grid(Recipe(), axes, 1)
    for cell in cells:
        results(tmp_path, cell.name, -9.0, "mass")
    path = tmp_path / cells[0].name / "evaluation.json"
    files.write_json(path, json.loads(path.read_text()) | changed)
    (row,) = compare.collect(tmp_path, cells, axes, "test")
    assert row["beta"] == "2"
    assert row["elbo"]["value"] == -9.0


def test_what_is_no_likelihood_is_not_ranked(tmp_path):
    axes = {"guides": ["a", "b"]}
    cells = [compare.Cell(name, (name,), Recipe()) for name in ("a", "b")]
    for name, value in (("a", -9.0), ("b", -3.0)):
        results(tmp_path, name, value, "cross-entropy of soft targets, no likelihood")
    (table,) = compare.tables(compare.collect(tmp_path, cells, axes, "test"))
    assert table.index("`a`") < table.index("`b`")


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


@pytest.mark.parametrize(("field", "value"), [("data", "digits"), ("binarize", "fixed"), ("rows", 5)])
def test_what_is_not_alike_is_in_two_tables(tmp_path, field, value):
    axes = {"guides": ["a", "b"]}
    cells = [compare.Cell(name, (name,), Recipe()) for name in ("a", "b")]
    for cell, other in zip(cells, ("mnist", value), strict=True):
        results(tmp_path, cell.name, -9.0, "mass")
        path = tmp_path / cell.name / "evaluation.json"
        files.write_json(path, json.loads(path.read_text()) | {field: other})
    tables = list(compare.tables(compare.collect(tmp_path, cells, axes, "test")))
    assert [table.splitlines()[0] for table in tables] == [
        f"test data, {field} {each}, nats per datum: mass" for each in ("mnist", value)
    ]
