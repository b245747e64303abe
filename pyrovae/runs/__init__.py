"""A run is a directory: run.toml goes in, everything else comes out. Each stage reads the directory and nothing else.

run.toml                the recipe
environment.json        versions, commit, device, threads, digest of the training data, how the steps ran, seconds
metrics.jsonl           one record an epoch
tensorboard/            the same, as curves, with the tracker tensorboard
best.safetensors        weights of the best epoch by validation loss (of the last, without validation data)
last.safetensors        weights, optimiser, generators and counters after the last epoch: what --resume goes on from
previous.safetensors    the same one epoch earlier, should the last be damaged
evaluation.json         numbers on the test data
scores.safetensors      what they are the means of: the scores of each datum, (N,), in the order of the data
figures/                pictures
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from pyrovae import checks, files, plots
from pyrovae.programs.pair import needs_labels, takes_labels
from pyrovae.runs import build, recipe
from pyrovae.runs.figures import draw
from pyrovae.runs.provenance import surroundings
from pyrovae.runs.scoring import SCORED, SCORES, evaluate, evaluation, part_of
from pyrovae.runs.training import OUTPUTS, check_data_of, effort, load, metrics, prepare, same_data, train

__all__ = [
    "OUTPUTS",
    "SCORED",
    "SCORES",
    "drawn",
    "effort",
    "evaluate",
    "evaluation",
    "load",
    "metrics",
    "new_folder",
    "part_of",
    "plot",
    "prepare",
    "records",
    "same_data",
    "surroundings",
    "thread_count",
    "threads",
    "train",
]

# The figure that is written last: where it is, all are.
LAST_FIGURE = "loss"


@contextmanager
def new_folder(root: Path, stem: str) -> Iterator[Path]:
    """The first of root/stem-1, root/stem-2, ... that does not exist, made and claimed: see `files.claimed`.

    Of processes that ask at one moment, each has its own.
    """
    for number in range(1, 10**6):
        with ExitStack() as held:
            try:
                path = held.enter_context(files.claimed(root / f"{stem}-{number}", new=True))
            except FileExistsError:
                continue
            yield path
            return


@contextmanager
def threads(count: int = 0) -> Iterator[None]:
    """Inside, torch uses so many threads (0: half of its own choice); outside, as many as before.

    Half, because threads that wait for a processor which others keep busy slow a small step down by tens of times.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_count(path: Path) -> int:
    """How many threads the run at `path` had; 0 where there is none."""
    known = path / "environment.json"
    try:
        return _threads(json.loads(files.read_text(known))["threads"]) if known.exists() else 0
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        said = f"expected the environment of a run, found a damaged file ({error})"
        raise ValueError(f"{known}: {said}; delete it to go on without what it says") from None


def _threads(value: object) -> int:
    """A number that torch was once set to; far more threads than there are processors end the process."""
    return checks.integer("threads", value, most=recipe.MOST_THREADS)


def plot(path: Path, trust: Sequence[str] = ()) -> list[Path]:
    """figures/*.png of a run: its loss curves, what it generates, reconstructs and encodes, and its program.

    Args:
        path: the run's directory.
        trust: as in `load`.
    """
    files.check_no_link(path / "figures")
    epochs = metrics(path)
    made, model = recipe.read(path / "run.toml"), load(path, trust=trust)
    files.sweep(path)
    splits = build.splits(made)
    check_data_of(path, splits)
    held_out = part_of(splits)[1]
    written = plots.write_figures(path / "figures", draw(model, held_out, made.seed))
    if epochs:
        # A known label's loss is of log p(x, y), and of q(y|x): far more than that of a row without.
        some = made.num_labels and takes_labels(model) and not needs_labels(model)
        of = (", some labels missing", ", all labels known") if some else ("", "")
        written += plots.write_figures(path / "figures", {LAST_FIGURE: plots.loss_curves(epochs, of)})
    return sorted(written)


def drawn(path: Path) -> bool:
    """Whether `plot` came to its end."""
    return (path / "figures" / f"{LAST_FIGURE}.png").exists()
