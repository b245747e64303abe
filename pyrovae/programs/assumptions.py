"""Checks the assumptions of every estimate about a model and a guide, by running them on a few rows."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.engine.graph import called, on_copies, recording
from pyrovae.modes import mode
from pyrovae.programs import particles, plates
from pyrovae.programs.handlers import alone, own_parameters
from pyrovae.programs.pair import Program, modules, owner
from pyrovae.programs.particles import COPIES, FRONT, rows, run_copies, samples
from pyrovae.randomness import seeded

# Rows that the checks use: an even number, because every second one is replaced.
ROWS = 16
# Two scores count as equal if they differ by less, relative to the larger of 1 and the largest score of the site.
CLOSE = 1e-3
# Factor on the parameters that reveals parameters by row, which often start with equal values.
SPREAD = 0.1

ADVICE = "use pyrovae.SVI on all rows, or an amortised guide"


def layout(model: Program, guide: Program, *args: Any, enumerated: bool = False, **kwargs: Any) -> str:
    """A layout of particles that works for both programs: `particles.FRONT` if it works, otherwise `particles.COPIES`.

    To find out, two particles are drawn, and each is replayed alone: every site must have the same score for each row.
    This is done once for each pair of programs and kind of arguments, at slightly perturbed parameters, because
    untrained zeros could hide a difference. If scores differ, or the programs raise an error, particles are copies of
    the rows, which is slower; this layout is checked in the same way.

    Raises:
        ValueError: the scores differ in both layouts; the message names the site.
    """
    if (current := particles.current()) is not None:
        return current
    known = _known(model, particles.checked_as(guide))
    kind = (enumerated, *map(_kind, chain(args, kwargs.values())))
    if kind not in known and recording():  # values cannot be compared while recording; the function ran before
        return FRONT
    if kind not in known:
        known[kind] = _layout(model, guide, args, kwargs, enumerated)
    return known[kind]


def laid_out(model: Program, guide: Program, *args: Any, enumerated: bool = False, **kwargs: Any) -> Any:
    """Inside, particles use the `layout` of these programs."""
    return particles.using(layout(model, guide, *args, enumerated=enumerated, **kwargs))


def _known(model: Program, guide: Program) -> dict[Any, str]:
    """The known layouts of two programs, for each kind of arguments."""
    try:
        of_model = _layouts.setdefault(owner(model), WeakKeyDictionary())
        of_both = of_model.setdefault(owner(guide), {})
    except TypeError:  # no weak reference to these programs is possible
        return {}
    return of_both.setdefault((getattr(model, "__name__", ""), getattr(guide, "__name__", "")), {})


_layouts: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def _kind(value: Any) -> Any:
    return (value.shape[1:], value.dtype) if isinstance(value, Tensor) else type(value)


def _layout(model: Program, guide: Program, args: Any, kwargs: Any, enumerated: bool) -> str:
    if rows(args) == 0:
        return FRONT
    few = _few(args, kwargs)
    with _alone(model, guide, *few) as first:
        if _latents(first.q) != _latents(first.p):
            return FRONT  # not a pair: a caller that needs both raises the error
        alike = partial(_differing, first, *few, enumerated=enumerated)
        if any(site.get("unfit", "shared") for site in chain(*map(_sites, (first.q, first.p)))):
            return FRONT  # there is no score for each row: a later check raises the error
        nested = any(site["fold"].others for site in chain(*map(_sites, (first.q, first.p))))
        with _spread(first):
            in_front = "plates inside that of the rows" if nested else alike(FRONT)
            if not in_front:
                return FRONT
            if fault := alike(COPIES):
                raise ValueError(
                    f"expected programs that score each row separately, but with several particles {fault}"
                )
    if not nested:
        warnings.warn(
            f"particles are run as copies of the rows, which is slower: with a dimension of particles in front, "
            f"{in_front}. Index dimensions from the right, such as z[..., 0] and cat(..., -1), to avoid it",
            stacklevel=5,
        )
    return COPIES


class First:
    """Both programs run once on a few rows, with a score of each site for each row, (..., 1, N)."""

    def __init__(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        self.model, self.guide = model, particles.checked_as(guide)
        self.q = _run("guide", self.guide, args, kwargs)
        self.p = _run("model", self.model, args, kwargs, self.q)
        self.called: list[nn.Module] = []
        self.parameters: list[Tensor] = []

    def again(self, args: Any, kwargs: Any, change: Callable[[Tensor], Tensor]) -> tuple[Trace, Trace]:
        """Run the programs on other rows, and on latents that `change` computes from those of the rows."""
        q = _replayed(self.guide, args, kwargs, _changed(self.q, change))
        return q, _run("model", self.model, args, kwargs, _changed(self.p, change))


@contextmanager
def _alone(model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[First]:
    """Inside, no handler is active, the programs' modules are in evaluation mode, and no random number is consumed."""
    with seeded(0), alone(), torch.no_grad(), own_parameters(), particles.using(COPIES):
        visible = modules((model, guide))
        with mode(visible, training=False), called() as seen, own_parameters() as own, on_copies():
            First(model, guide, args, kwargs)
        with mode([*visible, *seen], training=False):
            first = First(model, guide, args, kwargs)
            first.called = seen
            first.parameters = [*own.found.values(), *(value for module in visible for value in module.parameters())]
            yield first


def _enumeration(enumerated: bool) -> Any:
    return poutine.enum(first_available_dim=-3) if enumerated else nullcontext()


def _run(what: str, program: Program, args: Any, kwargs: Any, at: Trace | None = None) -> Trace:
    try:
        return run_copies(program, 1, args, kwargs, at, lenient=True)
    except ValueError as error:
        if "Trace Shapes" not in str(error.__cause__):
            raise
        raise _unrunnable(what, args, error) from error
    except (RuntimeError, TypeError, IndexError, KeyError, AttributeError, AssertionError) as error:
        raise _unrunnable(what, args, error) from error


def _replayed(guide: Program, args: Any, kwargs: Any, at: Trace) -> Trace:
    """The guide on given latents; an empty trace if it can score only its own draws, as flows without an inverse."""
    try:
        return _run("guide", guide, args, kwargs, at)
    except ValueError:
        return Trace()


def _unrunnable(what: str, args: Any, error: Exception) -> ValueError:
    return ValueError(
        f"the {what} cannot be run on {rows(args)} rows, but it must accept any number: {checks.reason(error)} (does "
        f"the guide have parameters by row? {ADVICE})"
    )


def _few(args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """ROWS of the rows, evenly spaced."""
    n = rows(args)

    def few(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == n:
            return value[torch.linspace(0, n - 1, ROWS, device=value.device).long()]
        return value

    return [few(each) for each in args], {key: few(each) for key, each in kwargs.items()}


def _sites(trace: Trace) -> Iterator[Any]:
    return iter(samples(trace).values())


def _latents(trace: Trace) -> set[str]:
    return {site["name"] for site in _sites(trace) if not site["is_observed"] and not is_auxiliary(site)}


def is_auxiliary(site: Any) -> bool:
    """Whether a site of the guide only serves to draw another one, as in Pyro's automatic guides."""
    observed = site["is_observed"] or "was_observed" in site["infer"]  # Pyro's factors are marked as auxiliary, too
    return bool(site["infer"].get("is_auxiliary")) and not observed


def _differing(first: First, args: Any, kwargs: Any, layout: str, enumerated: bool) -> str:
    """The first site whose scores of two particles differ from those of each alone, and how; "" if there is none."""
    try:
        with particles.using(layout):
            with _enumeration(enumerated):
                q = particles.run(first.guide, 2, args, kwargs)
            p = particles.run(first.model, 2, args, kwargs, q)
    except Exception as error:
        return f"they raise an error ({checks.reason(error)})"
    for k in range(2):
        one = partial(_particle, k=k)
        with _enumeration(enumerated):
            q_alone = _replayed(first.guide, args, kwargs, drawn := _picked(q, one))
        p_alone = _run("model", first.model, args, kwargs, q_alone if q_alone.nodes else drawn)
        for both, alone_ in ((q, q_alone), (p, p_alone)):
            for name, site in samples(both).items():
                other = alone_.nodes.get(name, {})
                if "fold" in other and not _equal(_score(site, k), _score(other, 0)):
                    return f"site {name!r} has other scores than with each particle alone"
    return ""


def _particle(site: Any, k: int) -> Tensor:
    """The value of a single particle, (..., 1, N, *event)."""
    event = site["fn"].event_dim
    value = site["value"]
    size = value.shape[-event - 2] if value.ndim >= event + 2 else 0
    if size != 2:
        raise ValueError(f"site {site['name']!r}: expected values of 2 particles, found shape {tuple(value.shape)}")
    return value.narrow(-event - 2, k, 1)


def _picked(trace: Trace, pick: Callable[[Any], Tensor]) -> Trace:
    """The latents of a trace at other values, except enumerated ones."""
    picked = Trace()
    for name, site in samples(trace).items():
        if not site["is_observed"] and site["infer"].get("_enumerate_dim") is None:
            picked.add_node(name, **(site | {"value": pick(site)}))
    return picked


def _changed(trace: Trace, change: Callable[[Tensor], Tensor]) -> Trace:
    """The same with each row's value computed from those of the rows; values that all rows share do not change."""

    def pick(site: Any) -> Tensor:
        if "fold" not in site:
            return site["value"]
        at = -site["fn"].event_dim - 1
        return change(site["value"].movedim(at, 0)).movedim(0, at)

    return _picked(trace, pick)


def _score(site: Any, k: int) -> Tensor:
    return site["log_prob"].select(-2, min(k, site["log_prob"].shape[-2] - 1))


def _equal(a: Tensor, b: Tensor) -> bool:
    a, b = torch.broadcast_tensors(a.double(), b.double())
    finite = torch.cat([a[a.isfinite()].abs(), b[b.isfinite()].abs(), a.new_ones(1)])
    return bool(torch.allclose(a, b, rtol=0, atol=CLOSE * finite.max().item(), equal_nan=True))


def check_evaluation(model: Program, guide: Program, args: Sequence[Any]) -> list[nn.Module]:
    """Raise a ValueError unless the score of a row depends on this row only; called before anything is reported by row.

    With the latents replayed, each site's scores must be equal in a second run (no noise except at sites), must be
    permuted with the rows (no parameters by row), and must not change when other rows are replaced (no coupling, as by
    batch norm in training mode).

    Returns:
        the modules that the programs call, which need evaluation mode.
    """
    if not rows(args):
        return []
    with _alone(model, guide, *(few := _few(args, {}))) as first:
        _check_observed(first)
        _check_noise(first, *few)
        _check_place(first, *few)
        _check_coupling(first, *few)
        return first.called


def check_training(model: Program, guide: Program, args: Sequence[Any], all_rows: int | None) -> None:
    """Raise a ValueError unless these programs can be trained on minibatches of rows in any order.

    Rows may not have parameters of their own. A site that all rows share counts once in each batch; if a batch is
    smaller than all rows, a plate has to declare it (`pyro.plate("data", N, subsample_size=len(x))`), or a scale.

    Args:
        model, guide: Pyro programs.
        args: the arguments for a batch.
        all_rows: the number of rows of the training data; None if unknown.
    """
    if not rows(args):
        return
    with _alone(model, guide, args, {}) as first:
        _check_observed(first)
        _check_shared(first, rows(args), all_rows)
        if not _noisy(first, args, {}):
            with _spread(first):
                _check_place(First(model, guide, args, {}), args, {})


def _check_observed(first: First) -> None:
    seen, of_guide = _observed(first.p), _observed(first.q)
    if swapped := [name for name in of_guide if name not in first.p.nodes]:
        raise ValueError(f"expected (model, guide), found {swapped[0]!r} observed only in the guide: are they swapped?")
    if not seen:
        raise ValueError(
            f"expected a model that observes data, found none of its sites {list(samples(first.p))} observed: "
            'pyro.sample("x", ..., obs=x)'
        )


def _observed(trace: Trace) -> list[str]:
    """The sites whose values are data."""
    found = samples(trace).items()
    return [name for name, site in found if site["is_observed"] and not site["infer"].get("_deterministic")]


def _check_shared(first: First, batch: int | None, all_rows: int | None) -> None:
    stand_for = {int(frame.full_size) for site in _sites(first.p) for frame in plates.frames(site) if frame.full_size}
    if all_rows in (batch, *stand_for) or (all_rows is None and max(stand_for, default=0) > (batch or 0)):
        return
    for site in chain(_sites(first.q), _sites(first.p)):
        plain = not isinstance(site["scale"], Tensor) and site["scale"] == 1
        if "fold" not in site and not plates.frames(site) and plain:
            raise ValueError(
                f"site {site['name']!r}: all rows share it, and each batch of {batch} of {all_rows or 'all'} rows "
                f'would count it in full; use pyro.plate("data", N, subsample_size=len(x)) for all N rows, or '
                f"batch_size={all_rows or 'N'}"
            )


def _noisy(first: First, args: Any, kwargs: Any) -> str:
    """A site whose scores differ in a second run with other random numbers; "" if there is none."""
    with seeded(1):
        return _moved(first, args, kwargs, lambda x: x, lambda score: score)


def _check_noise(first: First, args: Any, kwargs: Any) -> None:
    if site := _noisy(first, args, kwargs):
        raise ValueError(
            f"site {site}: its score changes from run to run because of random numbers outside sites (dropout in "
            "training mode?); draw them with pyro.sample, or call .eval() on the module"
        )


def _check_place(first: First, args: Any, kwargs: Any) -> None:
    order = torch.arange(len(args[0])).roll(1).flip(0)
    if site := _moved(first, *_at(args, kwargs, order), lambda x: x[order], lambda score: score[..., order]):
        raise ValueError(f"site {site}: its distribution depends on a row's position (parameters by row?); {ADVICE}")


def _check_coupling(first: First, args: Any, kwargs: Any) -> None:
    others = torch.arange(len(args[0]))
    others[1::2] = others[::2].roll(1)[: len(others) // 2]
    if site := _moved(first, *_at(args, kwargs, others), lambda x: x[others], lambda s: s, slice(None, None, 2)):
        raise ValueError(
            f"site {site}: the score of a row changes with the other rows (batch norm in training mode? call .eval() "
            "on it); expected rows that are independent of each other"
        )


def _moved(
    first: First,
    args: Any,
    kwargs: Any,
    change: Callable[[Tensor], Tensor],
    expected: Callable[[Tensor], Tensor],
    kept: slice = slice(None),
) -> str:
    """The first site whose scores on changed rows differ from those expected; "" if there is none."""
    again = first.again(args, kwargs, change)
    for what, before, after in zip(("guide", "model"), (first.q, first.p), again, strict=True):
        for name, site in samples(before).items():
            if "fold" in site and name in after.nodes:
                a, b = expected(_score(site, 0))[..., kept], _score(after.nodes[name], 0)[..., kept]
                if not _equal(a, b):
                    return f"{name!r} of the {what}"
    return ""


def _at(args: Any, kwargs: Any, order: Tensor) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of these rows."""

    def at(value: Any) -> Any:
        of_rows = isinstance(value, Tensor) and value.ndim and len(value) == len(order)
        return value[order.to(value.device)] if of_rows else value

    return [at(each) for each in args], {key: at(each) for key, each in kwargs.items()}


@contextmanager
def _spread(first: First) -> Iterator[None]:
    """Inside, each entry of the parameters is perturbed a little, independently, and keeps its sign."""
    # Change their data, because autograd counts writes: a step whose backward pass is not finished may use them.
    moved = [value.data for value in {id(value): value for value in first.parameters}.values()]
    moved = [value for value in moved if value.is_floating_point()]
    before = [value.clone() for value in moved]
    try:
        for value in moved:
            noise = SPREAD * torch.randn_like(value)
            value.copy_(torch.where(value == 0, noise, value * (1 + noise)))
        yield
    finally:
        for value, was in zip(moved, before, strict=True):
            value.copy_(was)
