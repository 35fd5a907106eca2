"""Floors are computed once, kept beside the run, and never taken from a file that does not fit the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTBOOK

import sdegen
from sdegen import metrics
from sdegen.cli import stored
from sdegen.config.compose import composed
from sdegen.runs import measures, session
from sdegen.runs.floors import FLOORS

pytestmark = pytest.mark.usefixtures("one_epoch")

SMALL = (
    *TEXTBOOK,
    "network=mlp",
    "network.hidden=[8]",
    "trainer.steps=2",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=2",
    "count=50",
)


@pytest.fixture(scope="module", params=["smile", "digits"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("floors") / request.param
    session.train(composed("train", (*SMALL, f"dataset={request.param}")), folder)
    return folder


def measured(folder: Path) -> metrics.Metrics:
    run = sdegen.load(folder)
    return measures.measure(run, run.dataset.x[:50].double(), None)


def contents(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FLOORS).read_text())
    return content


def test_known_floors_give_the_metrics_that_computed_floors_give(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / FLOORS).unlink()
    first = measured(folder)
    assert measured(folder) == first
    run = sdegen.load(folder)
    if run.units.kind == "vectors":
        assert first == metrics.measure_points(run.dataset, run.dataset.x[:50])


def test_known_floors_are_not_computed_again(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    before, content = measured(folder), contents(folder)
    for entry in content["floors"].values():
        entry.update({name: number + 1 for name, number in entry.items() if name.endswith("floor")})
    (folder / FLOORS).write_text(json.dumps(content))
    for name, entry in measured(folder).items():
        assert entry["value"] == before[name]["value"]
        if name == "near_copies":
            # Its limit enters the value, so nothing of it is kept.
            assert entry == before[name]
            continue
        assert entry["floor"] == pytest.approx(before[name]["floor"] + 1)


def test_numbers_in_the_file_change_no_value(trained: Path, tmp_path: Path) -> None:
    """The publisher of a run can compute the key, and so can forge the floors, but not the values."""
    folder = shutil.copytree(trained, tmp_path / "run")
    before, content = measured(folder), contents(folder)
    forged = {name: dict.fromkeys(entry, 7.5) for name, entry in content["floors"].items()}
    (folder / FLOORS).write_text(json.dumps({**content, "floors": forged}))
    after = measured(folder)
    assert {name: entry["value"] for name, entry in after.items()} == {
        name: entry["value"] for name, entry in before.items()
    }


@pytest.mark.parametrize("kind", ["key", "nan", "text", "names", "list", "deep", "cut"])
def test_a_file_that_does_not_fit_is_not_used(trained: Path, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    before, content = measured(folder), contents(folder)
    path, entries = folder / FLOORS, content["floors"]
    wrong: dict[str, Any] = {
        "nan": {name: dict.fromkeys(entry, float("nan")) for name, entry in entries.items()},
        "text": {name: dict.fromkeys(entry, "1") for name, entry in entries.items()},
        "names": {name: {"other": 1.0} for name in entries},
        "list": list(entries),
    }
    text = json.dumps({"key": content["key"], "floors": wrong.get(kind, {})})
    if kind == "key":
        text = json.dumps({"key": "0" * 64, "floors": {name: dict.fromkeys(e, 9.0) for name, e in entries.items()}})
    text = {"deep": "[" * 10**5, "cut": json.dumps(content)[:-20]}.get(kind, text)
    path.write_text(text)
    assert measured(folder) == before
    assert contents(folder) == content


def test_floors_of_other_data_or_of_another_number_of_samples_are_other_floors(tmp_path: Path) -> None:
    for seed in (0, 1):
        session.train(composed("train", (*SMALL, "dataset=smile", f"seed={seed}")), tmp_path / str(seed))
    content = contents(tmp_path / "0")
    assert contents(tmp_path / "1")["key"] != content["key"]
    run = sdegen.load(tmp_path / "0")
    x = run.dataset.draw(80, torch.Generator().manual_seed(0))
    assert x is not None
    assert measures.measure(run, x, None) == metrics.measure_points(run.dataset, x)
    assert contents(tmp_path / "0")["floors"].items() > content["floors"].items()


def test_jobs_of_one_process_share_a_run_until_its_checkpoint_changes(tmp_path: Path) -> None:
    session.train(composed("train", (*SMALL, "dataset=smile")), tmp_path)

    options = {"run": str(tmp_path), "checkpoint": "last", "weights": "ema", "device": "cpu", "precision": "float32"}
    network = sdegen.load(tmp_path).config["network"]

    def loaded() -> sdegen.Run:
        return stored.loaded({**options, "trust": [], "network": network})

    first = loaded()
    other = first.sampled_by({**first.config["sampler"], "steps": 7})
    assert loaded() is first and other.dataset is first.dataset
    assert (other.sampler.evaluations, first.sampler.evaluations) == (7, 2)
    session.resume(tmp_path, {"trainer.steps": 4})
    assert (first.step, loaded().step) == (2, 4)
