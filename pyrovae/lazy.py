"""Packages that take long to import; each is imported when one of its names is first used.

`lazy_loader.load` would do the same, but it puts proxies into sys.modules. While torch compiles, it inspects all
modules there (by `inspect.getmodule`), which would import all proxies in the middle of torch's own imports, and fail.
"""

from importlib import import_module
from typing import Any


class LazyModule:
    """A module that is imported at the first use of an attribute.

    Args:
        name: name of the module, as in an import statement.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
