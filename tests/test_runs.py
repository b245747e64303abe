"""The run directory and the command line: kept, resumed to the same bits, refused with one line."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import traceback

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pyrovae
from pyrovae import clusters, files, runs
from pyrovae.__main__ import main
from pyrovae.data import load as load_data
from pyrovae.programs import importance
from pyrovae.runs import build, recipe, trackers
from pyrovae.runs.recipe import Recipe
from pyrovae.runs.trust import trusting

QUICK = ["--epochs", "4", "--particles", "3"]


@pytest.fixture(autouse=True)
def _one_thread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _without_pictures(monkeypatch):
    """But for the curves of the loss: what a run draws is seen where its pictures are."""
    monkeypatch.setattr(runs, "draw", lambda *args: {})


def train(*arguments):
    return main(["train", *map(str, arguments)])


def weights(path):
    return load_file(f"{path}/last.safetensors")


def same_run(a, b):
    """The same weights, optimiser and generators, and the same metrics, to the bit."""
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    records = [[r | {"seconds": 0} for r in files.read_lines(runs.Path(run) / "metrics.jsonl")] for run in (a, b)]
    assert records[0] == records[1]
    best = [files.read_tensors(runs.Path(run) / "best.safetensors") for run in (a, b)]
    assert best[0][1] == best[1][1]
    return True


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, and what it printed."""
    root = tmp_path_factory.mktemp("finished")
    assert main(["train", "--root", str(root), "--name", "done", "--tracker", "tensorboard", *QUICK]) == 0
    return root / "done"


def test_train_leaves_a_whole_run_and_names_it(capsys):
    assert train("--epochs", 2, "--particles", 3) == 0
    printed = capsys.readouterr()
    assert "The run is in runs/digits-1. Figures: runs/digits-1/figures/" in printed.out
    assert printed.err == ""
    found = {path.name for path in runs.Path("runs/digits-1").iterdir()}
    assert found == {
        "run.toml", "environment.json", "metrics.jsonl", "best.safetensors", "last.safetensors",
        "previous.safetensors", "evaluation.json", "scores.safetensors", "figures",
    }  # fmt: skip
    assert train("--epochs", 2, "--particles", 3) == 0
    assert runs.Path("runs/digits-2/run.toml").exists()


def test_the_evaluation_is_that_of_the_loaded_model(finished):
    written = json.loads((finished / "evaluation.json").read_text())
    vae = pyrovae.load(finished)
    found = pyrovae.evaluate(vae, load_data("digits").test, 3)
    assert written["elbo"]["value"] == pytest.approx(found["elbo"]["value"], abs=1e-5)
    assert written["split"] == "test"
    assert written["measure"] == "mass over binary values"
    assert not vae.training


def test_the_scores_of_each_datum_are_those_that_the_evaluation_is_the_mean_of(finished):
    written, scores = runs.evaluation(finished)
    of_each, _ = importance.log_likelihood(pyrovae.load(finished), load_data("digits").test, 3)
    assert scores["log_likelihood"].tolist() == pytest.approx(of_each.tolist(), abs=1e-4)
    assert scores["elbo"].tolist() == pytest.approx((scores["reconstruction"] - scores["kl"]).tolist())
    for name in ("elbo", "reconstruction", "kl", "log_likelihood"):
        assert scores[name].shape == (written["rows"],)
        assert written[name]["value"] == pytest.approx(scores[name].mean().item())


def test_metrics_and_curves_hold_every_epoch(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = files.read_lines(finished / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    board = EventAccumulator(str(finished / "tensorboard")).Reload()
    values = [event.value for event in board.Scalars("valid_loss")]
    assert values == pytest.approx([record["valid_loss"] for record in records], rel=1e-6)


def test_a_tracker_whose_package_is_missing_is_named_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert train("--tracker", "tensorboard") == 2
    assert "expected the package tensorboard, found none; pip install 'pyrovae[tensorboard]'" in capsys.readouterr().err
    assert len(list(runs.Path("runs").glob("*"))) == 0
    assert train("--tracker", "tensorbord") == 2
    assert "did you mean 'tensorboard'" in capsys.readouterr().err


@pytest.mark.usefixtures("_without_pictures")
def test_run_toml_is_complete_readable_and_reproduces(finished, tmp_path):
    text = (finished / "run.toml").read_text()
    values = tomllib.loads(text)
    assert values.pop("schema") == 1
    assert values.keys() == {field.name for field in recipe.fields(Recipe)}
    assert str(finished.parent) not in text
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "run.toml").write_text(text)
    assert train("again") == 0
    assert same_run(finished, "again")


@pytest.mark.usefixtures("_without_pictures")
def test_paths_are_written_relative_and_found_again(tmp_path, monkeypatch):
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32))
    assert train("--data", "x.npy", "--likelihood", "normal", "--batch-size", 20, "--name", "vectors", *QUICK) == 0
    assert str(tmp_path) not in runs.Path("runs/vectors/run.toml").read_text()
    monkeypatch.chdir(tmp_path / "runs")
    assert main(["evaluate", "vectors", "--split", "train", "--particles", "5"]) == 0
    assert json.loads(runs.Path("vectors/evaluation.json").read_text())["rows"] == 42


@pytest.mark.usefixtures("_without_pictures")
def test_options_reach_the_model():
    options = [
        "--network", "conv(channels=[4], hidden=7)", "--decoder", "mlp(hidden=[5])", "--activation", "tanh",
        "--likelihood", "normal(scale=0.2, learn='one')", "--latent-dim", "3", "--binarize", "none",
        "--dtype", "float64",
        "--beta", "0.5", "--beta-warmup", "1", "--lr-schedule", "cosine", "--optimizer", "adamw(weight_decay=0.1)",
        "--objective", "elbo(estimator='analytic')", "--patience", "9", "--clip", "5", "--seed", "2", "--device", "cpu",
    ]  # fmt: skip
    assert train("--name", "all", *QUICK, *options) == 0
    vae = pyrovae.load("runs/all")
    assert vae.encoder[0].out_channels == 4
    assert vae.decoder[0].out_features == 5
    assert isinstance(vae.decoder[1], torch.nn.Tanh)
    assert vae.latent_shape == (3,)
    assert next(vae.parameters()).dtype == torch.float64
    assert vae.likelihood.scale.item() != pytest.approx(0.2, abs=1e-6)
    betas = [record["beta"] for record in files.read_lines(runs.Path("runs/all/metrics.jsonl"))]
    assert betas == pytest.approx([0.5] * 4)


def interrupt_after(monkeypatch, epochs, error=KeyboardInterrupt):
    """Fail in the middle of the epoch after this one."""
    step = pyrovae.Training.take_step

    def failing(self, x, number):
        if self.epoch == epochs and number == 3:
            raise error
        return step(self, x, number)

    monkeypatch.setattr(pyrovae.Training, "take_step", failing)


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize(
    "epochs", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(3, marks=pytest.mark.slow)]
)
def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_bits(finished, monkeypatch, capsys, epochs):
    with monkeypatch.context() as patched:
        interrupt_after(patched, epochs)
        assert train("--name", "cut", *QUICK) == 130
    assert "pyrovae train runs/cut --resume" in capsys.readouterr().err
    assert train("runs/cut", "--resume", *([] if epochs == 1 else QUICK)) == 0
    assert same_run(finished, "runs/cut")


CLUSTERS = [
    "--model", "mixture-vae(clusters=4)", "--network", "mlp(hidden=[16])", "--latent-dim", 4, "--clusters-after", 2,
    "--learning-rate", 0.01, *QUICK,
]  # fmt: skip


@pytest.mark.slow
def test_clusters_are_found_in_the_middle_of_a_run_once(monkeypatch, capsys):
    """Also where it is interrupted in the epoch after that; and what the clusters are worth."""
    assert train("--name", "whole", *CLUSTERS) == 0
    printed = capsys.readouterr().out
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        assert train("--name", "cut", *CLUSTERS) == 130
    assert train("runs/cut", "--resume") == 0
    assert same_run("runs/whole", "runs/cut")
    vae, path = pyrovae.load("runs/whole"), runs.Path("runs/whole")
    assert vae.prior.h_z.std(0).max() > 0.1
    betas = [record["beta"] for record in files.read_lines(path / "metrics.jsonl")]
    assert betas == pytest.approx([0.1, 1.0, 1.0, 1.0])  # the next step's
    assert files.read_tensors(path / "best.safetensors")[1]["epoch"] > 2
    test = load_data("digits").test
    found = json.loads((path / "evaluation.json").read_text())["clusters"]
    assert found == clusters.agreement(clusters.responsibilities(vae, test).argmax(1), test.y)
    assert found["accuracy"] > 0.15
    assert found["nmi"] > 0.05
    assert f"clusters' accuracy, matched to labels {'':4} {found['accuracy']:9.3f}\n" in printed
    assert {"clusters.png", "cluster-images.png"} <= {each.name for each in (path / "figures").iterdir()}


def test_uncertain_weights_are_a_run_like_any_other(capsys):
    options = ["--model", "bayesian-vae(scale=1.0)", "--network", "mlp(hidden=[16])", "--compile", "no"]
    assert train("--name", "weights", *options, *QUICK) == 0
    assert "log p(x), 3 importance samples at 10 w " in capsys.readouterr().out
    vae = pyrovae.load("runs/weights")
    assert vae.training_rows == 1258
    written, found = (
        json.loads(runs.Path("runs/weights/evaluation.json").read_text()),
        pyrovae.evaluate(vae, load_data("digits").test, 3),
    )
    assert written["draws"] == 10
    assert written["measure"] == "mass over binary values"
    assert written["log_likelihood"]["value"] == pytest.approx(found["log_likelihood"]["value"], abs=1e-5)
    assert runs.Path("runs/weights/figures/samples.png").exists()


def test_resume_refuses_another_option_by_name(finished, capsys):
    before = weights(finished)
    assert train(finished, "--resume", "--latent-dim", 3) == 2
    assert "--latent-dim" in (message := capsys.readouterr().err)
    assert "was made with 2, found 3" in message
    assert torch.equal(weights(finished)["order"], before["order"])


@pytest.mark.slow
def test_kill_while_saving_leaves_a_run_that_resumes_to_the_same_bits(finished, tmp_path):
    """kill -9 at several moments, one of them inside the writing of the state."""
    code = """
import os, sys
from pyrovae import files
from pyrovae.__main__ import main
import torch
torch.set_num_threads(1)
count = 0
replace = os.replace
def dying(source, target):
    global count
    count += str(target).endswith("last.safetensors")
    if count == 3 and str(target).endswith("last.safetensors"):
        os.kill(os.getpid(), 9)
    replace(source, target)
os.replace = dying
main(sys.argv[1:])
"""
    died = subprocess.run([sys.executable, "-c", code, "train", "--name", "killed", *QUICK], capture_output=True)
    assert died.returncode == -signal.SIGKILL
    left = sorted(path.name for path in runs.Path("runs/killed").iterdir())
    assert files.read_tensors(runs.Path("runs/killed/last.safetensors"))[1]["epoch"] == 2
    assert "previous.safetensors" in left
    assert any(name.startswith(".") for name in left)
    assert train("runs/killed", "--resume") == 0
    assert same_run(finished, "runs/killed")
    assert not [path for path in runs.Path("runs/killed").iterdir() if path.name.startswith(".")]


def test_ctrl_c_in_a_real_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "pyrovae", "train", "--name", "real", "--epochs", "100000", "--compile", "no"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell's background jobs, and so their children, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    state = runs.Path("runs/real/last.safetensors")
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert files.read_tensors(state)[1]["epoch"] >= 1


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize(
    "damage", [pytest.param("cut", marks=pytest.mark.slow), "flipped", pytest.param("emptied", marks=pytest.mark.slow)]
)
def test_a_damaged_state_is_named_and_the_previous_one_used(finished, monkeypatch, damage):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 3)
        assert train("--name", "hurt", *QUICK) == 130
    path = runs.Path("runs/hurt/last.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "emptied": b""}[damage])
    with pytest.warns(UserWarning, match=r"last.safetensors: .*damaged.*; continuing from previous.safetensors"):
        assert train("runs/hurt", "--resume") == 0
    assert same_run(finished, "runs/hurt")
    for name in ("last", "previous"):
        (path.parent / f"{name}.safetensors").write_bytes(b"")
    assert train("runs/hurt", "--resume") == 2


def test_a_state_of_another_version_is_named(finished, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        assert train("--name", "old", *QUICK) == 130
    path = runs.Path("runs/old/last.safetensors")
    tensors, about = files.read_tensors(path)
    files.write_tensors(path, tensors, {name: said for name, said in about.items() if name != "optimizer"})
    before = path.read_bytes()
    assert train("runs/old", "--resume") == 2
    assert "expected the state of a training, found none of its 'optimizer'" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_run_that_blows_up_keeps_its_last_good_state(capsys):
    assert train("--name", "hot", "--learning-rate", "1e12", *QUICK) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("pyrovae: training stopped at step 2 (epoch 1)")
    assert printed.count("\n") == 1


@pytest.mark.usefixtures("_without_pictures")
def test_how_the_steps_run_is_chosen_and_recorded():
    options = ["--dtype", "bfloat16", "--matmul", "auto", "--compile", "no", "--epochs", 2, "--particles", 2]
    assert train("--name", "how", *options) == 0
    environment = json.loads(runs.Path("runs/how/environment.json").read_text())
    assert environment["path"] == "eager"
    assert environment["matmul"] in ("highest", "medium")
    assert environment["medium_speed"] > 0
    assert torch.get_float32_matmul_precision() == "highest"
    assert {value.dtype for value in pyrovae.load("runs/how").parameters()} == {torch.float32}


def test_the_commit_is_dirty_where_code_differs_and_not_where_findings_do(tmp_path, monkeypatch):
    """The commit is that of the package's own checkout, wherever the working directory is."""
    package, text = tmp_path / "checkout" / "package", tmp_path / "checkout" / "findings.md"
    monkeypatch.setattr(runs.provenance, "PACKAGE", package)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    package.mkdir(parents=True)
    code = package / "__init__.py"
    code.write_text("1\n"), text.write_text("1\n")
    assert runs.surroundings()["commit"] is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "-q", str(tmp_path / "checkout")], check=True)
    for words in (["add", "findings.md"], [*author, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path / "checkout"), *words], check=True)
    assert runs.surroundings()["commit"] is None  # a package installed inside of another project
    for words in (["add", "."], [*author, "commit", "-q", "-m", "second"]):
        subprocess.run(["git", "-C", str(tmp_path / "checkout"), *words], check=True)
    clean = runs.surroundings()["commit"]
    assert len(clean) >= 7
    text.write_text("2\n")
    assert runs.surroundings()["commit"] == clean
    code.write_text("2\n")
    assert runs.surroundings()["commit"] == f"{clean}-dirty"


@pytest.mark.usefixtures("_without_pictures")
def test_a_resumed_run_uses_the_matmul_that_auto_found(monkeypatch):
    monkeypatch.setattr("pyrovae.training.matmul.fastest_matmul", lambda *found: ("medium", 1e-6, 2.0))
    with monkeypatch.context() as patched:
        interrupt_after(patched, 1)
        assert train("--name", "fast", "--matmul", "auto", *QUICK) == 130
    monkeypatch.setattr("pyrovae.training.matmul.fastest_matmul", lambda *found: ("highest", 1e-6, 1.0))
    assert train("runs/fast", "--resume") == 0
    assert json.loads(runs.Path("runs/fast/environment.json").read_text())["matmul"] == "medium"


def test_a_damaged_environment_and_weights_of_another_model_are_named(finished, tmp_path, capsys):
    shutil.copytree(finished, "copy")
    runs.Path("copy/environment.json").write_text("{")
    assert main(["evaluate", "copy"]) == 2
    assert "copy/environment.json: expected the environment of a run" in capsys.readouterr().err
    runs.Path("copy/environment.json").unlink()
    recipe.write(recipe.Recipe(latent_dim=3), runs.Path("copy/run.toml"))
    assert main(["evaluate", "copy"]) == 2
    assert "run.toml, with latent_dim = 3, found one with 2: one of the two is damaged or" in capsys.readouterr().err
    tensors, about = files.read_tensors(runs.Path("copy/best.safetensors"))
    del about["recipe"]  # as an earlier version wrote it
    files.write_tensors(runs.Path("copy/best.safetensors"), tensors, about)
    with pytest.warns(UserWarning, match=r"copy/best.safetensors: an earlier version"):
        assert main(["evaluate", "copy"]) == 2
    assert "its weights are not of the model in its run.toml (size mismatch" in capsys.readouterr().err


def test_nothing_of_a_run_is_pickled(finished):
    for path in finished.rglob("*"):
        if path.is_file():
            assert path.suffix in {".toml", ".json", ".jsonl", ".safetensors", ".png"} or "tfevents" in path.name
            assert path.read_bytes()[:2] != b"\x80\x04"


def test_evaluate_and_plot_can_be_redone_alone(finished, capsys):
    before = (finished / "evaluation.json").read_text()
    (finished / "evaluation.json").unlink()
    (finished / "figures" / "samples.png").unlink()
    assert main(["evaluate", str(finished)]) == 0
    assert main(["plot", str(finished)]) == 0
    assert json.loads((finished / "evaluation.json").read_text()) == json.loads(before)
    assert (finished / "figures" / "samples.png").stat().st_size > 10000
    assert "log p(x), 3 importance samples" in capsys.readouterr().out


def test_the_weights_last_and_best_are_kept_apart(finished):
    best, last = pyrovae.load(finished), pyrovae.load(finished, weights="last")
    state = files.read_tensors(finished / "last.safetensors")[0]
    for name, value in last.state_dict().items():
        assert torch.equal(value, state[f"weights.{name}"])
    assert best.latent_shape == last.latent_shape == (2,)


def occupied(path):
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text("{}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "minst"], "unknown dataset (or folder, .npy, .npz) 'minst'; did you mean 'mnist'?"),
        (["train", "--data", ""], "unknown dataset (or folder, .npy, .npz) '' (known: digits, "),
        (["train", "--likelihood", "bernouli"], "unknown likelihood 'bernouli'; did you mean 'bernoulli'?"),
        (["train", "--guide", "diagonal"], "unknown guide 'diagonal'; did you mean 'diagonal-normal'?"),
        (["train", "--prior", "normal"], "did you mean 'standard-normal'?"),
        (["train", "--network", "mpl"], "unknown network 'mpl'; did you mean 'mlp'?"),
        (["train", "--network", "mlp(hiden=3)"], "unknown option of network 'mlp' 'hiden'; did you mean 'hidden'?"),
        (["train", "--network", "mlp(3"], "network: expected name or 'name(option=value, ...)', found 'mlp(3'"),
        (["train", "--likelihood", "normal(scale=open)"], "unknown likelihood 'open'"),
        (["train", "--likelihood", "normal(scale=1+1)"], "unknown likelihood '1+1'"),
        (["train", "--likelihood", "normal(scale=not 1)"], "likelihood: expected name or"),
        (["train", "--optimizer", "adan"], "unknown optimizer 'adan'; did you mean 'adam'?"),
        (["train", "--activation", "rely"], "did you mean 'relu'?"),
        (["train", "--objective", "elbow"], "did you mean 'elbo'?"),
        (["train", "--objective", "iwae(k=2)", "--beta", "4"], "beta: iwae(k=2) has none; expected 1"),
        (["train", "--likelihood", "nowhere:Nothing"], "expected 'module:Class' of an installed module"),
        (["train", "--likelihood", "json:Nothing"], "has no attribute 'Nothing'"),
        (["train", "--likelihood", "os:sep"], "likelihood: expected a class or a function, found 'os:sep', a str"),
        (["train", "--likelihood", "json:dumps"], "json:dumps: expected that it builds a Module, found '[1, 8, 8]'"),
        (["train", "--likelihood", "torch.nn:Linear"], "torch.nn:Linear: TypeError: Linear.__init__() missing 1"),
        (["train", "--likelihood", "torch.nn:Sequential"], "torch.nn:Sequential: TypeError: tuple is not a Module sub"),
        (["train", "--guide", "torch.nn:Identity"], "guide: expected a subclass of pyrovae.guides.GuideFamily"),
        (["train", "--likelihood", "missing(of=5)"], "of: expected a likelihood class such as Normal, found 5"),
        (["train", "--model", "hierarchical-vae(between=5)"], "between: expected a module, or a class or"),
        (["train", "--optimizer", "sgd(momentum='a')"], "optimizer: sgd(momentum='a'): TypeError: '<' not supported"),
        (["train", "--lr-schedule", "cos"], "unknown lr_schedule 'cos'; did you mean 'cosine'?"),
        (["train", "--binarize", "yes"], "unknown binarize 'yes'"),
        (["train", "--binarize", "none"], "binarise the data"),
        (["train", "--beta", "-1"], "beta: expected a finite number >= 0, found -1.0"),
        (["train", "--latent-dim", "0"], "latent_dim: expected an integer >= 1, found 0"),
        (["train", "--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["train", "--batch-size", "9999"], "batch_size: expected at most the 1258 training rows, found 9999"),
        (["train", "--epoch", "3"], "unknown option '--epoch'; did you mean '--epochs'?"),
        (["train", "--dtype", "float16"], "unknown dtype 'float16'"),
        (["train", "--device", "cuda:99"], "device: expected auto, cpu or a GPU"),
        (["train", "--device", "meta"], "device: expected auto, cpu or a GPU"),
        (["train", "--clusters-after", "3"], "clusters_after: expected none, because vae has no clusters"),
        (["train", "--model", "mixture-vae", "--clusters-after", "101"], "initialise: expected a model with"),
        (["train", "--model", "bayesian-vae(training_rows=5)"], "unknown option of model 'bayesian-vae'"),
        (["train", "--compile", "fast"], "unknown compile 'fast'"),
        (["train", "--matmul", "lowest"], "unknown matmul 'lowest'"),
        (["train", "--threads", "5000"], "threads: expected at most 1024, found 5000"),
        (["train", "--seed", str(2**63)], "seed: expected an integer < 2**63"),
        (["train", "--network", "mlp()()"], "network: expected name or"),
        (["train", "--network", "mlp(hidden=[10000000000000])"], "the networks are too large"),
        (["train", "--resume"], "--resume: expected the run to continue"),
        (["train", "nowhere"], "nowhere is not a run: it has no run.toml"),
        (["train", "--name", "occupied"], "runs/occupied already holds a run (metrics.jsonl)"),
        (["train", "--root", "file", "--name", "a"], "file/a: expected a directory that can be written to"),
        (["train", "--data", "mnist", "--data-root", "short"], "expected 47040016 bytes, found 4"),
        (["train", "--examine", "diagnosis", "--rows", "10"], "rows: expected an integer >= 50, found 10"),
        (["train", "--name", "claimed"], "runs/claimed: expected a folder that no other process works in, found one"),
        (["evaluate", "runs/claimed"], "runs/claimed: expected a folder that no other process works in, found one"),
        (["compare", "--root", "runs/claimed", "--betas", "1,2"], "expected a folder that no other process works in"),
        (["evaluate", "nowhere"], "nowhere is not a run"),
        (["evaluate", "broken"], "broken/run.toml: expected TOML, found a damaged file"),
        (["evaluate", "other"], "other/run.toml: unknown option 'colour'"),
        (["evaluate", "future"], "future/run.toml: expected schema = 1"),
        (["evaluate", "typed"], "typed/run.toml: epochs: expected int, found 'ten'"),
        (["plot", "unfinished"], "unfinished/best.safetensors: there is no such file"),
        (["plot"], "the following arguments are required: RUN"),
        (["fly"], "invalid choice: 'fly'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_two(arguments, message, capsys):
    occupied(runs.Path("runs/occupied"))
    runs.Path("file").write_text("")
    (short := runs.Path("short/MNIST/raw/train-images-idx3-ubyte")).parent.mkdir(parents=True)
    short.write_text("abcd")
    for name, text in {
        "broken": "= 3",
        "other": 'schema = 1\ncolour = "red"',
        "future": "schema = 99",
        "typed": 'schema = 1\nepochs = "ten"',
        "unfinished": "schema = 1",
    }.items():
        runs.Path(name).mkdir()
        (runs.Path(name) / "run.toml").write_text(text)
    before = sorted(runs.Path().rglob("*"))
    with files.claimed(runs.Path("runs/claimed")):
        assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("pyrovae: ")
    assert sorted(runs.Path().rglob("*")) == before


def test_every_option_has_a_line_of_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for field in recipe.fields(Recipe):
        assert f"--{field.name.replace('_', '-')} " in text
        assert field.metadata["help"]


@pytest.mark.parametrize("name", ["last.safetensors", "run.toml"])
def test_a_failed_write_leaves_the_old_file(tmp_path, name):
    path = tmp_path / name
    files.write_bytes(path, b"old")

    def interrupted():
        with files.replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {"a": torch.randn(3, 2).T, "b": torch.tensor(2, dtype=torch.uint8), "c": torch.zeros(0, 4)}
    files.write_tensors(tmp_path / "t.safetensors", tensors, {"epoch": 3, "loss": 0.1})
    found, about = files.read_tensors(tmp_path / "t.safetensors")
    assert about == {"epoch": 3, "loss": 0.1}
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize(
    ("likelihood", "binarize", "has_bits"),
    [("bernoulli", "dynamic", False), ("discretized-logistic", "none", True), ("normal(scale=0.2)", "dequantize", True),
     ("normal(scale=0.2)", "none", False)],
)  # fmt: skip
def test_bits_per_dimension_where_the_measure_has_them(likelihood, binarize, has_bits):
    arguments = ["--likelihood", likelihood, "--binarize", binarize, "--network", "mlp(hidden=[8])", "--seed", 4,
                 "--compile", "no"]  # fmt: skip
    assert train("--name", "bits", *QUICK, *arguments) == 0
    results = json.loads(runs.Path("runs/bits/evaluation.json").read_text())
    found, nats = results["bits_per_dimension"], -results["log_likelihood"]["value"]
    assert (found is not None) == has_bits
    if has_bits:
        dequantised = 8 if binarize == "dequantize" else 0
        assert found["value"] == pytest.approx(nats / (64 * np.log(2)) + dequantised, rel=1e-9)
        assert 2 < found["value"] < 12


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize("folder", [".", pytest.param("library", marks=pytest.mark.slow)])
def test_a_users_own_member_is_found_in_the_working_directory_and_on_the_path(folder, tmp_path, monkeypatch, capsys):
    """The likelihood of the manual, by name, on counts. Typed, it is trusted; read from the run, only by --trust."""
    readme = (runs.Path(__file__).parents[1] / "runs" / "README.md").read_text()
    (own,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "class ZeroInflated" in block)
    np.save("counts.npy", np.random.default_rng(0).poisson(2.0, (200, 5)).astype(np.float32))
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "own_members.py").write_text(own)
    monkeypatch.syspath_prepend(str(tmp_path / folder))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / folder))
    arguments = ["--data", "counts.npy", "--likelihood", "own_members:ZeroInflatedPoisson(gate=-2.0)", *QUICK,
                 "--compile", "no", "--network", "mlp(hidden=[4])"]  # fmt: skip
    assert train("--name", "own", *arguments) == 0
    head, *_ = lines = runs.Path("runs/own/run.toml").read_text().splitlines()
    assert "`pyrovae train own --trust own_members`" in head
    assert any("own_members:ZeroInflatedPoisson(gate=-2.0)" in line for line in lines[1:])
    written = json.loads(runs.Path("runs/own/evaluation.json").read_text())
    assert written["measure"] == "mass over counts"
    assert written["command"].endswith("--trust own_members")
    assert "pyrovae.load('runs/own', trust=('own_members',))" in capsys.readouterr().out
    sys.modules.pop("own_members")
    for command in (["train", "runs/own", "--resume"], ["train", "runs/own", "--name", "b"], ["evaluate", "runs/own"],
                    ["plot", "runs/own"]):  # fmt: skip
        assert main(command) == 2
        assert "add --trust own_members, in Python trust=('own_members',)" in capsys.readouterr().err
        assert "own_members" not in sys.modules
        assert main([*command, "--trust", "own_members"]) == 0
        sys.modules.pop("own_members")
    with pytest.raises(ValueError, match="--trust own_members"):
        pyrovae.load("runs/own", trust=["own_member", "own_members.own_members"])
    assert pyrovae.load("runs/own", trust=["own_members"]).likelihood.gate.item() != pytest.approx(-2.0, abs=1e-6)
    with pytest.raises(ValueError, match="--trust own_members"):  # which is trusted by that one call
        pyrovae.load("runs/own")
    sys.modules.pop("own_members")


def test_a_users_own_bug_is_told_with_its_cause_and_leaves_the_optimiser_fused(tmp_path, monkeypatch):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "buggy.py").write_text("def build(event_shape, width=None):\n    return width.size\n")
    monkeypatch.syspath_prepend(str(tmp_path / "library"))
    unbuilt = r"buggy:build: AttributeError: 'NoneType' object has no"
    with trusting(["buggy"]), pytest.raises(ValueError, match=unbuilt) as told:
        build.model(Recipe(likelihood="buggy:build"), (1, 8, 8))
    assert isinstance(told.value.__cause__, AttributeError)
    assert traceback.extract_tb(told.value.__cause__.__traceback__)[-1].filename.endswith("buggy.py")
    own = Recipe(optimizer="adam(betas=[0.8, 0.9])", network="mlp(hidden=[4])")
    (group,) = build.training(own, build.model(own, (1, 8, 8)), build.splits(own)).svi.optimizer.param_groups
    assert group["fused"]
    assert group["betas"] == (0.8, 0.9)


def test_an_interrupted_evaluation_goes_on(finished, monkeypatch):
    """What was done is not done again, and the numbers are the same to the last digit."""
    whole = runs.evaluate(finished, 3, seed=1)
    done, traced = [], importance.traces

    def counted(model, guide, particles, *args, **kwargs):
        done.extend([particles] * (particles == 3))  # of one the memory is measured that it needs
        return traced(model, guide, particles, *args, **kwargs)

    def interrupted(*args, **kwargs):
        if len(done) == 2:
            raise KeyboardInterrupt
        return counted(*args, **kwargs)

    monkeypatch.setattr(importance, "traces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.evaluate(finished, 3, seed=1)
    monkeypatch.setattr(importance, "traces", counted)
    assert runs.evaluate(finished, 3, seed=1) == whole
    assert len(done) == -(-whole["rows"] // importance.ROWS)
    assert not list(finished.glob(".evaluating-*"))


def vectors(path, scale, seed=0):
    """Data of one name and one shape."""
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.random.default_rng(seed).normal(scale=scale, size=(60, 3)).astype(np.float32))


def test_a_folder_that_was_claimed_in_vain_goes_again():
    with files.claimed(runs.Path("a/b")):
        assert runs.Path("a/b").is_dir()
    with files.claimed(runs.Path("c")):
        runs.Path("c/kept").write_text("")
    with files.claimed(runs.Path("c")):
        pass
    assert [str(path) for path in sorted(runs.Path().rglob("*"))] == ["c", "c/kept"]


def test_where_there_are_no_locks_a_folder_is_used_all_the_same(monkeypatch):
    def refuse(lock, timeout):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    with files.claimed(runs.Path("a")):
        assert [str(path) for path in runs.Path().iterdir()] == ["a"]


def test_a_file_in_place_of_a_run_is_refused_before_its_data_are_read():
    runs.Path("file").write_text("")
    with pytest.raises(ValueError, match="file: expected a directory, found a file"):
        runs.prepare(runs.Path("file"), Recipe(data="nowhere.npy"))


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(monkeypatch):
    runs.Path("found").mkdir()
    runs.Path("found/old").write_text("")
    rename, names = runs.Path.rename, []

    def fails(path, target):
        names.append(path.name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(runs.Path, "rename", fails)
    with pytest.raises(KeyboardInterrupt), files.replacing_folder(runs.Path("found")) as new:
        (new / "new").write_text("")
    assert names[0] == "found"
    assert [str(path) for path in sorted(runs.Path().rglob("*"))] == ["found", "found/old"]


def test_test_data_are_looked_at_before_training(capsys):
    x = (np.random.default_rng(0).random((60, 6)) < 0.4).astype(np.float32)
    torn = x.copy()
    torn[7, 3] = np.nan
    np.savez("torn.npz", x_train=x, x_test=torn)
    assert train("--data", "torn.npz", "--batch-size", 10, *QUICK) == 2
    assert "NaN" in capsys.readouterr().err
    assert not runs.Path("runs").exists()


def test_files_of_a_run_that_hold_something_else_are_named(finished):
    shutil.copytree(finished, "odd")
    runs.Path("odd/evaluation.json").write_text("[]")
    with pytest.raises(ValueError, match=r"odd/evaluation.json: expected fields and values, found a list"):
        runs.evaluation(runs.Path("odd"))
    with runs.Path("odd/metrics.jsonl").open("ab") as file:
        file.write(b"5\n\xff\n")
    assert len(files.read_lines(runs.Path("odd/metrics.jsonl"))) == 4


VECTORS = ["--likelihood", "normal", "--batch-size", 10, "--network", "mlp(hidden=[4])", "--compile", "no", *QUICK]


@pytest.mark.usefixtures("_without_pictures")
def test_data_of_one_file_name_are_told_apart():
    found = {}
    for name, folder, scale in (("one", "a", 1.0), ("other", "b", 2.0), ("again", "c", 1.0)):
        vectors(runs.Path(folder, "x.npy"), scale)
        assert train("--data", f"{folder}/x.npy", "--name", name, *VECTORS) == 0
        found[name] = runs.evaluation(runs.Path("runs", name))[0]
    assert {each["data"] for each in found.values()} == {"x.npy"}
    assert found["one"]["data_sha256"] == found["again"]["data_sha256"] == load_data("c/x.npy").test.sha256
    with pytest.raises(ValueError, match="one and other: expected the same data_sha256"):
        pyrovae.rank({name: found[name] for name in ("one", "other")})
    assert len(pyrovae.rank({name: found[name] for name in ("one", "again")})) == 2


@pytest.mark.usefixtures("_without_pictures")
def test_a_run_does_not_go_on_with_other_data(monkeypatch, capsys):
    vectors(runs.Path("a/x.npy"), 1.0)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        assert train("--data", "a/x.npy", "--name", "cut", *VECTORS) == 130
    before = weights("runs/cut")
    vectors(runs.Path("a/x.npy"), 2.0)
    assert train("runs/cut", "--resume") == 2
    assert "runs/cut: expected x as it was trained on, found other data" in capsys.readouterr().err
    assert all(torch.equal(value, before[name]) for name, value in weights("runs/cut").items())
    vectors(runs.Path("a/x.npy"), 1.0)
    assert train("runs/cut", "--resume") == 0


@pytest.mark.usefixtures("_without_pictures")
def test_an_evaluation_of_other_data_begins_anew(monkeypatch):
    """Neither what an interrupted one has done, nor an examination, is of the data as they are now."""
    vectors(runs.Path("a/x.npy"), 1.0)
    assert train("--data", "a/x.npy", "--name", "run", *VECTORS) == 0
    path = runs.Path("runs/run")
    first = runs.evaluation(path)[0] | {"examination": {"information": {"mutual": 1.0}}}
    files.write_json(path / "evaluation.json", first)
    assert runs.evaluate(path) == first
    rows = build.splits(recipe.read(path / "run.toml")).test.x
    x = np.load("a/x.npy")
    held_out = [bool((rows == torch.from_numpy(row)).all(1).any()) for row in x]
    np.save("a/x.npy", np.where(np.array(held_out)[:, None], x + 8, x))  # others would be refused
    with pytest.warns(UserWarning, match="run: the test rows of x are not those of evaluation.json"):
        second = runs.evaluate(path)
    assert second["log_likelihood"]["value"] < first["log_likelihood"]["value"] - 10
    assert second["data_sha256"] != first["data_sha256"]
    assert "examination" not in second
