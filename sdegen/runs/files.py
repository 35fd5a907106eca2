"""The files of a run beside its checkpoints."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sdegen.core.errors import Unwritable, UserError

log = logging.getLogger("sdegen")

LOG = "train.log"
"""The file, in a run's folder, of what the program has told."""
REPLICAS = "replicas"
"""The folder, in that of a run, of those that were trained together with it."""

LARGEST = 2**20
"""Bytes of a file of a run that is read."""


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Make a file under a temporary name, then rename it: whatever happens, ``path`` is what it was or what it becomes.

    Both are on the disk when this returns, so that it holds when the power fails, too.

    Raises:
        Unwritable: it could not be; what was there is there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make(temporary)
        if not temporary.is_symlink():
            _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise Unwritable(f"{path}: could not be written: {error.strerror or error}") from None
    except RuntimeError as error:
        # torch tells a full disk so, in words about its own code.
        raise Unwritable(f"{path}: could not be written: is the disk full?") from error
    finally:
        temporary.unlink(missing_ok=True)
    # Not every system lets a folder be opened.
    with contextlib.suppress(OSError):
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """While it is entered, no other process can claim a run's folder; the claim ends with the process, however it ends.

    What a process that was killed in the midst of :func:`replace` has left is removed.

    Raises:
        UserError: another has claimed it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is training there: wait for it, or stop it") from None
        except (ImportError, OSError):
            # Neither every system nor every disk knows claims: there, nobody is kept out.
            pass
        for inner in (folder, folder / "checkpoints"):
            for left in inner.glob(".*"):
                if re.fullmatch(r"\..+\.\d+", left.name):
                    left.unlink()
        yield


def empty(folder: Path) -> None:
    """Remove what is in a folder that this process has claimed, as far as the system lets it.

    The log stays, emptied: it carries the claim, and a new file of its name could be claimed by another process.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
            continue
        with contextlib.suppress(OSError):
            if path.name == LOG:
                os.truncate(path, 0)
            else:
                path.unlink()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain data as JSON, for people, too."""
    replace(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def as_yaml(content: Mapping[str, Any]) -> str:
    """Plain data as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(content)))


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain data as YAML."""
    replace(path, lambda temporary: temporary.write_text(as_yaml(content)))


def write_samples(folder: Path, x: Tensor, **facts: float) -> None:
    """Write ``samples.npz``, and ``samples.csv`` for points or ``samples.png`` for images."""
    values = x.numpy()
    arrays: dict[str, Any] = {"x": values, **facts}
    np.savez(folder / "samples.npz", **arrays)
    if values.ndim == 2:
        names = ",".join(f"x{i + 1}" for i in range(values.shape[1]))
        np.savetxt(folder / "samples.csv", values, delimiter=",", header=names, comments="")
    else:
        from matplotlib.image import imsave

        from sdegen.figures.points import image_grid

        low, high = values.min(), values.max()
        imsave(folder / "samples.png", image_grid((x - low) / (high - low)), cmap="gray", vmin=0, vmax=1)


@contextlib.contextmanager
def new_folder(parent: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """A folder ``<number>-<name>`` that appears once it is whole.

    Yields the folder to write into, and the one it will be: its number is above those that are there.
    """
    parent.mkdir(parents=True, exist_ok=True)
    # What a process that was killed has left is hidden, and keeps its number.
    taken = (re.match(r"\.?(\d+)-", path.name) for path in parent.iterdir())
    number = 1 + max((int(found[1]) for found in taken if found), default=0)
    # mkdir is what claims a number among several processes.
    while True:
        final = parent / f"{number:04d}-{name}"
        temporary = parent / f".{final.name}"
        try:
            temporary.mkdir()
            break
        except FileExistsError:
            number += 1
    try:
        yield temporary, final
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def copy(source: Path, target: Path) -> None:
    """Copy a file, or the files of a folder, where there is one."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        shutil.copyfile(source, target)


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Let the program's messages go to a file, too, with the time."""
    handler = logging.FileHandler(path, encoding="utf-8")
    # A disk that is full is told where it matters; a line less in the log is none.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def provenance(command: str) -> dict[str, Any]:
    """Versions, commit and machine: what it takes to do a run again."""
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
    """The most memory this process has held, as the operating system counts it; None where it does not."""
    try:
        import resource
    except ImportError:
        return None
    # In KiB on Linux, in bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak_memory() -> None:
    """Let :func:`peak_memory_mib` count from here, so that a job of a sweep is not charged for the peak of another.

    What the process has kept from jobs before still counts. Linux alone can; elsewhere the peak is the process's.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def is_plain(path: Path, largest: int = LARGEST) -> bool:
    """Whether a file can be read: a pipe would be waited for without end, and a link may lead to anybody's."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= largest


def text(path: Path) -> str:
    """What is in a file of a run, none of which is large.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one that can be read.
    """
    if not path.exists():
        raise FileNotFoundError
    if not is_plain(path):
        raise ValueError
    return path.read_text()


def is_number(value: object) -> bool:
    """Whether what a file holds is a number that can be reckoned with."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


def _git(*arguments: str) -> str | None:
    """What git says of the package's own repository; None where there is none."""
    root = Path(__file__).parents[2]
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 and (root / ".git").exists() else None
