"""One page on which a folder of runs is read: the paper's experiments, sweeps and what they answer, and the cost.

The page opens with the runs that are the paper's, recognised by their names and settings, with their figures beside
the paper's captions. Then come the runs of every other folder, compared in the options in which they differ, and the
errata of the paper's formulas.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

from sdegen import figures
from sdegen.core.errors import UserError
from sdegen.reports import comparison, page, paper, views
from sdegen.reports.collection import FinishedRun, collect
from sdegen.reports.errata import errata
from sdegen.reports.page import Table

NAME = "report.html"


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        anchor: its address on the page.
        heading: its title.
        template: the file in ``templates/`` that lays it out.
        content: what that template shows.
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
        why = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise UserError(f"{root}: holds no finished run{why}")
    text = compose(root, runs, left_out)
    temporary = root / f".{NAME}"
    try:
        # An earlier file of this name may be a link to anywhere.
        temporary.unlink(missing_ok=True)
        # Names of files need not be valid text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, root / NAME)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{root / NAME}: cannot be written: {error.strerror}") from None
    return root / NAME, runs, left_out


def compose(root: Path, runs: Sequence[FinishedRun], left_out: Sequence[tuple[Path, str]]) -> str:
    """Returns the text of the page."""
    own = paper.papers(runs)
    sections = []
    if own:
        sections.append(Section("paper", "The paper's experiments", "summary.html", paper.summary(own)))
        for name, seeds in own.items():
            content = paper.experiment_content(name, seeds)
            sections.append(Section(f"paper-{name}", content["experiment"].title, "experiment.html", content))
    costs = paper.costs(root, own)
    if costs.rows:
        sections.append(Section("cost", "What the paper's grid of times costs", "costs.html", costs))
    shown = {run.folder for seeds in own.values() for run in seeds}
    # A single run that is the root itself is a folder of its own.
    parents = {run.folder: root if run.folder == root else run.folder.parent for run in runs}
    for parent in dict.fromkeys(parents.values()):
        inside = [run for run in runs if parents[run.folder] == parent]
        if not shown.issuperset(run.folder for run in inside):
            sections.append(Section(views.anchor("runs", parent), _below(root, parent), "runs.html", _runs(inside)))
    if own:
        sections.append(Section("errata", "Errata of the paper", "errata.html", _errata()))
    if left_out:
        reasons = [f"{_below(root, folder)}: {why}" for folder, why in left_out]
        sections.append(Section("left-out", "Left out", "left_out.html", reasons))
    return page.render("report.html", title=f"Runs in {root}", sections=sections)


def _runs(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Returns the content of a folder: the figure of what its runs differ in, a table that sorts, and each run."""
    keys = comparison.swept(runs)
    figure, fault = None, None
    try:
        if drawn := comparison.figure(runs):
            buffer = io.BytesIO()
            with matplotlib.rc_context(figures.STYLE):
                drawn.savefig(buffer, format="png")
            figure = page.picture(buffer.getvalue(), "the measure of every run, by what the runs differ in")
    except Exception as error:  # The numbers come from anybody's files, and may fit on no axis.
        fault = str(error)
    table = views.table(runs, keys) if len(runs) > 1 else None
    return {"figure": figure, "fault": fault, "table": table, "runs": [views.run_content(run, keys) for run in runs]}


def _errata() -> Table:
    """Returns the printed and the correct formulas, and the number that separates them."""
    heads = ["", "where", "printed", "correct", "on the same data", "as printed", "corrected", "measured"]
    return Table(heads, [[str(row.number), *row[1:]] for row in errata()])


def _below(root: Path, folder: Path) -> str:
    return str(folder if folder == root else folder.relative_to(root))
