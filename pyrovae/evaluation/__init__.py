"""Numbers and verdicts from trained programs, each number with its error."""

import lazy_loader

PUBLIC = ["anomaly", "baselines", "calibration", "clusters", "diagnostics", "information", "quality"]
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=PUBLIC)
