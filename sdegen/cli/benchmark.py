"""``sdegen benchmark``: run a benchmark of the checkout that the package is installed from."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from sdegen.config.compose import CONF
from sdegen.core.errors import UserError

SCRIPT = CONF.parent / "scripts" / "benchmark.py"


def run(program: str, given: Sequence[str]) -> None:
    """Run the command."""
    if not SCRIPT.exists():
        raise UserError("benchmarks are in the checkout of sdegen only: run python scripts/benchmark.py there")
    sys.argv = [str(SCRIPT), *given]
    runpy.run_path(str(SCRIPT), run_name="__main__")
