"""What a result was made with."""

import os
import platform
import subprocess
from importlib.metadata import version
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
    """Of the working folder, with "-dirty" where code or recipes differ from it; what runs wrote does not count."""
    try:
        commit = _git("describe", "--always")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)*.py", ":(top)*.toml")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit + ("-dirty" if changed else "") or None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, timeout=10).stdout.strip()
