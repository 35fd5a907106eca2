"""The machine and the software versions of a run, and the peak memory of the process."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from sdegen.core import processes


def provenance(command: str) -> dict[str, Any]:
    """Returns the command, versions, commit and machine of a run, which are needed to repeat the run."""
    versions: dict[str, str] = {}
    for package in ("sdegen", "torch", "hydra-core", "omegaconf", "numpy", "scipy", "scikit-learn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "command": command,
        "python": sys.version.split()[0],
        "packages": versions,
        "commit": _git("rev-parse", "HEAD"),
        "clean": _git("status", "--porcelain") == "",
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "processes": processes.present().size,
    }


def peak_memory_mib() -> float | None:
    """Returns the peak memory of this process; None if the operating system does not count it."""
    try:
        import resource
    except ImportError:
        return None
    # The unit is KiB on Linux and bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak_memory() -> None:
    """Resets :func:`peak_memory_mib`, so that a job of a sweep does not report the peak of another job.

    The new peak begins at the present memory of the process. Systems other than Linux cannot reset the peak.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _git(*arguments: str) -> str | None:
    """Returns the output of git for the repository of this package; None if there is no repository."""
    root = Path(__file__).parents[2]
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 and (root / ".git").exists() else None
