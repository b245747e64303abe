"""Questions to any (model, guide): samples, reconstructions, importance weights, log p(x)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature
from itertools import count
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyrovae import checks, files
from pyrovae.data.split import Data, blocks, by_label
from pyrovae.programs import Programs, answering, arguments, classifies, encoded, own, pair, placement, takes_labels
from pyrovae.randomness import Stream, seeded
from pyrovae.traces import closed_mean, log_mean_exp, log_weight, log_weight_of_each, over, traces

# Noise is drawn for fixed blocks of rows and of particles, so that a datum's score depends on the seed and its place
# alone, not on how the data came; the second number bounds the memory of one value in the program (16 MiB in float32).
ROWS, FLOATS = 128, 2**22


def sample(programs: Programs, n: int, y: Any = None) -> Tensor:
    """n new data, x ~ p(x), or x ~ p(x|y): the model run with nothing observed but labels. (n, *event_shape)"""
    checks.integer("n", n)
    device, _ = placement(programs)
    with answering(programs):
        if y is None:
            refuse_conditional(programs, "sample")
            return pair(programs)[0](n=n)
        _refuse_labels(programs)
        y = torch.as_tensor(y, device=device)
        if y.ndim == 0 or len(y) != n:
            raise ValueError(f"y: expected {n} labels, found {len(y) if y.ndim else y.item()}")
        return pair(programs)[0](y=encoded(programs, y))


def refuse_conditional(programs: Programs, what: str) -> None:
    """Raise a ValueError where the model cannot be called with n alone."""
    parameters = signature(pair(programs)[0])
    try:
        parameters.bind(n=1)
    except TypeError:
        advice = "; complete(x) draws what is unseen of x" if own(programs, "complete") else ""
        found = f"model({', '.join(parameters.parameters)}){advice}"
        raise ValueError(f"{what}: expected a model that generates n data, model(n=...), found {found}") from None


def reconstruct(programs: Programs, x: Tensor, y: Tensor | None = None) -> Tensor:
    """E[x'|z] at one draw z ~ q(z|x) for each row of x. (N, *event_shape)"""
    model, guide = pair(programs)
    if y is not None:
        _refuse_labels(programs)
    with answering(programs):
        p_x: Any = traces(model, guide, 1, *arguments(programs, x, y))[1].nodes["x"]["fn"]
        return p_x.mean[0]


def _refuse_labels(programs: Programs) -> None:
    if not takes_labels(programs):
        raise ValueError("y: expected no labels, since the model has no argument y, found some")


def expectation(distribution: Any, draws: int = 100) -> Tensor:
    """E[z] of any distribution: its own mean, or the mean of draws where it has no closed one (flows)."""
    mean = closed_mean(distribution)
    return distribution.sample((draws,)).mean(0) if mean is None else mean


def classify(programs: Programs, data: Data) -> Tensor:
    """q(y|x) of a guide that draws a class y where there is no label. (N, num_classes)"""
    if not classifies(programs):
        raise ValueError("expected a guide(x, y=None) that draws y where there is none, found none")
    found = []
    with answering(programs):
        for (x,) in blocks(data, ROWS):
            trace = poutine.trace(pair(programs)[1]).get_trace(*arguments(programs, x))
            q_y: Any = trace.nodes["y"]["fn"]
            if not hasattr(q_y, "probs"):
                raise ValueError(f"expected a guide whose y is a class, found one of {type(q_y).__name__}")
            found.append(q_y.probs.cpu())
    return torch.cat(found)


def log_likelihood(programs: Programs, data: Data, particles: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
    """log p(x) ~ log 1/K sum_k p(x, z_k) / q(z_k|x), z_k ~ q(z|x): per datum, and its standard error. Two (N,), nats.

    In the mean it is a lower bound, which rises with K (Burda, Grosse & Salakhutdinov 2016).
    """
    found = by_row(programs, data, particles, seed, _log_likelihood)
    return found["value"], found["error"]


def _log_likelihood(drawn: Iterable[tuple[Trace, Trace]]) -> dict[str, Tensor]:
    return dict(zip(("value", "error"), log_mean_exp(torch.cat([log_weight(q, p) for q, p in drawn])), strict=True))


def impute(programs: Programs, x: Tensor, particles: int = 100, seed: int = 0) -> Tensor:
    """x with every missing entry (NaN) replaced by its E[x_i | what is there], by importance sampling.

    E[x_i|z_k] is averaged over z_k ~ q(z|x) with weights p(x, z_k) / q(z_k|x).  (Mattei & Frellsen 2019)

    Args:
        programs: a model with a likelihood of missing entries (`likelihoods.Missing`), and its guide.
        x: data (N, *event_shape).
        particles: draws z_k.
        seed: of the noise.
    """
    means = by_row(programs, x, particles, seed, _posterior_mean)["mean"]
    return torch.where(torch.isnan(x), means.to(x), x)


def _posterior_mean(drawn: Iterable[tuple[Trace, Trace]]) -> dict[str, Tensor]:
    parts = [_weighed(log_weight_of_each(q, p), p.nodes["x"]["fn"]) for q, p in drawn]
    share, means = torch.cat([log_w for log_w, _ in parts]).softmax(0), torch.cat([mean for _, mean in parts])
    return {"mean": (over(share, means) * means).sum(0)}


def _weighed(log_w: Tensor, p_x: Any) -> tuple[Tensor, Tensor]:
    """(draws, N) and E[x|z], (draws, N, *event_shape), where each value of an enumerated latent is a draw."""
    means = p_x.mean.expand(*log_w.shape, *p_x.event_shape)
    return log_w.flatten(0, -2), means.flatten(0, log_w.ndim - 2)


def by_row(
    programs: Programs,
    data: Data,
    particles: int,
    seed: int,
    numbers: Callable[[Iterable[tuple[Trace, Trace]]], dict[str, Tensor]],
    keep: Path | None = None,
) -> dict[str, Tensor]:
    """What `numbers` makes of the traces of a block, (rows, ...) by name: of all rows, in the order of the data.

    Rows with and without a label have not the same latents: what is told is what all rows have. What is in the folder
    `keep` already, of an interruption, is not done again: whoever names it answers for its being of the same question.
    """
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Tensor]] = []
    places: list[Tensor] = []
    for rows, drawn in importance(programs, data, particles, seed):
        file = None if keep is None else keep / f"{len(places)}.safetensors"
        if file is not None and file.exists():
            found.append(files.read_tensors(file)[0])
        else:
            found.append({name: values[: len(rows)].cpu() for name, values in numbers(drawn).items()})
            if file is not None:
                files.write_tensors(file, found[-1], {})
        places.append(rows)
    names = [name for name in found[0] if all(name in each for each in found)]
    return {name: in_order([each[name] for each in found], places) for name in names}


def in_order(parts: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """What blocks of rows found, joined in the order of the data; `rows` tells which they are."""
    return torch.cat(list(parts))[torch.cat(list(rows)).argsort()]


def importance(
    programs: Programs, data: Data, particles: int, seed: int
) -> Iterator[tuple[Tensor, Iterator[tuple[Trace, Trace]]]]:
    """For each block of rows: which they are, and the traces of their particles, chunk by chunk.

    A block is filled up with copies of its last row: each row meets the noise of its place.
    """
    checks.integer("particles", particles)
    for place, rows, args in places(programs, data, seed):
        yield rows, _chunks(programs, args, particles, (seed, place))


def places(programs: Programs, data: Data, seed: int, size: int = ROWS) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
    """Blocks of `size` rows, a divisor of ROWS: the number of each, which rows they are, and the programs' arguments.

    What is read depends on the seed alone, not on the size: a dynamic binarisation gives all who ask the same rows.
    """
    with answering(programs):
        for number, rows, args in read(programs, data, seed):
            for place, first in enumerate(range(0, len(rows), size), number * (ROWS // size)):
                few = [a[first : first + size] for a in args]
                full = [torch.cat([a, a[-1:].expand(size - len(a), *a.shape[1:])]) for a in few]
                yield place, rows[first : first + size], full


def read(programs: Programs, data: Data, seed: int) -> Iterator[tuple[int, Tensor, tuple[Tensor, ...]]]:
    """The number of each block, which rows it has, and what the programs are called with for them.

    Where labels are missing a block is two: rows with theirs, then those without.
    """
    reading, drawn = Stream(seed), blocks(data, ROWS, takes_labels(programs))
    for number in count():
        with reading():  # a dynamic binarisation draws, too
            block = next(drawn, None)
        if block is None:
            return
        for rows, part in by_label(*block):
            yield number, rows + number * ROWS, arguments(programs, *part)


def chunks(args: Sequence[Tensor], particles: int) -> Iterator[tuple[int, int]]:
    """The particles in chunks that memory has room for: the number of each, and its size."""
    most = max(1, FLOATS // args[0].numel())
    for number, done in enumerate(range(0, particles, most)):
        yield number, min(most, particles - done)


def _chunks(
    programs: Programs, args: list[Tensor], particles: int, seed: tuple[int, int]
) -> Iterator[tuple[Trace, Trace]]:
    for number, size in chunks(args, particles):
        with seeded(*seed, number):
            drawn = traces(*pair(programs), size, *args, enumerated=True)
        yield drawn
