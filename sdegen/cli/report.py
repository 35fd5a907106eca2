"""``sdegen report``: write one page on which the runs in a folder are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdegen.cli.guard import fail


def run(program: str, given: Sequence[str]) -> None:
    """Write the page; print where it is, and the runs that it leaves out with the reason."""
    parser = argparse.ArgumentParser(prog=program, description="Write report.html, a page that needs no other file.")
    parser.add_argument("folder", type=Path, help="a folder with runs in it, at any depth, such as outputs/paper")
    parser.error = lambda message: fail(f"{message}: see --help")  # type: ignore[method-assign]
    folder = parser.parse_args(given).folder
    # Imported late: help does not wait for matplotlib.
    from sdegen.reports import report

    page, runs, left_out = report.write(folder)
    for path, why in left_out:
        print(f"left out {path}: {why}")
    print(f"{len(runs)} run{'s' * (len(runs) != 1)} in {page}")
