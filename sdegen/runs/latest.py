"""``latest``: the name of the newest of several runs, beside their folders."""

from __future__ import annotations

import re
from pathlib import Path

from sdegen.core.errors import UserError
from sdegen.runs import files


def resolve(run: Path) -> Path:
    """Returns the run's folder; a path ``latest`` is a link to it, or a file that holds its name.

    Raises:
        UserError: ``latest`` does not name a folder beside it.
    """
    if run.is_symlink():
        target = str(run.readlink())
    elif run.name == "latest" and run.is_file():
        target = run.read_text(errors="replace").strip()
    else:
        return run
    if run.name == "latest" and not re.fullmatch(r"(?!\.\.?$)[^/\\\x00-\x1f\x7f]{1,255}", target):
        raise UserError(f"{run}: names no folder beside it: give the folder of a run")
    return run.parent / target


def point_latest(run: Path) -> None:
    """Makes ``latest`` beside a run's folder name it: as a link, or as a file where the system has no links."""
    latest = run.parent / "latest"
    if latest.is_dir() and not latest.is_symlink():
        return

    def point(temporary: Path) -> None:
        try:
            temporary.symlink_to(run.name, target_is_directory=True)
        except OSError:
            temporary.write_text(run.name)

    files.replace(latest, point)
