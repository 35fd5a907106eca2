"""Classes that a user brings: a missing method is named, and data without a held-out part have no metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Result, newest, refused, run

from sdegen.config import assembly
from sdegen.config.compose import composed
from sdegen.datasets import Dataset

CLASSES = """
import torch
from sdegen.datasets.base import Dataset
from sdegen.networks import Network

class Unfinished(Network):
    pass

class Points(Dataset):
    def __init__(self, seed: int) -> None:
        super().__init__(torch.randn(60, 2, generator=torch.Generator().manual_seed(seed)))

class Pictures(Dataset):
    def __init__(self, seed: int) -> None:
        labels = torch.arange(60) % 2
        x = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) + labels[:, None, None, None]
        super().__init__(x, y=labels, classes=2)
"""
TINY = (
    "trainer.epochs=null",
    "trainer.steps=4",
    "trainer.preview_every=2",
    "figures=false",
    "count=6",
    "sampler.steps=2",
)
UNKNOWN = "no data are held out and the distribution of the data is not known"
LATEST = ("run=outputs/own/latest", "trust=[own]")


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(CLASSES)
    for group, name in (("network", "Unfinished"), ("dataset", "Points"), ("dataset", "Pictures")):
        (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / group / f"{name.lower()}.yaml").write_text(f"_target_: own.{name}\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def trained(folder: Path, *line: str) -> Path:
    """Trains a run, checks that it logs that nothing was measured, and returns its folder."""
    result = run("train", "--config-dir", "conf", "name=own", *TINY, *line, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert UNKNOWN in result.stdout
    latest = newest(folder, "own")
    assert json.loads((latest / "metrics.json").read_text()) == {}
    return latest


def test_a_method_that_is_missing_is_named(tmp_path: Path) -> None:
    result = run("train", "--config-dir", "conf", "network=unfinished", cwd=tmp_path)
    refused(result, tmp_path, "network: Unfinished is abstract: define forward in this class")


def test_points_without_unseen_ones_are_sampled_and_not_measured(tmp_path: Path) -> None:
    latest = trained(tmp_path, "dataset=points", "network.hidden=[8]")
    (samples,) = (latest / "samples").iterdir()
    assert len(np.load(samples / "samples.npz")["x"]) == 6
    again = run("sample", *LATEST, "count=5", "figures=false", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert UNKNOWN in again.stdout
    one_line(run("evaluate", *LATEST, cwd=tmp_path), "metrics=likelihood: ", UNKNOWN, "metrics=interpolation")
    between = run("evaluate", *LATEST, "metrics=interpolation", "count=12", cwd=tmp_path)
    assert (between.returncode, between.stderr) == (0, "")
    assert "interpolation between training points" in between.stdout
    (stored,) = (latest / "evaluations").glob("*/interpolation.npz")
    assert np.abs(np.load(stored)["paths"][:, [0, -1]]).max() < 10


def test_pictures_without_unseen_ones_are_sampled_and_not_measured(tmp_path: Path) -> None:
    pictures = ("dataset=pictures", "network.channels=[8]")
    trained(tmp_path, "network=scorenet", *pictures)
    one_line(
        run("sample", *LATEST, "guidance=inpaint", "guidance.image=1", cwd=tmp_path),
        f"guidance.image=1: {UNKNOWN}: give the result of a measurement with guidance.path=",
    )
    classifier = trained(tmp_path, "experiment=digits_classifier", *pictures, "figures=true")
    assert (classifier / "figures" / "accuracy.png").exists()


def one_line(result: Result, *words: str) -> None:
    """Asserts that a command failed with one line that contains ``words``."""
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


class Turns(Dataset):
    """Data whose rows come from three clusters in turn. There are more rows than ``auto`` options use."""

    def __init__(self) -> None:
        x = torch.randn(12_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        super().__init__(x + torch.tensor([5.0, 0.0, -5.0]).repeat(4000)[:, None], standardize=False)


def test_what_is_measured_is_measured_on_rows_of_every_kind() -> None:
    config = composed("train", ["network.hidden=[4]", "sde=ve", "sde.sigma_max=auto"])
    moments = assembly.build({**config, "dataset": {"_target_": "test_own_data.Turns"}}).moments
    assert moments is not None
    # The covariance is the identity plus 50/3 in each entry, so its eigenvalues are 1 + 100/3 and 1.
    assert float(moments.variances[0]) == pytest.approx(1 + 100 / 3, rel=0.05)
    assert float(moments.variances[1]) == pytest.approx(1, rel=0.05)
