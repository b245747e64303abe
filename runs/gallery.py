"""The README's pictures, made again: python runs/gallery.py NAME ...; without a name all of them, which takes hours.

An experiment is repeated on MNIST with the seeds that it had; a run is trained again. Then the README's gallery is
written from what they found.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from pyrovae import checks, experiments, files
from pyrovae.__main__ import main
from pyrovae.report import placed

RUNS = Path(__file__).parent
README = RUNS.parent / "README.md"


def make() -> None:
    known = [path.name for path in sorted(RUNS.iterdir()) if is_experiment(path) or (path / "run.toml").exists()]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--text", action="store_true", help="nothing is made again; the gallery is written alone")
    asked = parser.parse_args()
    try:
        for name in asked.names:
            checks.member("name", name, known)
    except ValueError as error:
        parser.error(str(error))
    for name in [] if asked.text else asked.names or known:
        repeat(name) if is_experiment(RUNS / name) else retrain(RUNS / name)
    files.write_bytes(README, placed(README.read_text(), "gallery", experiments.gallery(RUNS)).encode())


def is_experiment(path: Path) -> bool:
    return (path / experiments.FILE).exists()


def repeat(name: str) -> None:
    done = (RUNS / name / "mnist" / "findings.md").exists()
    experiments.run(RUNS, name, "mnist", int(experiments.told(RUNS, name, "mnist")["seeds"]) if done else 1)


def retrain(path: Path) -> None:
    """Carried out elsewhere: what the recipe's folder holds gives way when all is done."""
    with tempfile.TemporaryDirectory() as folder:
        if status := main(["train", str(path), "--root", folder, "--name", path.name]):
            raise SystemExit(status)
        for made in ("evaluation.json", "environment.json"):
            shutil.copyfile(Path(folder, path.name, made), path / made)
        shutil.copytree(Path(folder, path.name, "figures"), path / "figures", dirs_exist_ok=True)


if __name__ == "__main__":
    make()
