"""Looks up the names in run.toml and on the command line."""

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from pyrovae import checks
from pyrovae.runs.trust import imported, trusted


def kebab(name: str) -> str:
    """StandardNormal -> standard-normal, MLP -> mlp."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def members(package: ModuleType) -> dict[str, Callable[..., Any]]:
    """The members of one of our packages, keyed by their names in kebab-case."""
    return {kebab(name): getattr(package, name) for name in package.__all__}


class Member(partial[Any]):
    """A class or function with options. If it cannot be built, the ValueError quotes the text that named it."""

    text: str
    makes: type

    def __call__(self, /, *args: Any, **options: Any) -> Any:
        try:
            found = super().__call__(*args, **options)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{self.text}: {type(error).__name__}: {checks.reason(error)}") from error
        if not isinstance(found, self.makes):
            raise ValueError(f"{self.text}: expected that it builds a {self.makes.__name__}, found {found!r:.80}")
        return found


def member(
    kind: str,
    known: Mapping[str, Callable[..., Any]],
    text: str,
    reserved: Sequence[str] = (),
    parts: Mapping[str, Callable[..., Any]] | None = None,
    makes: type = object,
    **given: Any,
) -> Member:
    """The meaning of "name(option=value, ...)": a class with these options, which may not be reserved ones.

    The name is a known one, or "module:Class" from a trusted module (`trust.trusting`). A value is a literal, another
    member (from `parts`, if they are of another kind), or a list of them: "missing(of=normal(scale=0.1))". The result
    must be a `makes`; `given` are further options.
    """
    name, bracket, rest = text.partition("(")
    name, source = name.strip(), f"f({rest}" if bracket else "f()"
    unreadable = f"{kind}: expected name or 'name(option=value, ...)', found {text!r}"
    found = _own(kind, name, makes) if ":" in name else known[checks.member(kind, name, known)]

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.List | ast.Tuple):
            return [value(each) for each in node.elts]
        if isinstance(node, ast.Name | ast.Call | ast.BinOp):  # Python parses a-b as a subtraction
            return member(kind, parts or known, ast.get_source_segment(source, node) or "")
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ValueError(unreadable) from None

    try:
        call = ast.parse(source, mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        assert not call.args
        written = {str(word.arg): word.value for word in call.keywords}
    except (SyntaxError, ValueError, AssertionError, RecursionError, MemoryError):  # the last two for deep brackets
        raise ValueError(unreadable) from None
    parameters = inspect.signature(found).parameters
    takes = [each.name for each in parameters.values() if each.default is not each.empty and each.name not in reserved]
    for option in written:
        checks.member(f"option of {kind} {name!r}", option, takes)
    options = {option: value(node) for option, node in written.items()}
    for option, chosen in options.items():
        if isinstance(parameters[option].default, bool):  # otherwise 3 or "no" would count as True
            checks.boolean(f"{kind} {name}: {option}", chosen)
    built = Member(found, **options, **given)
    built.text, built.makes = text, makes
    return built


def split(text: str) -> list[str]:
    """The values in "a,b(c=1,d=[2,3])": commas inside brackets do not separate values."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    values = [value.strip() for value in values]
    if not all(values):
        raise ValueError(f"expected values separated by commas, found {text!r}")
    return values


def _own(kind: str, name: str, makes: type) -> Callable[..., Any]:
    """A class or function "module:Class" from a trusted module; nothing else is imported or called."""
    module, _, attribute = name.partition(":")
    if module not in trusted():
        raise ValueError(
            f"{kind}: expected a part of pyrovae, found {name!r}, which would run code of another module; if you trust "
            f"that code, add --trust {_printable(module)}, in Python trust=({module!r},)"
        )
    try:
        found = getattr(imported(module), attribute)
    except (Exception, SystemExit) as error:  # the module's code may raise anything
        reason = f"{type(error).__name__}: {checks.reason(error)}"  # type: ignore[arg-type]
        raise ValueError(
            f"{kind}: expected 'module:Class' of an installed module or one in the working directory, found {name!r} "
            f"({reason}); what it imports from there has to be trusted, too"
        ) from error
    _check_kind(kind, name, found, makes)
    return found


def _printable(text: str) -> str:
    """A text in one line."""
    return repr(text)[1:-1]


def _check_kind(kind: str, name: str, found: Any, makes: type) -> None:
    """Raise a ValueError unless it is a class of this kind, or a function that the trusted module itself defines."""
    if inspect.isfunction(found):
        if not f"{found.__module__}.".startswith(f"{name.partition(':')[0]}."):
            raise ValueError(f"{kind}: expected a function of its own module, found {name!r}, of {found.__module__}")
        made = found.__annotations__.get("return", makes)
    elif isinstance(found, type):
        made = found
    else:
        raise ValueError(f"{kind}: expected a class or a function, found {name!r}, a {type(found).__name__}")
    if isinstance(made, type) and not issubclass(made, makes):
        raise ValueError(
            f"{kind}: expected a class that is a {makes.__name__}, or a function that returns one, found {name!r}"
        )
