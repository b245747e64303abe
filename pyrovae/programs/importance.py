"""Answers for any (model, guide): samples, reconstructions, importance weights, log p(x)."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyrovae import checks, files
from pyrovae.data.split import Data, blocks
from pyrovae.engine.graph import Elements, Graph, UntraceableError, signature
from pyrovae.modes import mode
from pyrovae.programs.arguments import arguments, encoded
from pyrovae.programs.assumptions import check_evaluation
from pyrovae.programs.columns import arguments_of, by_kind, wanted
from pyrovae.programs.pair import Programs, classifies, no_side_effects, pair, placement, takes_labels
from pyrovae.programs.traces import closed_mean, log_mean_exp, log_weight, log_weight_of_each, over, traces
from pyrovae.programs.traits import traits
from pyrovae.randomness import Stream, seeded

Numbers = dict[str, Tensor]

# Noise is drawn for fixed blocks of rows and of particles, so that a datum's score depends only on the seed and its
# position, not on the batches of the data. The other numbers bound the memory: of x for all particles at once (16 MiB
# in float32), and of the largest value in the programs (512 MiB), for example a prior's components times the latents.
ROWS, FLOATS, LARGEST = 128, 2**22, 2**27

# After a question has computed this many elements, recording and compiling the work on a chunk of particles pays off.
# It costs 20 s, or 5 s with Inductor's cache, and saves a quarter of the time for a perceptron, four fifths for a
# VampPrior with 500 components. 500 particles of MNIST's test data are below this number for the one, above it for the
# other.
PAYS = 45e9


def sample(programs: Programs, n: int, y: Any = None) -> Tensor:
    """n new data, x ~ p(x), or x ~ p(x|y): the model run with nothing observed except labels. (n, *event_shape)"""
    checks.integer("n", n)
    device, _ = placement(programs)
    with no_side_effects(programs):
        if y is None:
            refuse_conditional(programs, "sample")
            return pair(programs)[0](n=n)
        _refuse_labels(programs)
        y = torch.as_tensor(y, device=device)
        if y.ndim == 0 or len(y) != n:
            raise ValueError(f"y: expected {n} labels, found {len(y) if y.ndim else y.item()}")
        return pair(programs)[0](y=encoded(programs, y))


def refuse_conditional(programs: Programs, what: str) -> None:
    """Raise a ValueError if the model cannot be called with n alone."""
    parameters = inspect.signature(pair(programs)[0])
    try:
        parameters.bind(n=1)
    except TypeError:
        advice = "; complete(x) draws the unseen part of x" if traits(programs).complete else ""
        found = f"model({', '.join(parameters.parameters)}){advice}"
        raise ValueError(f"{what}: expected a model that generates n data, model(n=...), found {found}") from None


def reconstruct(programs: Programs, x: Tensor, y: Tensor | None = None) -> Tensor:
    """E[x'|z] at one draw z ~ q(z|x) for each row of x. (N, *event_shape)"""
    model, guide = pair(programs)
    if y is not None:
        _refuse_labels(programs)
    with no_side_effects(programs):
        p_x: Any = traces(model, guide, 1, *arguments(programs, x, y))[1].nodes["x"]["fn"]
        return p_x.mean[0]


def _refuse_labels(programs: Programs) -> None:
    if not takes_labels(programs):
        raise ValueError("y: expected no labels, because the model has no argument y, found some")


def expectation(distribution: Any, draws: int = 100) -> Tensor:
    """E[z] of any distribution: its own mean, or the mean of draws if it has no closed form (flows)."""
    mean = closed_mean(distribution)
    return distribution.sample((draws,)).mean(0) if mean is None else mean


def classify(programs: Programs, data: Data) -> Tensor:
    """q(y|x) of a guide that draws a class y if there is no label. (N, num_classes)"""
    if not classifies(programs):
        raise ValueError("expected a guide(x, y=None) that draws y if there is no label, found none")
    found = []
    with no_side_effects(programs):
        for (x,) in blocks(data, ROWS):
            trace = poutine.trace(pair(programs)[1]).get_trace(*arguments(programs, x))
            q_y: Any = trace.nodes["y"]["fn"]
            if not hasattr(q_y, "probs"):
                raise ValueError(f"expected a guide whose y is a class, found one of {type(q_y).__name__}")
            found.append(q_y.probs.cpu())
    return torch.cat(found)


def log_likelihood(programs: Programs, data: Data, particles: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
    """log p(x) ~ log 1/K sum_k p(x, z_k) / q(z_k|x), z_k ~ q(z|x), for each datum, with standard error. Two (N,), nats.

    The expected value is a lower bound, which rises with K (Burda, Grosse & Salakhutdinov 2016).

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.programs.importance import log_likelihood
        >>> vae = VAE(event_shape=6, latent_dim=2)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that p(x|z) = 2^-6 and q(z|x) = p(z)
        >>> log_p, error = log_likelihood(vae, torch.ones(2, 6), particles=10)
        >>> log_p, error  # -6 log 2, exactly
        (tensor([-4.1589, -4.1589]), tensor([0., 0.]))
    """
    found = by_row(programs, data, particles, seed, _log_weight, _log_likelihood)
    return found["value"], found["error"]


def _log_weight(q: Trace, p: Trace) -> Numbers:
    return {"log_weight": log_weight(q, p)}


def _log_likelihood(of: Numbers) -> Numbers:
    return dict(zip(("value", "error"), log_mean_exp(of["log_weight"]), strict=True))


def impute(programs: Programs, x: Tensor, particles: int = 100, seed: int = 0) -> Tensor:
    """x with every missing entry (NaN) replaced by its E[x_i | observed entries], estimated by importance sampling.

    E[x_i|z_k] is averaged over z_k ~ q(z|x) with weights p(x, z_k) / q(z_k|x).  (Mattei & Frellsen 2019)

    Args:
        programs: a model with a likelihood of missing entries (`likelihoods.Missing`), and its guide.
        x: data (N, *event_shape).
        particles: number of draws z_k.
        seed: seed of the noise.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import Missing
        >>> from pyrovae.models import VAE
        >>> from pyrovae.networks import FilledIn
        >>> from pyrovae.programs.importance import impute
        >>> vae = VAE(event_shape=2, latent_dim=1, likelihood=Missing, encoder=FilledIn)
        >>> for parameter in vae.parameters(): _ = parameter.data.zero_()  # so that E[x|z] = 0
        >>> impute(vae, torch.tensor([[3.0, torch.nan]]), particles=10)
        tensor([[3., 0.]])
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"x: expected a tensor (N, *event_shape), found {type(x).__name__}")
    means = by_row(programs, x, particles, seed, _weighed, _posterior_mean)["mean"]
    return torch.where(torch.isnan(x), means.to(x), x)


def _weighed(q: Trace, p: Trace) -> Numbers:
    """log w (draws, N) and E[x|z] (draws, N, *event_shape); each value of an enumerated latent counts as a draw."""
    log_w, p_x = log_weight_of_each(q, p), cast(Any, p.nodes["x"]["fn"])
    means = p_x.mean.expand(*log_w.shape, *p_x.event_shape)
    return {"log_weight": log_w.flatten(0, -2), "mean": means.flatten(0, log_w.ndim - 2)}


def _posterior_mean(of: Numbers) -> Numbers:
    share = of["log_weight"].softmax(0)
    return {"mean": (over(share, of["mean"]) * of["mean"]).sum(0)}


def by_row(
    programs: Programs,
    data: Data,
    particles: int,
    seed: int,
    of_each: Callable[[Trace, Trace], Numbers],
    of_all: Callable[[Numbers], Numbers],
    keep: Path | None = None,
    additive: tuple[str, ...] = (),
) -> Numbers:
    """Numbers (N, ...) by name, for all rows, in the order of the data.

    Rows with and without a label have different latents, so only quantities that every row has are returned, and
    additive ones.

    Args:
        programs, data, particles, seed: as in `log_likelihood`.
        of_each: from the guide's and the model's trace of some particles to numbers (particles, rows, ...).
        of_all: from the numbers of all particles to numbers (rows, ...).
        keep: a folder for the results of blocks. Results that an interrupted call left there are reused, so use a
            folder for one question only.
        additive: prefixes of the names of terms of a sum. They are returned for all rows; a row without a term gets 0.
    """
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    blocks: list[Numbers] = []
    places: list[Tensor] = []
    for rows, drawn in importance(programs, data, particles, seed, of_each):
        file = None if keep is None else keep / f"{len(places)}.safetensors"
        if file is not None and file.exists():
            blocks.append(files.read_tensors(file)[0])
        else:
            parts = list(drawn)
            joined = of_all({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
            blocks.append({name: values[: len(rows)].cpu() for name, values in joined.items()})
            if file is not None:
                files.write_tensors(file, blocks[-1], {})
        places.append(rows)
    zeros = {
        name: values.new_zeros(values.shape[1:])
        for block in blocks
        for name, values in block.items()
        if name.startswith(additive) or all(name in other for other in blocks)
    }
    pairs = list(zip(blocks, places, strict=True))
    return {
        name: in_order([block.get(name, zero.expand(len(rows), *zero.shape)) for block, rows in pairs], places)
        for name, zero in zeros.items()
    }


def in_order(parts: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """The results of blocks of rows, joined in the order of the data; `rows` are their row numbers."""
    return torch.cat(list(parts))[torch.cat(list(rows)).argsort()]


def importance(
    programs: Programs, data: Data, particles: int, seed: int, of_each: Callable[[Trace, Trace], Numbers]
) -> Iterator[tuple[Tensor, Iterator[Numbers]]]:
    """For each block of rows: their row numbers, and the numbers of their particles, chunk by chunk.

    A block is filled up with copies of its last row, so that the noise of a row depends only on its position.
    """
    checks.integer("particles", particles)
    step = _Chunk(programs, of_each)
    for place, rows, args in places(programs, data, seed):
        yield rows, _chunks(step, args, particles, (seed, place))


def places(programs: Programs, data: Data, seed: int, size: int = ROWS) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
    """Blocks of `size` rows, a divisor of ROWS: the number, the row numbers and the programs' arguments of each block.

    The rows that are read depend on the seed but not on the size: a dynamic binarisation gives all callers the same
    rows.
    """
    with no_side_effects(programs):
        for number, rows, args in read(programs, data, seed):
            for place, first in enumerate(range(0, len(rows), size), number * (ROWS // size)):
                few = [a[first : first + size] for a in args]
                full = [torch.cat([a, a[-1:].expand(size - len(a), *a.shape[1:])]) for a in few]
                yield place, rows[first : first + size], full


def read(programs: Programs, data: Data, seed: int) -> Iterator[tuple[int, Tensor, tuple[Tensor, ...]]]:
    """The number of each block, its row numbers, and the programs' arguments.

    If labels are missing, a block is split in two: labelled rows, then unlabelled ones. Programs whose rows have no
    scores of their own are refused. While a block is processed, modules that only the programs know are in evaluation
    mode, too.
    """
    reading, drawn = Stream(seed), blocks(data, ROWS, wanted(programs))
    seen: dict[int, list[nn.Module]] = {}  # keyed by the number of columns
    for number in count():
        with reading():  # a dynamic binarisation draws random numbers, too
            block = next(drawn, None)
        if block is None:
            return
        for rows, part in by_kind(programs, *block):
            args = arguments_of(programs, *part)
            if len(args) not in seen:
                seen[len(args)] = check_evaluation(*pair(programs), args)
            with mode(seen[len(args)], training=False):
                yield number, rows + number * ROWS, args


def chunks(args: Sequence[Tensor], particles: int, largest: int = 1) -> Iterator[tuple[int, int]]:
    """Split the particles into chunks that fit into memory; yields the number of each chunk, and its size.

    Args:
        args: the programs' arguments.
        particles: how many particles.
        largest: the number of elements of the largest value of one particle.
    """
    most = max(1, min(FLOATS // args[0].numel(), LARGEST // largest))
    for number, done in enumerate(range(0, particles, most)):
        yield number, min(most, particles - done)


def _chunks(step: "_Chunk", args: list[Tensor], particles: int, seed: tuple[int, int]) -> Iterator[Numbers]:
    largest, eager = step.largest(args) if particles > 1 else 1, Elements()
    before = seed[1] * len(list(chunks(args, particles, largest)))
    for number, size in chunks(args, particles, largest):
        with seeded(*seed, number):
            if number == 0:  # the first chunk runs eagerly, with Pyro's validation of the data
                with eager:
                    found = step.run(size, args)
            else:
                found = step.run_fast(size, args) if (before + number) * eager.count >= PAYS else step.run(size, args)
        yield found


class _Chunk:
    """of_each(guide's trace, model's trace) for `size` particles; as one compiled graph, if the programs allow it."""

    def __init__(self, programs: Programs, of_each: Callable[[Trace, Trace], Numbers]) -> None:
        self.programs, self.of_each = programs, of_each
        # Keyed by size and kind of arguments: labelled and unlabelled rows have different numbers.
        self.recorded: dict[Any, Callable[[list[Tensor]], Numbers]] = {}
        self.measured: dict[Any, int] = {}

    def largest(self, args: list[Tensor]) -> int:
        """The number of elements of the largest value that one particle computes."""
        kind = signature(args)
        if kind not in self.measured:
            with seeded(0), Elements() as made:
                self.run(1, args)
            self.measured[kind] = made.largest
        return self.measured[kind]

    def run(self, size: int, args: list[Tensor]) -> Numbers:
        return self.of_each(*traces(*pair(self.programs), size, *args, enumerated=True))

    def run_fast(self, size: int, args: list[Tensor]) -> Numbers:
        kind = size, signature(args)
        if kind not in self.recorded:
            self.recorded[kind] = self._record(size, args)
        return self.recorded[kind](args)

    def _record(self, size: int, args: list[Tensor]) -> Callable[[list[Tensor]], Numbers]:
        names: list[str] = []

        def function(_: list[Tensor], args: list[Tensor]) -> list[Tensor]:
            found = self.run(size, args)
            names[:] = found
            return list(found.values())

        try:
            graph = Graph(function, [], args)
        except UntraceableError:  # it runs eagerly, with the same result
            return partial(self.run, size)
        graph.compile()
        # Cloned, because a CUDA graph writes its next results to the same memory.
        return lambda args: {name: x.clone() for name, x in zip(names, graph(args), strict=True)}  # type: ignore
