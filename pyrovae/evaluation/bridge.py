"""The continuous latents of (model, guide) as one real vector for each chain and datum, and their densities."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyrovae import checks
from pyrovae.programs.assumptions import laid_out, layout
from pyrovae.programs.pair import Program, Programs, pair
from pyrovae.programs.particles import using
from pyrovae.programs.traces import at, check_latents, check_pair, draw, is_point, log_prob, replayed, sites, summed_out

STARTS = ("prior", "guide")


class Reals:
    """Maps latents z = T(u) to reals u, where T maps the reals to the support of each latent; u is a vector per datum.

    Args:
        trace: a draw from the model, (1, N), which contains the latents.
    """

    def __init__(self, trace: Trace) -> None:
        self.onto: dict[str, Any] = {}
        self.shapes: dict[str, torch.Size] = {}
        for name, site in sites(trace, False).items():
            try:
                self.onto[name] = biject_to(_support(site["fn"]))
            except NotImplementedError:
                found = f"{name!r} on {site['fn'].support}"
                raise ValueError(f"expected latents that are functions of as many reals, found {found}") from None
            self.shapes[name] = torch.Size(self.onto[name].inverse_shape(site["value"].shape)[2:])

    def unconstrain(self, z: dict[str, Tensor]) -> Tensor:
        """u = T^-1(z). (K, N, D)"""
        return torch.cat([onto.inv(z[name]).reshape(*z[name].shape[:2], -1) for name, onto in self.onto.items()], -1)

    def constrain(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """z = T(u), and log |dz/du|, (K, N)."""
        z, log_det = {}, u.new_zeros(u.shape[:-1])
        parts = u.split([shape.numel() for shape in self.shapes.values()], -1)
        for (name, onto), part in zip(self.onto.items(), parts, strict=True):
            v = part.reshape(*u.shape[:-1], *self.shapes[name])
            z[name] = onto(v)
            log_det = log_det + onto.log_abs_det_jacobian(v, z[name]).reshape(*u.shape[:-1], -1).sum(-1)
        return z, log_det


class Bridge:
    """f_b(u) = f_0(z)^(1-b) p(x, z)^b |dz/du| at z = T(u), from f_0 = p(z), or q(z|x), at b = 0 to p(x, z) at b = 1.

    Latents that the guide enumerates are summed out at both ends.

    Args:
        programs: model and guide.
        args: their arguments for N rows.
        start: one of STARTS, the choice of f_0.

    Raises:
        ValueError: there are no latents, or the programs have different ones; a discrete latent is drawn; a support is
            not an image of the reals, or depends on another latent; for a start, the guide has no density at every z.
    """

    def __init__(self, programs: Programs, args: Sequence[Tensor], start: str = "prior") -> None:
        model, guide = pair(programs)
        self.args = args
        with laid_out(model, guide, *args):
            q, two = draw(guide, 2, *args), draw(model, 2, *args)
        summed = [name for name, site in sites(q, False).items() if site["infer"].get("enumerate") == "parallel"]
        _check(q, two, summed)
        self.layout = layout(model, guide, *args, enumerated=True)
        with using(self.layout):
            self._begin(model, guide, start, q, summed)

    def _begin(self, model: Program, guide: Program, start: str, q: Trace, summed: Sequence[str]) -> None:
        self.model, guide = (poutine.infer_config(each, partial(_enumerate, summed)) for each in (model, guide))
        self.first = {"prior": self.model, "guide": guide}[checks.member("start", start, STARTS)]
        self.drawn = _without(draw(model, 1, *self.args), summed)
        self.reals = Reals(self.drawn)
        if start == "guide":
            self._check_guide(q)

    def draw(self, chains: int) -> Tensor:
        """u of z ~ f_0. (chains, N, D)"""
        with using(self.layout):
            return self.unconstrain(draw(self.first, chains, *self.args))

    def unconstrain(self, trace: Trace) -> Tensor:
        """u of the latents in a trace. (K, N, D)"""
        z: dict[str, Any] = {name: trace.nodes[name]["value"] for name in self.reals.onto}
        for name, value in z.items():
            p_z: Any = self.drawn.nodes[name]["fn"]
            checks.support(value, p_z.support, name=name)
        return self.reals.unconstrain(z)

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log f_0(z), log p(x, z) and log |dz/du|, each (K, N)."""
        z, log_det = self.reals.constrain(u)
        p = self._at(self.model, z)
        first = p if self.first is self.model else self._at(self.first, z)
        joint = log_prob(p, True) + log_prob(p, False)
        return summed_out(log_prob(first, False)), summed_out(joint), log_det

    def check_start(self, u: Tensor) -> None:
        """Raise a ValueError if f_0 is 0 at some u, to which no chain could return."""
        with pyro.validation_enabled(False):
            first, _, _ = self(u)
        if not bool(torch.isfinite(first).all()):
            raise ValueError(
                "start: expected a guide with a density at the z of all simulated data, found density 0 at some of "
                'them; use start="prior", which covers them all'
            )

    def _at(self, program: Program, z: dict[str, Tensor]) -> Trace:
        chains = len(next(iter(z.values())))
        with using(self.layout), poutine.enum(first_available_dim=-3):
            return replayed(program, at(self.drawn, z), chains, *self.args)

    def _check_guide(self, q: Trace) -> None:
        """A point has no density; some flows have one only for their own draws."""
        if is_point(q):
            raise ValueError('start: expected a guide with a density, found a point; start="prior" needs none')
        try:
            self(self.draw(1))
        except (NotImplementedError, ValueError) as error:
            found = checks.reason(error)
            raise ValueError(f'start: expected a guide with a density of every z, or start="prior"; {found}') from error


def _enumerate(names: Sequence[str], site: Any) -> Any:
    return {"enumerate": "parallel"} if site["name"] in names else {}


def _without(trace: Trace, names: Sequence[str]) -> Trace:
    """The latents of a trace, except these."""
    kept = Trace()
    for name, site in sites(trace, False).items():
        if name not in names:
            kept.add_node(name, **site)
    return kept


def _check(q: Trace, p: Trace, summed: Sequence[str]) -> None:
    """Raise a ValueError unless model and guide have the same latents: those that are summed out can be enumerated; the
    others (at least one) are continuous, and their supports are the same in two draws."""
    check_latents(p, "annealing")
    check_pair(q, p)
    check_latents(_without(p, summed), "annealing, but for enumerated ones")
    for name, site in sites(p, False).items():
        kind = f"{name!r} of {type(site['fn']).__name__}"
        if name in summed and not _enumerable(site["fn"]):
            raise ValueError(f"expected a latent with few values to enumerate, found {kind}")
        if name not in summed and site["fn"].support.is_discrete:
            raise ValueError(f"expected continuous latents, or ones that the guide enumerates, found {kind}")
        if name not in summed and _moves(site["fn"]):
            raise ValueError(f"expected supports that do not depend on a latent, found {kind}, whose support does")


def _enumerable(fn: Any) -> bool:
    try:
        fn.enumerate_support(expand=False)
    except NotImplementedError:
        return False
    return True


def _support(fn: Any) -> Any:
    """A distribution's support; for a mixture, for which torch has no bijection, the support of its components."""
    support = fn.support
    return support.base_constraint if isinstance(support, constraints.MixtureSameFamilyConstraint) else support


def _moves(fn: Any) -> bool:
    """Whether a support differs between two particles."""
    support, particles = _support(fn), 2 + fn.event_dim
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    bounds = [value for value in vars(support).values() if isinstance(value, Tensor) and value.ndim >= particles]
    return any(not torch.equal(*value) for value in bounds)
