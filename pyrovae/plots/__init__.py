"""From numbers to figures. Each function takes arrays and returns a matplotlib Figure; none uses a model.

`__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
