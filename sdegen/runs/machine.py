"""The machine and the versions that a run was made on, and the memory that it takes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


def provenance(command: str) -> dict[str, Any]:
    """Returns versions, commit and machine: what is needed to repeat a run."""
    packages = ("sdegen", "torch", "hydra-core", "omegaconf", "numpy", "scipy", "scikit-learn")
    versions: dict[str, str | None] = {}
    for package in packages:
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
    }


def peak_memory_mib() -> float | None:
    """Returns the peak memory of this process as the operating system counts it; None if it does not."""
    try:
        import resource
    except ImportError:
        return None
    # In KiB on Linux, in bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak_memory() -> None:
    """Restarts the peak of :func:`peak_memory_mib`, so that a job of a sweep does not report the peak of another.

    Memory that the process still holds counts. Only Linux can do this; elsewhere the peak is that of the process.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def notebook_shell() -> Any:  # noqa: ANN401 - IPython is no dependency
    """Returns the shell of IPython that runs this process; None without one."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _git(*arguments: str) -> str | None:
    """Returns git's output for the package's own repository; None if there is none."""
    root = Path(__file__).parents[2]
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 and (root / ".git").exists() else None
