"""Other programs hold the same scalars as the run's own table, and never end a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import go_back

from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.runs import session
from sdegen.training import logger

SHORT = (
    "dataset=moons",
    "network.hidden=[8]",
    "trainer.steps=8",
    "trainer.log_every=1",
    "trainer.checkpoint_every=4",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=2",
    "count=30",
)


def table(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "scalars.csv").read_text().splitlines()[1:]:
        step, name, value = line.split(",")
        found.setdefault(name, []).append((int(step), float(value)))
    return found


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_scalars_of_a_resumed_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("mlflow.tracking", exc_type=ImportError).MlflowClient
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri, folder = f"file:{tmp_path / 'store'}", tmp_path / "run"
    session.train(composed("train", [*SHORT, "logger=mlflow", f"logger.uri={uri}"]), folder)
    go_back(folder, 4)
    session.resume(folder, {})
    store = client(uri)
    (run,) = store.search_runs([store.get_experiment_by_name("sdegen").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["trainer.steps"] == "8"
    for name, curve in table(folder).items():
        found = sorted((metric.step, metric.value) for metric in store.get_metric_history(run.info.run_id, name))
        assert [step for step, _ in found] == [step for step, _ in curve], name
        if name != "train/steps_per_second":
            assert found == curve


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_one_record_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    session.train(composed("train", [*SHORT, "logger=wandb", "logger.mode=offline"]), tmp_path / "run")
    go_back(tmp_path / "run", 4)
    session.resume(tmp_path / "run", {})
    own = (tmp_path / "run" / "wandb.txt").read_text().strip()
    records = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(records) == 2 and {path.name for path in records} == {f"run-{own}.wandb"}
    assert b"train/held_out_loss" in records[0].read_bytes()


class Broken(logger.Logger):
    """Logger whose network fails at the third call."""

    calls = 0

    def begin(self, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float]) -> None:
        Broken.calls += 1
        if Broken.calls > 2:
            raise RuntimeError("no\nnetwork")

    def end(self, failed: bool) -> None:
        raise AssertionError("it was given up before")


def test_a_failing_logger_is_reported_once_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = composed("train", SHORT) | {"logger": {"_target_": f"{__name__}.Broken"}}
    with caplog.at_level(logging.WARNING, "sdegen"):
        session.train(config, tmp_path / "run")
    (line,) = [record.getMessage() for record in caplog.records if "logger" in record.getMessage()]
    assert line.startswith("logger=broken: no network: the run continues without it") and Broken.calls == 3
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package, distribution in (("mlflow", "mlflow-skinny"), ("wandb", "wandb")):
        # Python raises ImportError for a module that is None.
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(UserError) as error:
            session.train(composed("train", [*SHORT, f"logger={package}"]), tmp_path / "run")
        (line,) = str(error.value).splitlines()
        assert line.startswith(f"logger: the package {package} is missing")
        assert line.endswith(f": pip install {distribution}")
    assert not (tmp_path / "run").exists()
