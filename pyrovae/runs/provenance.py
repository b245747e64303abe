"""The environment in which a result was made."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def surroundings() -> dict[str, Any]:
    """The environment of a result: versions, commit, machine, threads."""
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
    """The commit of the package's own checkout, with "-dirty" if code or recipes differ; output of runs does not count.

    None if the package is installed without its history. The working directory is not used: it may be a stranger's run,
    and the settings of a repository can run programs.
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
# Settings with which a repository could start programs.
QUIET = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


def _git(*words: str) -> str:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # so that status writes no index, which would trigger a hook
    command = ["git", "-C", str(PACKAGE), *QUIET, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment).stdout.strip()
