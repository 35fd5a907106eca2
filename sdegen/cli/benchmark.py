"""``sdegen benchmark``: run a benchmark of the checkout that the package is installed from."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from sdegen.cli.guard import fail
from sdegen.config.compose import CONF

SCRIPT = CONF.parent / "scripts" / "benchmark.py"


def main(program: str, arguments: Sequence[str]) -> None:
    """Run the command."""
    if not SCRIPT.exists():
        fail("benchmarks are no part of the installed package: run python scripts/benchmark.py in a checkout of sdegen")
    sys.argv = [str(SCRIPT), *arguments]
    runpy.run_path(str(SCRIPT), run_name="__main__")
