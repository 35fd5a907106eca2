"""Floors are computed once for all runs with the same data, and never taken from a run's folder or a damaged file."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTBOOK

import sdegen
from sdegen import metrics
from sdegen.cli import stored
from sdegen.config.compose import composed
from sdegen.runs import files, floors, measures, session

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


@pytest.fixture(autouse=True)
def _own_cache(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Gives each test a copy of what the training has kept."""
    shutil.copytree(os.environ["XDG_CACHE_HOME"], tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def measured(folder: Path) -> metrics.Metrics:
    run = sdegen.load(folder)
    return measures.measure(run, run.dataset.x[:50].double(), None)


def kept(folder: Path) -> Path:
    return floors.folder(sdegen.load(folder)) / floors.FLOORS


def contents(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(kept(folder).read_text())
    return content


def test_known_floors_give_the_metrics_that_computed_floors_give(trained: Path) -> None:
    kept(trained).unlink()
    first = measured(trained)
    assert contents(trained)
    assert measured(trained) == first
    run = sdegen.load(trained)
    if run.units.kind == "vectors":
        assert first == metrics.measure_points(run.dataset, run.dataset.x[:50])


def test_points_of_a_second_sampler_have_the_metrics_of_a_run_of_their_own(trained: Path) -> None:
    """The samplers of one run share what does not depend on them."""
    run, other = sdegen.load(trained), sdegen.load(trained)
    for points in (run.dataset.x[:50], run.dataset.x[-50:]):
        found = measures.measure(run, points.double(), None) | measures.score_error(run, None)
    assert found == measures.measure(other, points.double(), None) | measures.score_error(other, None)


def test_known_floors_are_not_computed_again(trained: Path) -> None:
    before, content = measured(trained), contents(trained)
    for entry in content.values():
        entry.update({name: number + 1 for name, number in entry.items() if name.endswith("floor")})
    kept(trained).write_text(json.dumps(content))
    for name, entry in measured(trained).items():
        assert entry["value"] == before[name]["value"]
        if name == "near_copies":
            # The value of this measure depends on a limit, so no number of this measure is kept.
            assert entry == before[name]
            continue
        assert entry["floor"] == pytest.approx(before[name]["floor"] + 1)


def test_a_copy_of_a_run_in_another_folder_uses_the_same_floors(trained: Path, tmp_path: Path) -> None:
    assert kept(shutil.copytree(trained, tmp_path / "copy")) == kept(trained)


def test_nothing_in_the_folder_of_a_run_changes_its_measures(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher of a run adds forged floors, and a classifier whose features cannot tell images apart."""
    before, content = measured(trained), contents(trained)
    folder = shutil.copytree(trained, tmp_path / "run")
    forged = {name: dict.fromkeys(entry, 7.5) for name, entry in content.items()}
    text = json.dumps(forged)
    if trained.name == "digits":
        known: Any = files.stored(kept(trained).with_name("features.pt"))
        state = {name: torch.zeros_like(value) for name, value in known.items()}
        torch.save(state, folder / "features.pt")
    for path in (folder, folder / "checkpoints", folder / "cache" / "sdegen" / "measures" / kept(trained).parent.name):
        path.mkdir(parents=True, exist_ok=True)
        (path / floors.FLOORS).write_text(text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "receiver"))
    assert measured(folder) == before


@pytest.mark.parametrize("kind", ["nan", "text", "names", "list", "deep", "cut"])
def test_a_damaged_file_is_not_used(trained: Path, kind: str) -> None:
    before, content = measured(trained), contents(trained)
    wrong: dict[str, Any] = {
        "nan": {name: dict.fromkeys(entry, float("nan")) for name, entry in content.items()},
        "text": {name: dict.fromkeys(entry, "1") for name, entry in content.items()},
        "names": {name: {"other": 1.0} for name in content},
        "list": list(content),
    }
    text = {"deep": "[" * 10**5, "cut": json.dumps(content)[:-20]}.get(kind, json.dumps(wrong.get(kind)))
    kept(trained).write_text(text)
    if kind == "cut" and trained.name == "digits":
        features = kept(trained).with_name("features.pt")
        features.write_bytes(features.read_bytes()[:-20])
    assert measured(trained) == before
    assert contents(trained) == content


@pytest.mark.parametrize("trained", ["smile"], indirect=True)
def test_measures_that_cannot_be_kept_are_computed_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = measured(trained)
    (tmp_path / "full").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    assert measured(trained) == before
    assert "set the environment variable XDG_CACHE_HOME" in caplog.text


@pytest.mark.parametrize("trained", ["smile"], indirect=True)
def test_floors_of_other_data_or_of_another_number_of_samples_are_other_floors(trained: Path, tmp_path: Path) -> None:
    session.train(composed("train", (*SMALL, "dataset=smile", "seed=1")), tmp_path / "run")
    content = contents(trained)
    assert kept(tmp_path / "run") != kept(trained)
    run = sdegen.load(trained)
    x = run.dataset.draw(80, torch.Generator().manual_seed(0))
    assert x is not None
    assert measures.measure(run, x, None) == metrics.measure_points(run.dataset, x)
    assert contents(trained).items() > content.items()


@pytest.mark.parametrize("trained", ["smile"], indirect=True)
def test_floors_of_data_that_were_not_measured_for_months_are_removed(trained: Path, tmp_path: Path) -> None:
    measured(trained)
    old, recent = kept(trained).parent, kept(trained).parent.with_name("recent")
    recent.mkdir()
    os.utime(recent, (0, time.time() - 0.9 * floors.UNUSED))
    os.utime(old, (0, time.time() - 1.1 * floors.UNUSED))
    session.train(composed("train", (*SMALL, "dataset=moons")), tmp_path / "moons")
    assert recent.exists() and not old.exists() and kept(tmp_path / "moons").exists()


@pytest.mark.parametrize("trained", ["smile"], indirect=True)
def test_jobs_of_one_process_share_a_run_until_its_checkpoint_changes(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    options = {"run": str(folder), "checkpoint": "last", "weights": "ema", "ema": None}
    options |= {"device": "cpu", "precision": "float32"}
    own = {group: sdegen.load(folder).config[group] for group in ("network", "sde")}

    def loaded() -> sdegen.Run:
        return stored.loaded({**options, "trust": [], **own})

    first = loaded()
    other = first.sampled_by({**first.config["sampler"], "steps": 7})
    assert loaded() is first and other.dataset is first.dataset
    assert (other.sampler.evaluations, first.sampler.evaluations) == (7, 2)
    session.resume(folder, {"trainer.steps": 4})
    assert (first.step, loaded().step) == (2, 4)
