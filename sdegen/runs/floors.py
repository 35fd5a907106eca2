"""Floors of metrics, and classifiers for features, which are kept for all runs with the same data.

They lie in ``sdegen/measures/`` in the user's folder for caches, and not in the runs' folders: a run may come from a
stranger, who could have put any numbers there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import sdegen
from sdegen.core.errors import Unwritable
from sdegen.datasets.packing import cache as user_cache
from sdegen.metrics.floors import Floors, Numbers, are_numbers
from sdegen.runs import files
from sdegen.runs.trained import Trained

log = logging.getLogger("sdegen")

FLOORS = "floors.json"
"""File with the floors, as plain numbers."""
UNUSED = 90 * 86400.0
"""Seconds since the last new measure of some data after which the measures of these data are removed."""
ROOMS = ("core", "sde", "datasets", "metrics")
"""Parts of the package on which the floors depend."""
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")
"""Other packages on which the floors depend."""


@contextlib.contextmanager
def kept(run: Trained) -> Iterator[Floors]:
    """Yields the floors that are known for a run, and keeps the new ones when the context is left.

    Floors that were computed for other data, or by other code, are not used.
    """
    memory: dict[str, float] = run.once("numbers", dict)
    if run.dataset.mapped or not type(run.dataset).__module__.startswith("sdegen."):
        # The key does not cover all bytes of mapped data, or the code of a class outside the package.
        yield Floors(memory=memory)
        return
    path = folder(run) / FLOORS
    known = _read(path)
    floors = Floors(known, memory)
    yield floors
    if floors.entries != known:
        # Another process may have added floors in the meantime.
        keep(path, lambda temporary: temporary.write_text(json.dumps({**_read(path), **floors.entries})))


def folder(run: Trained) -> Path:
    """Returns the folder for the measures of a run's data. Its name is a digest of all that they depend on."""
    digest = hashlib.sha256(_code().encode())
    digest.update(json.dumps([run.config["dataset"], run.config["seed"], run.fingerprint]).encode())
    for name, value in run.units.state().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return user_cache() / "measures" / digest.hexdigest()


def keep(path: Path, make: Callable[[Path], object]) -> None:
    """Makes a file of measures as :func:`sdegen.runs.files.replace` does; logs a warning if it cannot be written."""
    measures = path.parents[1]
    try:
        files.replace(path, make)
        for other in measures.iterdir():
            if time.time() - other.stat().st_mtime > UNUSED:
                shutil.rmtree(other, ignore_errors=True)
    except (OSError, Unwritable) as error:
        log.warning(
            f"{error}: the next sampling computes this again: make room in {measures}, or set the environment variable "
            f"XDG_CACHE_HOME to another folder"
        )


def _read(path: Path) -> dict[str, Numbers]:
    """Returns the floors in a file; empty if there is none, or if it is damaged."""
    try:
        content = json.loads(files.text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    found = content if isinstance(content, dict) else {}
    return {name: entry for name, entry in found.items() if are_numbers(entry)}


@cache
def _code() -> str:
    """Returns a digest of the code that computes the floors, and of the versions of the packages that it uses."""
    digest, package = hashlib.sha256(), Path(sdegen.__file__).parent
    for path in sorted(path for room in ROOMS for path in (package / room).glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(" ".join([sys.version, *map(version, PACKAGES)]).encode())
    return digest.hexdigest()
