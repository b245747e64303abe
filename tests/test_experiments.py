"""Experiments: found in a folder, checked before any work, written down whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyrovae import experiments, files
from pyrovae.__main__ import main
from pyrovae.experiments import stored

RUNS = Path(__file__).parents[1] / "runs" / "experiments"
TOY = '''"""Whether two and two are four."""
from matplotlib.figure import Figure
from pyrovae.experiments import Findings, Line, Table, spread
BUDGETS = {"digits": 2, "mnist": 3}
CAPTION = "It is {less} < 3."
NOTES = ("A sum of {less} numbers.",)
def experiment(name, seeds):
    if seeds == 3:
        raise RuntimeError("three")
    total = spread([2.0 + BUDGETS[name]] * seeds)
    table = Table(["", "sum"], [["two and two", total]])
    return Findings([Line("sum", {"of two": total})], [table], {"empty": Figure()}, {"less": 2})
'''


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "experiment.py").write_text(TOY)
    return tmp_path


def test_what_was_found_is_written_down(toy):
    target = experiments.run(toy, "toy", "digits", 2)
    text = (target / "findings.md").read_text()
    assert text.startswith("# Whether two and two are four.")
    assert "| two and two | 4.00 ± 0.00 |\n\nA sum of 2 numbers.\n\n" in text
    assert "\n\nIt is 2 < 3.\n\nsum: 4.00 ± 0.00 (of two)\n\n" in text
    assert experiments.numbers(toy, "toy", "digits")["tables"][0].rows == [["two and two", (4.0, 0.0, 2)]]
    assert "\n\n±: the standard deviation over seeds. A picture of one training is of the first seed's.\n\n" in text
    assert "nox -s experiment -- toy --data digits --seeds 2" in text
    assert (target / "figures" / "empty.png").stat().st_size > 100
    once = (experiments.run(toy, "toy", "mnist") / "findings.md").read_text()
    assert ("5.00" in once, "±" in once) == (True, False)


def test_a_gallery_has_the_caption_and_the_first_line_of_each(toy):
    (toy / "other").mkdir()
    (toy / "other" / "experiment.py").write_text(TOY.replace("four", "five"))
    for name in ("toy", "other"):
        experiments.run(toy, name, "mnist", 2)
    html = experiments.gallery(toy)
    assert html.count("<td") == html.count("<img") == html.count("</td>") == 2
    assert 'src="other/mnist/figures/empty.png"' in html
    assert (
        "It is 2 &lt; 3. sum: 5.00 ± 0.00 (of two).<br>"
        "<code>nox -s experiment -- other --data mnist --seeds 2</code>, 0 minutes"
    ) in html


def test_a_page_is_written_again_from_its_numbers(toy):
    """Sentences are those of experiment.py today, numbers and settings those of the run."""
    target = experiments.run(toy, "toy", "digits", 2)
    before = (target / "findings.md").read_text()
    source = (toy / "toy" / "experiment.py").read_text()
    (toy / "toy" / "experiment.py").write_text(
        source.replace("A sum of", "The sum of").replace('"less": 2', '"less": 7')
    )
    experiments.write_page(toy, "toy", "digits")
    assert (target / "findings.md").read_text() == before.replace("A sum of", "The sum of")
    assert before.count("A sum of 2 numbers") == 1


@pytest.mark.parametrize("name", experiments.answered(RUNS, "mnist"))
def test_committed_pages_are_those_of_their_numbers(name, tmp_path):
    there = RUNS / name
    (tmp_path / name / "mnist").mkdir(parents=True)
    for path in ("experiment.py", "mnist/findings.json"):
        (tmp_path / name / path).write_text((there / path).read_text())
    experiments.write_page(tmp_path, name, "mnist")
    assert (tmp_path / name / "mnist" / "findings.md").read_text() == (there / "mnist" / "findings.md").read_text()
    stored = experiments.numbers(RUNS, name, "mnist")
    drawn = {path.name for path in (there / "mnist" / "figures").iterdir()}
    assert drawn == {f"{figure}.png" for figure in stored["figures"]} | {f"{name}.gif" for name in stored["moving"]}


def test_numbers_survive_their_file():
    values = [
        experiments.Number(1234.5, 0.25, 1),
        experiments.Number(float("nan")),
        experiments.Number(2.0, float("inf"), 0),
    ]
    table = experiments.Table(["a|b", "n"], [["x|y", value] for value in values] + [[[1, 2], 70000]])
    back = stored._cells(json.loads(json.dumps(stored._data(table.rows))))
    assert [str(row[1]) for row in back] == ["1,234.5 ± 0.2", "nan", "2 ± inf", "70000"]
    shown = str(experiments.Table(table.heads, back))
    assert ("a\\|b" in shown, "x\\|y" in shown, "1, 2" in shown, "70,000" in shown) == (True,) * 4


def galleried(root, *words):
    """`python runs/experiments/gallery.py WORDS`, in a copy of that script beside these experiments."""
    (root / "README.md").write_text("Ours.\n<!-- gallery -->\nold\n<!-- end of gallery -->\n")
    (root / "gallery.py").write_text((RUNS / "gallery.py").read_text())
    asked = subprocess.run([sys.executable, root / "gallery.py", *words], check=False, capture_output=True, text=True)
    return asked, (root / "README.md").read_text()


@pytest.mark.slow
def test_one_of_the_gallery_that_fails_stops_no_other(tmp_path):
    for name, sums in {"bad": "1 / 0", "good": "2.0"}.items():
        (tmp_path / name).mkdir(parents=True)
        text = TOY.replace("2.0 + BUDGETS[name]", sums)
        (tmp_path / name / "experiment.py").write_text(text)
    asked, readme = galleried(tmp_path, "--seeds", "2")
    assert asked.returncode == 1
    assert "bad failed: ZeroDivisionError: division by zero" in asked.stderr
    assert (readme.count("<td"), "--seeds 2" in readme, readme[:5]) == (1, True, "Ours.")
    assert "2.00 ± 0.00" in (tmp_path / "good" / "mnist" / "findings.md").read_text()


def test_a_gallery_of_what_is_unknown_begins_nothing(toy):
    asked, readme = galleried(toy, "toy", "tyo")
    assert asked.returncode == 2
    assert "did you mean 'toy'" in asked.stderr
    assert "old" in readme
    assert not (toy / "toy" / "mnist").exists()


@pytest.mark.parametrize("damage", [lambda text: text[:-3], lambda text: text.replace('"rows"', '"lines"')])
def test_findings_that_are_something_else_are_refused(toy, damage):
    path = experiments.run(toy, "toy") / "findings.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"findings\.json: expected the numbers of an experiment, found others"):
        experiments.write_page(toy, "toy", "digits")


def test_numbers_of_another_version_of_an_experiment_are_refused(toy):
    experiments.run(toy, "toy")
    source = (toy / "toy" / "experiment.py").read_text()
    (toy / "toy" / "experiment.py").write_text(source.replace("NOTES = (", "NOTES = ('',"))
    with pytest.raises(ValueError, match="toy: expected 2 tables, found 1: run it again"):
        experiments.write_page(toy, "toy", "digits")


def test_one_that_fails_leaves_the_last_findings(toy):
    before = (experiments.run(toy, "toy") / "findings.md").read_bytes()
    with pytest.raises(RuntimeError, match="three"):
        experiments.run(toy, "toy", seeds=3)
    assert (toy / "toy" / "digits" / "findings.md").read_bytes() == before
    assert len(list((toy / "toy" / "digits").iterdir())) == 3


def test_a_full_disk_leaves_the_last_findings_whole(toy, monkeypatch):
    target = experiments.run(toy, "toy")
    (target / "figures" / "empty.png").write_bytes(b"old")
    before = (target / "findings.md").read_bytes()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        experiments.run(toy, "toy", seeds=2)
    assert (target / "findings.md").read_bytes() == before
    assert (target / "figures" / "empty.png").read_bytes() == b"old"
    assert sorted(path.name for path in (toy / "toy").iterdir() if path.name != "__pycache__") == [
        "digits",
        "experiment.py",
    ]


def test_pictures_that_are_no_more_go(toy):
    target = experiments.run(toy, "toy")
    (target / "figures" / "gone.png").write_bytes(b"old")
    assert [path.name for path in (experiments.run(toy, "toy") / "figures").iterdir()] == ["empty.png"]


def test_the_error_of_an_accuracy_is_at_least_that_of_its_test_set():
    """p = .9 of 100 images: sqrt(.09 / 100) = .03 of one seed; seeds that differ by .04 add to it in squares."""
    assert str(experiments.rate([0.9], 100)) == "0.900 ± 0.030"
    assert str(experiments.rate([0.9, 0.9], 100)) == "0.900 ± 0.030"
    both = [0.86, 0.94]
    within = (0.86 * 0.14 + 0.94 * 0.06) / 200
    assert experiments.rate_error(both, 100) == pytest.approx((2 * 0.04**2 + within) ** 0.5)
    assert str(experiments.with_test_error([0.5, 0.5], [0.03, 0.04], 4)) == "0.5000 ± 0.0354"


def test_the_error_of_an_accuracy_covers_the_truth():
    """Of test sets of 200 rows, a classifier's true rate is within two such errors in 95 % (binomial: 1000 sets)."""
    rows, truth = 200, 0.8
    found = torch.distributions.Binomial(rows, torch.tensor(truth)).sample((1000,)) / rows
    covered = [abs(each - truth) < 1.96 * experiments.rate_error([each], rows) for each in found.tolist()]
    assert 0.92 < sum(covered) / 1000 < 0.97


@pytest.mark.parametrize(
    ("name", "data", "seeds", "message"),
    [
        ("tyo", "digits", 1, "did you mean 'toy'"),
        ("toy", "minst", 1, "did you mean 'mnist'"),
        ("toy", "digits", 0, "seeds: expected an integer >= 1"),
    ],
)
def test_bad_input(toy, name, data, seeds, message):
    with pytest.raises(ValueError, match=message):
        experiments.run(toy, name, data, seeds)


@pytest.mark.parametrize("asked", [[], ["--list"], ["toy"]])
def test_a_root_without_experiments_says_so_in_a_line(tmp_path, monkeypatch, capsys, asked):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", *asked]) == 2
    assert capsys.readouterr().err == (
        "pyrovae: expected NAME/experiment.py in runs/experiments, found none: experiments live in a checkout of the "
        "project; --root names their folder\n"
    )


def test_those_of_the_project_say_in_a_line_what_they_ask():
    listed = experiments.found(RUNS)
    assert len(listed) == len(list(RUNS.glob("*/experiment.py"))) > 0
    assert all(question and "\n" not in question and len(question) < 120 for question in listed.values())


def test_of_repetitions_the_mean_is_told_with_the_error_over_data_and_repetitions():
    first = torch.tensor([1.0, 3.0, 5.0, 7.0])  # variance 20 / 3; of the means 4 and 6 it is 2
    assert str(experiments.with_error([first], 3)) == f"4.000 ± {(20 / 3 / 4) ** 0.5:.3f}"
    assert str(experiments.with_error([first, first + 2], 3)) == f"5.000 ± {(20 / 3 / 4 + 2 / 2) ** 0.5:.3f}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", experiments.found(RUNS))
def test_each_answers_on_digits(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "experiment.py").write_text((RUNS / name / "experiment.py").read_text())
    command = [sys.executable, "-m", "pyrovae", "experiment", name, "--root", str(tmp_path), "--threads", "1"]
    assert subprocess.run(command, check=False).returncode == 0
    findings = tmp_path / name / "digits" / "findings.md"
    assert "nan" not in findings.read_text()
    pictures = list((findings.parent / "figures").iterdir())
    assert len(pictures) > 0
    assert max(picture.stat().st_size for picture in pictures) < 2e6
