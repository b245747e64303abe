"""What a result was made with."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def surroundings() -> dict[str, Any]:
    """What a result was made with: versions, commit, machine, threads."""
    packages = ("pyrovae", "torch", "torchvision", "pyro-ppl", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Of the package's own checkout, with "-dirty" where code or recipes differ; what runs wrote does not count.

    None where the package is installed without its history. The working directory is not asked: it may be a stranger's
    run, and the settings of a repository can run programs.
    """
    try:
        if not _git("ls-files", "--", "__init__.py"):
            return None
        commit = _git("describe", "--always")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)*.py", ":(top)*.toml")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit + ("-dirty" if changed else "") or None


PACKAGE = Path(__file__).parents[1]
# Settings that would start a program of a repository's choice.
QUIET = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


def _git(*words: str) -> str:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # status then writes no index, after which a hook would run
    command = ["git", "-C", str(PACKAGE), *QUIET, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment).stdout.strip()
