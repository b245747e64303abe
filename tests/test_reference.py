"""The published rows: every recipe can be run, and the table says what was reached."""

import importlib.util
import sys
from pathlib import Path

import pytest

from pyrovae.runs import build

FILE = Path(__file__).parents[1] / "runs" / "reference" / "reference.py"


@pytest.fixture
def reference():
    spec = importlib.util.spec_from_file_location("reference", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_is_a_recipe_of_both_budgets(reference):
    for name in reference.ROWS:
        for budget in ("cpu", "full"):
            (cell,) = reference.cells(name, budget, 1)
            model = build.model(cell.recipe, (1, 28, 28), 10)
            assert build.objective(cell.recipe, 300, model).final_loss is not None
            assert (cell.recipe.data, cell.recipe.binarize) == ("mnist", "dynamic")
            assert cell.recipe.particles == {"cpu": 500, "full": 5000}[budget]


@pytest.mark.slow
def test_a_row_ends_in_the_table(reference, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "HERE", tmp_path)
    monkeypatch.setattr(reference, "ALL", {"both": {}, "cpu": {"particles": 3, "compile": "no"}, "full": {}})
    row = {"paper": 12.5, "source": "nobody", "both": {"network": "mlp(hidden=[8])"}, "cpu": {"epochs": 2}, "full": {}}
    monkeypatch.setattr(reference, "ROWS", {"small": row})
    monkeypatch.setattr(sys, "argv", ["reference.py", "small", "--seeds", "2", "--threads", "1"])
    reference.main()
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("| `small`")]
    cells = [each.strip() for each in line.strip("|").split("|")]
    assert cells[1] == "cpu"
    assert 20 < float(cells[2].split(" ± ")[0]) < 60
    assert cells[3] == "12.50"
    assert cells[5].endswith(" of 2")
    assert cells[6:9] == ["3", "2", "2"]  # K, epochs, seeds
    assert cells[10] == "1"


def test_rows_of_other_machines_stay(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "HERE", tmp_path)
    rows = {name: [f"`{name}`", "cpu", number] for name, number in (("iaf", 1.5), ("planar", 2.5))}
    reference.note({"iaf cpu": rows["iaf"]})
    reference.note({"planar cpu": rows["planar"], "iaf cpu": []})
    assert reference.rows() == [rows["planar"], rows["iaf"]]


def test_the_table_is_that_of_the_results(reference):
    assert (FILE.parent / "README.md").read_text() == reference.told()
    assert reference.told().count("\n| `") == len(reference.known()) == 9


def test_unknown_rows_are_refused(reference, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reference.py", "burda"])
    with pytest.raises(SystemExit):
        reference.main()
    assert "expected names of burda-vae" in capsys.readouterr().err
