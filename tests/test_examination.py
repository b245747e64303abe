"""One call for all that can be asked of guide and model: numbers, verdict, figures, refusals."""

import json
import math
import re

import pytest
import torch
from conftest import one_mode, pulled
from matplotlib.figure import Figure

from pyrovae import VAE, data, examine, files, fit
from pyrovae.__main__ import main
from pyrovae.data import Split
from pyrovae.evaluation.parts import PARTS, Diagnosis, Interval
from pyrovae.runs import figures, report
from pyrovae.runs.ties import weights_digest


@pytest.fixture(scope="module")
def trained():
    digits = data.load("digits", binarize="threshold")
    torch.manual_seed(0)
    vae = VAE(digits.event_shape, 2)
    fit(vae, digits, epochs=3, compile=False)
    return vae, digits


def test_every_part_answers_and_json_can_hold_it(trained, monkeypatch):
    monkeypatch.setitem(PARTS, "diagnosis", Diagnosis(particles=50, steps=3))
    monkeypatch.setitem(PARTS, "interval", Interval(chains=2, temperatures=10))
    vae, digits = trained
    found = examine(vae, digits.test, digits.train, rows=50)
    assert list(found.numbers) == list(PARTS)
    assert json.loads(json.dumps(found.numbers, allow_nan=False))["diagnosis"]["rows"] == 50
    assert set(found.figures) == {name for part in PARTS.values() for name in part.figures}
    information = found.numbers["information"]
    parts = information["mutual_information"]["value"] + information["aggregate_kl"]["value"]
    assert parts == pytest.approx(information["kl"]["value"])
    simulated = found.numbers["interval"]["simulated"]
    few = found.numbers["interval"]["few_chains"]
    assert 0 < few <= 5  # of two chains and ten temperatures
    assert found.numbers["interval"]["verdict"].startswith(f"too few chains for {few} of 5 rows")
    assert found.numbers["law"]["passed"]
    assert simulated["gap"]["value"] == pytest.approx(simulated["upper"]["value"] - simulated["lower"]["value"])


def test_the_verdict_is_right_of_an_exact_guide_and_of_a_narrow_one(linear):
    exact, narrow = (
        examine(programs, Split(linear.x), parts=["diagnosis"]).numbers["diagnosis"]
        for programs in (linear.exact, pulled(linear, 0.4))
    )
    assert exact["k"]["unusable"] == 0
    assert "guide close" in exact["verdict"]
    assert "guide at fault" in narrow["verdict"]


def test_ranks_contradict_weights_where_a_mode_is_missed():
    x = one_mode()[0](n=60).detach()
    found = examine(one_mode(), Split(x), parts=["diagnosis", "calibration"], rows=50).numbers
    assert found["diagnosis"]["kl"]["value"] < 0.01 < math.log(2)  # the truth
    assert found["calibration"]["simulation_based"]["p_value"] < 1e-3
    assert re.match(
        r"guide close to the posterior where it draws: .*; but ranks of simulated latents are not uniform \(p = ",
        found["diagnosis"]["verdict"],
    )
    alone = examine(one_mode(), Split(x), parts=["diagnosis"], rows=50).numbers
    assert "ranks" not in alone["diagnosis"]["verdict"]


def test_a_part_that_cannot_be_says_why(trained):
    vae, digits = trained
    found = examine(vae, digits.test, parts=["quality", "information"], rows=50)
    assert found.numbers["quality"] == {"refused": "quality: expected the training data, found none"}
    assert found.numbers["information"]["ceiling"] == pytest.approx(math.log(50))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"parts": ["diagnosys"]}, "did you mean 'diagnosis'"), ({"rows": 5}, "rows: expected an integer >= 50")],
)
def test_bad_input(trained, options, message):
    vae, digits = trained
    with pytest.raises(ValueError, match=message):
        examine(vae, digits.test, **options)


@pytest.fixture(scope="module")
def sorted_by_class():
    """Black images, then white ones, as a folder has them: 200 to look at, and a model of them."""
    x, y = torch.zeros(600, 1, 4, 4), torch.arange(2).repeat_interleave(300)
    x[300:] = 1
    torch.manual_seed(0)
    return VAE((1, 4, 4), 2), data.from_arrays(x, y, test=200)


def test_rows_are_a_sample_where_the_data_are_sorted(sorted_by_class):
    vae, splits = sorted_by_class
    assert splits.test.y[:100].bincount(minlength=2).tolist() == [100, 0]
    few = data.subset(splits.test, 100)
    assert few.y.bincount(minlength=2).min() > 35
    assert torch.equal(few.y.float(), few.x.mean((1, 2, 3)))
    found = examine(vae, splits.test, parts=["calibration"], rows=100).numbers["calibration"]
    assert found["of_rows"] == 200
    assert found["predictive"]["statistics"]["mean"]["observed"] == few.x.mean().item()
    assert "calibration, 100 of 200 rows, at random:" in report.examination({"calibration": found})


def test_all_seeds_and_models_meet_the_same_rows(sorted_by_class, monkeypatch):
    _, splits = sorted_by_class
    seen = []
    monkeypatch.setattr(
        "pyrovae.evaluation.information.kl_decomposition",
        lambda programs, few, seed: seen.append(few.x) or {"rows": 100},
    )
    for seed in (0, 5):
        torch.manual_seed(seed)
        examine(VAE((1, 4, 4), seed + 2), splits.test, parts=["information"], rows=100, seed=seed)
    assert torch.equal(*seen)
    assert 0.35 < seen[0].mean() < 0.65


def test_figures_show_all_classes(sorted_by_class, monkeypatch):
    vae, splits = sorted_by_class
    shown = {}
    monkeypatch.setattr("pyrovae.plots.image_rows", lambda rows: shown.update(rows) or Figure())
    figures.draw(vae, splits.test)
    assert sorted(shown["$x$"].mean((1, 2, 3)).unique().tolist()) == [0, 1]


@pytest.fixture
def run(tmp_path):
    recipe = ["--epochs", "1", "--network", "mlp(hidden=[8])", "--compile", "no", "--threads", "1", "--particles", "3"]
    assert main(["train", "--root", str(tmp_path), "--name", "r", *recipe]) == 0
    return tmp_path / "r"


def evaluation(run, *options):
    assert main(["evaluate", str(run), *options]) == 0
    return json.loads((run / "evaluation.json").read_text())


def test_of_a_run_it_joins_the_evaluation(run, capsys):
    found = evaluation(run, "--examine", "information,calibration", "--rows", "50")
    assert set(found["examination"]) == {"information", "calibration"}
    shown = capsys.readouterr().out
    assert f"{found['examination']['information']['mutual_information']['value']:.3f}" in shown
    assert (run / "figures" / "ranks.png").exists()
    assert main(["evaluate", str(run), "--examine", "informatoin"]) == 2


def test_of_a_run_it_stays_while_it_is_of_the_same(run, capsys):
    first = evaluation(run, "--examine", "information,calibration", "--rows", "50")
    assert first["weights_sha256"] == weights_digest(run / "best.safetensors")
    capsys.readouterr()
    assert evaluation(run)["examination"] == first["examination"]
    assert "information" not in capsys.readouterr().out
    anew = evaluation(run, "--examine", "information", "--rows", "60")["examination"]
    assert anew["calibration"] == first["examination"]["calibration"]
    assert anew["information"]["rows"] == 60
    assert (run / "figures" / "ranks.png").exists()
    assert "examination" not in evaluation(run, "--seed", "1")
    assert not (run / "figures" / "ranks.png").exists()
    assert (run / "figures" / "samples.png").exists()


def test_a_part_that_fails_takes_no_other_with_it(run, monkeypatch):
    def fails(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(PARTS["interval"], "compute", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["evaluate", str(run), "--examine", "information,calibration,interval", "--rows", "50"])
    kept = json.loads((run / "evaluation.json").read_text())["examination"]
    assert list(kept) == ["information", "calibration"]
    assert kept["information"]["ceiling"] == pytest.approx(math.log(50))
    assert (run / "figures" / "ranks.png").exists()


def test_a_number_that_is_infinite_costs_nothing(tmp_path):
    numbers = {"a": [math.inf, 1.5], "b": {"c": -math.inf}, "d": math.nan}
    files.write_json(tmp_path / "whole.json", numbers)
    files.append_line(tmp_path / "lines.jsonl", numbers)
    expected = {"a": [None, 1.5], "b": {"c": None}, "d": None}
    assert json.loads((tmp_path / "whole.json").read_text()) == expected
    assert files.read_lines(tmp_path / "lines.jsonl") == [expected]


def test_rows_of_no_examination_are_refused(run, capsys):
    assert main(["evaluate", str(run), "--rows", "60"]) == 2
    assert capsys.readouterr().err == (
        "pyrovae: --rows: expected it together with --examine, which uses it, found --rows 60 alone\n"
    )
