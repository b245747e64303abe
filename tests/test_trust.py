"""A run that a stranger made is data: nothing in it runs code, or writes outside of it, unless the caller trusts it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

import pyrovae
from pyrovae import experiments, files, plots, runs
from pyrovae.__main__ import main
from pyrovae.comparison import grid, pages
from pyrovae.data import folders
from pyrovae.runs import build, recipe, ties, values
from pyrovae.runs.recipe import Recipe
from pyrovae.runs.trust import imported, trusted, trusting

SMALL = ["--network", "mlp(hidden=[4])", "--epochs", "2", "--particles", "2", "--compile", "no", "--threads", "1"]
# Whoever imports or runs this leaves a file behind.
PLANTED = "import pathlib\npathlib.Path({marker!r}).write_text('ran')\n"
PART = """
from torch import nn
from pyrovae.likelihoods import Bernoulli

class Part(Bernoulli):
    pass
"""
COUNT = """
def count(shape=3) -> int:
    raise AssertionError
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    assert main(["train", "--root", str(root), "--name", "done", "--tracker", "tensorboard", *SMALL]) == 0
    return root / "done"


@pytest.fixture(autouse=True)
def _no_module_stays():
    yield
    for name in ("mine", "mine.parts", "helper", "stranger"):
        sys.modules.pop(name, None)


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of a finished run in the working directory, as if a stranger had sent it."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def marker(tmp_path_factory):
    """A file that planted code writes; the test fails where it is there at the end."""
    path = tmp_path_factory.mktemp("marker") / "ran"
    yield path
    assert not path.exists(), "the planted code was run"


@pytest.fixture
def victim(tmp_path_factory):
    """A folder elsewhere, with a file that must stay as it is, and nothing beside it."""
    folder = tmp_path_factory.mktemp("victim")
    (folder / "precious").write_text("precious")
    yield folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"precious": "precious"}


def edit(run, **options):
    """Write other options into a run.toml by hand."""
    made = Recipe(**{**vars(recipe.read(run / "run.toml")), **options})
    recipe.write(made, run / "run.toml")
    retie(run, recipe=ties.tie(made))


def retie(run, **said):
    """Make the files of a run agree with each other, as a stranger would."""
    for name in ("last", "previous", "best", "scores"):
        if (run / f"{name}.safetensors").exists():
            tensors, about = files.read_tensors(run / f"{name}.safetensors")
            files.write_tensors(run / f"{name}.safetensors", tensors, about | said)


def refused(capsys, *arguments):
    """The one line that refuses a command."""
    assert main([str(word) for word in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# Code


def test_no_program_is_started_by_a_name_in_a_recipe(run, marker):
    weights, about = files.read_tensors(run / "best.safetensors")
    files.write_tensors(run / "best.safetensors", weights, about | {"event_shape": ["touch", str(marker)]})
    edit(run, model="subprocess:Popen")
    with pytest.raises(ValueError, match=r"best.safetensors: event_shape: expected an integer >= 1, found 'touch'"):
        pyrovae.load(run)
    with pytest.raises(ValueError, match=r"model: expected a part of pyrovae, found 'subprocess:Popen', which would"):
        build.model(recipe.read(run / "run.toml"), ("touch", str(marker)))


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        (
            "model",
            "mine:Popen",
            "model: expected a class that is a Module, or a function that returns one",
        ),
        ("likelihood", "mine:Part.mro", "has no attribute 'Part.mro'"),
        ("guide", "mine:check_output(timeout=1)", "expected a function of its own module, found 'mine:check_output"),
        ("optimizer", "mine:Part", "optimizer: expected a class that is a Optimizer"),
        ("objective", "mine:Part", "objective: expected a class that is a Objective"),
        ("encoder", "mine:count", "network: expected a class that is a Module, or a function that returns one"),
        ("prior", "mine:os", "prior: expected a class or a function, found 'mine:os', a module"),
    ],
)
def test_what_is_of_another_kind_is_not_called_even_where_its_module_is_trusted(option, text, message, run, capsys):
    Path("mine.py").write_text("import os\nfrom subprocess import Popen, check_output\n" + PART + COUNT)
    edit(run, **{option: text})
    assert message in refused(capsys, "train", "run", "--name", "again", "--trust", "mine")
    assert not Path("runs").exists()


@pytest.mark.parametrize("path", ["", "{here}", "{here}" + os.pathsep])
def test_the_working_directory_is_no_library(path, run, marker, monkeypatch):
    """At a prompt, in a notebook and under `python -c` it stands on sys.path, as an empty entry."""
    Path("stranger.py").write_text(PLANTED.format(marker=str(marker)) + PART)
    edit(run, likelihood="stranger:Part")
    monkeypatch.syspath_prepend("")
    monkeypatch.setenv("PYTHONPATH", path.format(here=Path.cwd()))
    with pytest.raises(ValueError, match=r"stranger:Part.*--trust stranger, in Python trust=\('stranger',\)") as told:
        pyrovae.load("run")
    assert str(told.value).count("\n") == 0


@pytest.fixture
def without_empty_entries(monkeypatch):
    """What `grid.command` starts is a process that prints its path."""

    def path(command, **options):
        code = "import sys; print(sys.path); sys.exit(3)"
        return subprocess.run([sys.executable, "-c", code], **options)

    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(run=path, STDOUT=subprocess.STDOUT))


@pytest.mark.usefixtures("without_empty_entries")
@pytest.mark.parametrize("path", [None, "", os.pathsep, "library" + os.pathsep, os.pathsep + "library"])
def test_the_processes_of_a_comparison_have_no_empty_entry_on_their_path(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    entries = ast.literal_eval(grid.command([], Path("a.log")))
    assert not {"", ".", str(tmp_path)} & set(entries)
    assert len([entry for entry in entries if entry.endswith("library")]) == ("library" in (path or ""))


def test_the_processes_of_a_comparison_are_those_of_the_package(tmp_path, monkeypatch, marker):
    monkeypatch.chdir(tmp_path)
    Path("pyrovae.py").write_text(PLANTED.format(marker=str(marker)))
    why = grid.command(["plot", "nowhere"], Path("a.log"))
    assert why == "nowhere is not a run: it has no run.toml"
    assert Path("a.log").read_text().count("\n") == 1


def test_the_settings_of_a_repository_in_the_working_directory_run_nothing(run, marker, monkeypatch):
    monkeypatch.chdir(run)
    hook = Path(".git/hook.sh")
    subprocess.run(["git", "init", "-q"], check=True)
    hook.write_text(f"#!/bin/sh\necho ran > {marker}\n")
    hook.chmod(0o755)
    Path("a.py").write_text("")
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["add", "a.py"], [*author, "commit", "-q", "-m", "first"], ["config", "core.fsmonitor", str(hook)]):
        subprocess.run(["git", *words], check=True)
    shutil.copy(hook, ".git/hooks/post-index-change")
    edit(run, epochs=3)
    assert main(["train", ".", "--resume"]) == 0
    assert len(files.read_lines(Path("metrics.jsonl"))) == 3


def test_an_objective_that_is_no_objective_is_not_called(run, marker, capsys):
    code = PLANTED.format(marker=str(marker)).replace("\n", ";").rstrip(";")
    edit(run, objective=f'timeit:timeit(setup="{code}")')
    line = refused(capsys, "train", "run", "--name", "again")
    assert "objective: " in line
    assert "--trust timeit" in line


def test_a_module_that_ends_the_process_is_refused(run, capsys):
    edit(run, likelihood="unittest.__main__:x")
    assert "--trust unittest.__main__" in refused(capsys, "evaluate", "run")
    Path("ends.py").write_text("raise SystemExit(0)\n")
    assert "ends:Part" in refused(capsys, "train", "--likelihood", "ends:Part", *SMALL)


# Files


def test_a_temporary_file_that_was_planted_is_not_written_through(run, victim):
    for name in ("evaluation.json", "scores.safetensors"):
        (run / f".{os.getpid()}-{name}").symlink_to(victim / "precious")
    before = json.loads((run / "evaluation.json").read_text())
    assert main(["evaluate", "run", "--seed", "1"]) == 0
    after = json.loads((run / "evaluation.json").read_text())
    assert (before["seed"], after["seed"]) == (0, 1)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("figures", ["plot", "run"]),
        ("figures", ["evaluate", "run", "--examine", "diagnosis"]),
        ("tensorboard", ["train", "run", "--resume"]),
        ("figures", ["train", "run", "--resume"]),
    ],
)
def test_a_folder_of_a_run_that_leads_out_of_it_is_refused(name, command, run, victim, capsys):
    shutil.rmtree(run / name)
    (run / name).symlink_to(victim, target_is_directory=True)
    edit(run, epochs=3)
    before = len(files.read_lines(run / "metrics.jsonl"))
    assert f"{Path('run', name)}: expected a directory, found a link" in refused(capsys, *command)
    assert len(files.read_lines(run / "metrics.jsonl")) == before == 2


def test_the_folder_of_an_interrupted_evaluation_is_no_way_out(run, victim, monkeypatch):
    kept = []

    def interrupted(*args, keep, **options):
        kept.append(keep)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pyrovae.runs.scoring.scores", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runs.evaluate(run)
    kept[0].symlink_to(victim, target_is_directory=True)
    with pytest.raises(ValueError, match="expected a directory, found a link"):
        runs.evaluate(run)
    assert len(kept) == 1


def test_lines_are_not_added_through_a_link(run, victim):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(victim / "precious")
    with pytest.raises(ValueError, match=r"metrics.jsonl: expected a file, found a link"):
        files.append_line(run / "metrics.jsonl", {"epoch": 1})
    assert (run / "metrics.jsonl").is_symlink()


@pytest.mark.usefixtures("without_empty_entries")
def test_what_a_run_of_a_comparison_prints_stays_in_its_folder(tmp_path, victim, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.log").symlink_to(victim / "precious")
    assert grid.command([], Path("a.log")).startswith("[")
    assert not Path("a.log").is_symlink()
    assert Path("a.log").read_text().count("\n") == 1


def test_a_run_of_a_comparison_that_is_a_link_is_refused(tmp_path, victim, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = grid.from_options({"latent_dims": [2], "epochs": 1}).cells()
    Path("root").mkdir()
    Path("root", cells[0].name).symlink_to(victim, target_is_directory=True)
    with pytest.raises(ValueError, match="expected a directory, found a link"):
        grid.check_runs(Path("root"), cells)
    assert len(cells) == 1


# Values


def test_a_number_of_threads_that_no_machine_has_is_refused(run):
    made = json.loads((run / "environment.json").read_text())
    assert runs.thread_count(run) == 1
    for threads in (100_000, -1, 1.5, "1", True, None):
        files.write_json(run / "environment.json", made | {"threads": threads})
        with pytest.raises(ValueError, match=r"environment.json: expected the environment of a run"):
            runs.thread_count(run)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("evaluation.json", {"log_likelihood": {"value": "1"}}, "log_likelihood.value: expected a number or null"),
        ("evaluation.json", {"log_likelihood": 3}, "log_likelihood: expected fields and values, found 3"),
        ("evaluation.json", {"elbo": {"value": 10**400}}, "elbo.value: expected a number or null"),
        ("evaluation.json", {"kl": {"value": True}}, "kl.value: expected a number or null"),
        ("evaluation.json", {"kl": {}}, "kl: expected a value, found none"),
        ("evaluation.json", {"split": "__class__"}, "unknown split '__class__'"),
        ("evaluation.json", {"rows": -1}, "rows: expected an integer >= 0"),
        ("evaluation.json", {"measure": [1]}, "measure: expected text, found [1]"),
        ("evaluation.json", {"measure_fields": [1]}, "measure_fields: expected fields and values, found [1]"),
        ("evaluation.json", {"measure_fields": {"levels": "256"}}, "levels: expected an integer >= 0"),
        ("evaluation.json", {"active_units": {"z": 0.5}}, "active_units.z: expected an integer"),
        ("evaluation.json", {"examination": []}, "examination: expected fields and values"),
        ("evaluation.json", {"examination": {"diagnosis": {"gaps": {"amortisation_gap": 1}}}}, "amortisation_gap: exp"),
    ],
)  # fmt: skip
def test_what_an_evaluation_says_is_checked_and_made_again(name, change, message, run):
    written = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(written | change))
    with pytest.raises(ValueError) as told:
        runs.evaluation(run)
    assert str(told.value).startswith(f"{run / name}: {message}")
    assert str(told.value).count("\n") == 0


def test_an_evaluation_that_says_what_none_can_say_gives_way(run):
    written = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(written | {"examination": []}))
    made = runs.evaluate(run)
    assert "examination" not in made
    assert made["log_likelihood"]["value"] == written["log_likelihood"]["value"]
    assert runs.evaluation(run)[0]["rows"] == written["rows"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"epoch": "2"}, "epoch: expected an integer >= 0, found '2'"),
        ({"loss": "low"}, "the record.loss: expected a number or null, found 'low'"),
        ({"loss": {"a": 1}}, "the record.loss: expected a number or null"),
        ({"seconds": None, "step": 2.5}, "step: expected an integer >= 0, found 2.5"),
    ],
)
def test_what_an_epoch_says_is_checked(line, message, run):
    first, second = files.read_lines(run / "metrics.jsonl")
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (first, second | line)))
    retie(run, metrics=ties.metrics_tie(run))
    with pytest.raises(ValueError, match=re.escape(f"metrics.jsonl, line 2: {message}")):
        runs.effort(run)
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (first, {"epoch": 2, "step": 3})))
    retie(run, metrics=ties.metrics_tie(run))
    with pytest.raises(ValueError, match=r"line 2: expected .*loss.*, found none"):
        runs.plot(run)
    assert len(values.records(Path("nowhere"))) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": "1"}, "epoch: expected an integer >= 0, found '1'"),
        ({"best_loss": "x"}, "best_loss: expected a number, found 'x'"),
        ({"optimizer": 5}, "expected the state of this training, found another"),
        ({"optimizer": {"state": {"0": {"exp_avg": {"tensor": "order"}}}}}, "expected the state of"),
        ({"optimizer": {"state": {"99": {}}}}, "expected the state of a training"),
    ],
)
def test_a_state_of_other_types_is_refused(change, message, run, capsys):
    edit(run, epochs=3)
    tensors, about = files.read_tensors(run / "last.safetensors")
    for name in ("last.safetensors", "previous.safetensors"):
        files.write_tensors(run / name, tensors, about | change)
    assert message in refused(capsys, "train", "run", "--resume")
    assert len(files.read_lines(run / "metrics.jsonl")) == 2


def test_sizes_that_a_model_is_built_from_are_checked(run):
    tensors, about = files.read_tensors(run / "best.safetensors")
    for change in ({"event_shape": "abc"}, {"event_shape": []}, {"event_shape": [8, -1]}, {"event_shape": None},
                   {"num_classes": "10"}, {"training_rows": 0.5}):  # fmt: skip
        files.write_tensors(run / "best.safetensors", tensors, about | change)
        with pytest.raises(ValueError, match=r"best.safetensors: .*expected"):
            pyrovae.load(run)
    files.write_tensors(run / "best.safetensors", tensors, [1])
    with pytest.raises(ValueError, match=r"best.safetensors: .*expected"):
        pyrovae.load(run)
    files.write_tensors(run / "best.safetensors", tensors, about)
    assert sum(value.numel() for value in pyrovae.load(run).parameters()) > 0


def test_deep_brackets_are_bad_input(run, capsys):
    deep = "[" * 50_000
    for text in (f"mlp(hidden={deep}", f"mlp(hidden={'-' * 50_000}1)", f"mlp(hidden={deep}{']' * 50_000})"):
        with pytest.raises(ValueError, match="network: expected name or"):
            build.model(Recipe(network=text), (1, 8, 8))
    (run / "evaluation.json").write_text(deep)
    with pytest.raises(ValueError, match="expected JSON, found a damaged file"):
        runs.evaluation(run)
    (run / "environment.json").write_text(deep)
    assert "expected the environment of a run" in refused(capsys, "plot", "run")
    (run / "environment.json").unlink()
    (run / "run.toml").write_text(f"schema = 1\nlikelihood = {deep}")
    assert "expected TOML, found a damaged file" in refused(capsys, "plot", "run")
    assert len(files.read_json(run / "evaluation.json")) == 0


def test_a_picture_of_another_format_starts_no_program(tmp_path):
    """Pillow gives a PostScript file to Ghostscript, whatever its name ends with."""
    (tmp_path / "samples.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(ValueError, match=r"samples.png: expected a picture in PNG, found a damaged file"):
        pages.picture(tmp_path / "samples.png")
    figure = Figure(figsize=(1, 1))
    figure.savefig(tmp_path / "samples.png")
    assert len(pages.picture(tmp_path / "samples.png")) > 100


def test_a_picture_among_data_is_of_a_format_that_starts_no_program(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(ValueError, match=r"a.png: expected an image, found a damaged file"):
        pyrovae.data.load(tmp_path)
    (tmp_path / "a.png").rename(tmp_path / "a.eps")
    with pytest.raises(ValueError, match="expected images, found none with a known ending"):
        pyrovae.data.load(tmp_path)
    assert {"PNG", "JPEG", "BMP", "TIFF", "GIF"} <= set(folders.FORMATS)
    assert not {"EPS", "PDF"} & set(folders.FORMATS)
    assert len(folders.IMAGE_ENDINGS) > 10


def test_figures_do_not_follow_settings_that_lie_in_the_working_directory(run, tmp_path):
    """matplotlib reads a matplotlibrc there; LaTeX, for one, would be started."""
    epochs, written = files.read_lines(run / "metrics.jsonl"), []
    for settings in ({}, {"text.usetex": True, "figure.facecolor": "red", "savefig.facecolor": "red"}):
        with rc_context(settings):
            (path,) = plots.write_figures(tmp_path / str(len(written)), {"loss": plots.loss_curves(epochs)})
        written.append(path.read_bytes())
    assert len(written[0]) > 1000
    assert written[0] == written[1]


# Trust


def test_only_the_call_at_hand_trusts(run, monkeypatch):
    Path("mine.py").write_text(PART)
    edit(run, likelihood="mine:Part")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    with pytest.raises(ValueError, match="--trust mine"):
        pyrovae.load(run)
    assert "mine" not in sys.modules
    loaded = pyrovae.load(run, trust=("mine",))
    assert type(loaded.likelihood).__module__ == "mine"
    with pytest.raises(ValueError, match="--trust mine"):
        runs.plot(run)
    with pytest.raises(ValueError, match="--trust mine"):
        runs.evaluate(run)
    before = json.loads((run / "evaluation.json").read_text())
    assert runs.evaluate(run, trust=("mine",))["log_likelihood"] == before["log_likelihood"]


def test_a_trusted_module_finds_only_trusted_ones_in_the_working_directory(tmp_path, monkeypatch):
    """An installed package that asks for something optional must not find a stranger's file of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    before = list(sys.path)
    Path("helper.py").write_text("VALUE = 3\n")
    Path("mine.py").write_text("import helper\n" + PART)
    with trusting(["mine"]), pytest.raises(ModuleNotFoundError, match="helper"):
        imported("mine")
    with trusting(["mine"]), pytest.raises(ValueError, match=r"mine:Part.*No module named 'helper'.*trusted, too"):
        build.model(Recipe(likelihood="mine:Part"), (1, 8, 8))
    with trusting(["mine", "helper"]):
        assert imported("mine").helper.VALUE == 3
    assert sys.path == before


def test_a_package_in_the_working_directory_and_one_that_is_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/parts.py").write_text("VALUE = 4\n")
    Path("tomli_w.py").write_text("VALUE = 5\n")
    with trusting(["mine.parts", "tomli_w"]):
        assert imported("mine.parts").VALUE == 4
        assert not hasattr(imported("tomli_w"), "VALUE")


@pytest.mark.parametrize("trust", ["mine", ["os:system"], [""], ["a..b"], [3], [["a"]], 5, None])
def test_what_is_no_list_of_modules_is_refused(trust, run):
    with pytest.raises(ValueError, match="trust: expected names of modules, such as"):
        pyrovae.load(run, trust=trust)
    assert len(trusted()) == 0


def test_a_command_line_that_names_no_module_is_refused(run, capsys):
    assert "trust: expected names of modules" in refused(capsys, "plot", "run", "--trust", "os:system")
    assert len(trusted()) == 0


def test_processes_of_a_comparison_trust_what_it_trusts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PART)
    called = []
    monkeypatch.setattr(grid, "command", lambda words, *others: called.append(list(words)) or "")
    options = {"likelihoods": ["mine:Part"], "epochs": 1, "network": "mlp(hidden=[4])", "compile": "no"}
    pyrovae.compare("root", jobs=1, **options)
    with pytest.raises(ValueError, match=r"mine:Part: likelihood: .*--trust mine"):
        pyrovae.compare("root", jobs=1)
    pyrovae.compare("root", jobs=1, trust=["mine"])
    assert [words[-2:] for words in called] == [["--trust", "mine"]] * 2
    assert len(trusted()) == 0


def test_a_list_of_experiments_runs_none(tmp_path, marker):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "experiment.py").write_text('"""Is it run?"""\n' + PLANTED.format(marker=str(marker)))
    assert experiments.found(tmp_path) == {"a": "Is it run?"}
    assert len(experiments.found(tmp_path)) == 1
