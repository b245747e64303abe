"""Runs programs for many particles at once, with an extra dimension in front of the rows or with copies of the rows.

A program that indexes its dimensions from the right (`z[..., 0]`, `cat(..., -1)`) works with a dimension of particles
in front of its rows, as Pyro's plates add it. For a program with `z[:, 0]`, or `h.view(-1, 1, 28, 28)`, each particle
becomes one more row. Both layouts give the same sites here: values (..., particles, rows, *event); a score for each
particle and row; enumerated dimensions to the left of these. Plates inside that of the rows become part of the event.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Size, Tensor
from torch.distributions import Independent, constraints

from pyrovae import checks
from pyrovae.programs import plates

# The two layouts.
FRONT, COPIES = "a dimension in front", "copies of the rows"
# Plate dimensions that enumeration leaves to the programs; its own begin at dim -3.
PLATES = 2

_layout: ContextVar[str | None] = ContextVar("layout", default=None)


@contextmanager
def using(layout: str) -> Iterator[None]:
    """Inside, `run` uses this layout of the particles."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def current() -> str | None:
    """The layout set by `using`, if any."""
    return _layout.get()


class RefinedGuide:
    """A guide whose proposals are improved for each row before it is called: what `refine` returns.

    Args:
        base: the guide; whether its rows are independent, and how its particles are laid out, is checked of it.
        proposal: proposal(*args) is the base with its proposals for these rows refined. Particles that are copies of
            the rows share one proposal.
    """

    def __init__(self, base: Callable[..., Any], proposal: Callable[..., Callable[..., Any]]) -> None:
        self.base, self.proposal = base, proposal

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.proposal(*args, **kwargs)(*args, **kwargs)


def checked_as(guide: Callable[..., Any]) -> Callable[..., Any]:
    """The guide of which assumptions are checked: the base of a refined one, else the guide itself."""
    return guide.base if isinstance(guide, RefinedGuide) else guide


def run(program: Any, particles: int, args: Sequence[Any], kwargs: Mapping[str, Any], at: Trace | None = None) -> Trace:
    """A program run for `particles` particles at once, on the latents of the trace `at` if given; all sites scored.

    Raises:
        ValueError: a site has no score for each row: it is shared by all rows, scaled, hidden or subsampled.
    """
    if current() == COPIES:
        return run_copies(program, particles, args, kwargs, at)
    with pyro.plate("particles", particles, dim=-2):
        trace = _traced(program if at is None else poutine.replay(program, trace=at), args, kwargs)
    if odd := {name: site for name, site in samples(trace).items() if not _simple(site, rows(args))}:
        plate = plate_of(trace, rows(args))
        for name, site in odd.items():
            if reason := unfit(site, plate) or _inner(site, plate):
                raise refused(name, reason)
    _score(trace)
    return trace


def run_copies(
    program: Any,
    particles: int,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    at: Trace | None = None,
    lenient: bool = False,
) -> Trace:
    """The same, for any program, with a copy of the rows for each particle.

    Args:
        lenient: accept sites that all rows share, and those that are scaled, hidden or subsampled, unchanged.
    """
    program = program.proposal(*args, **kwargs) if isinstance(program, RefinedGuide) else program
    n = rows(args)
    copied = [_copies(each, n, particles) for each in args]
    named = {key: _copies(value, n, particles) for key, value in kwargs.items()}
    if n is None and "n" in named:
        named["n"] *= particles
    if at is not None:
        program = poutine.replay(program, trace=unfolded(at))
    trace = _traced(program, copied, named)
    _score(trace)
    plate = plate_of(trace, rows(copied))
    for name, site in samples(trace).items():
        if (reason := unfit(site, plate)) and not lenient:
            raise refused(name, reason)
        held = plate is not None and plate.holds(site)
        trace.nodes[name] = (_folded(site, plate, particles) if held else site) | {"unfit": reason}  # type: ignore
    return trace


def _traced(program: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Trace:
    with one_line():
        return _scorable(poutine.trace(program).get_trace(*args, **kwargs))


def _score(trace: Trace) -> None:
    with one_line():
        trace.compute_log_prob()


@contextmanager
def one_line() -> Iterator[None]:
    """Inside, a ValueError is shortened to one line: Pyro appends the shapes of all sites to the message."""
    try:
        yield
    except ValueError as error:
        if "\n" not in str(error):
            raise
        first, why = str(error).splitlines()[0], checks.reason(error)
        raise ValueError(why if why == first else f"{first} {why}") from error


def samples(trace: Trace) -> dict[str, Any]:
    """The sample sites of a trace by name."""
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def _scorable(trace: Trace) -> Trace:
    """The same trace without subsampling sites and without deterministic sites outside plates, which have no score."""
    trace = prune_subsample_sites(trace)
    for name, site in samples(trace).items():
        if site["infer"].get("_deterministic") and not plates.frames(site):
            trace.remove_node(name)
    return trace


def plate_of(trace: Trace, rows: int | None) -> plates.Plate | None:
    """The plate of the rows; None if no site is in a plate."""
    found = samples(trace).values()
    return plates.of_rows(found, rows) if any(map(plates.frames, found)) else None


def rows(args: Sequence[Any]) -> int | None:
    """The number of rows with which a program is called; None if it is called without data."""
    return len(args[0]) if args and isinstance(args[0], Tensor) and args[0].ndim else None


def refused(name: str, reason: str) -> ValueError:
    """The error for a site that has no score for each row."""
    return ValueError(f'site {name!r}: expected one unscaled score a row, in plate "data" alone, found {reason}')


def unfit(site: Any, plate: plates.Plate | None) -> str:
    """The reason why a site has no score for each row; "" if it has one."""
    if plate is None or not plate.holds(site):
        others = sorted(frame.name for frame in plates.frames(site))
        return f"plates {others}: all rows share it; fix its value and try again"
    if plate.full_size != plate.size:
        return f"{plate.size} of {plate.full_size} rows"
    if isinstance(site["scale"], Tensor) or site["scale"] != 1:
        return f"scale {site['scale']}"
    return "a mask" if site["mask"] is not None and not site["is_observed"] else ""


def inner(site: Any, plate: plates.Plate) -> list[int]:
    """The dimensions of a site's plates other than that of the rows, from the left."""
    return sorted({frame.dim for frame in plates.frames(site)} - {plate.dim})


def _inner(site: Any, plate: plates.Plate | None) -> str:
    if plate is None:
        return ""
    return f"plates {sorted(frame.name for frame in plates.frames(site))}" if inner(site, plate) else ""


def _simple(site: Any, rows: int | None) -> bool:
    """Whether a site is in plate "data" only, and unscaled, as most sites are."""
    fits = [
        frame.name == plates.NAME and frame.size > 0 and frame.size == (rows or frame.size) == frame.full_size
        for frame in plates.frames(site)
    ]
    plain = not isinstance(site["scale"], Tensor) and site["scale"] == 1
    return fits == [True] and plain and (site["mask"] is None or site["is_observed"])


def _copies(value: Any, n: int | None, particles: int) -> Any:
    """Rows once for each particle; any other value unchanged."""
    if isinstance(value, Tensor) and value.ndim and len(value) == (len(value) if n is None else n):
        return value.repeat(particles, *[1] * (value.ndim - 1))
    return value


@dataclass(frozen=True)
class Fold:
    """From the dimensions of a site in the program, (..., plates, *event), to (..., particles, rows, *event).

    Args:
        dim: the dimension of the rows, which contains the rows of all particles.
        others: the dimensions of plates inside, which become the first dimensions of the event.
        particles: the number of particles.
    """

    dim: int
    others: tuple[int, ...]
    particles: int

    @property
    def _plates(self) -> tuple[list[int], list[int]]:
        """The dimensions of plates that a site does not use, and of those that it uses, starting with the rows."""
        used = [self.dim, *self.others]
        return [dim for dim in range(-max(PLATES, *(-d for d in used)), 0) if dim not in used], used

    def __call__(self, value: Tensor, event_dim: int) -> Tensor:
        """Convert the value of a site, or any tensor with the same dimensions."""
        unused, used = self._plates
        least = len(unused + used)
        value = value.reshape(*[1] * (least + event_dim - value.ndim), *value.shape)
        enumerated = value.ndim - least - event_dim
        order = [dim - event_dim for dim in (*unused, *used)]
        moved = value.permute(*range(enumerated), *order, *range(-event_dim, 0))
        flat = moved.flatten(enumerated, enumerated + len(unused))
        return flat.unflatten(enumerated, (self.particles, -1))

    def back(self, value: Tensor, event_dim: int) -> Tensor:
        """Convert a value back to the program's dimensions."""
        unused, used = self._plates
        enumerated = value.ndim - event_dim - len(self.others) - 2
        flat = value.flatten(enumerated, enumerated + 1)
        flat = flat.reshape(*flat.shape[:enumerated], *[1] * len(unused), *flat.shape[enumerated:])
        order = unused + used
        places = [enumerated + order.index(dim) for dim in range(-len(order), 0)]
        return flat.permute(*range(enumerated), *places, *range(-event_dim, 0))

    def shapes(self, scores: Size) -> tuple[Size, Size]:
        """Batch shape (..., particles, rows) for scores of this shape, and the sizes of the plates inside."""
        unused, used = self._plates
        full = Size([1] * (len(unused + used) - len(scores))) + scores
        rows, *others = (full[dim] for dim in used)
        return full[: len(full) - len(unused + used)] + Size([self.particles, rows // self.particles]), Size(others)

    def score(self, log_prob: Tensor) -> Tensor:
        """A site's scores, summed over the plates inside."""
        folded = self(log_prob, 0)
        return folded.flatten(-len(self.others)).sum(-1) if self.others else folded


def _folded(site: Any, plate: plates.Plate, particles: int) -> Any:
    others = tuple(inner(site, plate))
    if others and site["infer"].get("_enumerate_dim") is not None:
        found = ", ".join(sorted(frame.name for frame in plates.frames(site)))
        raise refused(site["name"], f"an enumerated latent in plates {found}, which cannot be summed out")
    fold = Fold(plate.dim, others, particles)
    shape, value = plates.score_shape(site), site["value"]
    event_dim = site["fn"].event_dim
    new = site | {"fold": fold, "fn": Folded(site["fn"], fold, shape)}
    if isinstance(value, Tensor):
        full = value.expand(*shape, *value.shape[value.ndim - event_dim :])
        new["value"] = value if site["infer"].get("_enumerate_dim") is not None else fold(full, event_dim)
    for key in ("log_prob", "unscaled_log_prob"):
        new[key] = fold.score(site[key].expand(shape))
    return new


def unfolded(trace: Trace) -> Trace:
    """A copy of a trace with the values in the program's dimensions, for `poutine.replay`."""
    copy = trace.copy()
    for name, site in samples(copy).items():
        shared = "unfit" in site and "fold" not in site
        if shared or site["is_observed"] or site["infer"].get("_enumerate_dim") is not None:
            continue
        fold, event_dim = site.get("fold", Fold(-1, (), 1)), site["fn"].event_dim
        event_dim -= len(fold.others)
        copy.nodes[name] = site | {"value": trimmed(fold.back(site["value"], event_dim), event_dim)}
    return copy


def trimmed(value: Tensor, event_dim: int) -> Tensor:
    """The value without leading dimensions of 1, which the program did not have."""
    while value.ndim > event_dim + 1 and value.shape[0] == 1:
        value = value[0]
    return value


class Folded(TorchDistribution):
    """A site's distribution with batch shape (..., particles, rows).

    Args:
        base_dist: the distribution in the program.
        fold: the conversion of its dimensions.
        shape: the shape of the site's scores.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as torch has it)

    def __init__(self, base_dist: Any, fold: Fold, shape: Size) -> None:
        self.base_dist = base_dist.expand(shape) if base_dist.batch_shape != shape else base_dist
        self.fold = fold
        batch, event = fold.shapes(shape)
        super().__init__(batch, event + base_dist.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        depth = len(self.fold.others)
        return constraints.independent(self.base_dist.support, depth) if depth else self.base_dist.support

    @property
    def mean(self) -> Tensor:
        return self._fold(self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        return self._fold(self.base_dist.variance)

    @property
    def probs(self) -> Tensor:
        return self._fold(self.base_dist.probs)

    def _fold(self, value: Tensor) -> Tensor:
        return self.fold(value, value.ndim - len(self.base_dist.batch_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Folded":
        if Size(batch_shape) != self.batch_shape:
            raise NotImplementedError(f"expected {tuple(self.batch_shape)}, found {tuple(batch_shape)}")
        return self

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (an immutable tuple)
        return self._draw(self.base_dist.rsample, Size(sample_shape))

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self._draw(self.base_dist.sample, Size(sample_shape))

    def _draw(self, sampler: Any, sample_shape: Size) -> Tensor:
        draws = [self._fold(sampler()) for _ in range(sample_shape.numel())]
        return torch.stack(draws).reshape(*sample_shape, *draws[0].shape)

    def log_prob(self, value: Tensor) -> Tensor:
        event_dim = len(self.base_dist.event_shape)
        return self.fold.score(self.base_dist.log_prob(self.fold.back(value, event_dim)))


def entries(fn: Any) -> Any:
    """A distribution without the wrappers that define its event dimensions."""
    while isinstance(fn, Independent | Folded):
        fn = fn.base_dist
    return fn
