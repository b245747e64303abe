"""A run as text: the options of run.toml and of the command line."""

import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch

from pyrovae import checks, files
from pyrovae.data import DATASETS
from pyrovae.runs.trust import flags, modules_of
from pyrovae.training.matmul import MATMULS

SCHEMA = 1
# Epochs, or particles, with which no run would end.
MOST = 10**6
# Threads with which torch may crash the process.
MOST_THREADS = 1024
# What the options dtype and compile stand for.
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
COMPILE = {"auto": "auto", "yes": True, "no": False}
# The options whose values are members, which may also be "module:Class".
PARTS = ("model", "prior", "likelihood", "guide", "network", "encoder", "decoder", "objective", "optimizer")


def option(default: Any, help: str) -> Any:
    """A field of the recipe, with its help text."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run. In run.toml each option is one line; on the command line, `--latent-dim 2`.

    A member of the library is written as its class name in kebab-case, with options as in a call: "normal(scale=0.1)".
    """

    data: str = option("digits", "dataset (digits, mnist, fashion_mnist, kmnist, omniglot), folder, .npy or .npz")
    data_root: str = option("", "folder of the dataset's files; empty: $PYROVAE_DATA, or ~/.cache/pyrovae")
    binarize: str = option("dynamic", "for images: dynamic, threshold, none, or dequantize (grey with uniform noise)")
    valid: float = option(0.1, "validation rows held out of the training part, a share or a count")
    test: float = option(0.2, "test rows held out, a share or a count, if the dataset has no test part")
    num_labels: float = option(0.0, "number of training labels to keep, a share or a count, drawn by the seed; 0: all")
    model: str = option("vae", "the generative program, e.g. conditional-vae, semi-supervised-vae or hierarchical-vae")
    latent_dim: int = option(2, "number of latents")
    prior: str = option("standard-normal", "p(z)")
    likelihood: str = option("bernoulli", "p(x|z), e.g. bernoulli or 'normal(scale=0.1)'")
    guide: str = option("diagonal-normal", "the family of q(z|x)")
    network: str = option("mlp", "encoder and decoder, e.g. conv or 'mlp(hidden=[400, 400])'")
    encoder: str = option("", "the encoder, if it differs from network")
    decoder: str = option("", "the decoder, if it differs from network")
    begin: str = option("", "mean: start the decoder's output bias at the training mean; empty: torch's initial value")
    activation: str = option("relu", "activation of the networks: relu, tanh, softplus, elu, gelu, ...")
    objective: str = option("", "the loss, e.g. elbo or 'iwae(k=5)'; empty: the model's default objective")
    beta: float = option(1.0, "weight of the KL, if the objective has one that its own options do not set")
    beta_warmup: float = option(0.0, "epochs in which beta rises from 0")
    beta_cycles: int = option(0, "cycles of beta over the training, instead of one warm-up")
    epochs: int = option(100, "passes over the training data")
    clusters_after: float = option(
        0.6, "mixture-vae: epochs (share or count) at beta 0.1 before EM initialises its clusters; 0: never"
    )
    batch_size: int = option(128, "rows in each step")
    labelled_batch_size: int = option(
        0, "labelled rows in each batch, if some labels are missing; 0: half, or as many as there are"
    )
    optimizer: str = option("adam", "optimiser from torch.optim, e.g. adamw or 'adam(betas=[0.9, 0.99])'")
    learning_rate: float = option(1e-3, "learning rate of the optimiser")
    lr_schedule: str = option("constant", "learning rate over time: constant, cosine, or stages (Burda et al. 2016)")
    clip: float = option(0.0, "largest norm of the gradient; 0: no limit")
    patience: int = option(0, "stop after this many epochs without a better validation loss; 0: never")
    particles: int = option(100, "importance samples for log p(x) in the evaluation")
    seed: int = option(0, "seed of initial weights, order and noise")
    device: str = option("auto", "auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    dtype: str = option("float32", "float32, float64, or bfloat16: float32 parameters, programs under torch.autocast")
    matmul: str = option("highest", "precision of float32 products: highest, high, medium, or auto (by measurement)")
    compile: str = option("auto", "compile the training step with Inductor: yes, no, or auto (if it pays off)")
    threads: int = option(0, "torch's threads on the CPU; 0: half of torch's own choice")
    tracker: str = option("", "also write the curves for tensorboard; empty: only metrics.jsonl")

    def __post_init__(self) -> None:
        for given in fields(self):
            value, kind = getattr(self, given.name), given.type
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, given.name, float(value))
            elif type(value) is not kind:
                raise ValueError(f"{given.name}: expected {kind.__name__}, found {value!r}")  # type: ignore[union-attr]
        for name in ("beta", "beta_warmup", "clip", "valid", "test", "num_labels", "clusters_after"):
            checks.number(name, getattr(self, name), 0)
        for name in ("patience", "seed", "threads", "beta_cycles", "labelled_batch_size"):
            checks.integer(name, getattr(self, name), 0)
        checks.integer("threads", self.threads, 0, MOST_THREADS)
        for name in ("latent_dim", "batch_size"):
            checks.integer(name, getattr(self, name))
        for name in ("epochs", "particles"):
            checks.integer(name, getattr(self, name), most=MOST)
        checks.positive("learning_rate", self.learning_rate)
        checks.member("dtype", self.dtype, DTYPES)
        checks.member("matmul", self.matmul, MATMULS)
        checks.member("compile", self.compile, COMPILE)
        checks.member("begin", self.begin, ("", "mean"))

    def modules(self) -> list[str]:
        """The modules outside of pyrovae whose code the recipe needs: those of its parts "module:Class"."""
        return modules_of(getattr(self, name) for name in PARTS)


def write(recipe: Recipe, path: Path) -> None:
    """Write run.toml: every option with its help text. Paths are relative to its folder."""
    command = " ".join(["pyrovae train", path.parent.name, *flags(recipe.modules())])
    head = f"# `{command}`, from the folder above, reproduces this run."
    write_toml(path, [head, *lines(recipe, path.parent)])


def lines(recipe: Recipe, folder: Path, without: Collection[str] = ()) -> Iterator[str]:
    """The options in TOML, each with its help text; paths relative to the folder."""
    for each in fields(recipe):
        value = getattr(recipe, each.name)
        if each.name in ("data", "data_root") and os.path.isabs(value):
            value = os.path.join(os.curdir, os.path.relpath(value, folder.resolve()))
        if each.name not in without:
            yield f"{tomli_w.dumps({each.name: value}).strip():40} # {each.metadata['help']}"


def write_toml(path: Path, lines: Sequence[str]) -> None:
    """Write a comment that says what the file is for, the schema, and the other lines."""
    files.write_bytes(path, "\n".join([lines[0], f"schema = {SCHEMA}", *lines[1:], ""]).encode())


def read(path: Path) -> Recipe:
    """Read a run.toml; a ValueError names the file, and what is wrong in it."""
    if not path.exists():
        raise ValueError(f"{path.parent} is not a run: it has no {path.name}")
    with in_toml(path) as values:
        return locate(from_options(values), path.parent)


@contextmanager
def in_toml(path: Path) -> Iterator[dict[str, Any]]:
    """The content of one of our TOML files; ValueErrors inside name the file."""
    try:
        values = tomllib.loads(files.read_text(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected TOML, found a damaged file ({error})") from None
    if values.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path}: expected schema = {SCHEMA}; it was written by another version of pyrovae")
    try:
        yield values
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_same(path: Path, recorded: Mapping[str, Any], asked: Mapping[str, Any], advice: str) -> None:
    """Raise a ValueError that names the first option that differs, as a command-line flag."""
    for name in {**asked, **recorded}:
        was, now = recorded.get(name), asked.get(name)
        if was != now:
            flag = "--" + name.replace("_", "-")
            made = "without" if was is None else f"with {was!r}"
            raise ValueError(f"{flag}: {path} was made {made}, found {'none' if now is None else repr(now)}; {advice}")


def from_options(values: dict[str, Any], start: Recipe | None = None) -> Recipe:
    """A recipe with these options, and the others as in `start`."""
    for name in values:
        checks.member("option", name, [each.name for each in fields(Recipe)])
    return replace(start or Recipe(), **values)


def locate(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with absolute paths, instead of paths relative to the folder."""
    places: dict[str, Any] = {}
    for name in ("data", "data_root"):
        value = getattr(recipe, name)
        if value and value not in DATASETS and (os.sep in value or (folder / value).exists()):
            places[name] = os.path.abspath(folder / Path(value).expanduser())
    return replace(recipe, **places)
