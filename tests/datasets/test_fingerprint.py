"""A run notices that its data have changed since the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import sdegen
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.datasets import File
from sdegen.datasets.fingerprint import BLOCK, fingerprint
from sdegen.runs import results, session
from sdegen.runs.evaluation import Evaluation

SMALL = (
    "network.hidden=[8]",
    "trainer.steps=10",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=3",
    "count=50",
)


def points(seed: int = 0, count: int = 60, columns: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(5, 2, (count, columns))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", points())
    options = ("dataset=file", f"dataset.path={tmp_path / 'a.npy'}", *SMALL)
    session.train(composed("train", options), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            points(seed=1),
            "the same number of points, with other values: set dataset.path= to the old data",
        ),
        (points()[:-1], "59 points of 2 numbers instead of 60 points of 2 numbers"),
        (points(columns=3), "60 points of 3 numbers instead of 60 points of 2 numbers"),
        (points() + np.eye(60, 2) * 1e-9, "the same number of points, with other values"),
    ],
)
def test_other_data_are_refused_on_going_on_and_left_out_of_measures(
    run: Path, values: np.ndarray, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(run.parent / "a.npy", values)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(UserError, match=f"resume=.*: the data have changed since the run began: {said}"):
        session.resume(run, {"trainer.steps": 20})
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    loaded = sdegen.load(run)
    with caplog.at_level("WARNING", "sdegen"):
        written = results.write(loaded, 20)
    assert written.metrics == {} and np.load(written.folder / "samples.npz")["x"].shape == (20, 2)
    assert "no metrics and no figures: dataset: the data have changed since" in caplog.text
    evaluation = Evaluation(loaded, count=10, seed=0, batch_size=10, probes=0, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="dataset: the data have changed since"):
        evaluation.write("interpolation")


def test_data_that_have_only_moved_are_named_anew(run: Path) -> None:
    (run.parent / "a.npy").rename(run.parent / "b.npy")
    with pytest.raises(UserError, match=r"dataset\.path=.*no such file"):
        session.resume(run, {"trainer.steps": 20})
    session.resume(run, {"trainer.steps": 20, "dataset.path": str(run.parent / "b.npy")})
    # Later commands find the data at the new path.
    assert len(sdegen.load(run).dataset.x) == 48
    (run.parent / "b.npy").write_bytes((run.parent / "b.npy").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"dataset\.path=.*not a readable array file"):
        session.resume(run, {"trainer.steps": 30})


def test_data_that_have_moved_are_found_where_no_step_is_left(run: Path) -> None:
    """A run that was killed after its last step computes its metrics with the moved file."""
    before = (run / "metrics.json").read_text()
    (run / "metrics.json").unlink()
    (run.parent / "a.npy").rename(run.parent / "b.npy")
    session.resume(run, {"dataset.path": str(run.parent / "b.npy")})
    assert (run / "metrics.json").read_text() == before
    assert len(sdegen.load(run).dataset.x) == 48 and "b.npy" in (run / "config.yaml").read_text()


def test_a_set_without_a_file_has_no_path_to_give(tmp_path: Path) -> None:
    session.train(composed("train", ("dataset=moons", "dataset.size=50", *SMALL)), tmp_path / "run")
    with pytest.raises(UserError, match=r"dataset\.path: the run has no such option"):
        session.resume(tmp_path / "run", {"trainer.steps": 20, "dataset.path": "x.npy"})


def test_mapped_data_are_known_by_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each part, 64 of 400 blocks are read. The first and the last byte are always read, and some bytes never."""
    monkeypatch.setattr(File, "MAPPED", 0)
    monkeypatch.setattr("sdegen.datasets.fingerprint.BLOCKS", 64)
    pixels = np.random.default_rng(0).integers(0, 256, (400, 1, 64, 2 * BLOCK // 64), dtype=np.uint8)

    def known(at: int | None = None) -> dict:
        own = pixels.copy()
        if at is not None:
            own.reshape(-1)[at] ^= 1
        np.save(tmp_path / "images.npy", own)
        return fingerprint(File(0, str(tmp_path / "images.npy"), held_out=0.5), exact=True)

    whole = known()
    assert known() == whole
    assert known(0) != whole and known(-1) != whole and known(pixels.size // 2) != whole
    rng = np.random.default_rng(1)
    changed = [known(int(at)) != whole for at in rng.integers(0, pixels.size, 40)]
    assert any(changed) and not all(changed)


def test_what_is_computed_may_differ_in_its_last_bits() -> None:
    dataset = sdegen.datasets.Moons(0, 100)
    before = fingerprint(dataset, exact=False)
    dataset.x = torch.nextafter(dataset.x, torch.zeros(()).double())
    assert fingerprint(dataset, exact=False) == before
    dataset.x = dataset.x + 1e-3
    assert fingerprint(dataset, exact=False) != before
