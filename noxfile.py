# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]"]
# ///
"""The project's verbs: `uv run noxfile.py -s train`, or `nox -s train` where nox is installed. `-l` lists them."""

import os

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]

PARALLEL = ["-n", "auto", "--dist", "worksteal"]  # a process for each core; each runs torch on one thread
PROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str) -> None:
    """The package itself and these groups of tools; in CI at the versions written down."""
    pinned = ["--constraint", ".ci/constraints.txt"] if os.environ.get("CI") else []
    # Compiled once here, as pip does, and not in each process that imports torch.
    compiled = {"UV_COMPILE_BYTECODE": "1"}
    session.install(*pinned, "--editable", ".", *nox.project.dependency_groups(PROJECT, *groups), env=compiled)


@nox.session
def train(session: nox.Session) -> None:
    """Train a VAE (on scikit-learn's digits), evaluate it and draw its figures: nox -s train -- --help."""
    install(session)
    session.run("python", "-m", "pyrovae", "train", *session.posargs)


@nox.session
def compare(session: nox.Session) -> None:
    """Compare parts in a grid of runs and tabulate them: nox -s compare -- runs/compare/NAME, or -- --guides A,B."""
    install(session)
    session.run("python", "-m", "pyrovae", "compare", *(session.posargs or ["runs/compare/digits-guides"]))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests: nox -s tests -- -k resume."""
    install(session, "test")
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take too long for every change; with Chromium (PYROVAE_BROWSER) those of the page, too."""
    install(session, "test", "browser")
    session.run("python", "-m", "pytest", *PARALLEL, "-m", "slow", *session.posargs)


@nox.session
def experiment(session: nox.Session) -> None:
    """Answer a question with numbers and pictures: nox -s experiment -- layers --data mnist, or -- --list."""
    install(session)
    session.run("python", "-m", "pyrovae", "experiment", *session.posargs)


@nox.session
def gallery(session: nox.Session) -> None:
    """Make the gallery's pictures again, of NAME ... or all (an hour or more): nox -s gallery -- beta, or -- --text."""
    install(session)
    session.run("python", "runs/experiments/gallery.py", *session.posargs)


@nox.session
def reference(session: nox.Session) -> None:
    """Train a published row again: nox -s reference -- burda-vae --budget cpu; without a name, the table."""
    install(session, "reference")
    session.run("python", "runs/reference/reference.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time our training beside others', a step of it or the whole: nox -s bench -- steps --nets mlp, or -- whole."""
    install(session, "bench")
    script, *options = session.posargs or ["steps"]
    session.run("python", f"runs/bench/{script}.py", *options)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill, damage and fill up what runs are made of, a dozen minutes: nox -s faults -- --rows kills --seed 1."""
    install(session, "test")
    session.run("python", "runs/checks/faults", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


if __name__ == "__main__":
    nox.main()
