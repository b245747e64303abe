"""findings.json: the numbers of an experiment as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrovae import files
from pyrovae.experiments.findings import Findings, Line, Number, Table

NUMBERS, PAGE = "findings.json", "findings.md"


def stored(findings: Findings) -> dict[str, Any]:
    """The findings as values for findings.json."""
    return {
        "error": findings.error,
        "settings": dict(findings.settings),
        "lines": [line._asdict() | {"values": _data(line.values)} for line in findings.lines],
        "tables": [table._asdict() | {"rows": _data(table.rows)} for table in findings.tables],
        "figures": list(findings.figures),
    }


def _data(cells: Any) -> Any:
    """Cells for JSON: a number becomes a dict of its fields; infinity or NaN, which JSON lacks, becomes text."""
    if isinstance(cells, Number):
        value, error = (_plain(x) for x in (cells.value, cells.error))
        return {"value": value, "error": error, "digits": cells.digits}
    if isinstance(cells, Mapping):
        return {name: _data(cell) for name, cell in cells.items()}
    return [_data(cell) for cell in cells] if isinstance(cells, list | tuple) else cells


def _plain(x: float | None) -> float | str | None:
    return x if x is None else float(x) if math.isfinite(x) else str(x)


def _cells(data: Any) -> Any:
    """The inverse of `_data`."""
    if isinstance(data, dict) and "digits" in data:
        return Number(float(data["value"]), None if data["error"] is None else float(data["error"]), data["digits"])
    if isinstance(data, dict):
        return {name: _cells(cell) for name, cell in data.items()}
    return [_cells(cell) for cell in data] if isinstance(data, list) else data


def numbers(root: Path, name: str, data: str) -> dict[str, Any]:
    """The content of findings.json, with `lines` and `tables` of numbers."""
    return read(root / name / data / NUMBERS)


def read(path: Path) -> dict[str, Any]:
    stored = files.read_json(path)
    try:
        lines = [Line(line["quantity"], _cells(line["values"])) for line in stored["lines"]]
        tables = [Table(table["heads"], _cells(table["rows"]), table["names"]) for table in stored["tables"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the numbers of an experiment, found others; run it again") from error
    return stored | {"lines": lines, "tables": tables}
