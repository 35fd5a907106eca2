"""Report on a folder of runs, as one HTML page.

A summary comes first, and then the runs of the paper's experiments. They are recognised by name and settings, and their
figures have the captions of the paper. The runs of every other folder follow, with a comparison by the options in which
they differ. The errata of the paper, the meanings of the measures, and the folders that were left out come last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdegen import figures
from sdegen.core.errors import UserError
from sdegen.core.meanings import described
from sdegen.reports import comparison, page, paper
from sdegen.reports.collection import FinishedRun, collect, first_seed
from sdegen.reports.errata import errata
from sdegen.reports.overview import overview
from sdegen.reports.page import Table
from sdegen.reports.seeds import RULE

NAME = "report.html"


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        anchor: id of the part.
        heading: title.
        template: file in ``templates/`` that shows the content.
        content: data for the template.
    """

    anchor: str
    heading: str
    template: str
    content: Any


def write(root: Path) -> tuple[Path, list[FinishedRun], list[tuple[Path, str]]]:
    """Writes ``report.html`` into a folder with runs in it, at any depth.

    Returns:
        The page, the runs on it, and the folders that were left out, each with the reason.

    Raises:
        UserError: the folder does not exist, or has no finished run in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give one with runs in it, such as outputs")
    runs, left_out = collect(root)
    if not runs:
        why = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ": train one, or give another folder"
        raise UserError(f"{root}: holds no finished run{why}")
    text = compose(root, runs, left_out)
    temporary = root / f".{NAME}"
    try:
        # A file of this name may exist, and may be a symbolic link to any other file.
        temporary.unlink(missing_ok=True)
        # File names need not be valid Unicode.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, root / NAME)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{root / NAME}: cannot be written: {error.strerror}: remove it, or check permissions"
        ) from None
    return root / NAME, runs, left_out


def compose(root: Path, runs: Sequence[FinishedRun], left_out: Sequence[tuple[Path, str]]) -> str:
    """Returns the text of the page."""
    own = paper.papers(runs)
    reasons = [f"{_below(root, folder)}: {why}" for folder, why in left_out]
    sections = [Section("summary", "Summary", "overview.html", overview(runs, reasons))]
    if own:
        sections.append(Section("paper", "The paper's experiments", "summary.html", paper.summary(own)))
        for name, seeds in own.items():
            content = paper.experiment_content(name, seeds)
            sections.append(Section(f"paper-{name}", content["experiment"]["title"], "experiment.html", content))
    costs = paper.costs(root, own)
    if costs.rows:
        sections.append(Section("cost", "The cost of the paper's grid of times", "costs.html", costs))
    shown = {run.folder for seeds in own.values() for run in seeds}
    parents = {run.folder: _parent(root, run.folder) for run in runs}
    for parent in dict.fromkeys(parents.values()):
        inside = [run for run in runs if parents[run.folder] == parent]
        if not shown.issuperset(run.folder for run in inside):
            sections.append(
                Section(page.anchor("runs", parent), _below(root, parent), "runs.html", _runs(parent, inside))
            )
    if own:
        sections.append(Section("errata", "Errata of the paper", "errata.html", _errata()))
    if measures := _measures(runs):
        sections.append(Section("measures", "Measures", "measures.html", measures))
    if left_out:
        sections.append(Section("left-out", "Left out", "left_out.html", reasons))
    return page.render("report.html", title=f"Runs in {root}", sections=sections)


def _runs(folder: Path, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Returns the content of a folder: figures and tables that compare its runs, and each run."""
    keys = comparison.swept(runs)
    figure, fault = None, None
    try:
        if drawn := comparison.figure(runs):
            figure = page.picture(figures.png(drawn), "a metric of every run, by the options in which the runs differ")
    except Exception as error:  # The numbers come from any files, and may not fit on an axis.
        fault = str(error)
    return {
        "figure": figure,
        "fault": fault,
        "groups": page.groups_table(runs, keys),
        "trials": page.trials_table(folder),
        "rule": f"{RULE[0].upper()}{RULE[1:]}.",
        "table": page.runs_table(runs, keys) if len(runs) > 1 else None,
        "runs": [page.run_content(run, keys) for run in runs],
    }


def _parent(root: Path, folder: Path) -> Path:
    """Returns the folder whose section shows a run. Replicas are shown beside the first run of their training."""
    first = first_seed(folder)
    # If the root itself is a run, it is in the section of the root.
    return first.parent if first != root and first.is_relative_to(root) else root


def _measures(runs: Sequence[FinishedRun]) -> list[tuple[str, str]]:
    """Returns the measures of the runs, and of their guided samples, with their meanings."""
    everything = [*runs, *filter(None, map(page.guided_samples, runs))]
    names = dict.fromkeys(name for run in everything for name in run.metrics)
    return [(name, words) for name in names if (words := described(name))]


def _errata() -> Table:
    """Returns the table of errata: the printed and the correct formulas, and their values."""
    heads = ["", "where", "printed", "correct", "on the same data", "as printed", "corrected", "measured"]
    return Table(heads, [[str(row.number), *row[1:]] for row in errata()])


def _below(root: Path, folder: Path) -> str:
    return "Runs in this folder" if folder == root else str(folder.relative_to(root))
