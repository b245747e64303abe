"""Finds a program's plate of the rows, and the number of rows, from its sites and not from names."""

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

# The usual name of the plate of the rows, and the names of the plates that estimators put around programs.
NAME, PARTICLES = "data", ("particles", "num_particles_vectorized")

Site = Mapping[str, Any]


class Plate(NamedTuple):
    """The plate of the rows. It has several names if a program opens one plate after the other.

    `size` is the number of rows that are scored. `full_size` is the number of rows that these scores represent; it is
    larger if the plate is subsampled, and then Pyro scales each score by full_size / size.
    """

    names: frozenset[str]
    dim: int
    size: int
    full_size: int

    def holds(self, site: Site) -> bool:
        """Whether a site has a value for each row."""
        return any(frame.name in self.names for frame in site["cond_indep_stack"])


def score_shape(site: Site) -> torch.Size:
    """The shape of a site's log_prob. Pyro gives a plate without a size the size -1; here it is the true size."""
    fn, value = site["fn"], site["value"]
    drawn = value.shape[: value.ndim - fn.event_dim] if isinstance(value, Tensor) else ()
    # torch.broadcast_shapes imports sympy, which takes seconds.
    both = zip_longest(reversed(fn.batch_shape), reversed(drawn), fillvalue=1)
    return torch.Size(reversed([a if b == 1 else b for a, b in both]))


def frames(site: Site) -> list[Any]:
    """The plates around a site that are dimensions of its score, except those of particles."""
    return [frame for frame in site["cond_indep_stack"] if frame.dim is not None and frame.name not in PARTICLES]


def length(site: Site, frame: Any) -> int:
    """The number of scores of a site along a plate."""
    shape = score_shape(site)
    return shape[frame.dim] if len(shape) >= -frame.dim else 1


def of_rows(sites: Iterable[Site], rows: int | None = None) -> Plate:
    """The plate of the rows: the one named "data", otherwise the only one with as many entries as there are rows.

    Args:
        sites: the sample sites of a program that was run.
        rows: the number of rows with which it was called; None if unknown.

    Raises:
        ValueError: there is no such plate, or several; its size is not the number of rows; a site in it has a single
            score.
    """
    sites = list(sites)
    sizes: dict[str, tuple[int, int, int]] = {}  # dim, size, full size
    for site in sites:
        for frame in frames(site):
            size = length(site, frame) if frame.size == -1 else int(frame.size)
            _, known, _ = sizes.get(frame.name, (0, 1, 0))
            full = size if frame.full_size in (None, -1) else int(frame.full_size)
            sizes[frame.name] = frame.dim, max(size, known), max(full, known)
    names = _names(sizes, rows)
    dim, size, full = sizes[min(names)]
    plate = Plate(frozenset(names), dim, size, full)
    for site in sites:
        if plate.holds(site):
            _check(site, plate)
    return plate


def _names(sizes: dict[str, tuple[int, int, int]], rows: int | None) -> set[str]:
    """The names of the plate of the rows, including other plates in the same dimension and of the same size."""
    fitting = {name for name, (_, *lengths) in sizes.items() if rows is None or rows in lengths}
    listed = ", ".join(f"{name!r} of {size}" for name, (_, size, _) in sizes.items()) or "none"
    here = "" if rows is None else f" {rows}"
    if NAME in sizes:
        if NAME not in fitting:
            raise ValueError(f'plate "data": expected the{here} rows of the first argument, found {listed}')
        first = NAME
    elif len({sizes[name][0] for name in fitting}) == 1:
        first = min(fitting)
    else:
        few = "none" if not sizes else listed
        raise ValueError(f'expected programs with a plate named "data" over their{here} rows, found {few} in the model')
    return {name for name in fitting if sizes[name] == sizes[first]}


def _check(site: Site, plate: Plate) -> None:
    """Raise a ValueError unless a site in the plate has a score for each row."""
    frame = next(frame for frame in site["cond_indep_stack"] if frame.name in plate.names)
    if (found := length(site, frame)) != plate.size:
        raise ValueError(
            f"site {site['name']!r}: expected a value for each of {plate.size} rows of plate {frame.name!r}, found "
            f"{found}: a plate without a size does not define rows; write pyro.plate({frame.name!r}, len(x))"
        )


class noted(Messenger):
    """Collects the sample sites of the programs inside, except those of subsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Any] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.sites[msg["name"]] = dict(msg)  # a copy, because Pyro changes the message later
