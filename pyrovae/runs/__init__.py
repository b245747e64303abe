"""A run is a directory. Its input is run.toml; all other files are output. Each stage reads only the directory.

run.toml                the recipe
environment.json        versions, commit, device, threads, digest of the training data, how the steps ran, seconds
metrics.jsonl           one record for each epoch
tensorboard/            the same, as curves, with the tracker tensorboard
best.safetensors        weights of the best epoch by validation loss (of the last, without validation data)
last.safetensors        weights, optimiser, generators and counters after the last epoch, for --resume
previous.safetensors    the same one epoch earlier, in case the last is damaged
evaluation.json         numbers on the test data
scores.safetensors      the scores of each datum, (N,), in the order of the data; evaluation.json has their means
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

# The figure that is written last: if it exists, all exist.
LAST_FIGURE = "loss"


@contextmanager
def new_folder(root: Path, stem: str) -> Iterator[Path]:
    """Make and claim the first of root/stem-1, root/stem-2, ... that does not exist: see `files.claimed`.

    Processes that call this at the same time get different folders.
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
    """Inside, torch uses `count` threads (0: half of its own choice); outside, as many as before.

    Half, because a small step becomes tens of times slower if threads wait for a processor that others keep busy.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_count(path: Path) -> int:
    """The number of threads of the run at `path`; 0 if there is none."""
    known = path / "environment.json"
    try:
        return _threads(json.loads(files.read_text(known))["threads"]) if known.exists() else 0
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        said = f"expected the environment of a run, found a damaged file ({error})"
        raise ValueError(f"{known}: {said}; delete it to continue without it") from None


def _threads(value: object) -> int:
    """A thread count that torch can use; far more threads than processors crash the process."""
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
        # The loss of a labelled row contains log p(x, y) and q(y|x), far more than the loss of an unlabelled one.
        some = made.num_labels and takes_labels(model) and not needs_labels(model)
        of = (", some labels missing", ", all labels known") if some else ("", "")
        written += plots.write_figures(path / "figures", {LAST_FIGURE: plots.loss_curves(epochs, of)})
    return sorted(written)


def drawn(path: Path) -> bool:
    """Whether `plot` has finished."""
    return (path / "figures" / f"{LAST_FIGURE}.png").exists()
