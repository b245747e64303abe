"""Make the committed pictures again: python runs/experiments/gallery.py NAME ...; without a name all (an hour or more).

First it trains the recipes in runs/recipes. Then it repeats the experiments on MNIST, side by side, one thread each,
with at least as many seeds as before. Then it writes every findings.md, and the gallery in README.md beside this file,
from the numbers in findings.json. An experiment that fails keeps its earlier findings and stops no other.
"""

import argparse
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyrovae import checks, experiments, files
from pyrovae.comparison.grid import command
from pyrovae.runs.report import placed

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes"
PAGE = HERE / "README.md"


def make() -> None:
    recipes, questions = named(RECIPES, "run.toml"), named(HERE, experiments.FILE)
    known = sorted({*recipes, *questions})
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--jobs", default=os.cpu_count() or 1, type=int, help="experiments at a time")
    parser.add_argument("--seeds", default=1, type=int, help="at least; an experiment has no fewer than it had")
    parser.add_argument(
        "--text", action="store_true", help="train nothing; write the pages and the gallery from findings.json"
    )
    asked = parser.parse_args()
    try:
        checks.integer("jobs", asked.jobs)
        checks.integer("seeds", asked.seeds)
        for name in asked.names:
            checks.member("name", name, known)
    except ValueError as error:
        parser.error(str(error))
    names = [] if asked.text else asked.names or known
    logs = Path(tempfile.mkdtemp(prefix="gallery-"))
    failed = {name: retrain(name, logs) for name in names if name in recipes}
    left = [name for name in names if name in questions]
    with ThreadPoolExecutor(asked.jobs) as pool:
        failed |= zip(left, pool.map(lambda name: repeat(name, asked.seeds, logs), left), strict=True)
    for name in experiments.answered(HERE, "mnist"):
        experiments.write_page(HERE, name, "mnist")
    files.write_bytes(PAGE, placed(PAGE.read_text(), "gallery", experiments.gallery(HERE)).encode())
    if told := "\n".join(f"{name} failed: {why}" for name, why in failed.items() if why):
        raise SystemExit(f"{told}\nWhat they printed is in {logs}.")
    shutil.rmtree(logs)


def named(root: Path, file: str) -> list[str]:
    """The names of the folders in `root` that hold this file."""
    return [path.parent.name for path in sorted(root.glob(f"*/{file}"))]


def retrain(name: str, logs: Path) -> str:
    """Carried out elsewhere: what the recipe's folder holds gives way when all is done. Why it failed, if it did."""
    path = RECIPES / name
    examined = ",".join(files.read_json(path / "evaluation.json").get("examination", {}))
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", str(path), "--root", folder, "--name", name, *(["--examine", examined] if examined else [])]
        if why := carry_out(words, logs / f"{name}-recipe.log"):
            return why
        for made in ("evaluation.json", "environment.json"):
            shutil.copyfile(Path(folder, name, made), path / made)
        shutil.copytree(Path(folder, name, "figures"), path / "figures", dirs_exist_ok=True)
    return ""


def repeat(name: str, seeds: int, logs: Path) -> str:
    """Why it failed, if it did."""
    if name in experiments.answered(HERE, "mnist"):
        seeds = max(seeds, experiments.numbers(HERE, name, "mnist")["seeds"])
    words = ["experiment", name, "--data", "mnist", "--seeds", str(seeds), "--root", str(HERE)]
    return carry_out(words, logs / f"{name}.log", 1)


def carry_out(words: list[str], log: Path, threads: int = 0) -> str:
    print(f"pyrovae {' '.join(words)} > {log}", flush=True)
    why = command(words, log, threads)
    print(f"{log.stem}: {why or 'done'}", flush=True)
    return why


if __name__ == "__main__":
    make()
