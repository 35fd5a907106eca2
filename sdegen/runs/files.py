"""Reading and writing of files and folders of runs; the log in a run's folder; the name of the latest run."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import logging
import math
import os
import re
import shutil
import textwrap
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdegen.core.errors import Pruned, Stopped, Unwritable, UserError, one_line
from sdegen.core.progress import Marked

log = logging.getLogger("sdegen")

DATA = "data.json"
"""File in a run's folder with the summary of the data that the run was trained on."""
REPLICAS = "replicas"
"""Folder of the replicas inside the run's folder."""
LARGEST = 2**20
"""Largest size of a file that is read from a run's folder, in bytes."""


class Written(NamedTuple):
    """Folder that a command wrote, and the metrics in it."""

    folder: Path
    metrics: dict[str, dict[str, Any]]


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Makes a file under a temporary name, then renames it, so that ``path`` has the old content or the new content.

    This is also true after a power failure, because the function returns only when the content and the name are on the
    disk.

    Raises:
        Unwritable: the file could not be written. ``path`` still has the old content.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file has this name" if isinstance(error, FileExistsError) else error.strerror or error
        raise Unwritable(f"{path.parent}: could not be made a folder: {reason}: remove it, or check the disk") from None
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make(temporary)
        if not temporary.is_symlink():
            _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise Unwritable(f"{path}: could not be written: {error.strerror or error}: check the disk") from None
    except RuntimeError as error:
        # torch raises this for a full disk, with a message about its own code.
        raise Unwritable(f"{path}: could not be written: check that the disk is not full") from error
    finally:
        temporary.unlink(missing_ok=True)
    # Some systems cannot open a folder.
    with contextlib.suppress(OSError):
        _sync(path.parent)


def append(file: io.FileIO, content: bytes) -> None:
    """Writes all of a content at the end of an unbuffered file, or nothing; raises OSError if the disk is full."""
    size = file.tell()
    try:
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
    except OSError:
        file.truncate(size)
        file.seek(size)
        raise


def _sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def resolve(run: Path) -> Path:
    """Returns the folder of a run. ``latest`` is a file that contains the folder's name, or the user's link to it.

    Raises:
        UserError: ``latest`` does not name a folder in the parent folder of ``latest``.
    """
    if run.is_symlink():
        target = str(run.readlink())
    elif run.name == "latest" and run.is_file():
        target = run.read_text(errors="replace").strip()
    else:
        return run
    if run.name == "latest" and not re.fullmatch(r"(?!\.\.?$)[^/\\\x00-\x1f\x7f]{1,255}", target):
        raise UserError(f"{run} does not name a folder in {run.parent}: give the folder of the run")
    return run.parent / target


def point_latest(run: Path) -> None:
    """Writes the name of the run's folder into the file ``latest`` beside it.

    It is no link: TensorBoard would follow a link and show the run twice.
    """
    latest = run.parent / "latest"
    if not latest.is_dir() or latest.is_symlink():
        replace(latest, lambda temporary: temporary.write_text(f"{run.name}\n"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes plain data as indented JSON."""
    replace(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def as_yaml(content: Mapping[str, Any]) -> str:
    """Returns plain data as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(content)))


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Writes plain data as YAML."""
    replace(path, lambda temporary: temporary.write_text(as_yaml(content)))


def write_table(path: Path, names: Iterable[str], rows: Iterable[Sequence[str]], decimal: str) -> None:
    """Writes a table of texts as CSV. With a decimal comma, semicolons separate the columns, as in spreadsheets."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";" if decimal == "," else ",", lineterminator="\n").writerows([names, *rows])


@contextlib.contextmanager
def new_folder(parent: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """Makes a folder ``<number>-<name>`` with a number above the numbers of all other folders.

    Yields a hidden folder to write into, and the final path. The hidden folder is renamed when it is complete.
    """
    parent.mkdir(parents=True, exist_ok=True)
    # Count hidden folders too, because a process that was killed leaves one.
    taken = (re.match(r"\.?(\d+)-", path.name) for path in parent.iterdir())
    number = 1 + max((int(match[1]) for match in taken if match), default=0)
    # Several processes may try the same number: mkdir succeeds for only one process.
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


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Also writes the messages of the program to a file, with the time, until the context is left.

    The file has the messages of the level INFO too, even if nobody else listens to this level. If the context is left
    by an exception, the last line of the file has the reason.
    """
    file = logging.FileHandler(path, encoding="utf-8")
    # Ignore errors: a missing line of the log does not matter, and the next checkpoint reports a full disk.
    file.handleError = lambda record: None  # type: ignore[method-assign]
    file.setFormatter(Marked("%(asctime)s  %(mark)s%(message)s"))
    before, heard = log.level, log.getEffectiveLevel()

    def write(record: logging.LogRecord) -> bool:
        file.handle(record)
        return record.levelno >= heard

    # A filter and not a handler, because Python shows warnings by itself only if there is no handler at all.
    log.addFilter(write)
    log.setLevel(min(heard, logging.INFO))
    try:
        yield
    except BaseException as error:
        # Only the file needs this line: the command reports the exception in the terminal.
        level, text = _reason(error)
        file.handle(log.makeRecord(log.name, level, "", 0, text, (), None))
        raise
    finally:
        log.setLevel(before)
        log.removeFilter(write)
        with contextlib.suppress(OSError):
            file.close()


def _reason(error: BaseException) -> tuple[int, str]:
    """Returns the level and the text of a last line about an exception."""
    if not isinstance(error, Exception):
        return logging.INFO, f"stopped by {error}" if isinstance(error, Stopped) else "stopped"
    if isinstance(error, Pruned):
        return logging.INFO, str(error)
    return logging.ERROR, one_line(error)


def is_plain(path: Path, largest: int = LARGEST) -> bool:
    """Returns True for a file that is safe to read: not too large, no pipe (it might never end), and no link."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= largest


def text(path: Path) -> str:
    """Returns the text of a file; raises ValueError if the file is too large, a link or a pipe.

    Raises FileNotFoundError if the file is missing.
    """
    if not path.exists():
        raise FileNotFoundError
    if not is_plain(path):
        raise ValueError
    return path.read_text()


def stored(path: Path, content: bytes | None = None) -> object:
    """Returns the tensors and plain data that torch has saved in a file, on the CPU.

    ``content`` is the content of the file, if it was read already; the file is not opened again.

    No code in the file runs (``weights_only``). The checksums in the file are verified first, because torch does not
    notice flipped bits.

    Raises:
        UserError: the file is missing or damaged, or contains something else.
    """
    if content is None and not path.is_file():
        raise UserError(f"{path}: no such file")

    def source() -> Path | io.BytesIO:
        return path if content is None else io.BytesIO(content)

    try:
        with zipfile.ZipFile(source()) as archive:
            members = archive.infolist()
            # torch does not compress. A compressed file could expand without limit, so it is refused.
            if any(member.compress_type or re.search(r"^/|\\|\.\.", member.filename) for member in members):
                raise ValueError("it holds a compressed file, or a file with a path outside of it")
            if sum(member.file_size for member in members) > (path.stat().st_size if content is None else len(content)):
                raise ValueError("it claims to hold more bytes than it has")
            damaged = archive.testzip()
    except Exception as error:
        # zipfile raises many types of exceptions for damaged files.
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        raise UserError(f"{path}: not a whole checkpoint ({reason})") from None
    if damaged:
        raise UserError(f"{path}: damaged, the checksum of {damaged} is wrong")
    # Import late, so that the states of runs are shown without waiting for torch.
    import torch

    try:
        return torch.load(source(), map_location="cpu", weights_only=True)
    except Exception as error:
        # For foreign objects, weights_only raises exceptions of several types with long messages.
        name = type(error).__name__
        raise UserError(f"{path}: refused: it holds more than tensors and plain data ({name})") from None


def is_number(value: object) -> bool:
    """Returns True if a value from a file is a finite number."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False
