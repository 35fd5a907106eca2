"""One page on which the runs in a folder are read: ``python scripts/report.py outputs/paper``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdegen.cli import command, mistakes


def main() -> None:
    parser = argparse.ArgumentParser(description="Write report.html, which needs nothing beside itself.")
    parser.add_argument("folder", type=Path, help="a folder with runs in it, at any depth, such as outputs/paper")
    parser.error = lambda message: command.fail(mistakes.told(f"{message}: see --help"))  # type: ignore[method-assign]
    folder = parser.parse_args().folder

    def work() -> None:
        from sdegen.reports import report

        page, entries, left_out = report.write(folder)
        for path, why in left_out:
            print(f"left out {path}: {why}")
        print(f"{len(entries)} run{'s' * (len(entries) != 1)} in {page}")

    command.guard(work, "train")


if __name__ == "__main__":
    main()
