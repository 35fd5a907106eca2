"""Memory that this process may use: that of the machine, within the limits of its container or of its job of Slurm."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

FILES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Files of control groups of Linux, by the name of the controller, which is empty in version 2: the folder below
``/sys/fs/cgroup``, the file with the limit, the file with the use, and the part of the use that the system can free."""


def memory(root: Path = Path("/")) -> float:
    """Returns the number of bytes of memory that this process may use at most; infinity if it is not known.

    ``root`` is the root of the file system.
    """
    try:
        whole = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        whole = math.inf
    return min([whole, *(limit for limit, _ in _limits(root))])


def free(root: Path = Path("/")) -> float:
    """Returns the number of bytes of memory that this process may still use; all memory if the use is not known."""
    try:
        fields = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        whole = 1024.0 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        whole = memory(root)
    return min([whole, *(limit - use for limit, use in _limits(root))])


def _limits(root: Path) -> Iterator[tuple[float, float]]:
    """Yields the limit of each control group of this process and its use, in bytes."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        for controller in {*controllers.split(",")} & FILES.keys():
            below, limit, use, spare = FILES[controller]
            top = root / "sys/fs/cgroup" / below
            group = top / path.lstrip("/")
            # A group is within the limits of all groups above it. A container may not see the lowest ones.
            for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
                try:
                    fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    used = int((folder / use).read_text()) - int(fields.get(spare, 0))
                    yield float((folder / limit).read_text().replace("max", "inf")), float(used)
                except (OSError, ValueError):
                    continue
