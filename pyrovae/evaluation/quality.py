"""The quality of samples and reconstructions, measured on them and on data alone, for any model.

Sets are tensors (N, *event_shape); distances are Euclidean, between data or between `features` of data.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrovae import checks
from pyrovae.data import Split
from pyrovae.data.split import Data, at_random, blocks, choosable
from pyrovae.programs.columns import by_kind, wanted
from pyrovae.programs.importance import FLOATS, ROWS, reconstruct, sample
from pyrovae.programs.pair import Programs, takes_labels
from pyrovae.programs.traits import traits
from pyrovae.randomness import seeded
from pyrovae.scores import auroc, mean

# From data (N, *event_shape) to features whose distances are more meaningful than those of the data: (N, ...).
Features = Callable[[Tensor], Tensor]

# Groups that are deleted one at a time for a standard error.
GROUPS = 10
# The names of the results of `manifolds`.
MANIFOLDS = ("precision", "recall", "density", "coverage")


def assess(
    programs: Programs,
    train: Data,
    held_out: Data,
    n: int = 1000,
    k: int = 5,
    features: Features | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The quality of a model's samples and reconstructions, each number with its standard error; JSON can hold it.

    memorisation: of n samples, compared with all training rows and n held-out ones, as in `memorisation`.
    samples: `manifolds` and `frechet` of n samples compared with n held-out rows.
    data: the same for n training rows instead of the samples, which is what a perfect model would reach.
    reconstructions: `ssim` and `psnr` of the n held-out rows, if these are images with values in [0, 1]; NaN if one of
        them is infinite.

    Args:
        programs: model and guide; a model without p(y) gets the labels of the held-out rows.
        train, held_out: Splits, tensors or Datasets, compared as a model takes them (`Split.binarize`).
        n: rows of each set; many of these numbers depend on it.
        k: the k of `manifolds`.
        features: from data to features; None compares pixels. The reconstructions do not use them.
        seed: seed of samples and reconstructions; rows are chosen by the library's own seed, as in `at_random`.

    Raises:
        ValueError: there are fewer than n rows; a function for one of the parts refuses its input.
    """
    train, held_out = choosable(train), choosable(held_out)
    least = min(len(train), len(held_out))
    if checks.integer("n", n, 2) > least:
        raise ValueError(f"n: expected at most {least}, the rows of the smaller part, found {n}")
    _check_k(k, n)
    with seeded(seed, 7):
        rows, some = at_random(len(held_out), n), at_random(len(train), n)
        x, y = held_out[rows], None if held_out.y is None else held_out.y[rows]
        seen = torch.cat([block for block, *_ in blocks(train, ROWS)])
        drawn = _drawn(programs, n, y)
        rebuilt = _reconstructions(programs, Split(x, y))
    drawn, x, seen = _features(features, samples=drawn, held_out=x, train=seen)
    return {
        "rows": n,
        "train_rows": len(train),
        "k": k,
        "seed": seed,
        "features": "pixels" if features is None else getattr(features, "__name__", type(features).__name__),
        "binarize": train.binarize,
        "memorisation": memorisation(drawn, seen, x),
        "samples": manifolds(drawn, x, k) | {"frechet": frechet(drawn, x)},
        "data": manifolds(seen[some], x, k) | {"frechet": frechet(seen[some], x)},
        "reconstructions": rebuilt,
    }


def _drawn(programs: Programs, n: int, y: Tensor | None) -> Tensor:
    """n samples, block by block; from p(x|y) if there is no p(y)."""
    given = y if takes_labels(programs) and traits(programs).label is None else None
    parts = torch.arange(n).split(ROWS)
    return torch.cat([sample(programs, len(part), None if given is None else given[part]).cpu() for part in parts])


def _reconstructions(programs: Programs, split: Split) -> dict[str, Any]:
    if len(split.event_shape) != 3 or not 0 <= float(split[:].min()) <= float(split[:].max()) <= 1:
        return {}
    found: dict[str, list[Tensor]] = {"ssim": [], "psnr": []}
    window = _window(split.event_shape)
    for block in blocks(split, ROWS, wanted(programs)):
        for _, (x, *y) in by_kind(programs, *block):
            means = reconstruct(programs, x, *y).cpu().to(x)
            found["ssim"].append(ssim(x, means, window))
            found["psnr"].append(psnr(x, means))
    return {
        "window": window,
        **{name: mean(torch.cat(parts).nan_to_num(posinf=math.nan)) for name, parts in found.items()},
    }


def _window(event_shape: tuple[int, ...]) -> int:
    """The window of SSIM: 11 pixels (Wang et al.), or the largest odd number that fits into a smaller image."""
    side = min(event_shape[1:])
    return min(11, side - 1 + side % 2)


def nearest(x: Tensor, to: Tensor, k: int = 1, features: Features | None = None) -> tuple[Tensor, Tensor]:
    """The k nearest rows of `to` for each row of x: distances, ascending, and row numbers. Two (N, k).

    Args:
        x, to: sets.
        k: at most the number of rows of `to`.
        features: if given, features are compared instead of the data.
    """
    x, to = _features(features, x=x, to=to)
    if checks.integer("k", k) > len(to):
        raise ValueError(f"k: expected at most {len(to)}, the rows to choose from, found {k}")
    return _nearest(x, to, k)


def _nearest(x: Tensor, to: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found, centre = [], to.mean(0)
    for rows, squares in _squares(x - centre, to - centre, k):
        near = squares.topk(k, largest=False).indices
        # Found by a matrix product, which rounds, but measured by differences, so that copies have distance 0.
        distances, order = torch.linalg.vector_norm(x[rows, None] - to[near], dim=-1).sort(stable=True)
        found.append((distances, near.gather(1, order)))
    distances, near = (torch.cat(each) for each in zip(*found, strict=True))
    return distances, near


def _squares(x: Tensor, to: Tensor, k: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """|x - x'|^2 = |x|^2 - 2 x x' + |x'|^2 of blocks of x with all of `to`: the rows, and (len(rows), len(to))."""
    squared, lengths = x.square().sum(1, keepdim=True), to.square().sum(1)
    for rows in torch.arange(len(x), device=x.device).split(max(1, FLOATS // max(len(to), k * to.shape[1]))):
        yield rows, torch.addmm(lengths, x[rows], to.T, alpha=-2).add_(squared[rows])


def memorisation(
    samples: Tensor, train: Tensor, test: Tensor, share: float = 0.01, features: Features | None = None
) -> dict[str, Any]:
    """Whether samples are nearer to the training data than other data are.

    d = distance to the nearest training row, d_s for the samples and d_t for the test data.
    closer = P(d_s < the `share` quantile of d_t): above `closer_of_test` if a few samples are copies;
    farther = P(d_s > d_t) + P(d_s = d_t) / 2: 1/2 if samples are as far away as data are, 0 if all are copies;
    c_t = (farther - 1/2) / its standard deviation under that hypothesis (Mann-Whitney): far below 0 for copies, far
    above 0 for samples unlike the data.  (Meehan, Chaudhuri & Dasgupta 2020, with one cell)

    Args:
        samples, train, test: sets, all binarised alike, because noise in only one would separate it from the others.
        share: the share of the test data that counts as close.
        features: if given, features are compared instead of the data.
    """
    if not 0 < checks.number("share", share) < 1:
        raise ValueError(f"share: expected a number between 0 and 1, found {share}")
    samples, train, test = _features(features, samples=samples, train=train, test=test)
    d_s, d_t = (_nearest(each, train, 1)[0][:, 0].double() for each in (samples, test))
    threshold, farther = d_t.quantile(share), auroc(d_t, d_s)
    return {
        "closer": mean((d_s < threshold).double()),
        "closer_of_test": mean((d_t < threshold).double()),
        "farther": farther,
        "c_t": (farther["value"] - 0.5) / _deviation(d_s, d_t) if len(torch.cat([d_s, d_t]).unique()) > 1 else 0.0,
    }


def _deviation(a: Tensor, b: Tensor) -> float:
    """The standard deviation of P(a > b) + P(a = b) / 2 if both are draws from one distribution, given the ties
    (Lehmann 1975)."""
    n, ties = len(a) + len(b), torch.cat([a, b]).unique(return_counts=True)[1].double()
    variance = n + 1 - (ties**3 - ties).sum().item() / (n * (n - 1))
    return math.sqrt(variance / (12 * len(a) * len(b)))


def manifolds(samples: Tensor, data: Tensor, k: int = 5, features: Features | None = None) -> dict[str, Any]:
    """Whether samples lie where data do, and data where samples do: B_k(x) is the ball to x's k-th nearest neighbour.

    precision = share of the samples in any B_k(datum); recall = share of the data in any B_k(sample)
    (Kynkäänniemi et al. 2019); density = mean over samples of the number of B_k(datum) that contain them, / k; coverage
    = share of the data whose B_k contains a sample (Naeem et al. 2020). Standard errors are by the jackknife, from ten
    groups of rows of both sets, which also changes the balls. They are too large rather than too small, because these
    numbers are not smooth functions of the rows; they are NaN below twenty rows. All numbers depend on the number of
    rows, and in many dimensions on outliers.

    Args:
        samples, data: sets, preferably of the same size.
        k: the k of the nearest neighbour.
        features: if given, features are compared instead of the data.
    """
    samples, data = (each.double() for each in _features(features, samples=samples, data=data))
    least = min(len(samples), len(data))
    _check_k(k, least)
    enough = least >= 2 * GROUPS and k < least - -(-least // GROUPS)
    errors = _jackknife(partial(_shares, k=k), samples, data) if enough else torch.full((4,), math.nan)
    both = zip(MANIFOLDS, _shares(samples, data, k).tolist(), errors.tolist(), strict=True)
    return {name: {"value": value, "standard_error": error} for name, value, error in both}


def _shares(samples: Tensor, data: Tensor, k: int) -> Tensor:
    """The four numbers of `manifolds`."""
    of_samples, of_data = (_nearest(rows, rows, k + 1)[0][:, k] for rows in (samples, data))  # 0 is the row itself
    balls = _balls(samples, data, of_data)
    return torch.stack(
        [
            (balls > 0).double().mean(),
            (_balls(data, samples, of_samples) > 0).double().mean(),
            balls.mean() / k,
            (_nearest(data, samples, 1)[0][:, 0] <= of_data).double().mean(),
        ]
    )


def _jackknife(of: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The standard error of numbers of two sets, from their values without each of ten groups of rows of both."""
    kept = [[each[torch.arange(len(each)) % GROUPS != group] for each in (a, b)] for group in range(GROUPS)]
    return torch.stack([of(*pair).double().cpu() for pair in kept]).std(0, correction=0) * math.sqrt(GROUPS - 1)


def _check_k(k: int, n: int) -> None:
    if checks.integer("k", k) >= n:
        raise ValueError(f"k: expected fewer than the {n} rows of the smaller set, found {k}")


def _balls(x: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """The number of balls that contain each row of x; a k-th neighbour, on the rim, is inside despite rounding. (N,)"""
    x, centres = x - centres.mean(0), centres - centres.mean(0)
    reach = radii.square() + 1e-12 * centres.square().sum(1).max()
    return torch.cat([(squares <= reach).sum(1) for _, squares in _squares(x, centres)]).double()


def frechet(a: Tensor, b: Tensor, features: Features | None = None) -> dict[str, float]:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), of the means and covariances of two sets.

    This is the squared Fréchet (Wasserstein) distance between normal distributions fitted to the sets (Dowson & Landau
    1982). With features of the Inception network it is called FID (Heusel et al. 2017); with other features it is not.
    It is too large by about 1/N: compare it only for equal N, and with its value for two sets of data. The standard
    error is by the jackknife, from ten groups of rows; NaN below twenty rows.

    Args:
        a, b: sets (N, ...) and (M, ...).
        features: if given, features are compared instead of the data.
    """
    a, b = (each.double() for each in _features(features, a=a, b=b))
    if min(len(a), len(b)) < 2 * GROUPS:
        return {"value": _frechet(a, b), "standard_error": math.nan}
    error = _jackknife(lambda *sets: torch.tensor(_frechet(*sets), dtype=torch.float64), a, b)
    return {"value": _frechet(a, b), "standard_error": error.item()}


def _frechet(a: Tensor, b: Tensor) -> float:
    """With S = R' R, tr (S_a S_b)^(1/2) is the sum of the singular values of R_a R_b', even if S is singular."""
    r_a, r_b = (torch.linalg.qr(x - x.mean(0), mode="r").R / math.sqrt(len(x) - 1) for x in (a, b))
    apart = (a.mean(0) - b.mean(0)).square().sum() + r_a.square().sum() + r_b.square().sum()
    return max(0.0, (apart - 2 * torch.linalg.svdvals(r_a @ r_b.T).sum()).item())


def psnr(x: Tensor, y: Tensor, span: float = 1.0) -> Tensor:
    """10 log10(L^2 / mean (x - y)^2) for each datum, in dB; infinite if they are equal. (N,)

    Args:
        x, y: sets of one shape.
        span: L, the largest minus the smallest possible value.
    """
    x, y = _pair(x, y)
    return 10 * torch.log10(checks.positive("span", span) ** 2 / (x - y).square().flatten(1).mean(1))


def ssim(x: Tensor, y: Tensor, window: int = 11, span: float = 1.0) -> Tensor:
    """Mean over windows of (2 m m' + c1) (2 s_xy + c2) / ((m^2 + m'^2 + c1) (s^2 + s'^2 + c2)), for each datum. (N,)

    m, s^2, s_xy are means, variances and covariance in a window, with Gaussian weights of standard deviation 1.5;
    c1 = (0.01 L)^2, c2 = (0.03 L)^2. The mean is over all windows inside the image, and over its channels.
    (Wang et al. 2004)

    Args:
        x, y: images (N, C, H, W).
        window: side of a window in pixels, odd.
        span: L, the largest minus the smallest possible value.
    """
    x, y = _pair(x, y)
    if x.ndim != 4 or checks.integer("window", window) % 2 == 0 or window > min(x.shape[2:]):
        raise ValueError(f"expected images (N, C, H, W) and an odd window inside, found {tuple(x.shape)} and {window}")
    c1, c2 = ((each * checks.positive("span", span)) ** 2 for each in (0.01, 0.03))
    weights = torch.exp(-((torch.arange(window) - window // 2) ** 2) / (2 * 1.5**2)).to(x)
    kernel = (weights[:, None] * weights / weights.sum() ** 2)[None, None]
    m, n, xx, yy, xy = (F.conv2d(each.flatten(0, 1)[:, None], kernel) for each in (x, y, x * x, y * y, x * y))
    alike = (2 * m * n + c1) * (2 * (xy - m * n) + c2)
    return (
        (alike / ((m * m + n * n + c1) * (xx - m * m + yy - n * n + c2))).unflatten(0, x.shape[:2]).mean((1, 2, 3, 4))
    )


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets whose rows correspond to each other, in float64."""
    if x.shape != y.shape or x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"expected two sets (N, *event_shape) of one shape, found {tuple(x.shape)}, {tuple(y.shape)}")
    checks.finite("x", x)
    checks.finite("y", y)
    return x.double(), y.double()


def _features(features: Features | None, **sets: Tensor) -> list[Tensor]:
    """Each set as rows of finite numbers (N, D): its values, or its features, which are computed in blocks."""
    shapes = {name: tuple(x.shape) for name, x in sets.items()}
    if len({shape[1:] for shape in shapes.values()}) > 1 or any(
        len(shape) < 2 or shape[0] < 2 for shape in shapes.values()
    ):
        raise ValueError(f"expected sets (N, *event_shape) of at least 2 rows and one event shape, found {shapes}")
    for name, x in sets.items():
        checks.finite(name, x)
    if features is not None:
        with torch.no_grad():
            sets = {name: torch.cat([features(part) for part in x.split(ROWS)]) for name, x in sets.items()}
        if any(len(x) != shapes[name][0] for name, x in sets.items()):
            raise ValueError(
                f"features: expected (N, ...) of {shapes}, found {[tuple(x.shape) for x in sets.values()]}"
            )
        for name, x in sets.items():
            checks.finite(f"features of {name}", x)
    device = next(iter(sets.values())).device
    return [(x if x.is_floating_point() else x.float()).flatten(1).to(device) for x in sets.values()]
