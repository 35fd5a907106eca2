"""The file of a run with the floors of its metrics, which later samples of the run use again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import sdegen
from sdegen.core.errors import Unwritable
from sdegen.metrics.floors import Floors, Numbers, are_numbers
from sdegen.runs import files
from sdegen.runs.trained import Trained

FLOORS = "floors.json"
"""File in a run's folder with the floors, as plain numbers."""
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
    path, key = run.folder / FLOORS, _key(run)
    known = _read(path, key)
    floors = Floors(known, memory)
    yield floors
    if floors.entries != known:
        # Another process may have added floors in the meantime.
        content = {"key": key, "floors": {**_read(path, key), **floors.entries}}
        with contextlib.suppress(Unwritable):
            files.write_json(path, content)


def _read(path: Path, key: str) -> dict[str, Numbers]:
    """Returns the floors in a file with this key; the file may come from a stranger."""
    try:
        content = json.loads(files.text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("key") != key or not isinstance(content.get("floors"), dict):
        return {}
    return {name: entry for name, entry in content["floors"].items() if are_numbers(entry)}


def _key(run: Trained) -> str:
    """Returns a digest of all that the floors depend on, besides the names of the entries."""
    digest = hashlib.sha256(_code().encode())
    digest.update(json.dumps([run.config["dataset"], run.config["seed"], run.fingerprint]).encode())
    for name, value in run.units.state().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def _code() -> str:
    """Returns a digest of the code that computes the floors, and of the versions of the packages that it uses."""
    digest, package = hashlib.sha256(), Path(sdegen.__file__).parent
    for path in sorted(path for room in ROOMS for path in (package / room).glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(" ".join([sys.version, *map(version, PACKAGES)]).encode())
    return digest.hexdigest()
