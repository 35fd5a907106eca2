"""Table at the end of a sweep, as lines of text: the quality of each setting, as a mean over the seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from sdegen.core.errors import UserError
from sdegen.reports import comparison, seeds
from sdegen.reports.collection import FinishedRun, read, titles
from sdegen.runs import files


def finished(folders: Sequence[Path]) -> list[FinishedRun]:
    """Returns the finished runs in folders, and their replicas."""
    runs: list[FinishedRun] = []
    for folder in folders:
        for own in (folder, *sorted((folder / files.REPLICAS).glob("seed-*"))):
            # The job has reported its failure.
            with contextlib.suppress(UserError):
                runs.append(read(own))
    return runs


def compared(folders: Sequence[Path]) -> list[str]:
    """Returns a table for each name and data set of the runs in the folders and of their replicas."""
    runs = finished(folders)
    keys = comparison.swept(runs)
    found, named = seeds.groups(runs, keys), titles(runs)
    kinds = dict.fromkeys(group.kind for group in found)
    return [line for kind in kinds for line in _table([one for one in found if one.kind == kind], named[kind], keys)]


def _table(own: Sequence[seeds.Group], name: str, keys: Sequence[str]) -> list[str]:
    """Returns the table of the groups of one kind; empty if their runs share no metric of quality."""
    metric = comparison.headline([run for group in own for run in group.runs])
    if metric is None:
        return []
    names = [group.written(keys) or name for group in own]
    found = [one for one in seeds.estimates(own, metric) if one is not None]
    head, *rows = seeds.lines(names, found, metric)
    return [f"{name}: {head}", *rows]
