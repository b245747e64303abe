"""A Python function of tensors as one graph. Private parts of torch are used here, and nowhere else.

`Graph` records a function, `on_copies` runs one without a trace, `recording` and `called` say what is going on. Other
rooms ask these alone. Private in torch, and so tied to its versions, are torch.fx.experimental.proxy_tensor,
torch._guards, torch._subclasses, torch.utils._pytree, torch.utils._python_dispatch, torch._C.DisableTorchFunction, and
the names of the modules that ask for the value of a tensor (`_ANSWERS`). The tests pass with torch 2.15 and Pyro 1.9.2.
"""

import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch._guards import TracingContext
from torch._guards import tracing as tracing_context
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae import checks

Function = Callable[[list[Tensor], Any], Sequence[Tensor | None]]


class UntraceableError(Exception):
    """The function is not a graph of fixed structure; the message says why, and where in the code."""


class Graph:
    """function(parameters, arguments) as one graph of torch operations.

    The function is run three times, on copies and with the same noise, so that nothing changes outside. The first run
    finds the tensors that the function uses from outside (buffers, tensors of a closure), which become inputs of the
    graph; the second records the graph; the third compares the graph's results with the function's. Values of tensors
    may change from call to call, and the graph also performs the function's writes to buffers. Shapes, Python values
    and the modes of modules are fixed.

    Args:
        function: from (parameters, arguments) to a list of tensors or None; `parameters` are leaves with gradients.
        parameters: tensors that the function may also access by itself.
        arguments: any nest of tensors and Python values.

    Raises:
        UntraceableError: Python branches on the value of a tensor, or draws random numbers outside of torch.
    """

    def __init__(self, function: Function, parameters: Sequence[Tensor], arguments: Any) -> None:
        leaves, structure = pytree.tree_flatten(arguments)

        def run(outside: Sequence[Tensor], inputs: Sequence[Tensor], **how: Any) -> Any:
            values = iter(inputs)
            nest = [next(values) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            leading = [value.detach().requires_grad_() for value in outside[: len(parameters)]]
            rest = zip(found, outside[len(parameters) :], strict=True)
            news = [*leading, *(new.detach().requires_grad_() if old.requires_grad else new for old, new in rest)]
            olds = [*parameters, *found]
            replaced = _Replaced(dict(zip(map(id, olds), news, strict=True)), [*news, *inputs], **how)
            with replaced:
                results = function(leading, pytree.tree_unflatten(nest, structure))
            found.extend(replaced.found)
            return list(results)

        found: list[Tensor] = []
        with called() as modules, torch.random.fork_rng():
            expected = run(_copies(parameters), _copies(_tensors(arguments)))
        self.outside, self.modules = [*parameters, *found], modules
        self.modes = [module.training for module in modules]
        inputs = self.outside, _tensors(arguments)
        with torch.random.fork_rng(), pyro.validation_enabled(False), warnings.catch_warnings(action="ignore"):
            trace = make_fx(lambda *inputs: run(*inputs, tracing=True), _NOISE, _allow_non_fake_inputs=True)
            try:
                with tracing_context(TracingContext(FakeTensorMode())):  # else torch makes a mode for every operation
                    self.module = trace(*map(_copies, inputs))
            except Exception as error:
                raise UntraceableError(_what_and_where(error)) from error
        if {id(tensor) for tensor in [*self.module.parameters(), *self.module.buffers()]} & set(map(id, self.outside)):
            raise UntraceableError("a parameter or buffer is used outside of torch's functions")
        again = _tried(self.module, inputs)
        _compare(expected, again, "its results differ from run to run, with the same random numbers of torch")
        self.run: Callable[..., Any] = self.module
        self.compiled, self.calls = False, 0

    def fits(self) -> bool:
        """Whether the modules are in the modes of the recording."""
        return [module.training for module in self.modules] == self.modes

    def compile(self) -> None:
        """Compile the graph, with the noise of eager torch; on a GPU it runs as a CUDA graph on static tensors."""
        on_gpu = self.outside[0].is_cuda
        if on_gpu:
            for tensor in self.outside:
                torch._dynamo.mark_static_address(tensor)
        # Inductor may not reorder operations to save memory: random numbers must be drawn in the order of the program.
        options: dict[str, Any] = {"fallback_random": True, "reorder_for_peak_memory": False}
        options |= {"triton.cudagraphs": on_gpu}
        compiled = torch.compile(self.module, fullgraph=True, dynamic=False, options=options)

        def first(*inputs: Any) -> Any:
            self.run = self.module
            try:
                with warnings.catch_warnings(action="ignore"):  # Inductor's warnings of its own deprecations
                    expected, found = (_tried(run, inputs) for run in (self.module, compiled))
                    _compare(expected, found, "compiled, its results differ by more than rounding")
                self.run, self.compiled = compiled, True
            except Exception as error:  # no C++ compiler, say; a fault of the graph itself shows again later
                warnings.warn(f"the step runs as a graph, but uncompiled: {checks.reason(error)}", stacklevel=2)
            return self.run(*inputs)

        self.run = first

    def __call__(self, arguments: Any) -> list[Tensor | None]:
        """The function's results for arguments with the same `signature`."""
        self.calls += 1
        with torch.no_grad():
            return self.run(self.outside, _tensors(arguments))


def signature(arguments: Any) -> Any:
    """The properties of the arguments, and of torch, on which a graph depends."""
    leaves, structure = pytree.tree_flatten(arguments)
    kinds = [(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else (type(x), x) for x in leaves]
    devices = {x.device.type for x in leaves if isinstance(x, Tensor)}
    autocast = [torch.get_autocast_dtype(device) for device in devices if torch.is_autocast_enabled(device)]
    return (repr(structure), torch.is_inference_mode_enabled(), *autocast, *kinds)


def skips_on_device(optimizer: Any) -> bool:
    """Whether this optimiser accepts `found_inf`, a tensor: if it is 1, the step changes nothing, without a wait."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def recording() -> bool:
    """Whether a graph is being recorded at this moment, so that Python cannot read values of tensors."""
    return get_proxy_mode() is not None


@contextmanager
def on_copies() -> Iterator[None]:
    """Inside, outside tensors are read and written as copies, and no random number is consumed."""
    with torch.random.fork_rng(), _Replaced({}, []):
        yield


class Elements(TorchDispatchMode):
    """Counts the elements of all tensors that torch computes inside, except views, and of the largest one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            sizes = [tensor.numel() for tensor in _tensors(made)]
            self.count, self.largest = self.count + sum(sizes), max(self.largest, *sizes, 0)
        return made


class _Replaced(TorchFunctionMode):
    """Inside, tensors are replaced according to the table {id of the old: new}.

    A tensor from outside that is not in the table is copied at first use and collected in `found`; while tracing, it
    raises an error.
    """

    def __init__(self, table: dict[int, Tensor], own: list[Tensor], tracing: bool = False) -> None:
        super().__init__()
        self.table, self.tracing, self.found = table, tracing, []  # type: ignore[var-annotated]
        self.own = {id(tensor): tensor for tensor in own}  # keeps them alive: an id must not be reused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map_only(Tensor, self._replace, (args, kwargs or {}))
        answer = _ANSWERS.get(func, {}) if self.tracing else {}
        known = answer.get(_asker(), answer.get("")) if answer else None
        made = func(*args, **kwargs) if known is None else known(*args)
        for tensor in _tensors(made):
            self.own |= {id(each): each for each in (tensor, *_wrapped(tensor))}
        return made

    def _replace(self, tensor: Tensor) -> Tensor:
        if any(id(each) in self.own for each in (tensor, *_wrapped(tensor))):
            return tensor
        if id(tensor) not in self.table:
            if self.tracing:
                raise UntraceableError(
                    f"a tensor of shape {tuple(tensor.shape)} is created by code outside torch's functions"
                )
            self.found.append(tensor)
            self.table[id(tensor)] = _copies([tensor])[0].requires_grad_(tensor.requires_grad)
            self.own[id(self.table[id(tensor)])] = self.table[id(tensor)]
        return self.table[id(tensor)]


# While a graph is recorded, Pyro's estimators and torch's distributions read some values, only to report or refuse
# them. These are the answers that they get instead, keyed by the module that asks; "" is any module.
_ANSWERS: dict[Any, dict[str, Callable[..., Any]]] = {
    Tensor.item: {"": lambda x: x.detach()},
    Tensor.__bool__: {
        "pyro.util": lambda x: False,  # warn_if_nan asks: is it NaN? The step's own flag reports it
        "pyro.infer.util": lambda x: True,  # Dice asks: are all probabilities > 0? If not, the flag reports it
        "torch.distributions.distribution": lambda x: True,  # are the arguments valid?
        # closed_mean asks: is it finite? If not, the graph's results will differ from the program's
        "pyrovae.programs.traces": lambda x: True,
    },
    Tensor.register_hook: {"pyro.util": lambda x, hook: None},  # warn_if_nan, for a gradient
    F.one_hot: {"": lambda x, n: (x.unsqueeze(-1) == torch.arange(n, device=x.device)).long()},  # is x in range?
}


# Inductor draws a bernoulli from float32 uniforms for any dtype; eager torch uses uniforms of the tensor's dtype.
_NOISE = {torch.ops.aten.bernoulli.default: lambda p, generator=None: (torch.rand_like(p) < p).to(p.dtype)}


def _asker() -> str:
    frame = sys._getframe(2)
    while frame.f_globals["__name__"] in ("torch._tensor", "torch.overrides") and frame.f_back:
        frame = frame.f_back
    return frame.f_globals["__name__"]


@contextmanager
def called() -> Iterator[list[nn.Module]]:
    """Collects the modules that are called inside."""
    called: dict[int, nn.Module] = {}

    def note(module: nn.Module, _: Any) -> None:
        called[id(module)] = module

    hook = register_module_forward_pre_hook(note)
    modules: list[nn.Module] = []
    try:
        yield modules
    finally:
        hook.remove()
        modules.extend(called.values())


def _tensors(nest: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)]


def _wrapped(tensor: Tensor) -> list[Tensor]:
    """The tensors inside a tensor of a subclass: Pyro's estimators wrap tensors to learn their origin."""
    return [] if type(tensor) in (Tensor, nn.Parameter) else _tensors(vars(tensor))


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies that may be written. A tensor too large for a buffer, or expanded, is only read, so it is not copied."""
    with torch._C.DisableTorchFunction():
        return [tensor.detach() if tensor.numel() > 2**24 else _copy(tensor.detach()) for tensor in tensors]


def _copy(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    return copy if copy.stride() == tensor.stride() else tensor


def _tried(run: Callable[..., Any], inputs: Sequence[Sequence[Tensor]]) -> Any:
    """The results on copies, with the next random numbers, which are not consumed."""
    with torch.random.fork_rng(), torch.no_grad():
        return run(*([_alike(*both) for both in zip(_copies(part), part, strict=True)] for part in inputs))


def _alike(copy: Tensor, tensor: Tensor) -> Tensor:
    """The copy as a parameter, if the tensor is one, because compiled code for one kind does not accept the other."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copy, tensor.requires_grad)
    return copy.requires_grad_(tensor.requires_grad)


def _compare(expected: Sequence[Tensor | None], found: Sequence[Tensor | None], fault: str) -> None:
    """Raise an UntraceableError unless the numbers agree up to rounding, relative to each tensor and to the largest."""
    largest = [x.abs().max().item() if x is not None and x.numel() and x.is_floating_point() else 0.0 for x in expected]
    whole = max((size for size in largest if math.isfinite(size)), default=0.0)
    for a, b, size in zip(expected, found, largest, strict=True):
        if (a is None) != (b is None):
            raise UntraceableError("its control flow differs from run to run")
        bound = 1e-3 * max(size, 1e-3 * whole) if math.isfinite(size) else 0.0
        if a is not None and b is not None and not torch.allclose(a, b, rtol=0, atol=bound, equal_nan=True):
            raise UntraceableError(fault)


def _what_and_where(error: Exception) -> str:
    what = checks.reason(error)
    if "get value out of a tracing tensor" in what:
        what = "Python reads the value of a tensor"
    frames = traceback.extract_tb(error.__traceback__)
    if theirs := [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]:
        frame = theirs[-1]
        what += f', at line {frame.lineno} of {frame.filename}, in {frame.name}: "{frame.line}"'
    return what


# Only the packages themselves, not any folder of that name, such as a clone of this project.
_PACKAGES = (Path(torch.__file__).parent, Path(pyro.__file__).parent, Path(__file__).parents[1])
_NOT_THEIRS = (*(str(folder) + os.sep for folder in _PACKAGES), "<")
