"""The counts of a forecast equal the counts of the run itself."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdegen.config.compose import composed
from sdegen.core import progress
from sdegen.networks.mlp import MLP
from sdegen.runs import forecast, machine, session

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.epochs=3", "trainer.batch_size=64"),
        ("trainer.epochs=null", "trainer.steps=10", "trainer.batch_size=150", "times.draws=3"),
        ("trainer.epochs=1", "times=grid", "times.points=5", "times.simulations=4", "times.chunk=7"),
        ("trainer.epochs=1", "trainer.batch_size=1000"),
    ],
)
def test_rows_and_evaluations_are_those_of_the_run(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test counts the rows that reach the network. The 400 points do not fill the last batch of an epoch."""
    short = ("experiment=smile", "network.hidden=[8]", "trainer.preview_every=0", "sampler.steps=3", "count=50",
             "figures=false", "trainer.gradient=autograd")  # fmt: skip
    config = composed("train", [*short, *overrides])
    monkeypatch.setattr(forecast, "SECONDS", 0.0)
    expected = forecast.forecast(config)
    forward, rows = MLP.forward, []

    def counting(self: MLP, x: torch.Tensor, *rest: Any) -> torch.Tensor:  # noqa: ANN401
        if torch.is_grad_enabled():
            rows.append(len(x))
        return forward(self, x, *rest)

    monkeypatch.setattr(MLP, "forward", counting)
    run = session.train(config, tmp_path / "run")
    assert (expected.steps, expected.rows) == (run.step, sum(rows))
    (samples,) = (tmp_path / "run" / "samples").glob("*/samples.npz")
    assert expected.sampled_rows == float(np.load(samples)["nfe"]) * 50


def test_adaptive_samplers_are_tried_and_classifiers_have_no_cost_of_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "SECONDS", 0.0)
    tried = forecast.forecast(composed("train", ["experiment=smile", "sampler=dopri5", "count=50"]))
    assert tried.sampled_rows > 50 * 20
    exact = forecast.forecast(
        composed("train", ["dataset=smile_noisy", "network=oracle", "sampler.steps=7", "count=9"])
    )
    assert (exact.steps, exact.rows, exact.seconds, exact.sampled_rows) == (0, 0, 0, 63)
    classifier = forecast.forecast(composed("train", ["experiment=paper/digits_classifier"]))
    assert (classifier.sampled_rows, classifier.sampling_seconds) == (0, 0)


def test_slow_steps_and_evaluations_are_few_and_announced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock of the forecast advances by two minutes at each look, so every step and evaluation takes that long."""
    clock = itertools.count(0.0, 120.0)
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(progress, "DELAY", 0.0)
    forward, batches = MLP.forward, []

    def counting(self: MLP, x: torch.Tensor, *rest: Any) -> torch.Tensor:  # noqa: ANN401
        batches.append((torch.is_grad_enabled(), len(x)))
        return forward(self, x, *rest)

    monkeypatch.setattr(MLP, "forward", counting)
    line = ["experiment=smile", "trainer.epochs=null", "trainer.steps=1000", "trainer.gradient=autograd", "count=5000"]
    with caplog.at_level("INFO", "sdegen"):
        (cost,) = forecast.each([composed("train", [*line, "trainer.batch_size=7"])])
    # A single point is tried when the run is built.
    assert [batch for batch in batches if batch[1] > 1] == [(True, 7)] * 2 + [(False, 16), (False, 1000)]
    assert (cost.seconds, cost.sampling_seconds) == (1000 * 120, 120 * cost.sampled_rows / 1000)
    assert "timing a few steps of the training and of the sampler" in caplog.messages


def test_each_of_several_forecasts_measures_its_own_memory() -> None:
    """The first forecast has a large data set, and its peak is not reported for the second.

    A process can also reset the record of its own peak memory.
    """
    code = """
from sdegen.runs import forecast
from sdegen.config.compose import composed
from sdegen.core import progress
small = composed("train", ["experiment=smile", "trainer.steps=2", "trainer.epochs=null", "sampler.steps=2", "count=9"])
large = {**small, "dataset": {**small["dataset"], "size": 4_000_000}}
print([cost.memory_mib for cost in forecast.each([large, small])])
"""
    # Use a process of its own: otherwise, forks of other tests would inherit a server that is not their child.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    first, second = json.loads(done.stdout)
    assert second < first - 60
    machine.forget_peak_memory()
    before = machine.peak_memory_mib()
    held = np.ones(30_000_000)
    assert before is not None and machine.peak_memory_mib() > before + 200  # type: ignore[operator]
    del held
    machine.forget_peak_memory()
    assert machine.peak_memory_mib() < before + 30  # type: ignore[operator]


def test_a_table_adds_up() -> None:
    cost = forecast.Forecast(1500, 96_000, 61.4, 2e6, 3.0, 400.0)
    lines = forecast.table([("a", cost), ("b", cost._replace(steps=10, memory_mib=None))]).splitlines()
    assert lines[1].split() == ["1.5k", "96k", "0:01:01", "2M", "0:00:03", "400", "a"]
    assert lines[3].split() == ["1.51k", "192k", "0:02:03", "4M", "0:00:06", "total"]
    assert len(forecast.table([("a", cost)]).splitlines()) == 2
