"""Fitted steps of a run: kept in its folder, used again, and fitted again for other weights."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import DoubleTensor, Tensor

import sdegen
from sdegen.config.compose import composed
from sdegen.runs import session
from sdegen.runs.fitted import COMPARED, starting
from sdegen.runs.guiding import Target, planned
from sdegen.sde.base import Score
from sdegen.sde.scores import RowScore

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


def test_a_fit_that_cannot_be_kept_is_used_and_said(
    run: sdegen.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run.sample(10, sampler="adams", steps=3, grid="fitted")
    shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("fitted"))
    (tmp_path / "run" / "fitted").write_text("")
    found = sdegen.load(tmp_path / "run").sample(10, sampler="adams", steps=3, grid="fitted")
    assert torch.equal(found, expected)
    words = "fitted: could not be made a folder: a file has this name: remove it, or check the disk"
    assert [words in line and "\n" not in line for line in caplog.messages] == [True]


@pytest.mark.parametrize("kind", [np.array, DoubleTensor, tuple], ids=["array", "tensor", "tuple"])
def test_times_may_be_an_array(run: sdegen.Run, kind: Callable[[list[float]], object]) -> None:
    times = [1.0, 0.5, 0.2, run.sde.eps]
    found = run.using("adams", grid=kind(times))
    assert found.config["sampler"]["steps"] == found.sampler.evaluations == 3
    assert torch.equal(found.sample(5), run.sample(5, sampler="adams", grid=times))
    assert torch.equal(found.sample(5), run.using("adams").sample(5, grid=kind(times)))


def test_a_table_of_conditions_has_one_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sdegen")
    line = ("dataset=linear_gaussian", "trainer.steps=30", "network.hidden=[16]", "trainer.preview_every=0", *SMALL[5:])
    session.train(composed("train", line), tmp_path)
    run, rows = sdegen.load(tmp_path), torch.tensor([[0.3, 1.2], [-1.0, 0.4], [0.1, -0.6]], dtype=torch.float64)
    exact = run.sample(50, condition=rows, sampler="dopri5", rtol=1e-7, atol=1e-7)
    plain, first = (run.sample(50, condition=rows, sampler="adams", steps=4, grid=g) for g in ("logistic", "fitted"))
    assert (first - exact).norm(dim=2).mean() < 0.8 * (plain - exact).norm(dim=2).mean()
    (path,) = kept(run)
    assert "fitting 4 steps to ema weights of step 30 for 3 conditions" in caplog.text
    written = path.read_bytes()
    again = run.sample(3, condition=rows, sampler="adams", steps=4, grid="fitted")
    torch.testing.assert_close(again[0], first[0, :3], rtol=1e-5, atol=1e-5)
    assert path.read_bytes() == written
    run.sample(3, condition=-rows, sampler="adams", steps=4, grid="fitted")
    assert f"since {path} was fitted to another score" in caplog.text
    assert kept(run) == [path]


def test_all_classes_of_images_have_one_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sdegen")
    images, labels = torch.rand(60, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    small = ("network=mlp", "network.hidden=[16]", "network.label_dropout=0.1", "trainer.preview_every=0", *SMALL[5:])
    run = sdegen.fit(images, labels, *small, folder=tmp_path / "run", steps=5).using("adams", steps=3, grid="fitted")
    plan = planned(run, None, "all")
    first = run.drawn(plan, 4, seed=0, batch_size=10).x
    (path,) = kept(run)
    assert json.loads(path.read_text())["starts"] < COMPARED
    assert torch.equal(run.drawn(plan, 4, seed=0, batch_size=10).x, first)
    assert f"steps from {path}: error" in caplog.text


class Rows(RowScore):
    """A score that is the number of its row."""

    def __init__(self, row: Tensor) -> None:
        self.row = row

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.row[:, None].expand_as(x).double()

    def of(self, row: Tensor) -> Score:
        return Rows(self.row[row])


def test_each_part_of_a_fit_has_conditions_of_a_whole_sorted_table(run: sdegen.Run) -> None:
    own = run.using("adams", steps=3, grid="fitted")
    for count in (10, 100_000):
        score, x = starting(own, Target(rows=count), Rows(torch.arange(count)))
        shares = score(x.double(), torch.tensor(1.0))[:, 0] / count
        for part in shares.chunk(3):
            assert part.mean() == pytest.approx(0.5, abs=0.06) and part.min() < 0.05 and part.max() > 0.89


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
