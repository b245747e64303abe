"""What a run has earned survives kills, full disks and damage; what is not of it is refused by name."""

import inspect
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pyrovae import files, runs
from pyrovae.__main__ import main
from pyrovae.comparison import child, grid
from pyrovae.runs import recipe, ties
from pyrovae.runs.recipe import Recipe
from pyrovae.runs.ties import weights_digest

EPOCHS = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data, and runs of them: whole, cut after two epochs, and one and other, which differ in beta."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32))
        train("whole")
        train("run", until=2)
        for name, beta in (("one", 1.0), ("other", 2.0)):
            train(name, beta=beta)
            runs.evaluate(Path(name))
    return folder


@pytest.fixture(autouse=True)
def _here(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def asked(**options):
    """A recipe that takes a moment."""
    known = {"data": "x.npy", "likelihood": "normal", "network": "mlp(hidden=[4])", "batch_size": 10, "compile": "no"}
    return recipe.locate(
        Recipe(**known | {"epochs": EPOCHS, "particles": 3, "tracker": "tensorboard"} | options), Path.cwd()
    )


def train(path, until=EPOCHS, resume=False, **options):
    """The first stage alone, or its beginning; its epochs."""
    made = asked(**options)
    training = runs.prepare(Path(path), made, resume)
    step, training_step = [], type(training)._epoch

    def epoch(bar):
        if training.epoch == until:
            raise KeyboardInterrupt
        step.append(training.epoch + 1)
        return training_step(training, bar)

    training._epoch = epoch
    with suppress(KeyboardInterrupt):
        runs.train(Path(path), made, training)
    return step


def same(one, other):
    """The same state and the same records, to the bit."""
    left, right = (load_file(f"{path}/last.safetensors") for path in (one, other))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    made = [[r | {"seconds": 0} for r in files.read_lines(Path(path) / "metrics.jsonl")] for path in (one, other)]
    assert made[0] == made[1]
    return len(made[0]) == EPOCHS


def hidden(path):
    return sorted(str(each.relative_to(path)) for each in Path(path).rglob(".*"))


def flipped(path):
    content = bytearray(Path(path).read_bytes())
    content[-9] ^= 1
    Path(path).write_bytes(content)


def test_a_run_that_died_before_its_recipe_was_written_begins_anew():
    """In whatever was left: the probe that earlier versions wrote, a lock, a temporary file."""
    for name in (".writable", ".lock", ".123-run.toml", ".123-.writable"):
        Path("died").mkdir()
        Path("died", name).write_text("")
        assert train("died") == [1, 2, 3, 4]
        assert same("whole", "died")
        assert not set(hidden("died")) - {".lock"}
        shutil.rmtree("died")


def test_what_killed_processes_left_goes_in_the_figures_too():
    for command, left in (("evaluate", ".12-evaluation.json"), ("plot", "figures/.12-loss.png")):
        Path("run/figures").mkdir(exist_ok=True)
        Path("run", left).write_text("")
        assert main([command, "run"]) == 0
        assert hidden("run") == []
    assert len(list(Path("run/figures").iterdir())) > 3


def test_a_damaged_state_does_not_replace_the_one_before(monkeypatch):
    flipped("run/last.safetensors")
    before = load_file("run/previous.safetensors")

    def dies(path, tensors, about, write=files.write_tensors):
        if path.name == "last.safetensors":
            raise KeyboardInterrupt
        write(path, tensors, about)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_tensors", dies)
        with pytest.warns(UserWarning, match="continuing from previous"):
            assert train("run", resume=True) == [2]
    after = files.read_tensors(Path("run/previous.safetensors"))[0]
    assert all(torch.equal(after[name], before[name]) for name in before)
    with pytest.warns(UserWarning, match="continuing from previous"):
        assert train("run", resume=True) == [2, 3, 4]
    assert same("whole", "run")


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[1:],
        lambda lines: lines[:-1],
        lambda lines: [],
        lambda lines: [*lines[:1], "{\n", *lines[2:]],
        lambda lines: [*lines[:1], '{"a": 1}\n', *lines[2:]],
        lambda lines: [*lines[:1], lines[1].replace("1", "2"), *lines[2:]],
    ],
)
def test_records_that_are_lost_or_altered_are_named_and_there_is_a_way_out(damage, capsys):
    path = Path("run/metrics.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(damage(lines)))
    for command in (["train", "run", "--resume"], ["plot", "run"]):
        assert main(command) == 2
        message = capsys.readouterr().err
        assert message.startswith("pyrovae: run/metrics.jsonl: expected the records of all epochs to 2 as they were")
        assert "delete it to continue without them" in message
        assert message.count("\n") == 1
    path.unlink()
    with pytest.warns(UserWarning, match=r"run/metrics.jsonl: there is no such file; the curves begin after epoch 2"):
        assert train("run", resume=True) == [3, 4]
    assert [record["epoch"] for record in files.read_lines(path)] == [3, 4]
    environment = json.loads(Path("run/environment.json").read_text())
    assert "training_seconds" not in environment  # those of some epochs would look like those of all
    assert "seconds" not in runs.effort(Path("run"))


def test_a_torn_last_record_is_mended():
    """An epoch was written down, and the process died before its state was: it is trained again."""
    with open("run/metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "st')
    assert train("run", resume=True) == [3, 4]
    assert same("whole", "run")


def test_a_damaged_environment_says_the_way_out(capsys):
    Path("run/environment.json").write_text("{")
    assert main(["train", "run", "--resume"]) == 2
    message = capsys.readouterr().err
    assert "run/environment.json: expected the environment of a run, found a damaged file" in message
    assert "delete it to continue" in message
    Path("run/environment.json").unlink()
    assert train("run", resume=True) == [3, 4]
    assert same("whole", "run")
    assert json.loads(Path("run/environment.json").read_text())["training_seconds"] > 0


def test_without_its_environment_a_run_still_knows_its_data(capsys):
    Path("run/environment.json").unlink()
    np.save("x.npy", np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32))
    with pytest.raises(ValueError, match="run: expected x as it was trained on, found other data"):
        train("run", resume=True)
    assert files.read_tensors(Path("run/last.safetensors"))[1]["epoch"] == 2


@pytest.mark.parametrize(
    ("name", "what", "message"),
    [
        ("last.safetensors", lambda: train("one", resume=True), "with beta = 1.0, found one with 2.0"),
        ("best.safetensors", lambda: runs.load("one"), "with beta = 1.0, found one with 2.0"),
        ("best.safetensors", lambda: runs.evaluation(Path("one")), "one/evaluation.json: expected the numbers of the"),
        ("run.toml", lambda: runs.load("one"), "one/best.safetensors: expected a file of the recipe in run.toml, with"),
        ("run.toml", lambda: runs.evaluation(Path("one")), "with beta = 2.0, found one with 1.0"),
        ("metrics.jsonl", lambda: train("one", resume=True), "one/metrics.jsonl: expected the records of all epochs"),
        ("metrics.jsonl", lambda: runs.effort(Path("one")), "one/metrics.jsonl: expected the records of all epochs"),
        ("evaluation.json", lambda: runs.evaluation(Path("one")), "one/evaluation.json: expected the numbers of the"),
    ],
)  # fmt: skip
def test_a_file_of_another_run_is_refused_by_name(name, what, message):
    what()
    shutil.copy(f"other/{name}", f"one/{name}")
    with pytest.raises(ValueError, match="(?s)^(?!.*\n).*" + message):
        what()


def test_an_evaluation_of_another_run_with_its_scores_is_refused():
    for name in ("evaluation.json", "scores.safetensors"):
        shutil.copy(f"other/{name}", f"one/{name}")
    with pytest.raises(ValueError, match=r"one/evaluation.json: expected the numbers of the weights in best"):
        runs.evaluation(Path("one"))
    Path("one/best.safetensors").unlink()  # as where numbers alone are kept
    with pytest.raises(ValueError, match=r"one/scores.safetensors: expected a file of the recipe in run.toml"):
        runs.evaluation(Path("one"))


def test_a_recipe_that_is_cut_is_refused():
    path = Path("one/run.toml")
    lines = path.read_text().splitlines(keepends=True)
    for keep in range(3, len(lines), 4):
        path.write_text("".join(lines[:keep]))
        cut = vars(recipe.read(path))
        whole = vars(asked(beta=1.0)) | {name: cut[name] for name in ties.PLACE}
        if cut == whole:  # what is gone says nothing else than no word at all
            assert runs.load("one").latent_shape == (2,)
        else:
            with pytest.raises(ValueError, match="expected a file of the recipe in run"):
                runs.load("one")
    text = "".join(lines)
    path.write_text(text[: text.index("\n", len(text) // 2)])
    with pytest.raises(ValueError, match="expected a file of the recipe in run"):
        runs.load("one")


def test_runs_of_earlier_versions_are_accepted_with_one_line():
    for name in ("last", "best", "previous"):
        path = Path(f"one/{name}.safetensors")
        tensors, about = files.read_tensors(path)
        files.write_tensors(path, tensors, {k: v for k, v in about.items() if k not in ("recipe", "metrics")})
    with pytest.warns(UserWarning, match=r"one/best.safetensors: an earlier version of pyrovae made it") as warned:
        runs.load("one")
    assert len(warned) == 1
    old = json.loads(Path("one/evaluation.json").read_text())
    of = files.read_tensors(Path("one/scores.safetensors"))
    old["weights_sha256"] = files.sha256(Path("one/best.safetensors"))
    files.write_json(Path("one/evaluation.json"), old | {"examination": {"law": {}}})
    files.write_tensors(Path("one/scores.safetensors"), of[0], {name: old[name] for name in runs.SCORED})
    with pytest.warns(UserWarning, match=r"one/scores.safetensors: an earlier version"):
        assert runs.evaluation(Path("one"))[0]["elbo"] == old["elbo"]
    with pytest.warns(UserWarning, match="an earlier version"):
        again = runs.evaluate(Path("one"))
    assert again["elbo"] == old["elbo"]
    assert again["examination"] == {"law": {}}
    with pytest.warns(UserWarning, match=r"one/(last|best).safetensors: an earlier version"):
        assert train("one", resume=True) == []


OPTIONS = [
    *("--tracker", "tensorboard"),
    *("--data", "x.npy", "--likelihood", "normal", "--network", "mlp(hidden=[4])", "--batch-size", "10"),
    *("--compile", "no", "--epochs", str(EPOCHS), "--particles", "3"),
]


def one_line(capsys, path):
    """An error is one line that names a file in a folder."""
    message = capsys.readouterr().err
    assert message.startswith(f"pyrovae: {path}")
    return message.count("\n") == 1


@pytest.fixture
def disk(tmp_path):
    """Mounts a small file system, or makes it large, by its options."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(options):
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True)
        if made.returncode:
            pytest.skip("only root can mount a small file system")

    yield path, mount
    subprocess.run(["umount", path], capture_output=True)


# What is written when the disk is full: run.toml, curves, a state, the scores, a figure; a folder, a file.
FULL = ["size=4k", "size=8k", "size=24k", "size=60k", "size=100k", "nr_inodes=2", "nr_inodes=6", "nr_inodes=12"]


@pytest.mark.parametrize(
    "options", [each if each in FULL[2:7:4] else pytest.param(each, marks=pytest.mark.slow) for each in FULL]
)
def test_a_full_disk_is_one_line_and_the_run_goes_on(disk, options, capsys):
    path, mount = disk
    mount(options)
    begin = ["train", "--name", "run", "--root", str(path), *OPTIONS]
    assert main(begin) == 1
    assert one_line(capsys, path)
    mount("remount,size=50m,nr_inodes=1000")
    assert main(["train", str(path / "run"), "--resume"] if (path / "run/run.toml").exists() else begin) == 0
    assert same("whole", path / "run")
    assert hidden(path) == []


@pytest.mark.parametrize(
    ("most", "name"),
    [
        (6000, "last"),
        pytest.param(1000, "run.toml", marks=pytest.mark.slow),
        pytest.param(25000, "figures", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_may_not_grow_is_named(most, name, capsys):
    """As under a quota, or where a disk is full, for who is not root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        assert main(["train", "--name", "small", *OPTIONS]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert one_line(capsys, f"runs/small/{name}")
    assert main(["train", "--name", "small", *OPTIONS, *["--resume"] * (name != "run.toml")]) == 0
    assert same("whole", "runs/small")


@pytest.mark.parametrize("kind", ["directory", "FIFO"])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("run.toml", "train"),
        ("environment.json", "evaluate"),
        ("metrics.jsonl", "train"),
        ("last.safetensors", "train"),
        ("previous.safetensors", "train"),
        ("best.safetensors", "plot"),
        ("evaluation.json", "evaluate"),
        ("scores.safetensors", "evaluate"),
        ("figures/loss.png", "plot"),
        (".lock", "evaluate"),
    ],
)
def test_something_else_in_the_place_of_a_file_is_named_and_nothing_waits(name, command, kind, capsys):
    path = Path("run", name)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.mkdir()
    words = [command, "run", *["--resume"] * (command == "train")]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"pyrovae: run/{name}: expected a file, found a {kind}; move it away")
    assert message.count("\n") == 1


def test_a_file_in_the_place_of_a_folder_is_named(capsys):
    for name, command in (("tensorboard", ["train", "run", "--resume"]), ("figures", ["plot", "run"])):
        shutil.rmtree(f"run/{name}", ignore_errors=True)
        Path("run", name).write_text("")
        assert main(command) == 1
        assert one_line(capsys, f"run/{name}: could not be written (File exists)")
        Path("run", name).unlink()
    assert train("run", resume=True) == [3, 4]
    assert same("whole", "run")


def test_a_name_of_two_lines_is_refused(capsys):
    for name in ("a\nb", "a\tb", "a\x7fb"):
        assert main(["train", "--name", name, *OPTIONS]) == 2
        message = capsys.readouterr().err
        assert "expected a name without line breaks and other control characters" in message
        assert message.count("\n") == 1
    assert not Path("runs").exists()


def test_damaged_best_weights_are_named_before_training_goes_on(capsys):
    flipped("run/best.safetensors")
    assert main(["train", "run", "--resume"]) == 2
    assert one_line(capsys, "run/best.safetensors: its content does not agree with its digest")
    assert files.read_tensors(Path("run/last.safetensors"))[1]["epoch"] == 2


def test_equal_weights_have_one_digest():
    """safetensors writes the two words of its header in any order."""
    path = Path("run/best.safetensors")
    first = runs.evaluate(Path("run"))["weights_sha256"]
    tensors, content = load_file(path), path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + size])
    turned = dict(reversed(head.items())) | {"__metadata__": dict(reversed(head["__metadata__"].items()))}
    text = json.dumps(turned, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    assert path.read_bytes() != content
    assert runs.evaluate(Path("run"))["weights_sha256"] == first
    save_file({name: value + 1 for name, value in tensors.items()}, path, head["__metadata__"])
    with pytest.raises(ValueError, match="does not agree with its digest"):
        weights_digest(path)
    files.write_tensors(path, {name: value + 1 for name, value in tensors.items()}, files.read_about(path))
    assert weights_digest(path) != first


def test_automatic_names_of_one_moment_are_as_many_runs():
    start, taken = threading.Barrier(10), []

    def take(number):
        start.wait()
        with runs.new_folder(Path("many"), "run") as path:
            (path / "kept").write_text(str(number))
            taken.append(path.name)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(take, range(10)))
    assert sorted(taken) == sorted(f"run-{number}" for number in range(1, 11))
    with runs.new_folder(Path("many"), "run") as path:
        assert path.name == "run-11"
    assert not path.exists()


@pytest.mark.slow
def test_automatic_names_of_processes_are_as_many_runs():
    words = [sys.executable, "-m", "pyrovae", "train", *OPTIONS]
    started = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(10)]
    assert [each.communicate()[1] for each in started] == [b""] * 10
    assert all(same("whole", f"runs/x-{number}") for number in range(1, 11))


def test_a_child_ends_when_the_pipe_to_its_parent_does():
    code = f"import os, time\n{inspect.getsource(child.end_with_parent)}\nprint(1, flush=True); end_with_parent()"
    with grid._lifeline() as line:
        process = subprocess.Popen([sys.executable, "-c", code], stdin=line, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"1\n"
        assert process.poll() is None
    assert process.wait(20) == 143
    process.stdout.close()


def alive(words):
    """The processes whose command line has these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if all(word.encode() in path.read_bytes() for word in words):
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_children_of_a_comparison_that_is_killed_end(how):
    root = Path("cmp").absolute()
    words = [sys.executable, "-m", "pyrovae", "compare", "--betas", "1", "--jobs", "1", *OPTIONS, "--epochs", "100000"]
    with subprocess.Popen(
        [*words, "--root", str(root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not (root / "1+seed-0/last.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(alive(["train", str(root)])) == 1
        process.send_signal(how)
    deadline = time.monotonic() + 20
    while (alive(["train", str(root)]) or files.in_use(root / "1+seed-0")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(["train", str(root)])
    assert not files.in_use(root / "1+seed-0")
    assert files.read_tensors(root / "1+seed-0/last.safetensors")[1]["epoch"] > 0


def test_a_run_of_a_comparison_that_is_worked_in_is_waited_for(monkeypatch):
    """By hand someone trains it meanwhile: it is not reported as failed, and not trained twice."""
    monkeypatch.setattr(grid, "POLL", 0.05)
    (cell,) = grid.Grid({"betas": ["1"]}, asked()).cells()
    path, called = Path("cmp", cell.name), []
    path.parent.mkdir()

    def run(command, stdout, **options):
        called.append(command[3])
        return subprocess.CompletedProcess(command, main(command[3:]))

    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(run=run, STDOUT=None))
    monkeypatch.setattr(runs, "draw", lambda *args: {})
    with ThreadPoolExecutor(1) as pool:
        with files.claimed(path):
            done = pool.submit(grid.carry_out, Path("cmp"), [cell], "test", 1)
            train(path)
            runs.evaluate(path)
            time.sleep(0.3)
            assert not called
        assert done.result() == {}
    assert called == ["plot"]
    assert grid.finished(Path("cmp"), cell, "test")["rows"] == 12


def test_a_wait_ends_when_the_comparison_does():
    stop = threading.Event()
    with files.claimed(Path("cmp")), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(grid._free, Path("cmp"), stop)
        time.sleep(0.1)
        assert not waiting.done()
        stop.set()
        assert waiting.result(5) is False
    assert grid._free(Path("one"), threading.Event())


def test_a_planted_link_in_place_of_the_lock_is_refused_and_not_followed():
    Path("precious").write_text("kept")
    for target in ("precious", "not-there"):
        Path("run/.lock").unlink(missing_ok=True)
        Path("run/.lock").symlink_to(Path(target).absolute())
        with (
            pytest.raises(files.StorageError, match=r"run/.lock: expected a file, found a link"),
            files.claimed(Path("run")),
        ):
            pass
    assert Path("precious").read_text() == "kept"
    assert not Path("not-there").exists()
    lock = files.FileLock("run/.lock")
    with pytest.raises(OSError, match="symbolic links"):  # should it be planted after our own look
        lock.acquire(timeout=0)


def test_a_claim_is_of_one_process_at_a_time():
    path = Path("new")
    with files.claimed(path):
        assert (path / ".lock").exists()
        assert files.in_use(path)
        with pytest.raises(files.InUseError, match="new: expected a folder that no other process works in"):
            files.claimed(path).__enter__()
        with pytest.raises(FileExistsError):
            files.claimed(path, new=True).__enter__()
        (path / "kept").write_text("")
    assert not files.in_use(path)
    assert [each.name for each in path.iterdir()] == ["kept"]


def test_numbers_and_figures_are_of_the_rows_that_a_run_was_trained_on(capsys):
    """With a row gone the split is another one: rows that were trained on would be scored as held out."""
    before = runs.evaluation(Path("one"))[0]["log_likelihood"]["value"]
    x = np.load("x.npy")
    np.save("x.npy", x[1:])
    for command in ("evaluate", "plot"):
        assert main([command, "one"]) == 2
        assert one_line(capsys, "one: expected x as it was trained on, found other data; put those back, or train")
    np.save("x.npy", x)
    assert runs.evaluate(Path("one"))["log_likelihood"]["value"] == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "one", "--seed", "-1"], "seed: expected an integer >= 0, found -1"),
        (["evaluate", "one", "--examine", "diagnosis", "--rows", "0"], "rows: expected an integer >="),
        (["train", "--data", "text.npy"], "text.npy: expected numbers of shape (N, D)"),
        (["train", "--data", "columns.npy"], "columns: expected rows of at least one number, found rows of shape (0,)"),
        (["train", "--data", "row.npy", "--valid", "0", "--test", "0"], "data: expected at least 2 rows to train on"),
    ],
)
def test_bad_input_is_named(words, message, capsys):
    np.save("text.npy", np.array([["a"]] * 9))
    np.save("columns.npy", np.zeros((9, 0), np.float32))
    np.save("row.npy", np.zeros((1, 3), np.float32))
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
