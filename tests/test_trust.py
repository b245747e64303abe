"""A run that a stranger made is data: nothing in it runs code, or writes outside of it, unless the caller trusts it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae
from pyrovae import files, grid, recipe, runs
from pyrovae.__main__ import main
from pyrovae.recipe import Recipe

SMALL = ["--network", "mlp(hidden=[4])", "--epochs", "2", "--particles", "2", "--compile", "no", "--threads", "1"]
# Whoever imports or runs this leaves a file behind.
PLANTED = "import pathlib\npathlib.Path({marker!r}).write_text('ran')\n"
PART = """
from torch import nn
from pyrovae.likelihoods import Bernoulli

class Part(Bernoulli):
    pass
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    assert main(["train", "--root", str(root), "--name", "done", *SMALL]) == 0
    return root / "done"


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
    made = {**vars(recipe.read(run / "run.toml")), **options}
    recipe.write(Recipe(**made), run / "run.toml")


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
        recipe.read(run / "run.toml").build(("touch", str(marker)))


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("model", "mine:Popen", "model: expected a class that is a Module, found 'mine:Popen'"),
        ("likelihood", "mine:Part.mro", "has no attribute 'Part.mro'"),
        ("guide", "mine:check_output(timeout=1)", "expected a function defined in its module, found 'mine:check_out"),
        ("optimizer", "mine:Part", "optimizer: expected a class that is a Optimizer, found 'mine:Part'"),
        ("objective", "mine:Part", "objective: expected a class that is a Objective, found 'mine:Part'"),
        ("prior", "mine:os", "prior: expected a class or a function, found 'mine:os', a module"),
    ],
)
def test_what_is_of_another_kind_is_not_called_even_where_its_module_is_trusted(option, text, message, run, capsys):
    Path("mine.py").write_text("import os\nfrom subprocess import Popen, check_output\n" + PART)
    edit(run, **{option: text})
    assert message in refused(capsys, "train", "run", "--name", "again", "--trust", "mine")
    assert not Path("runs").exists()
    sys.modules.pop("mine")


def test_the_working_directory_is_no_library(run, marker):
    """Under `python -c`, in a notebook and at a prompt it stands on sys.path."""
    Path("stranger.py").write_text(PLANTED.format(marker=str(marker)) + PART)
    edit(run, likelihood="stranger:Part")
    code = "import pyrovae; pyrovae.load('run')"
    for path in ("", str(run.parent)):
        called = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
        )
        assert called.returncode == 1
        assert "ValueError" in called.stderr.splitlines()[-1]
        assert "trust=('stranger',)" in called.stderr.splitlines()[-1]


@pytest.mark.parametrize("path", ["", os.pathsep + "library", None])
def test_the_processes_of_a_comparison_do_not_look_into_the_working_directory(path, tmp_path, monkeypatch, marker):
    monkeypatch.chdir(tmp_path)
    Path("pyrovae.py").write_text(PLANTED.format(marker=str(marker)))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    why = grid.command(["plot", "nowhere"], Path("a.log"))
    assert why == "nowhere is not a run: there is no run.toml in it"


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


def test_what_a_run_of_a_comparison_prints_stays_in_its_folder(tmp_path, victim, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.log").symlink_to(victim / "precious")
    assert grid.command(["plot", "nowhere"], Path("a.log")).startswith("nowhere is not a run")
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
