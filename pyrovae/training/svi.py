"""Stochastic variational inference: Pyro's SVI, with the step recorded once and run as one graph."""

import copy
import inspect
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyrovae import checks
from pyrovae.engine.graph import Graph, UntraceableError, on_copies, signature, skips_on_device
from pyrovae.objectives import Objective
from pyrovae.programs.handlers import in_support, lent_to_the_store, own_parameters
from pyrovae.programs.pair import Program, modules
from pyrovae.randomness import generators, set_generators

# The number of steps from which compiling a graph pays off: it costs 18 s the first time, 3 s with Inductor's cache,
# and saves 1.5 to 2.5 ms a step (two threads of an AVX2 processor).
PAYS = 8000
# The largest number of kinds of arguments that get their own graph.
KINDS = 16
MANY = f"found more than {KINDS} kinds of arguments: new ones run eagerly. Pass values that change as tensors"
# `step` records a graph after this many steps with arguments of a kind: recording takes as long as about so many steps,
# and some kinds never come back. A planned training records at once (`prepare`).
EAGER = 100


class SVI:
    """A drop-in replacement for pyro.infer.SVI, with `step` and `evaluate_loss` in the units of the loss.

    A step (both programs, the loss, its gradients) is recorded as one graph of torch operations, by `prepare`, or after
    EAGER calls of `step` with such arguments. From then on only the graph runs: it gives the same random numbers and
    results, without Pyro's overhead. Programs that cannot be recorded (Python branches on a sampled value) run eagerly,
    with one warning that says why, and where in the code.

    Modules keep their own tensors, so models in one process never share any. After training, Pyro's store holds the
    values of the programs' own `pyro.param` sites and nothing else. If the loss or a gradient of a step is not finite,
    or its data are outside their support, no parameter changes. `step` then runs the step again eagerly, where Pyro's
    validation names the site in a ValueError; if there is no error, the step is counted in `skipped`.

    Args:
        model, guide: Pyro programs. Pass values that change from step to step as tensors; each new combination of
            Python values, shapes, and train or eval mode is recorded separately.
        optim: torch.optim.Adam or a functools.partial of it (any function from a list of parameters to a torch
            optimiser; it is fused if possible); a torch optimiser, which trains the parameters that it holds; or a
            PyroOptim.
        loss: one of `objectives`, any of Pyro's estimators, or a function of (model, guide, *args, **kwargs).
        clip: the largest norm of the gradient; a longer gradient is scaled to this norm.
        compile: True compiles every graph, False runs the programs eagerly, "auto" compiles if it pays off.
        steps: the number of planned steps, if known; "auto" then decides at once for the first kind of arguments.
        read: a function from a step's arguments to a tuple of the programs' arguments; it is a part of the graph.
        autocast: the dtype of torch.autocast around the programs, such as torch.bfloat16.

    Example:
        >>> import torch
        >>> import pyrovae
        >>> from pyrovae.objectives import ELBO
        >>> vae, x = pyrovae.VAE(event_shape=6, latent_dim=2), torch.ones(8, 6)
        >>> svi = pyrovae.SVI(vae.model, vae.guide, torch.optim.Adam, ELBO())
        >>> losses = [svi.step(x) for _ in range(50)]  # nats per datum
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: Any,
        loss: Any,
        clip: float | None = None,
        compile: bool | Literal["auto"] = "auto",
        steps: int | None = None,
        read: Callable[..., tuple[Any, ...]] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        if compile not in (True, False, "auto"):
            raise ValueError(f'compile: expected "auto", True or False, found {compile!r}')
        self.model, self.guide, self.loss, self.optim = model, guide, loss, optim
        self.clip = None if clip is None else checks.positive("clip", clip)
        self.compile, self.steps, self.read, self.autocast = compile, steps, read, autocast
        self.parameters: dict[str, Tensor] = {}
        self.optimizer: Any = None
        self.skipped = 0
        self._build, self._clip_each = _factory(optim)
        if isinstance(optim, torch.optim.Optimizer):
            self.optimizer = _steppable(optim)
            held = [value for group in optim.param_groups for value in group["params"]]
            self.parameters = {str(number): value for number, value in enumerate(held) if value.requires_grad}
        self._owners = modules((model, guide))
        self._graphs: dict[Any, list[Graph | None]] = {}
        self._eager: dict[Any, int] = {}
        self._warned: set[str] = set()

    @property
    def path(self) -> str:
        """How the first kind of step runs: "eager", "graph" or "compiled"."""
        first = next((graphs[0] for graphs in self._graphs.values() if graphs), None)
        return "eager" if first is None else "compiled" if first.compiled else "graph"

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Find the programs' parameters, and record a step with such arguments, without any change to parameters.

        Raises:
            ValueError: there are no parameters to train; the programs refuse the arguments.
        """
        if self._graph((args, kwargs)) is None:
            self._discover(args, kwargs)
        if not self.parameters:
            raise ValueError("expected programs with parameters to train, found none: no module is registered")

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one gradient step. Returns the loss before it as a number, or a tuple of numbers if the loss is one.

        The first steps with arguments of a kind run eagerly, so that parameters with a random start draw their values
        as under Pyro's SVI; then a graph is recorded.
        """
        graph = self._graph((args, kwargs)) if self._often((args, kwargs)) else None
        before = generators() if graph is not None else []
        losses, gradients, taken = self._evaluate(graph, args, kwargs)
        if graph is not None and not taken:
            after = generators()
            set_generators(before)
            losses, gradients, taken = self._evaluate(None, args, kwargs)  # raises, or corrects the graph's result
            set_generators(after)
        self._take(gradients, taken)
        self.skipped += not taken
        numbers = tuple(float(loss) for loss in losses)
        return numbers[0] if len(numbers) == 1 else numbers

    def step_async(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take a gradient step without waiting for it: its loss, and whether it is taken, as tensors on the device."""
        losses, gradients, taken = self._evaluate(self._graph((args, kwargs)), args, kwargs)
        self._take(gradients, taken)
        return torch.stack(losses).sum(), taken.clone()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """The loss of these programs; adds its gradients to the `.grad` of their parameters, without taking a step."""
        if hasattr(self.loss, "loss_and_grads"):
            return self.loss.loss_and_grads(model, guide, *args, **kwargs)
        value = self.loss(model, guide, *args, **kwargs)
        if getattr(value, "requires_grad", False):
            value.backward()
        return value

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss; nothing changes."""
        with torch.no_grad(), own_parameters():
            loss = self._value(*self._read(*args), **kwargs)
        return type(loss)(map(float, loss)) if isinstance(loss, tuple) else float(loss)

    def _read(self, *args: Any) -> tuple[Any, ...]:
        return args if self.read is None else self.read(*args)

    def _value(self, *args: Any, **kwargs: Any) -> Any:
        with self._autocast(args):
            return getattr(self.loss, "loss", self.loss)(self.model, self.guide, *args, **kwargs)

    def _autocast(self, args: Any) -> Any:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(next(arg.device.type for arg in args if isinstance(arg, Tensor)), self.autocast)

    def _graph(self, arguments: Any) -> Graph | None:
        """The graph for such arguments, recorded if necessary; None if they run eagerly."""
        if self.compile is False:
            return None
        kind = self._kind(arguments)
        if kind not in self._graphs and len(self._graphs) >= KINDS:
            self._warn(MANY)
            return None
        known = self._graphs.setdefault(kind, [])
        fitting = [graph for graph in known if graph is None or graph.fits()]
        if not fitting:
            known.append(graph := self._record(arguments))
            planned = self.steps is not None and self.steps >= PAYS and len(self._graphs) == 1
            if graph is not None and (self.compile is True or planned):
                graph.compile()
            return graph
        graph = fitting[0]
        if graph is not None and self.compile == "auto" and self.steps is None and graph.calls == PAYS:
            graph.compile()
        return graph

    def _often(self, arguments: Any) -> bool:
        """Whether there is a graph for such arguments, or whether recording one pays off."""
        kind = self._kind(arguments)
        if self.compile is False or kind in self._graphs:
            return True
        if kind not in self._eager and len(self._eager) >= KINDS:
            self._warn(MANY)
            return False
        self._eager[kind] = self._eager.get(kind, 0) + 1
        return self._eager[kind] > EAGER

    def _kind(self, arguments: Any) -> Any:
        """The key of a graph: the arguments' shapes and the modes of the modules."""
        return (*(owner.training for owner in self._owners), signature(arguments))

    def _record(self, arguments: Any) -> Graph | None:
        self._discover(*arguments)
        if not self.parameters:
            return None
        try:
            function = partial(self._function, support=in_support())
            return Graph(function, list(self.parameters.values()), arguments)
        except UntraceableError as error:
            self._warn(f"the programs cannot be recorded as one graph, and run eagerly: {error}")
            return None

    def _warn(self, what: str) -> None:
        if what not in self._warned:
            warnings.warn(what, stacklevel=5)
            self._warned.add(what)

    def _discover(self, args: Any, kwargs: Any) -> None:
        with on_copies():
            self._function(None, (args, kwargs))

    def _evaluate(self, graph: Graph | None, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        taken, *results = graph((args, kwargs)) if graph is not None else self._function(None, (args, kwargs))
        losses = len(results) - len(self.parameters)
        return results[:losses], results[losses:], taken

    def _function(
        self, parameters: list[Tensor] | None, arguments: Any, support: in_support | None = None
    ) -> list[Tensor | None]:
        """Whether the step may be taken, the losses, and the gradients of these parameters (None: of all of them)."""
        args, kwargs = arguments
        by_autograd = getattr(self.loss, "differentiable_loss", None)
        if not hasattr(self.loss, "loss_and_grads"):
            by_autograd = self.loss
        elif parameters is None and not isinstance(self.loss, Objective):
            by_autograd = None  # eagerly, Pyro's estimators compute their own gradients, if any
        with torch.enable_grad(), own_parameters() as own, support or nullcontext():
            args = self._read(*args)
            with self._autocast(args):
                value = (by_autograd or self.loss.loss_and_grads)(self.model, self.guide, *args, **kwargs)
        if parameters is None:
            self._adopt(own.found)
            parameters = list(self.parameters.values())
        if by_autograd is None:
            gradients: Any = [parameter.grad for parameter in parameters]
        elif parameters and isinstance(value, Tensor) and value.requires_grad:
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        else:
            gradients = [None] * len(parameters)
        losses = [_as_tensor(loss) for loss in (value if isinstance(value, tuple) else [value])]
        flags = [torch.isfinite(loss).all() for loss in losses] + (support.flags if support else [])
        gradients = [None if g is None else laid_out(g, p) for g, p in zip(gradients, parameters, strict=True)]
        if norms := [torch.linalg.vector_norm(g) for g in gradients if g is not None]:
            norm = torch.linalg.vector_norm(torch.stack(norms))
            flags.append(torch.isfinite(norm))
            if self.clip is not None:
                factor = (self.clip / (norm + 1e-6)).clamp(max=1)
                gradients = [None if g is None else g * factor for g in gradients]
        return [torch.stack(flags).all(), *losses, *gradients]

    def _take(self, gradients: list[Tensor | None], taken: Tensor) -> None:
        """Let the optimiser update the parameters, if the step is to be taken."""
        parameters = list(self.parameters.values())
        if isinstance(self.loss, Objective):
            self.loss.step += 1
        if not parameters:
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
            if gradient is not None and "clip_norm" in self._clip_each:
                torch.nn.utils.clip_grad_norm_(parameter, self._clip_each["clip_norm"])
            if gradient is not None and "clip_value" in self._clip_each:
                torch.nn.utils.clip_grad_value_(parameter, self._clip_each["clip_value"])
        if taken.is_cuda and skips_on_device(self.optimizer):
            self.optimizer.found_inf = (~taken).to(torch.float32)
            self.optimizer.step()
        elif taken and self.optimizer is not None:
            self.optimizer.step()
        elif taken:
            with lent_to_the_store(self.parameters):
                self.optim([parameter for parameter in parameters if parameter.grad is not None])
        for parameter in parameters:
            parameter.grad = None

    def _adopt(self, found: dict[str, Tensor]) -> None:
        """Add parameters that are new to the optimiser, each under the first of its names."""
        if isinstance(self.optim, torch.optim.Optimizer):
            return
        first = {id(value): name for name, value in reversed([*self.parameters.items(), *found.items()])}
        unseen = {name: value for name, value in found.items() if name not in self.parameters and value.requires_grad}
        new = {name: value for name, value in unseen.items() if first[id(value)] == name}
        self.parameters |= new
        if new and self._build is not None:
            if self.optimizer is None:
                self.optimizer = _steppable(_fused(self._build, list(new.values())))
            else:
                self.optimizer.add_param_group({"params": list(new.values())})
        if isinstance(self.optim, PyroOptim) and self._build is not None:
            for name, value in new.items():
                self.optim.optim_objs[value] = _Share(self.optimizer, value)
                if (waiting := self.optim._state_waiting_to_be_consumed.pop(name, None)) is not None:
                    self.optim.optim_objs[value].load_state_dict(waiting)


class _Share:
    """One parameter's part of an optimiser. PyroOptim saves and loads the state of an optimiser for each parameter."""

    def __init__(self, whole: torch.optim.Optimizer, parameter: Tensor) -> None:
        self.whole, self.parameter = whole, parameter

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [g for g in self.whole.param_groups if any(value is self.parameter for value in g["params"])]

    def state_dict(self) -> dict[str, Any]:
        groups = [{**group, "params": [0]} for group in self.param_groups]
        state = self.whole.state.get(self.parameter)
        return {"state": {} if state is None else {0: dict(state)}, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, values in state["state"].items():
            assert int(number) == 0
            self.whole.state[self.parameter] = copy.deepcopy(values)


def _as_tensor(loss: Any) -> Tensor:
    """A loss as a tensor of double precision; some estimators return a Python number."""
    return loss.detach() if isinstance(loss, Tensor) else torch.tensor(loss, dtype=torch.float64)


def laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A gradient or a moment in its parameter's memory layout, which fused optimisers require."""
    if value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter).copy_(value).detach()


def _factory(optim: Any) -> tuple[Callable[..., Any] | None, dict[str, float]]:
    """The function that builds one torch optimiser, if the parameters can share one; and the options of clipping."""
    if isinstance(optim, torch.optim.Optimizer):
        return None, {}
    if isinstance(optim, PyroOptim):
        options, clip = optim.pt_optim_args, optim.pt_clip_args
        if type(optim) is PyroOptim and not callable(options) and not callable(clip):
            constructor: Any = optim.pt_optim_constructor
            return partial(constructor, **options), clip or {}
        return None, {}
    if not callable(optim):
        raise ValueError(f"optim: expected torch.optim.Adam or its like, an optimiser or a PyroOptim, found {optim!r}")
    return optim, {}


def _fused(build: Callable[..., Any], parameters: list[Tensor]) -> Any:
    """The optimiser of these parameters, fused if torch supports it and no other implementation is requested."""
    kind: Any = build
    given: set[str] = set()
    while isinstance(kind, partial):
        kind, given = kind.func, given | kind.keywords.keys()
    try:
        if inspect.isclass(kind) and "fused" in inspect.signature(kind).parameters.keys() - given:
            try:
                return build(parameters, fused=True)
            except RuntimeError:  # not supported on this device, for this dtype, or with foreach
                pass
        return build(parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {error}") from None


def _steppable(optimizer: Any) -> Any:
    """The optimiser, if it can step on gradients alone."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(f"optimizer: expected one that steps on gradients, found {type(optimizer).__name__}")
    return optimizer
