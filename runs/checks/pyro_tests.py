"""A plugin of pytest that puts pyrovae.SVI in the place of pyro.infer.SVI, for Pyro's own tests.

In a checkout of Pyro, with this folder on the path of Python: `pytest -p pyro_tests tests/infer/test_valid_models.py`;
with PYRO=1 Pyro's own SVI stays, for comparison.
"""

import os
from typing import Any

import pyro.infer
import pyro.infer.svi
import pytest

import pyrovae

if not os.environ.get("PYRO"):
    pyro.infer.SVI = pyro.infer.svi.SVI = pyrovae.SVI  # type: ignore[misc, assignment]


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Programs that are no fixed graph run eagerly, and say so; Pyro's tests take every warning for an error."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:the programs cannot be recorded as one graph"))
        item.add_marker(pytest.mark.filterwarnings("ignore:found more than .* kinds of arguments"))
