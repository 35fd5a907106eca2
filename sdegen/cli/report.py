"""``sdegen report``: write one page on which the runs in a folder are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdegen.cli.guard import fail, guard


def main(program: str, arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog=program, description="Write report.html, a page that needs no other file.")
    parser.add_argument("folder", type=Path, help="a folder with runs in it, at any depth, such as outputs/paper")
    parser.error = lambda message: fail(f"{message}: see --help")  # type: ignore[method-assign]
    folder = parser.parse_args(arguments).folder
    guard(lambda: write(folder))


def write(folder: Path) -> None:
    """Write the page; print where it is, and the runs that it leaves out with the reason."""
    from sdegen.reports import report

    page, entries, left_out = report.write(folder)
    for path, why in left_out:
        print(f"left out {path}: {why}")
    print(f"{len(entries)} run{'s' * (len(entries) != 1)} in {page}")
