"""Every option does something: each field of a recipe and each flag of the command line, changed one at a time, changes
weights, numbers or files, or is refused by a line that names it."""

import argparse
import hashlib
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pyrovae
from pyrovae import __main__, comparison, experiments, files, runs
from pyrovae.__main__ import main
from pyrovae.runs import build, recipe
from pyrovae.runs.recipe import Recipe
from pyrovae.runs.trust import trusted

# The run that each option is changed in: 42 rows to train on, one epoch of three steps.
BASE = {
    "data": "x.npz",
    "network": "mlp(hidden=[4])",
    "batch_size": 15,
    "epochs": 1,
    "particles": 2,
    "compile": "no",
    "threads": 1,
}
MIXTURE = {"model": "mixture-vae(clusters=2)", "valid": 0.3, "epochs": 2}
SEMI = {"model": "semi-supervised-vae", "num_labels": 9.0}
# Each field: what it is changed to, and what else the base has where that alone would have no effect.
CHANGES = {
    "data": ("y.npz", {}),
    "data_root": ("elsewhere", {"data": "mnist", "batch_size": 20000, "particles": 1}),
    "binarize": ("threshold", {}),
    "valid": (0.3, {}),
    "test": (0.3, {}),
    "num_labels": (12.0, SEMI),
    "model": ("invariant-vae", {}),
    "latent_dim": (3, {}),
    "prior": ("mixture(components=2)", {}),
    "likelihood": ("bernoulli(soft_targets=True)", {}),
    "guide": ("iaf", {}),
    "network": ("mlp(hidden=[5])", {}),
    "encoder": ("mlp(hidden=[5])", {}),
    "decoder": ("mlp(hidden=[5])", {}),
    "begin": ("mean", {}),
    "activation": ("tanh", {}),
    "objective": ("iwae(k=2)", {}),
    "beta": (2.0, {}),
    "beta_warmup": (1.0, {}),
    "beta_cycles": (1, {}),
    "epochs": (2, {}),
    "clusters_after": (0.0, MIXTURE),
    "batch_size": (20, {}),
    "labelled_batch_size": (3, SEMI),
    "optimizer": ("sgd", {}),
    "learning_rate": (1e-2, {}),
    "lr_schedule": ("cosine", {}),
    "clip": (0.1, {}),
    "patience": (1, {"epochs": 6, "learning_rate": 0.3}),
    "particles": (3, {}),
    "seed": (1, {}),
    "device": ("cuda:99", {}),
    "dtype": ("float64", {}),
    "matmul": ("medium", {}),
    "compile": ("auto", {}),
    "threads": (2, {}),
    "tracker": ("tensorboard", {}),
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """A folder with data of three classes; runs without figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "plot", lambda path: [path / "figures" / "none.png"])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 1, 8, 8)) * rng.integers(0, 2, (1, 1, 8, 8))
    for name, x in (("x.npz", images), ("y.npz", 255 - images)):
        np.savez(name, x=x.astype(np.uint8), y=np.arange(60) % 3)


@pytest.fixture(scope="module")
def bases():
    """What the runs without the change have left: many options share one."""
    return {}


def flags(options):
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def trained(capsys, options, *words):
    """What a run with these options leaves, and what it says on the way: all but its recipe, and the time it took."""
    folder = Path("runs", hashlib.sha256(repr((options, words)).encode()).hexdigest()[:8])
    status = main(["train", "--name", folder.name, *flags(options), *words])
    said = capsys.readouterr().err
    return {"status": status, "said": said} | (observed(folder) if status == 0 else {})


def observed(folder):
    """The weights, the records of the epochs, the numbers of the evaluation, and how the steps were run."""
    environment, numbers = (files.read_json(folder / name) for name in ("environment.json", "evaluation.json"))
    weights = {name: value.tolist() for name, value in load_file(folder / "last.safetensors").items()}
    records = [record | {"seconds": 0} for record in files.read_lines(folder / "metrics.jsonl")]
    how: dict = {name: environment[name] for name in ("threads", "device", "path", "matmul")}
    how["tracker"] = [path.name for path in folder.glob("tensorboard")]
    for name in ("run", "command", "weights_sha256"):  # a file of weights has its head in any order
        numbers.pop(name)
    return {"weights": weights, "records": records, "how": how, "numbers": numbers}


def changed(capsys, name, value, context, known):
    """In what two runs differ whose recipes differ in one option; or the line that refuses it by its name.

    What is `known` of a run without the change is not made again."""
    base = BASE | context
    before = known.get(repr(base)) or trained(capsys, base)
    known[repr(base)] = before
    after = trained(capsys, base | {name: value})
    assert before["status"] == 0 or name == "data_root"
    if after["status"] == 2:
        assert after["said"].count("\n") == 1
        assert name in after["said"] or str(value) in after["said"]
        return {"said"}
    return {part for part in before if repr(before[part]) != repr(after[part])}


def untested(kind, table):
    """The fields that no line of the table changes."""
    return {field.name for field in fields(kind)} - table.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_of_a_recipe_does_something(name, capsys, bases):
    value, context = CHANGES[name]
    assert changed(capsys, name, value, context, bases) != set()


def test_the_base_is_a_run_and_the_same_twice(capsys):
    first, again = trained(capsys, BASE), trained(capsys, BASE | {"clip": 0.0})
    assert first["status"] == 0
    assert np.isfinite(first["numbers"]["elbo"]["value"])
    assert repr(first) == repr(again)


def test_the_table_has_every_field():
    assert untested(Recipe, CHANGES) == set()
    assert untested(Recipe, {name: None for name in CHANGES if name != "clip"}) == {"clip"}


@pytest.mark.parametrize(
    ("name", "dead"),
    [
        ("begin", lambda monkeypatch: monkeypatch.setattr(pyrovae.VAE, "begin_at", lambda self, mean: None)),
        ("begin", lambda monkeypatch: monkeypatch.setattr(build, "initialise", lambda recipe, model, splits: None)),
        ("clip", lambda monkeypatch: forgotten(monkeypatch, "clip", None)),
        ("lr_schedule", lambda monkeypatch: forgotten(monkeypatch, "lr_schedule", lambda share: 1.0)),
    ],
)
def test_a_dead_option_is_seen(name, dead, capsys, monkeypatch):
    value, context = CHANGES[name]
    dead(monkeypatch)
    assert changed(capsys, name, value, context, {}) == set()


def forgotten(monkeypatch, name, instead):
    """An option that the recipe does not hand on to the training."""
    made = build.train.Training
    monkeypatch.setattr(build.train, "Training", lambda *args, **options: made(*args, **options | {name: instead}))


def test_a_decoder_begins_at_the_mean_of_the_training_data():
    asked = recipe.from_options(BASE | {"begin": "mean", "binarize": "threshold"})
    splits = build.splits(asked)
    model = build.model(asked, splits.event_shape)
    build.training(asked, model, splits)
    mean = splits.train[:].mean(0).clamp(1e-3, 1 - 1e-3)
    torch.testing.assert_close(model.decoder[-1].bias.sigmoid().view(1, 8, 8), mean)


GATED = {"network": "mlp(hidden=[4], gated=True)"}
IDLE = [
    ({"data_root": "elsewhere"}, "data_root: it has no effect here: expected a dataset with files of its own"),
    (
        {"data": "v.npy", "likelihood": "normal", "binarize": "threshold"},
        "binarize: it has no effect here: expected im",
    ),
    ({"data": "own.npz", "test": 0.3}, "test: it has no effect here: expected data without a test part"),
    ({"num_labels": 9.0}, "num_labels: it has no effect here: expected a model that takes labels"),
    (
        {"num_labels": 9.0, "model": "mixture-vae(clusters=2)"},
        "num_labels: it has no effect here: expected a model",
    ),
    (
        {"labelled_batch_size": 3},
        "labelled_batch_size: it has no effect here: expected training",
    ),
    (
        {"labelled_batch_size": 3, "model": "semi-supervised-vae"},
        "labelled_batch_size: it has no effect here: expected training",
    ),
    ({"encoder": "mlp(hidden=[5])", "decoder": "mlp(hidden=[6])"}, "network: it has no effect here: expected an encod"),
    (GATED | {"activation": "tanh"}, "activation: it has no effect here: expected a network with an activation"),
    ({"network": "mlp(hidden=[])", "activation": "tanh"}, "activation: it has no effect here"),
    ({"beta_warmup": 1.0, "beta_cycles": 1}, "beta_warmup: expected none beside beta_cycles=1"),
    ({"beta_warmup": 0.1}, "beta_warmup: expected at least a step of 3 an epoch, found 0.1"),
    ({"beta_warmup": 1.0, "beta": 0.0}, "beta_warmup: expected none at beta = 0, found 1.0"),
    ({"beta_cycles": 2}, "beta_cycles: expected at least 2 of 3 steps for each, found 2 cycles"),
    ({"objective": "iwae(k=2)", "beta_warmup": 1.0}, "beta_warmup: iwae(k=2) has none; expected 1 and no schedule"),
    ({"objective": "iwae(k=2)", "beta_cycles": 1}, "beta_cycles: iwae(k=2) has none; expected 1 and no schedule"),
    ({"objective": "elbo(beta=2)", "beta": 3.0}, "beta: elbo(beta=2) has its own; expected 1 and no schedule"),
    ({"begin": "mean", "likelihood": "bernoulli", "network": "conv(channels=[4], hidden=4)"}, "begin: expected a deco"),
    ({"begin": "mean", "likelihood": "continuous-bernoulli"}, "begin: expected a likelihood with an inverse link"),
    ({"begin": "mean", "model": "completion-vae"}, "begin: expected a model with a decoder of x alone"),
    ({"clusters_after": 0.5}, "clusters_after: expected none, because vae has no clusters"),
    ({"patience": 1, "valid": 0.0}, "patience: expected validation data to watch, found none"),
]


@pytest.mark.parametrize(("options", "message"), IDLE, ids=[" ".join(options) for options, _ in IDLE])
def test_an_option_without_effect_in_its_context_is_refused_by_name(options, message, capsys):
    np.save("v.npy", np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32))
    x = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8)).astype(np.uint8)
    np.savez("own.npz", x_train=x, x_test=x[:20])
    seen = trained(capsys, BASE | options)
    assert seen["status"] == 2
    assert message in seen["said"]
    assert seen["said"].count("\n") == 1
    assert not list(Path("runs").glob("*"))


# Of each command the flags that are no fields of a recipe: a command line that works, and what is put behind it.
OWN = {
    ("train", "--name"): (["--root", "other"], ["--name", "mine"]),
    ("train", "--root"): (["--name", "mine"], ["--root", "other"]),
    ("train", "--resume"): (["--name", "done"], ["--resume"]),
    ("train", "--examine"): (["--name", "mine"], ["--examine", "information"]),
    ("train", "--trust"): (["--name", "mine"], ["--trust", "my_module"]),
    ("evaluate", "--trust"): (["runs/done"], ["--trust", "my_module"]),
    ("plot", "--trust"): (["runs/done"], ["--trust", "my_module"]),
    ("compare", "--trust"): (["--betas", "1,2"], ["--trust", "my_module"]),
    ("train", "--rows"): (["--name", "mine", "--examine", "information"], ["--rows", "60"]),
    ("evaluate", "--particles"): (["runs/done"], ["--particles", "3"]),
    ("evaluate", "--split"): (["runs/done"], ["--split", "valid"]),
    ("evaluate", "--seed"): (["runs/done"], ["--seed", "1"]),
    ("evaluate", "--examine"): (["runs/done"], ["--examine", "information"]),
    ("evaluate", "--rows"): (["runs/done", "--examine", "information", "--split", "train"], ["--rows", "60"]),
    ("compare", "--root"): (["--betas", "1,2"], ["--root", "other"]),
    ("compare", "--seeds"): (["--betas", "1,2"], ["--seeds", "2"]),
    ("compare", "--gaps"): (["--betas", "1,2"], ["--gaps", "60"]),
    ("compare", "--jobs"): (["--betas", "1,2"], ["--jobs", "7"]),
    ("compare", "--models"): (["--betas", "1,2"], ["--models", "vae,invariant-vae"]),
    ("compare", "--priors"): (["--betas", "1,2"], ["--priors", "standard-normal,laplace"]),
    ("compare", "--likelihoods"): (["--betas", "1,2"], ["--likelihoods", "bernoulli,bernoulli(soft_targets=True)"]),
    ("compare", "--guides"): (["--betas", "1,2"], ["--guides", "diagonal-normal,iaf"]),
    ("compare", "--networks"): (["--betas", "1,2"], ["--networks", "mlp,mlp(hidden=[5])"]),
    ("compare", "--objectives"): (["--latent-dims", "1,2"], ["--objectives", "elbo,iwae(k=2)"]),
    ("compare", "--betas"): (["--latent-dims", "1,2"], ["--betas", "1,2"]),
    ("compare", "--latent-dims"): (["--betas", "1,2"], ["--latent-dims", "1,2"]),
    ("compare", "--label-counts"): (["--betas", "1,2", "--model", SEMI["model"]], ["--label-counts", "9,12"]),
    ("compare", "--learning-rates"): (["--betas", "1,2"], ["--learning-rates", "0.01,0.001"]),
    ("experiment", "--list"): (["toy"], ["--list"]),
    ("experiment", "--data"): (["toy"], ["--data", "mnist"]),
    ("experiment", "--seeds"): (["toy"], ["--seeds", "2"]),
    ("experiment", "--root"): (["toy"], ["--root", "other"]),
    ("experiment", "--threads"): (["toy"], ["--threads", "2"]),
}
TAKES_A_RECIPE = ("train", "compare")


@pytest.fixture
def called(monkeypatch):
    """What the commands hand on to the stages of a run, a comparison or an experiment, which do nothing here."""
    calls = []

    def stage(result):
        def called(*args, **options):
            calls.append((*args, options, torch.get_num_threads(), sorted(trusted())))
            return result

        return called

    results = {
        "split": "test",
        "rows": 1,
        "measure": "none",
        "kl_by_site": {},
        "observed_by_site": {},
        "examination": {},
    }
    numbers = {name: {"value": float("nan")} for name in ("elbo", "reconstruction", "kl", "log_likelihood")}
    results |= numbers | {"kl_estimator": "none", "particles": 1, "bits_per_dimension": None}
    results["examination"]["information"] = {"refused": "here"}
    monkeypatch.setattr(runs, "train", stage(None))
    monkeypatch.setattr(runs, "evaluate", stage(results))
    monkeypatch.setattr(runs, "plot", stage([Path("figures/none.png")]))
    monkeypatch.setattr(experiments, "run", lambda root, *args: stage(root)(root, *args))
    monkeypatch.setattr(comparison, "carry_out", lambda root, *args: stage(Nothing(root))(root, *args))
    for root in (__main__.EXPERIMENTS, Path("other")):
        folder = root / "toy"
        folder.mkdir(parents=True)
        (folder / "experiment.py").write_text('"""Whether."""\nBUDGETS = {"digits": 1, "mnist": 2}')
        (root / "findings.md").write_text("none")
    (made(Path("runs", "done")) / "metrics.jsonl").write_text("")
    recipe.write(recipe.locate(recipe.from_options(BASE), Path.cwd()), Path("runs", "done", "run.toml"))
    return calls


def made(folder):
    folder.mkdir(parents=True)
    return folder


class Nothing:
    """A comparison of which nothing is carried out."""

    failed = ()

    def __init__(self, root):
        self.root = root

    def write(self):
        pass

    def __str__(self):
        return ""


def outcome(command, words, called, capsys):
    """What a command line leads to: its status and words, and what it hands on."""
    called.clear()
    given = flags({name: value for name, value in BASE.items() if f"--{name}s" not in words})
    given = given if command in TAKES_A_RECIPE else []
    status = main([command, *given, *words])
    printed = capsys.readouterr()
    # Where objects are in memory says nothing.
    return status, printed.out, printed.err, re.sub(r"0x[0-9a-f]+", "", repr(called))


def flags_of(command):
    """The flags that the command line knows for this command."""
    (commands,) = [each for each in __main__._parser()._actions if isinstance(each, argparse._SubParsersAction)]
    found = [flag for action in commands.choices[command]._actions for flag in action.option_strings]
    return {flag for flag in found if flag.startswith("--")} - {"--help"}


@pytest.mark.parametrize(("command", "flag"), OWN)
def test_every_flag_of_a_command_does_something(command, flag, called, capsys):
    before, more = OWN[command, flag]
    first, second = (outcome(command, words, called, capsys) for words in (before, [*before, *more]))
    assert 0 in (first[0], second[0])  # without --resume a run that has begun is refused
    assert first != second
    assert second[0] == 0 or ((flag in second[2] or "NAME" in second[2]) and second[2].count("\n") == 1)


def test_every_command_has_its_flags_in_the_table():
    of_a_recipe = {f"--{field.name.replace('_', '-')}" for field in fields(Recipe)}
    commands = {command for command, _ in OWN}
    (parser,) = [each for each in __main__._parser()._actions if isinstance(each, argparse._SubParsersAction)]
    assert set(parser.choices) == commands
    for command in commands:
        own = {flag for other, flag in OWN if other == command}
        assert flags_of(command) == own | (of_a_recipe if command in TAKES_A_RECIPE else set())


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "data_root"])
def test_every_field_reaches_a_comparison(name, called, capsys):
    value, context = CHANGES[name]
    axis = ["--learning-rates", "0.1,0.2"] if name in ("beta", "objective") else ["--betas", "1,2"]
    before = [*axis, *flags(context)]
    first, second = (outcome("compare", words, called, capsys) for words in (before, [*before, *flags({name: value})]))
    assert first[0] == 0
    assert first != second
    assert second[0] == 0 or (name in second[2] and second[2].count("\n") == 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "runs/done", "--root", "other"], "--root: expected RUN alone, or --name with it"),
        (["train", "runs/done", "--name", "b", "--resume"], "--name: expected RUN or --name, found RUN runs/done"),
        (["train", "--rows", "60"], "--rows: expected it together with --examine"),
        (["evaluate", "runs/done", "--rows", "60"], "--rows: expected it together with --examine"),
        (["compare", "runs/done", "--root", "other"], "--root: expected one folder"),
        (["experiment", "toy", "--list"], "NAME: expected none together with a list of the experiments, found toy"),
        (
            ["experiment", "--data", "mnist"],
            "--data: expected none together with a list of the experiments, found mnist",
        ),
        (["experiment", "--seeds", "3"], "--seeds: expected none together with a list of the experiments, found 3"),
        (["experiment", "--threads", "3"], "--threads: expected none together with a list of the experiments, found 3"),
    ],
)
def test_a_flag_without_effect_is_refused_by_name(words, message, called, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert called == []


@pytest.mark.parametrize("flag", ["--seeds", "--gaps"])
def test_a_dead_flag_is_seen(flag, called, capsys, monkeypatch):
    asked = comparison.grid.asked

    def forgets(root, options):
        return asked(root, {name: options[name] for name in options if f"--{name}" != flag})

    monkeypatch.setattr(comparison.grid, "asked", forgets)
    before, more = OWN["compare", flag]
    first, second = (outcome("compare", words, called, capsys) for words in (before, [*before, *more]))
    assert first == second


MEANINGLESS = [
    ({"guide": "iaf("}, "guide: expected name or 'name(option=value, ...)', found 'iaf('"),
    ({"guide": "iaf(transforms=2"}, "guide: expected name or 'name(option=value, ...)'"),
    ({"network": "mlp()("}, "network: expected name or 'name(option=value, ...)'"),
    ({"particles": 10**12}, "particles: expected at most 1000000, found 1000000000000"),
    ({"epochs": 10**12}, "epochs: expected at most 1000000, found 1000000000000"),
    ({"optimizer": "adam(betas=3)"}, "adam(betas=3): expected 2 numbers for betas, as (0.9, 0.999), found 3"),
    ({"optimizer": "adam(betas=[0.9])"}, "expected 2 numbers for betas, as (0.9, 0.999), found [0.9]"),
    ({"optimizer": "adam(amsgrad=3)"}, "optimizer adam: amsgrad: expected True or False, found 3"),
    ({"likelihood": "bernoulli(soft_targets='no')"}, "bernoulli: soft_targets: expected True or False, found 'no'"),
]


@pytest.mark.parametrize(("options", "message"), MEANINGLESS, ids=[str(*each.values()) for each, _ in MEANINGLESS])
def test_what_is_meaningless_is_refused_in_a_line(options, message, capsys):
    seen = trained(capsys, BASE | options)
    assert seen["status"] == 2
    assert message in seen["said"]
    assert seen["said"].count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "runs/done", "--particles", "1000000000000"], "particles: expected at most 1000000"),
        (["compare", "--betas", "1,2", "--seeds", "1000000000"], "seeds: expected at most 1000, found 1000000000"),
        (["experiment", "toy", "--seeds", "1000000000"], "seeds: expected at most 1000, found 1000000000"),
    ],
)
def test_numbers_that_no_run_can_mean_are_refused(words, message, called, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert called == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"autocast": "no"}, "autocast: expected True or False, found 'no'"),
        ({"autocast": 1}, "autocast: expected True or False, found 1"),
        ({"optimizer": "adam"}, "optimizer: expected a class such as torch.optim.Adam, found 'adam'"),
        ({"optimizer": torch.optim.SGD([torch.ones(1)], 0.1)}, "found an object of class SGD"),
        ({"lr_schedule": "cosine"}, "lr_schedule: expected a function such as pyrovae.training.rates.cosine"),
        (
            {"lr_schedule": lambda share: 0.5 - share},
            "lr_schedule at 0.501 of the training: expected a finite number >=",
        ),
        (
            {"lr_schedule": lambda share: float("nan")},
            "lr_schedule at 0 of the training: expected a finite number >= 0",
        ),
        ({"lr_schedule": lambda share: "fast"}, "lr_schedule at 0 of the training: expected a finite number >= 0"),
    ],
)
def test_what_fit_cannot_mean_is_refused_before_the_first_step(options, message):
    vae = pyrovae.VAE(4, 2)
    before = [value.clone() for value in vae.parameters()]
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        pyrovae.fit(vae, torch.bernoulli(torch.full((20, 4), 0.5)), epochs=1, compile=False, **options)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(one, other) for one, other in zip(before, vae.parameters(), strict=True))


@pytest.mark.parametrize("evaluations", [[], {}, None, [1.0], {"a": 3}])
def test_a_ranking_of_nothing_is_refused(evaluations):
    with pytest.raises(ValueError, match=r"expected (one or more, as|what evaluate gives)") as refusal:
        pyrovae.rank(evaluations)
    assert "\n" not in str(refusal.value)
