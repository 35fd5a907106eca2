"""The memory that a forecast expects is that of a training in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdegen.runs.memory import LINK, Measured, Size, option

ROOT = Path(__file__).parents[2]
TOLERANCE = 0.15
MIB = 2**20


def printed(code: str, *arguments: object) -> Any:  # noqa: ANN401
    """Returns what a new interpreter prints, as JSON. The code finds the arguments in ``given``."""
    opening = "import json, sys; from sdegen.config.compose import composed; given = json.loads(sys.argv[1])\n"
    line = [sys.executable, "-c", opening + code, json.dumps(arguments)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=True, env=None)
    return json.loads(done.stdout)


TRAINED = """
import resource, torch
from sdegen.config.assembly import build
training = build(composed("train", given[0])).training()
for chunks in training.stream.steps(0, 4):
    training.advance(chunks)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
FORECAST = """
from sdegen.runs import memory
found = memory.measure(composed("train", given[0]), given[1], room=given[2])
print(json.dumps([found.sizes[-1].rows, found.at(given[3]).bytes]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot reset the peak memory of a process")
@pytest.mark.parametrize("options", [("channels=32", "blocks=1"), ("channels=48", "blocks=2", "recompute=true")])
def test_the_peak_of_a_training_is_that_of_the_forecast(options: tuple[str, ...], tmp_path: Path) -> None:
    """The peak is forecast by steps of this size, and by smaller steps if larger ones may not fit.

    The options are two U-Nets, on images of 28 × 28.
    """
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (200, 1, 28, 28), dtype=np.uint8))
    line = ["dataset=file", f"dataset.path={tmp_path / 'x.npz'}", "network=unet", "parametrization=karras",
            "trainer.batch_size=128", *(f"network.{name}" for name in options)]  # fmt: skip
    real = printed(TRAINED, line)
    assert printed(FORECAST, line, 1, 1e12, 128) == [128, pytest.approx(real, rel=TOLERANCE)]
    # Four parts of the step have 32 points each, which is the largest size that is measured.
    assert printed(FORECAST, line, 4, 1e12, 128) == [32, pytest.approx(real, rel=TOLERANCE)]
    # If little memory is available, no step is taken that might not fit.
    (rows, _) = printed(FORECAST, line, 1, real / 2, 128)
    assert rows < 64


def test_a_forecast_for_devices_is_the_line_through_the_measured_sizes() -> None:
    """Steps of 10 MiB and 0.1 s for each point, of 96 points. The arithmetic is done by hand."""
    sizes = (Size(0, 100 * MIB, 0.0), Size(1, 110 * MIB, 0.1), Size(4, 140 * MIB, 0.4))
    run = Measured(sizes, 96, 1000, 10 * MIB, 400 * MIB, "cpu")
    assert option("", run, 1, 1) == ("", 1060 * MIB, pytest.approx(9.6), False)
    assert option("", run, 1, 8) == ("", 220 * MIB, pytest.approx(9.6), True)
    ring = 2 * 3 / 4 * 10 * MIB / LINK["cpu"]
    assert option("", run, 4, 4) == ("", 340 * MIB, pytest.approx(2.4 + ring), True)
    assert option("", run, 4, 16) == ("", 160 * MIB, pytest.approx(2.4 + ring), True)
    assert run.at(2).bytes == 120 * MIB
