"""Decides whose code may run. A name in a file is data; only the current call can trust a module, by its exact name.

Nothing in a folder grants trust, nor its owner, nor PYTHONPATH, because a run may come from a stranger.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_TRUSTED: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


@contextmanager
def trusting(modules: Iterable[str]) -> Iterator[None]:
    """Inside, a name "module:Class" may also refer to a part of one of these modules; importing it runs its code.

    Raises:
        ValueError: something is not the name of a module, or a single text is given instead of several.
    """
    several = isinstance(modules, Iterable) and not isinstance(modules, str)
    names = list(modules) if several else []
    if not several or not all(map(_is_name, names)):
        raise ValueError(f"trust: expected names of modules, such as ('my_module',), found {modules!r}")
    token = _TRUSTED.set(_TRUSTED.get().union(names))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def trusted() -> list[str]:
    """The modules that are trusted now."""
    return sorted(_TRUSTED.get())


def modules_of(texts: Iterable[Any]) -> list[str]:
    """The modules in the texts that name a part outside of pyrovae, "module:Class" or "module:Class(option=1)"."""
    heads = [text.partition("(")[0].strip() for text in texts if isinstance(text, str)]
    return list(dict.fromkeys(head.partition(":")[0] for head in heads if ":" in head))


def flags(modules: Iterable[str]) -> list[str]:
    """The command-line arguments that trust these modules."""
    return [word for module in modules for word in ("--trust", module)]


def imported(module: str) -> ModuleType:
    """Import a trusted module: an installed one, or a file in the working directory.

    Meanwhile the working directory is not on the path. Modules that a trusted module imports are found there only if
    they are trusted, too; otherwise a file named like an optional dependency of an installed package would run.
    """
    assert module in _TRUSTED.get(), module
    importlib.invalidate_caches()
    before = sys.path[:]
    sys.path[:] = [path for path in before if Path(path or os.curdir).resolve() != Path.cwd()]
    sys.meta_path.append(_WorkingDirectory)
    try:
        return importlib.import_module(module)
    finally:
        sys.meta_path.remove(_WorkingDirectory)
        sys.path[:] = before


class _WorkingDirectory:
    """Finds trusted modules and the packages that contain them in the working directory, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if path is None and any(f"{module}.".startswith(f"{name}.") for module in _TRUSTED.get()):
            return PathFinder.find_spec(name, [os.getcwd()])
        return None
