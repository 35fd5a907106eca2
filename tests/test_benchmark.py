"""The bench itself: ratios within a round, quartiles, and a suite from the command line to its files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from suites import base  # noqa: E402


def test_ratios_are_within_a_round_so_that_a_slow_machine_does_not_move_them() -> None:
    """A clock that runs faster and faster: the seconds differ tenfold, their ratios not at all."""
    now = 0.0

    def speeds() -> Iterator[float]:
        speed = 1.0
        while True:
            yield speed
            yield speed
            speed *= 1.6

    speed = speeds()

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds * next(speed)

    taken = base.interleaved({"bare": lambda: work(1.0), "ours": lambda: work(0.25)}, 6, lambda: now)
    assert taken["bare"][-1] > 9 * taken["bare"][0]
    assert len(taken["bare"]) == 6
    assert base.over(taken, "bare") == {"ours": pytest.approx([0.25] * 6)}


def test_rows_have_medians_and_quartiles() -> None:
    assert base.row("p", "l", 1, [5, 1, 4, 2, 3, 7, 6, 8], "s")[3:] == (4.5, 3, 6, "s")
    assert base.row("p", "l", 1, [2.0], "s")[3:] == (2, 2, 2, "s")


def test_a_suite_runs_from_the_command_line(tmp_path: Path) -> None:
    """Exact divergence by an adaptive solver is near the exact density; its files say the same as its table."""
    command = [sys.executable, "scripts/benchmark.py", "likelihood", "points=20", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["options"] == {"points": 20, "tolerance": 1e-5}
    (exact,) = (r for r in found["rows"] if (r["line"], r["at"]) == ("2 dimensions", "exact divergence"))
    (probe,) = (r for r in found["rows"] if (r["line"], r["at"]) == ("2 dimensions", "one probe"))
    assert exact["median"] < 1e-3 < probe["median"]
    assert f"{exact['median']:>10.4g}" in done.stdout
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("rond=3", "suite step has the options tasks, rounds"),
        ("3", "options"),
        ("rounds=x", "rounds: must be a whole number above 0, not 'x'"),
        ("rounds=0", "rounds: must be a whole number above 0, not 0"),
        ("rounds=2.5", "rounds: must be a whole number above 0, not 2.5"),
        ("tasks=3", "tasks: must be options by their names, not 3"),
    ],
)
def test_a_wrong_option_is_one_line(change: str, words: str) -> None:
    command = [sys.executable, "scripts/benchmark.py", "step", change]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
