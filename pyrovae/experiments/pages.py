"""findings.md and the gallery, from findings.json and the sentences of experiment.py."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pyrovae import files
from pyrovae.experiments.folder import FILE, load
from pyrovae.experiments.stored import NUMBERS, PAGE, numbers, read


def write_page(root: Path, name: str, data: str) -> None:
    """Write findings.md again, from the numbers in findings.json and the sentences of experiment.py."""
    write(root / name / data, load(root / name / FILE), name, data)


def write(folder: Path, module: ModuleType, name: str, data: str) -> None:
    stored = read(folder / NUMBERS)
    files.write_bytes(folder / PAGE, (_page(stored, module, name, data) + "\n").encode())


def _page(stored: Mapping[str, Any], module: ModuleType, name: str, data: str) -> str:
    if len(module.NOTES) != len(stored["tables"]):
        raise ValueError(f"{name}: expected {len(module.NOTES)} tables, found {len(stored['tables'])}: run it again")
    settings, lines, tables = stored["settings"], map(str, stored["lines"]), map(str, stored["tables"])
    parts = [f"# {(module.__doc__ or name).strip()}", _filled(module.CAPTION, settings), *lines]
    for table, note in zip(tables, module.NOTES, strict=True):
        parts += [table, _filled(note, settings)]
    ending = [f"±: {stored['error']}."] * ("±" in "".join(parts))
    ending += ["A picture of one training is of the first seed's."] * (stored["seeds"] > 1)
    pictures = [_picture(figure, figure in stored["moving"]) for figure in stored["figures"]]
    return "\n\n".join(filter(None, [*parts, " ".join(ending), *pictures, _footer(stored, name, data)]))


def _filled(text: str, settings: Mapping[str, Any]) -> str:
    return text.format_map(settings).strip()


def _footer(stored: Mapping[str, Any], name: str, data: str) -> str:
    return (
        f"`{_command(stored, name, data)}`, {stored['minutes']:.1f} minutes with {stored['threads']} of "
        f"{stored['processors']} processors, torch {stored['torch']}, commit {stored['commit']}."
    )


def _command(stored: Mapping[str, Any], name: str, data: str) -> str:
    return f"nox -s experiment -- {name} --data {data} --seeds {stored['seeds']}"


def _picture(name: str, moves: bool) -> str:
    """A picture in Markdown; an animation links to its still picture."""
    words = name.replace("-", " ")
    return f"[![{words}](figures/{name}.gif)](figures/{name}.png)" if moves else f"![{words}](figures/{name}.png)"


def answered(root: Path, data: str) -> list[str]:
    """The experiments with findings on these data."""
    return [path.parts[-3] for path in sorted(root.glob(f"*/{data}/{NUMBERS}"))]


def gallery(root: Path, data: str = "mnist", columns: int = 3) -> str:
    """The findings on these data as an HTML table for a page in `root`: pictures, captions, commands."""
    cells = [_in_gallery(root, name, data, 100 // columns) for name in answered(root, data)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return "\n".join(["<table>", *("<tr>\n" + "\n".join(row) + "\n</tr>" for row in rows), "</table>"])


def _in_gallery(root: Path, name: str, data: str, width: int) -> str:
    stored, module, first = numbers(root, name, data), load(root / name / FILE), f"{name}/{data}/figures/"
    figure = stored["figures"][0]
    image = f'<img src="{first}{figure}.{"gif" if figure in stored["moving"] else "png"}" alt="{name}">'
    if figure in stored["moving"]:  # for readers who prefer reduced motion
        source = f'<source media="(prefers-reduced-motion: reduce)" srcset="{first}{figure}.png">'
        image = f"<picture>{source}{image}</picture>"
    picture = f'<a href="{name}/{data}/{PAGE}">{image}</a>'
    words = html.escape(f"{_filled(module.CAPTION, stored['settings'])} {stored['lines'][0]}.", quote=False)
    made = f"<code>{_command(stored, name, data)}</code>, {stored['minutes']:.0f} minutes"
    return f'<td width="{width}%" valign="top">{picture}<br>{words}<br>{made}</td>'
