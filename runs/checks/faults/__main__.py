"""What runs survive: python runs/checks/faults [--rows kills,damages] [--seed N] [--minutes 12]; writes faults.md.

Kills, deaths between two changes of the file system, damaged files, full disks, strangers' runs, bad input, several
processes at once, and leaks. What comes of each is right (to the bit), refused in one line, or wrong; faults that are
planted on purpose must come out wrong. The exit status is 1 where anything is wrong or a planted fault is not caught.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a process with threads is not forked

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

import campaign
import concurrency
import damages
import deaths
import disks
import fresh
import inputs
import kills
import leaks
import made
import numpy as np
import strangers
import torch
from forking import preload

from pyrovae.runs.report import table

FAMILIES = {
    module.__name__: module for module in (kills, deaths, damages, disks, strangers, inputs, concurrency, leaks, fresh)
}
WRITTEN = Path(__file__).parents[1] / "faults.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="runs/checks/faults", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(FAMILIES), help=f"families, of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of moments, damages and the order (default: 0)")
    parser.add_argument("--minutes", type=float, default=12, help="after which no further case begins (default: 12)")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="cases at a time")
    asked = parser.parse_args()
    if unknown := [name for name in asked.rows.split(",") if name not in FAMILIES]:
        parser.error(f"--rows: expected any of {', '.join(FAMILIES)}, found {', '.join(unknown)}")
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        found = _campaign(Path(folder).resolve(), asked, start)
    seconds = time.monotonic() - start
    lines, good = campaign.table(found)
    bad = [campaign.line(record) for record in found if campaign.is_bad(record)]
    shown = table(campaign.HEADS, lines, names=1)
    print(shown, *bad, f"{seconds / 60:.1f} minutes", sep="\n")
    if asked.rows == parser.get_default("rows"):
        WRITTEN.write_text(_page(shown, bad, seconds))
    return 0 if good else 1


def _campaign(folder: Path, asked: argparse.Namespace, start: float) -> list[dict]:
    """What came of all cases of the families that are asked for."""
    first = folder / "first"
    first.mkdir()
    made.data(first)
    preload(first, made.TRAIN, [*made.COMPARE[:6], "1", *made.OPTIONS])
    template = folder / "template"
    template.mkdir()
    made.make(template)
    cases = [case for name in asked.rows.split(",") for case in FAMILIES[name].cases(template, asked.seed)]
    left = asked.minutes - (time.monotonic() - start) / 60
    print(f"{len(cases)} cases", file=sys.stderr, flush=True)
    return campaign.carry_out(cases, folder, asked.processes, left, asked.seed)


def _page(shown: str, wrong: list[str], seconds: float) -> str:
    command = shlex.join(["python", "runs/checks/faults", *sys.argv[1:]])
    text = "\n".join(f"- {line}" for line in wrong) or "Nothing is wrong, and every planted fault is caught."
    made_with = f"{seconds / 60:.0f} minutes, torch {torch.__version__}, numpy {np.__version__}, {sys.platform}"
    return f"# Faults\n\n`{command}` made this table ({made_with}).\n\n{shown}\n\n{text}\n"


if __name__ == "__main__":
    sys.exit(main())
