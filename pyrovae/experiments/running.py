"""Runs an experiment."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType

from pyrovae import checks, files, plots
from pyrovae.experiments.findings import Findings
from pyrovae.experiments.folder import FILE, files_of, load
from pyrovae.experiments.pages import write
from pyrovae.experiments.stored import NUMBERS, stored
from pyrovae.runs import surroundings


def check(root: Path, name: str, data: str, seeds: int) -> ModuleType:
    """The experiment, or a ValueError that says which name, data or number of seeds is invalid."""
    checks.member("experiment", name, [path.parent.name for path in files_of(root)])
    module = load(root / name / FILE)
    checks.member("data", data, module.BUDGETS)
    checks.integer("seeds", seeds, most=1000)
    return module


def run(root: Path, name: str, data: str = "digits", seeds: int = 1) -> Path:
    """Run an experiment and write its findings. Earlier findings on these data are replaced at the end.

    Args:
        root: the folder of the experiments.
        name: name of the experiment.
        data: one of the data sets in its budgets.
        seeds: number of repetitions of everything random.
    """
    module, made, begun = check(root, name, data, seeds), surroundings(), time.perf_counter()
    findings: Findings = module.experiment(data, seeds)
    minutes = (time.perf_counter() - begun) / 60
    target = root / name / data
    with files.replacing_folder(target) as new:
        drawn = plots.write_figures(new / "figures", findings.figures)
        how = {"seeds": seeds, "minutes": minutes} | {key: made[key] for key in MADE_WITH}
        moving = [path.stem for path in drawn if path.suffix == ".gif"]
        files.write_json(new / NUMBERS, how | stored(findings) | {"moving": moving})
        write(new, module, name, data)
    return target


MADE_WITH = ("threads", "processors", "torch", "commit")
