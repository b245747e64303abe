"""Variational autoencoders as explicit Pyro programs.

The public names are those of `__init__.pyi`. Each is imported when it is first used (scientific Python's SPEC 1).
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("pyrovae")  # pyproject.toml
