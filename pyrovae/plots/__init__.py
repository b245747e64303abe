"""From numbers to figures. Each function takes arrays and returns a matplotlib Figure; nothing here knows a model.

They are listed in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
