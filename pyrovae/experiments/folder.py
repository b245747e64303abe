"""The folder of the experiments."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

FILE = "experiment.py"


def found(root: Path) -> dict[str, str]:
    """The experiments in a folder: name and question. It runs none of them."""
    return {path.parent.name: (ast.get_docstring(ast.parse(path.read_text())) or "").strip() for path in files_of(root)}


def files_of(root: Path) -> list[Path]:
    there = sorted(root.glob(f"*/{FILE}"))
    if not there:
        raise ValueError(
            f"expected NAME/{FILE} in {root}, found none: experiments live in a checkout of the project; --root names "
            "their folder"
        )
    return there


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"experiment_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
