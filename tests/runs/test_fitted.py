"""Fitted steps of a run: kept in its folder, used again, and fitted again for other weights."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import sdegen
from sdegen.config.compose import composed
from sdegen.runs import session

SMALL = (
    "experiment=smile",
    "trainer.steps=60",
    "trainer.checkpoint_every=30",
    "trainer.preview_every=0",
    "network.hidden=[32,32]",
    "figures=false",
    "sampler=adams",
    "sampler.steps=5",
    "count=50",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sdegen.Run:
    folder = tmp_path_factory.mktemp("fitted") / "run"
    session.train(composed("train", SMALL), folder)
    return sdegen.load(folder)


def kept(run: sdegen.Run) -> list[Path]:
    return sorted((run.folder / "fitted").glob("*.json"))


def test_a_fit_is_closer_to_the_exact_flow_and_is_used_again(run: sdegen.Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sdegen")
    exact = run.sample(200, sampler="dopri5", rtol=1e-7, atol=1e-7)
    first = run.sample(200, sampler="adams", steps=5, grid="fitted")
    plain = run.sample(200, sampler="adams", steps=5)
    assert (first - exact).norm(dim=1).mean() < (plain - exact).norm(dim=1).mean()
    (path,) = kept(run)
    written = path.read_bytes(), path.stat().st_mtime_ns
    assert "fitting 5 steps to ema weights of step 60" in caplog.text
    caplog.clear()
    again = sdegen.load(run.folder).sample(200, sampler="adams", steps=5, grid="fitted")
    assert torch.equal(first, again)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == written
    assert f"steps from {path}: error" in caplog.text


def test_other_weights_and_other_numbers_of_steps_are_fitted_again(
    run: sdegen.Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sdegen")
    run.sample(10, sampler="adams", steps=4, grid="fitted")
    before = kept(run)
    earlier = sdegen.load(run.folder, checkpoint=30)
    earlier.sample(10, sampler="adams", steps=4, grid="fitted")
    (new,) = {*kept(run)} - {*before}
    assert "fitting 4 steps to ema weights of step 30, since" in caplog.text
    assert "was fitted with another step" in caplog.text
    new.write_text(new.read_text()[:200])
    whole = earlier.sample(10, sampler="adams", steps=4, grid="fitted")
    assert f"since {new} is damaged" in caplog.text
    assert torch.equal(whole, earlier.sample(10, sampler="adams", steps=4, grid="fitted"))
