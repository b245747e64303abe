"""Effect handlers: small changes to the sites of a Pyro program.

Pyro's parameter store, and what is private in Pyro (its stack of handlers and its allocator of dimensions), are used
here alone. The tests pass with Pyro 1.9.2.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Self
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution, constraints
from pyro.params.param_store import param_with_module_name
from pyro.poutine import Trace
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.do_messenger import DoMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import Tensor, nn
from torch.distributions import Independent


class scale_latents(Messenger):
    """Multiplies the score of every latent site by beta, and changes nothing else.

    Put it around BOTH programs: the KL is made of the guide's and the model's score of a latent.
    Unlike `poutine.scale` it accepts 0, and does not change the observed sites.
    """

    def __init__(self, beta: float | Tensor) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta


class scale_observed(Messenger):
    """Multiplies the score of every observed site by a weight, and changes nothing else."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.weight


class own_parameters(Messenger):
    """Lets modules use their own parameters directly, instead of through Pyro's global store.

    The programs' own `pyro.param` sites still live in the store. `found` collects every unconstrained parameter that
    the programs used, by name; if two different ones have the same name, the second gets a prime.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}
        self._answered: set[str] = set()

    def __enter__(self) -> Self:
        self._hidden = _take_out_module_parameters()
        return super().__enter__()

    def __exit__(self, *fault: Any) -> None:
        super().__exit__(*fault)
        _take_out_module_parameters()
        forget(self._answered)  # a handler inside (automatic guides have one) may have used the store itself
        parameters, known = self._hidden
        pyro.get_param_store().set_state({"params": parameters, "constraints": known})

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        if _is_a_modules(msg):
            msg["value"], msg["done"] = msg["args"][1], True
            self._answered.add(msg["name"])

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        name, value = msg["name"], msg["value"]
        value = value.unconstrained() if hasattr(value, "unconstrained") else value
        while _is_a_modules(msg) and self.found.get(name, value) is not value:
            name += "'"
        self.found[name] = value  # the last value for the store's own: a PyroModule turns its first into a nn.Parameter


def _is_a_modules(msg: dict[str, Any]) -> bool:
    return len(msg["args"]) > 1 and isinstance(msg["args"][1], nn.Parameter)


def forget(names: Iterable[str]) -> None:
    """Remove parameters from Pyro's store, which cannot do this itself if two names refer to one tensor."""
    store: Any = pyro.get_param_store()
    gone, state = set(names), store.get_state()
    store.clear()
    store.set_state({kind: {n: v for n, v in of.items() if n not in gone} for kind, of in state.items()})


def _take_out_module_parameters() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Remove the modules' parameters and constraints from the store, and return them. A PyroModule looks into the store
    before any handler is called, and would use a parameter that another module of the same name left there."""
    state: Any = pyro.get_param_store().get_state()
    taken = [name for name, value in state["params"].items() if isinstance(value, nn.Parameter)]
    forget(taken)
    return {name: state["params"][name] for name in taken}, {name: state["constraints"][name] for name in taken}


@contextmanager
def lent_to_the_store(parameters: dict[str, Tensor]) -> Iterator[None]:
    """Inside, Pyro's store contains these parameters: a PyroOptim looks up the names of what it updates."""
    store: Any = pyro.get_param_store()
    lent = {name: value for name, value in parameters.items() if name not in store}
    store.set_state({"params": lent, "constraints": dict.fromkeys(lent, constraints.real)})
    try:
        yield
    finally:
        forget(lent)


class in_support(Messenger):
    """Collects, in `flags`, whether the observed values are in their supports, for the sites that Pyro validates."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: set[str] = set()
        self.flags: list[Tensor] = []

    def __enter__(self) -> Self:
        self.flags = []
        return super().__enter__()

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"] or not isinstance(msg["value"], Tensor):
            return
        q: Any = msg["fn"]
        scored = q
        while isinstance(scored, Independent | MaskedDistribution | ExpandedDistribution):
            scored = scored.base_dist
        if getattr(scored, "_validate_args", False):
            self.sites.add(msg["name"])  # collected while validation is on; recorded while it is off
        if msg["name"] in self.sites:
            with suppress(NotImplementedError):  # some distributions have no support
                value = msg["value"]
                value = value.expand(q.shape()) if value.ndim < q.event_dim else value
                self.flags.append(q.support.check(value).all())


@contextmanager
def alone() -> Iterator[None]:
    """Inside, programs run as if no handler were around them: no trace records them, no plate adds a dimension.

    Only `own_parameters` stays active, so that modules use their own parameters here, too.
    """
    handlers, dims = _PYRO_STACK[:], _DIM_ALLOCATOR._stack[:]
    _PYRO_STACK[:] = [handler for handler in handlers if isinstance(handler, own_parameters)]
    _DIM_ALLOCATOR._stack[:] = []
    try:
        yield
    finally:
        _PYRO_STACK[:], _DIM_ALLOCATOR._stack[:] = handlers, dims


def register(module: nn.Module) -> None:
    """Register a module's parameters with Pyro, under a name that no other module ever has.

    The module's own tensors are used: if one was replaced, the store's old tensor is dropped.
    """
    name = _names.setdefault(module, f"{type(module).__name__}-{next(_numbers)}")
    store = pyro.get_param_store()
    named = {param_with_module_name(name, key): value for key, value in module.named_parameters()}
    if stale := [full for full, value in named.items() if full in store and store[full] is not value]:
        forget(stale)
    with warnings.catch_warnings():  # a part that is frozen on purpose needs no warning
        warnings.filterwarnings("ignore", ".*was not registered in the param store")
        pyro.module(name, module)


# `id()` is not unique, because the next object at the same address gets it; nor is an attribute, because a deep copy
# keeps it.
_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_numbers = count()


@contextmanager
def store_unchanged() -> Iterator[None]:
    """Inside, programs may add parameters to Pyro's store; at the end these are forgotten."""
    store = pyro.get_param_store()
    before = set(store.keys())
    try:
        yield
    finally:
        forget(set(store.keys()) - before)


def given(name: str) -> Tensor | None:
    """The value that an enclosing handler (condition, do, replay) sets at this site, if any."""
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, ConditionMessenger | DoMessenger) and name in handler.data:
            if isinstance(handler.data, Trace):
                return handler.data.nodes[name]["value"]
            return torch.as_tensor(handler.data[name])
        if isinstance(handler, ReplayMessenger) and handler.trace is not None and name in handler.trace:
            return handler.trace.nodes[name]["value"]
    return None


def rows(default: int, **event_dims: int) -> int:
    """The number of rows of plate "data" if nothing is observed: that of the first site whose value a handler sets."""
    for name, event_dim in event_dims.items():
        value = given(name)
        if value is not None and value.ndim > event_dim:
            return value.shape[-event_dim - 1]
    return default
