"""Semi-amortised inference: a guide whose proposal is improved for each datum by gradient steps."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, transform_to

from pyrovae import checks
from pyrovae.modes import mode
from pyrovae.programs.assumptions import layout
from pyrovae.programs.handlers import alone
from pyrovae.programs.pair import Program, modules
from pyrovae.programs.particles import COPIES, RefinedGuide, current, using
from pyrovae.programs.traces import bound, over, traces
from pyrovae.randomness import generators, set_generators

Shifts = dict[str, dict[str, Tensor]]

# Draws that decide between a proposal and its refinement; with few draws, chance would often prefer the worse one.
DRAWS = 64


def refine(model: Program, guide: Program, steps: int = 20, learning_rate: float = 0.05, particles: int = 8) -> Program:
    """A guide that proposes q(z; t + d*), d* ~ argmax_d ELBO(x; q(z; t + d)), where `guide` proposes q(z; t).

    t are the unconstrained parameters of each latent site's distribution, and d the shifts of these for each datum. The
    shifts are found by `steps` of Adam from 0. If the result is not better than the proposal (with the same noise), d*
    = 0. Gradients reach the guide through t, so you can also train it this way. With many steps, the gain in the ELBO
    is the amortisation gap. (Kim et al. 2018; Cremer, Li & Duvenaud 2018)

    Latents that the guide enumerates keep their distribution, and are summed over.

    Args:
        model, guide: Pyro programs with a plate "data"; every latent is reparametrised or enumerated.
        steps: steps of Adam in each call.
        learning_rate: initial learning rate of Adam, in units of the unconstrained parameters.
        particles: draws for each estimate of the ELBO.

    Raises:
        ValueError: when the guide is called: a latent is neither reparametrised nor enumerated; there is no latent to
            refine; a proposal depends on an enumerated latent.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.programs.importance import log_likelihood
        >>> from pyrovae.programs.refine import refine
        >>> vae, x = VAE(event_shape=6, latent_dim=2), torch.ones(3, 6)
        >>> log_p, error = log_likelihood((vae.model, refine(vae.model, vae.guide, steps=5)), x, particles=10)
        >>> log_p.shape
        torch.Size([3])
    """
    checks.integer("steps", steps, 0)
    checks.positive("learning_rate", learning_rate)
    checks.integer("particles", particles)

    def proposal(*args: Any, **kwargs: Any) -> Program:
        """The guide with refined proposals, for these rows or for copies of them."""

        def elbo(shifts: Shifts, draws: int = particles) -> Tensor:
            q, p = traces(model, shifted(shifts)(guide), draws, *args, enumerated=True, **kwargs)
            return bound(q, p).mean(0)

        how = layout(model, guide, *args, enumerated=True, **kwargs)
        # Buffers that training updates do not change here.
        with alone(), using(how), mode(modules((model, guide)), training=False):
            with torch.no_grad(), poutine.enum(first_available_dim=-2):
                start: Shifts = {}
                shifted(start)(guide)(*args, **kwargs)  # creates zero shifts, separate for each datum
            if not start:
                raise ValueError("refine: expected at least one latent site, found none to shift")
            best = _climb(elbo, start, steps, learning_rate)
        return shifted(best)(guide)

    return RefinedGuide(guide, proposal)


class shifted(Messenger):
    """Shifts the unconstrained parameters of each latent site's distribution; creates zeros if there is none yet."""

    def __init__(self, shifts: Shifts) -> None:
        super().__init__()
        self.shifts = shifts

    def _pyro_sample(self, msg: Any) -> None:
        enumerated = msg["infer"].get("enumerate") == "parallel"
        if msg["is_observed"] or msg["done"] or enumerated or site_is_subsample(msg):
            return
        name, rows = msg["name"], tuple(msg["fn"].batch_shape)
        if name not in self.shifts and len(rows) > 1:
            raise ValueError(
                f"refine: expected one proposal for each row at {name!r}, found {rows}, because it depends on an "
                "enumerated latent, or lies in a plate inside that of the rows; fix the values of those latents"
            )
        try:
            msg["fn"] = _moved(msg["fn"], self.shifts.setdefault(name, {}))
        except NotImplementedError as error:
            raise ValueError(f"refine: expected real parameters to shift at {name!r}, {error}") from None


def _moved(fn: Any, shifts: dict[str, Tensor]) -> Any:
    """A distribution of the same kind with parameters T(T^-1(t) + shift), where T maps to their constraint."""
    if isinstance(fn, Independent):
        return _moved(fn.base_dist, shifts).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, TransformedDistribution):
        return dist.TransformedDistribution(_moved(fn.base_dist, shifts), fn.transforms)
    given = {name: vars(fn)[name] for name in fn.arg_constraints if name in vars(fn)}
    if not given or not fn.has_rsample:
        raise NotImplementedError(f"found {type(fn).__name__}")
    moved = {}
    for name, value in given.items():
        onto = transform_to(fn.arg_constraints[name])
        free = onto.inv(value)
        shift = shifts.setdefault(name, torch.zeros_like(free))
        if current() == COPIES and len(free) > len(shift):
            shift = shift.repeat(len(free) // len(shift), *[1] * (shift.ndim - 1))
        moved[name] = onto(free + shift)
    return type(fn)(**moved)


def _climb(elbo: Callable[..., Tensor], start: Shifts, steps: int, learning_rate: float) -> Shifts:
    """Run Adam on the sum of the ELBOs. A datum's shifts affect only its own term. The learning rate decays to 0."""
    keys = [(site, name) for site, values in start.items() for name in values]
    flat = [start[site][name] for site, name in keys]
    moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in flat]
    for step in range(1, steps + 1):
        flat = [value.detach().requires_grad_() for value in flat]
        with torch.enable_grad():
            slopes = torch.autograd.grad(elbo(_nested(keys, flat)).sum(), flat)
        # The shifts of a datum whose ELBO overflows do not change.
        gradients = [g.nan_to_num(0, 0, 0) for g in slopes]
        moments = [
            (torch.lerp(g, first, 0.9), torch.lerp(g * g, second, 0.999))
            for g, (first, second) in zip(gradients, moments, strict=True)
        ]
        rate = learning_rate * (1 - (step - 1) / steps)
        flat = [
            value.detach() + rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            for value, (first, second) in zip(flat, moments, strict=True)
        ]
    with torch.no_grad():
        noise = generators()
        after = elbo(_nested(keys, flat), DRAWS)
        set_generators(noise)
        better = after > elbo(start, DRAWS)
    kept = [torch.where(over(better, value), value, 0) for value in flat]
    return _nested(keys, kept)


def _nested(keys: list[tuple[str, str]], values: list[Tensor]) -> Shifts:
    shifts: Shifts = {}
    for (site, name), value in zip(keys, values, strict=True):
        shifts.setdefault(site, {})[name] = value
    return shifts
