"""Packages that take long to import: each is imported when one of its names is first used.

`lazy_loader.load` would do the same, but it puts stand-ins into sys.modules. torch looks through all of them while it
compiles (by `inspect.getmodule`), which imports every one, in the middle of torch's own imports, and fails.
"""

from importlib import import_module
from typing import Any


class LazyModule:
    """A module that is not imported yet; its attributes are those of the module.

    Args:
        name: of the module, as in an import statement.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
