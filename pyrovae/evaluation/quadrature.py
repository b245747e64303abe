"""Whether a density integrates to one, and a sampler draws from it, by sums and integrals over single values."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import VonMises, constraints

from pyrovae.distributions import Levels

# Gauss-Legendre nodes in a panel; the numbers of panels for each unit of t, which are tried in turn; and the tolerance
# between two results. t goes from -SPAN to SPAN, so that a side begins at e^-SPAN of its scale.
NODES, PANELS, SAME, SPAN = 8, (1, 2, 4, 8, 16, 32, 64), 1e-4, 40
# Floating-point numbers are much denser near an edge at 0 than elsewhere, so t is stretched there.
STRETCH = 2
# Values that are evaluated at a time, and at most in total.
FLOATS, MOST = 2**21, 3 * 10**8
# The largest number of integers in a sum, and the mass that may lie beyond them.
INTEGERS, BEYOND = 2**16, 1e-6
# Steps of the square grid over two values, on each side of its centre; its extent, sinh(8) standard deviations; and the
# tolerance between two results.
STEPS, REACH, SAME_PAIRS = (60, 120, 240), 8.0, 5e-4


class Law(NamedTuple):
    """For M entries of a distribution: the total mass (M,), and F(x) at R draws, which should be uniform, (R, M)."""

    total: Tensor
    pit: Tensor


def law(p: Any, draws: Tensor, at: Tensor) -> Law:
    """Sum or integrate exp(log_prob) over the support, and compute F(x) of the draws by the same sums.

    F is normalised by the total, so that a missing constant affects only the total. For discrete values F(x) is drawn
    uniformly between its limits (Smith 1985). Draws outside the support have no F: NaN.

    Args:
        p: a distribution of single numbers, or of vectors that can be enumerated.
        draws: draws from p, (R, *batch_shape, *event_shape).
        at: M entries, as positions in the flattened batch shape.

    Raises:
        ValueError: the support is neither an interval nor a list of values; a sum or an integral does not converge.
    """
    if (period := _period(p)) is not None:
        wrapped = (draws + period / 2).remainder(period) - period / 2
        return _integral(p.log_prob, wrapped, at, (-period / 2, period / 2))
    support = _plain(p.support)
    if getattr(p.support, "is_discrete", False):
        return _sum(p, support, draws, at)
    return _integral(p.log_prob, draws, at, _bounds(support), support)


def pair_law(p: Any, draws: Tensor) -> Law:
    """The same for two real values that are drawn jointly: their integral, and F(u), F(v|u) of the decorrelated u, v.

    Args:
        p: a distribution of event size 2.
        draws: draws from p, (R, *batch_shape, *event_shape).
    """
    if not isinstance(_plain(p.support), type(constraints.real)):
        raise ValueError(f"two joint values are integrated over all real numbers only, found {p.support}")
    flat = draws.cpu().double().flatten(1 + len(p.batch_shape))
    centre, lower = flat.mean(0), torch.linalg.cholesky(flat.movedim(0, -1).cov() if flat.ndim == 2 else _cov(flat))
    before: Tensor | None = None
    for steps in STEPS:
        mass, w = _square(p, centre, lower, steps, draws)
        total = mass.sum((0, 1)).flatten()
        if before is not None and _near(total, before):
            return Law(
                total,
                _rosenblatt(mass, w, torch.linalg.solve_triangular(lower, (flat - centre)[..., None], upper=False)),
            )
        before = total
    raise ValueError(f"its integral does not converge: {before.tolist() if before is not None else ''}")


def _period(p: Any) -> float | None:
    """The period of a distribution on the circle, whose mass over one period is 1; None for other distributions."""
    inner = p.base_dist if isinstance(p, ExpandedDistribution) else p
    return 2 * math.pi if isinstance(inner, VonMises) else getattr(inner, "period", None)


def _plain(support: Any) -> Any:
    """A constraint without wrappers for event dimensions, mixtures, or missing values."""
    while (inner := getattr(support, "base_constraint", getattr(support, "observed", None))) is not None:
        support = inner
    return support


def _bounds(support: Any) -> tuple[Any, Any]:
    if isinstance(support, type(constraints.real)):
        return -torch.inf, torch.inf
    if not hasattr(support, "lower_bound") and not hasattr(support, "upper_bound"):
        raise ValueError(f"its support is not an interval of numbers: {support}")
    return getattr(support, "lower_bound", -torch.inf), getattr(support, "upper_bound", torch.inf)


def _evaluated(log_prob: Callable[[Tensor], Tensor], values: Tensor, like: Tensor) -> Tensor:
    """Evaluate on the device of the draws, in double precision if the distribution accepts it (a network may not)."""
    try:
        found = log_prob(values.to(like.device, torch.float64))
    except (RuntimeError, TypeError):
        found = log_prob(values.to(like))
    return found.cpu().double()


def _sum(p: Any, support: Any, draws: Tensor, at: Tensor) -> Law:
    for values in _values(p, support, draws):
        shape = (len(values), *p.batch_shape, *p.event_shape)
        parts = values.expand(shape).split(max(1, FLOATS // max(1, math.prod(p.batch_shape))))
        log_p = [_evaluated(p.log_prob, part, draws).reshape(len(part), -1)[:, at] for part in parts]
        mass = torch.cat(log_p).exp()
        unbounded = isinstance(support, type(constraints.nonnegative_integer)) and len(values) < INTEGERS
        if unbounded and mass[len(mass) // 2 :].sum(0).max() > BEYOND:
            continue
        total, place = mass.sum(0), _places(values.cpu(), draws.cpu(), at, len(p.batch_shape))
        before = (mass.cumsum(0) - mass).gather(0, place.clamp(min=0))
        u = before + torch.rand(before.shape, dtype=before.dtype) * mass.gather(0, place.clamp(min=0))
        return Law(total, (u / total).masked_fill(place < 0, torch.nan))
    raise ValueError(f"the sum over {INTEGERS} integers does not converge")


def _values(p: Any, support: Any, draws: Tensor) -> Iterator[Tensor]:
    """All values, (G, 1, ..., *event_shape), in ascending order if they are numbers; integers in growing ranges."""
    ones = [1] * len(p.batch_shape)
    if isinstance(support, Levels):
        yield support.values(draws).reshape(-1, *ones)
    elif isinstance(support, type(constraints.nonnegative_integer)):
        first, count = int(support.lower_bound), 2 * int(draws.nan_to_num().max()) + 128
        while count <= 2 * INTEGERS:
            yield (first + torch.arange(min(count, INTEGERS), device=draws.device)).to(draws.dtype).reshape(-1, *ones)
            count *= 2
    else:
        try:
            yield p.enumerate_support(expand=False).to(draws.dtype)
        except NotImplementedError:
            raise ValueError(f"its values cannot be listed: {support}") from None


def _places(values: Tensor, draws: Tensor, at: Tensor, batch_dims: int) -> Tensor:
    """The index of the value that each draw equals; -1 if there is none. (R, M)"""
    drawn = draws.flatten(1, batch_dims) if batch_dims else draws[:, None]
    drawn = drawn[:, at]
    if drawn.ndim > 2:
        listed = values.reshape(len(values), *drawn.shape[2:])
        same = (drawn[None] == listed[:, None, None]).flatten(3).all(-1)
        return torch.where(same.any(0), same.double().argmax(0), -1)
    listed = values.flatten()
    place = (
        torch.bucketize(drawn, (listed[1:] + listed[:-1]) / 2) if len(listed) > 1 else torch.zeros_like(drawn).long()
    )
    off = (drawn - listed[place]).abs() > 1e-3 * (listed[-1] - listed[0]) / max(1, len(listed) - 1)
    return place.masked_fill(off | drawn.isnan(), -1)


def _integral(
    log_prob: Callable[[Tensor], Tensor], draws: Tensor, at: Tensor, bounds: tuple[Any, Any], support: Any = None
) -> Law:
    """Integrate on either side of a point c with a high density.

    x = c -+ r, with r = s e^t, or the whole side times sigmoid(t). So the same panels of t suit any scale, and any
    power of r at an edge.
    """
    shape = draws.shape[1:]
    low, high = (torch.as_tensor(bound).cpu().double().expand(shape).flatten()[at] for bound in bounds)
    x = draws.cpu().double().reshape(len(draws), -1)[:, at]
    inside = (
        (x >= low) & (x <= high)
        if support is None
        else support.check(draws).cpu().expand(draws.shape).reshape(len(draws), -1)[:, at]
    )
    if not bool(inside.any(0).all()):
        raise ValueError("its sampler draws no value in its support")
    cell = (torch.nextafter(draws, draws + torch.inf) - draws).cpu().double().reshape(len(draws), -1)[:, at]
    x = (x + (torch.rand_like(x) - 0.5) * cell).clamp(low, high)  # a rounded draw may have been anywhere in its cell
    where = torch.where(inside, x, torch.nan)
    filled = where.nanmedian(0).values
    whole = draws[0].cpu().double().flatten()

    def log_density(values: Tensor) -> Tensor:
        """At values (G, M), each for its own entry."""
        parts = values.split(max(1, FLOATS // max(1, whole.numel())))
        full = whole.expand(max(len(part) for part in parts), -1).clone()
        found = []
        for part in parts:
            full[: len(part), at] = part
            log_p = _evaluated(log_prob, full[: len(part)].reshape(-1, *shape), draws)
            found.append(log_p.reshape(len(part), -1)[:, at])
        return torch.cat(found)

    scale = (where.nanquantile(0.9, 0) - where.nanquantile(0.1, 0)).clamp(min=1e-6) + 1e-6 * filled.abs()
    centre, before = _fullest(log_density, filled, low, high, scale), None
    for panels in PANELS:
        nodes, weights = _nodes(centre, low, high, scale, panels)
        if len(nodes) * whole.numel() > MOST:
            break
        # Far out a density may be NaN, from 0 times infinity: it counts as 0.
        mass = log_density(nodes).exp().nan_to_num(0, torch.inf) * weights
        total = mass.sum(0)
        if before is not None and _near(total, before):
            ends = mass[: NODES * panels].sum(0) + mass[-NODES * panels :].sum(0)
            pit = _at(nodes, mass.cumsum(0) - mass / 2, x).div(total).masked_fill(~inside, torch.nan)
            return _resolved(Law(total, pit), (ends > SAME) & (total < 1))
        before = total
    raise ValueError("its integral does not converge")


def _resolved(law: Law, lost: Tensor) -> Law:
    """Without the entries whose mass lies nearer to an edge than floating-point numbers; most entries must remain."""
    if lost.double().mean() > 0.5:
        raise ValueError("mass lies nearer to the edge of its support than floating-point numbers")
    return Law(law.total[~lost], law.pit[:, ~lost])


def _near(total: Tensor, before: Tensor, same: float = SAME) -> bool:
    return bool(((total - before).abs() <= same * total.clamp(min=1)).all()) or bool(total.isinf().any())


def _fullest(
    log_density: Callable[[Tensor], Tensor], centre: Tensor, low: Tensor, high: Tensor, scale: Tensor, rounds: int = 5
) -> Tensor:
    """A point of each entry with much mass around it: in each round the node with the most mass."""
    for _ in range(rounds):
        nodes, weights = _nodes(centre, low, high, scale, 1)
        share = log_density(nodes) + weights.log()
        centre = nodes.gather(0, share.nan_to_num(-torch.inf, -torch.inf).argmax(0)[None])[0]
    return centre


def _nodes(centre: Tensor, low: Tensor, high: Tensor, scale: Tensor, panels: int) -> tuple[Tensor, Tensor]:
    """Nodes, ascending, and weights of an integral over [low, high]. Two (G, M)"""
    x, w = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(NODES))
    t = ((torch.arange(-SPAN * panels, SPAN * panels)[:, None] + 0.5 + x / 2) / panels).flatten()[:, None]
    w = (w / (2 * panels)).repeat(2 * SPAN * panels)[:, None]
    tiny = torch.finfo(torch.float32).tiny  # some distributions, such as torch's Gamma, round to their own dtype
    sides = []
    for edge, sign in ((low, -1), (high, 1)):
        side = (edge - centre).abs()
        whole = torch.isfinite(edge)
        k = torch.where(edge == 0, STRETCH, 1)
        r = torch.where(whole, side * (k * t).sigmoid(), scale * t.exp())
        near = edge - sign * side * (-k * t).sigmoid()  # with full precision near the edge
        values = torch.where(whole & (t > 0), near, centre + sign * r)
        first, last = (torch.nextafter(each, centre) for each in (low, high))
        values = values.clamp(torch.where(low == 0, tiny, first), torch.where(high == 0, -tiny, last))
        slope = torch.where(whole, k * side * (k * t).sigmoid() * (-k * t).sigmoid(), r)
        sides.append((values, slope * w))
    (left, of_left), (right, of_right) = sides
    return torch.cat([left.flip(0), right]), torch.cat([of_left.flip(0), of_right])


def _at(nodes: Tensor, cdf: Tensor, x: Tensor) -> Tensor:
    """F at x (R, M), interpolated between its values at the nodes (G, M)."""
    place = torch.searchsorted(nodes.T.contiguous(), x.T.contiguous()).T.clamp(1, len(nodes) - 1)
    left, right = nodes.gather(0, place - 1), nodes.gather(0, place)
    share = ((x - left) / (right - left).clamp(min=torch.finfo(x.dtype).tiny)).clamp(0, 1)
    return torch.lerp(cdf.gather(0, place - 1), cdf.gather(0, place), share)


def _cov(flat: Tensor) -> Tensor:
    """The covariance of draws (R, *batch, 2). (*batch, 2, 2)"""
    off = flat - flat.mean(0)
    return (off[..., :, None] * off[..., None, :]).mean(0)


def _square(p: Any, centre: Tensor, lower: Tensor, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The mass on a grid, (G, G, *batch), and its axis in standard deviations, (G,): x = centre + lower w."""
    t = torch.linspace(-REACH, REACH, 2 * steps + 1, dtype=torch.float64)
    w, weight = t.sinh(), t.cosh() * (t[1] - t[0])
    rows = []
    for u, of_u in zip(w, weight, strict=True):
        both = torch.stack([u.expand_as(w), w], -1).reshape(len(w), *[1] * (centre.ndim - 1), 2)
        x = (centre + (lower @ both[..., None])[..., 0]).reshape(len(w), *p.batch_shape, *p.event_shape)
        log_p = _evaluated(p.log_prob, x, like)
        rows.append(log_p.exp() * of_u * weight.reshape(-1, *[1] * (log_p.ndim - 1)))
    return torch.stack(rows) * lower.diagonal(dim1=-2, dim2=-1).prod(-1), w


def _rosenblatt(mass: Tensor, w: Tensor, drawn: Tensor) -> Tensor:
    """F(u) and F(v|u) at draws (R, *batch, 2, 1), from the mass on the grid. (2 R, M)"""
    mass, drawn = mass.flatten(2), drawn.flatten(1, -3)[..., 0]
    u, v = drawn.unbind(-1)
    axis, of_u = w[:, None].expand(-1, mass.shape[2]), mass.sum(1)
    first = _at(axis.contiguous(), of_u.cumsum(0) - of_u / 2, u) / of_u.sum(0)
    column = torch.bucketize(u.contiguous(), (w[1:] + w[:-1]) / 2)
    of_v = mass.permute(0, 2, 1)[column, torch.arange(mass.shape[2])]  # (R, M, G)
    cdf = of_v.cumsum(-1) - of_v / 2
    place = torch.bucketize(v.contiguous(), w).clamp(1, len(w) - 1)
    share = ((v - w[place - 1]) / (w[place] - w[place - 1])).clamp(0, 1)
    low, high = (cdf.gather(-1, each[..., None])[..., 0] for each in (place - 1, place))
    return torch.cat([first, torch.lerp(low, high, share) / of_v.sum(-1)])
