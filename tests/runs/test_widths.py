"""Averages of any width from snapshots: close to tracked ones, the same after a resume, and read without trust."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refused
from commands import run as command
from conftest import go_back
from torch import Tensor

import sdegen
from sdegen import metrics
from sdegen.config import assembly
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.runs import checkpoint, files, session
from sdegen.runs.averages import Averages
from sdegen.runs.run import Run

LINE = (
    *("dataset=gaussian_mixture", "network.hidden=[8]", "trainer.batch_size=32", "trainer.threads=1"),
    *("trainer.preview_every=0", "trainer.log_every=50", "trainer.checkpoint_every=50", "optimizer.decay=constant"),
    *("count=20", "sampler.steps=3", "figures=false", "trainer.steps=160"),
)
REGULAR = {"_target_": "users.Regular"}


def trained(folder: Path, *options: str, network: dict[str, Any] | None = None) -> Run:
    config = composed("train", (*LINE, *options))
    session.train(config | ({} if network is None else {"network": network}), folder)
    return sdegen.load(folder, trust=["users"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "run", "trainer.widths=[0.05,0.1]", "trainer.keep=1").folder


def weights(folder: Path, **options: Any) -> dict[str, Tensor]:  # noqa: ANN401
    return numbers(sdegen.load(folder, trust=["users"], **options).model.network.state_dict())


def numbers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.double() for name, x in state.items() if x.is_floating_point() and x.isfinite().all()}


def averages(folder: Path, step: int, *widths: float) -> list[dict[str, Tensor]]:
    return [*map(numbers, Averages(folder, checkpoint.read(folder, step)).each(widths))]


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return float(sum((a[name] - b[name]).square().sum() for name in a)) ** 0.5


def files_of(folder: Path) -> dict[str, Tensor]:
    """Returns all averages in the snapshots and the last checkpoint."""
    found = {}
    paths = [*sorted((folder / "averages").iterdir()), checkpoint.find(folder)]
    for path in paths:
        content = torch.load(path, weights_only=True)
        for width, state in content["averages"].items():
            found |= {f"{path.name} {width} {name}": value for name, value in state.items()}
    return found


def assert_same(folder: Path, other: Path) -> None:
    own, others = files_of(folder), files_of(other)
    assert own.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in own.items())


@pytest.mark.parametrize("network", [None, REGULAR], ids=["perceptron", "layers with buffers"])
def test_an_average_from_snapshots_is_close_to_a_tracked_one(tmp_path: Path, network: dict[str, Any] | None) -> None:
    """The error is at most 5 % of the distance of the two tracked averages, also at an earlier checkpoint."""
    tracked = (0.05, 0.1), (0.03, 0.07), (0.08, 0.15)
    for narrow, wide in tracked:
        trained(tmp_path / f"{narrow}", f"trainer.widths=[{narrow},{wide}]", network=network)
    for step in (100, 160):
        low, high, *found = averages(tmp_path / "0.05", step, *itertools.chain(*tracked))
        truth = itertools.chain(*(averages(tmp_path / f"{own[0]}", step, *own) for own in tracked[1:]))
        for one, other in zip(found, truth, strict=True):
            assert distance(one, other) <= 0.05 * distance(low, high)


def test_all_averages_need_each_snapshot_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Averages(run, checkpoint.read(run))
    widths, read, stored = own.widths, list[Path](), files.stored
    monkeypatch.setattr(files, "stored", lambda path: read.append(path) or stored(path))
    states = [*own.each(widths)]
    assert sorted(read) == sorted((run / "averages").iterdir())[:-1]
    for width, state in [*zip(widths, states, strict=True)][::6]:
        torch.testing.assert_close(state, own.at(width), rtol=1e-6, atol=1e-7)


def test_snapshots_are_evenly_spaced_and_are_all_kept(run: Path) -> None:
    assert [path.name for path in sorted((run / "averages").iterdir())] == [
        f"step-{step:08d}.pt" for step in range(5, 161, 5)
    ]
    assert not (run / "checkpoints" / "step-00000050.pt").exists()


@pytest.mark.parametrize("broken", [False, True])
def test_a_resumed_run_has_the_same_averages(tmp_path: Path, run: Path, broken: bool) -> None:
    """Snapshots after the checkpoint are of steps that are taken again, and could be of steps with other options."""
    trained(tmp_path / "run", "trainer.widths=[0.05,0.1]", "trainer.keep=null")
    go_back(tmp_path / "run", 100)
    (tmp_path / "run" / "averages" / ".step-00000105.pt.7").write_bytes(b"half")
    if broken:
        (tmp_path / "run" / "averages" / "step-00000101.pt").write_bytes(b"")
        (tmp_path / "run" / "averages" / "step-00000130.pt").write_bytes(b"")
    # A name that no training writes is no snapshot.
    (foreign := tmp_path / "run" / "averages" / "step-130.pt").write_bytes(b"")
    session.resume(tmp_path / "run", {}, trust=["users"])
    foreign.unlink()
    assert_same(tmp_path / "run", run)


def test_more_steps_give_the_averages_of_a_longer_run(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    session.resume(tmp_path / "run", {"trainer.steps": 320})
    trained(tmp_path / "long", "trainer.widths=[0.05,0.1]", "trainer.steps=320")
    own, whole = files_of(tmp_path / "run"), files_of(tmp_path / "long")
    assert whole.keys() < own.keys()
    assert all(torch.equal(value, own[name]) for name, value in whole.items())
    apart = distance(*(weights(tmp_path / "long", ema=own) for own in (0.05, 0.1)))
    assert distance(weights(tmp_path / "run", ema=0.07), weights(tmp_path / "long", ema=0.07)) < 0.01 * apart


def test_replicas_have_averages_of_their_own(tmp_path: Path) -> None:
    options = ("trainer.widths=[0.05,0.1]", "trainer.precision=float64", "network.hidden=[64,64]")
    trained(tmp_path / "both", *options, "trainer.replicas=2", "seed=3")
    trained(tmp_path / "alone", *options, "seed=4")
    replica, alone = tmp_path / "both" / "replicas" / "seed-4", tmp_path / "alone"
    torch.testing.assert_close(files_of(replica), files_of(alone), rtol=1e-9, atol=1e-11)
    for file in ("averages/step-00000160.pt", "checkpoints/last.pt"):
        assert (replica / file).stat().st_size == pytest.approx((alone / file).stat().st_size, rel=0.05)


def test_a_width_that_the_snapshots_do_not_determine_is_refused_with_others(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match=r"choose a width such as [\d., ]+$") as refused:
        sdegen.load(run, ema=0.002)
    widths = [float(width) for width in str(refused.value).rpartition("such as ")[2].split(", ")]
    assert {0.02, 0.05, 0.1, 0.25} <= {*widths}
    for width in widths:
        sdegen.load(run, ema=width)
    for width in (0.9 * min(widths), 0.28):
        with pytest.raises(UserError, match="31 snapshots in .*averages before step 160 do not determine this"):
            sdegen.load(run, ema=width)
    # With few snapshots, only widths close to the tracked ones are determined.
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "averages")
    with pytest.raises(UserError, match="the 0 snapshots"):
        sdegen.load(tmp_path / "run", ema=0.2)
    assert distance(weights(tmp_path / "run", ema=0.1), weights(run, ema=0.1)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 0.5}, "ema=0.5: must lie between 0.0001 and 0.288: try ema=0.05"),
        ({"ema": 0.1, "weights": "raw"}, "ema=0.1: is a width of the averaged weights: leave out weights=raw"),
    ],
)
def test_a_mistake_is_one_line(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        sdegen.load(run, **options)
    assert "\n" not in str(error.value)


def test_a_run_without_averages_says_how_to_have_them(tmp_path: Path) -> None:
    trained(tmp_path / "run", "trainer.steps=2")
    with pytest.raises(UserError, match=r"train with trainer\.widths=\[0\.05,0\.10\]"):
        sdegen.load(tmp_path / "run", ema=0.1)


@pytest.mark.parametrize("widths", ["[0.1,0.1]", "[0.1,0.05]", "[0.05,0.06]", "[0,0.1]", "[0.1,0.5]", "[0.1]"])
def test_widths_that_say_little_are_refused(widths: str) -> None:
    with pytest.raises(UserError, match="widths"):
        assembly.build(composed("train", (*LINE, f"trainer.widths={widths}")))


def test_damaged_and_foreign_snapshots_are_left_out(
    tmp_path: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "averages"
    content = torch.load(folder / "step-00000030.pt", weights_only=True)
    (folder / "step-00000005.pt").write_bytes((folder / "step-00000005.pt").read_bytes()[:-50])
    torch.save({**content, "step": 11}, folder / "step-00000010.pt")
    torch.save({**content, "step": 15, "averages": {0.05: {}, 0.1: {}}}, folder / "step-00000015.pt")
    torch.save({**content, "step": 20, "averages": {0.05: content["averages"][0.05]}}, folder / "step-00000020.pt")
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    torch.save({**content, "step": 25, "averages": Bomb()}, folder / "step-00000025.pt", pickle_module=pickle)
    torch.save({**content, "step": 7}, folder / "step-7.pt")
    found = weights(tmp_path / "run", ema=0.07)
    assert not marker.exists()
    left_out = {match for text in caplog.messages for match in re.findall(r"step-(\d+)\.pt.*left out", text)}
    assert left_out == {f"{step:08d}" for step in (5, 10, 15, 20, 25)}
    apart = distance(*(weights(run, ema=own) for own in (0.05, 0.1)))
    assert distance(found, weights(run, ema=0.07)) < 0.05 * apart


@pytest.mark.parametrize("averages", [{0.05: {}}, {"a": None}, {7.0: None}, {float("nan"): None}])
def test_a_checkpoint_with_foreign_averages_is_refused(tmp_path: Path, run: Path, averages: dict[Any, Any]) -> None:
    saved = checkpoint.read(run)
    own = {width: saved.ema if state is None else state for width, state in averages.items()}
    checkpoint.save(saved._replace(averages=own), tmp_path / "checkpoints")
    with pytest.raises(UserError, match="not a checkpoint of sdegen"):
        sdegen.load(tmp_path)


def test_the_sweep_measures_each_average_as_a_run_with_it_does(run: Path) -> None:
    result = command("evaluate", f"run={run}", "ema=sweep", "count=50", cwd=run)
    assert result.returncode == 0, result.stderr
    folder = run / "evaluations" / "0001-sweep"
    arrays = np.load(folder / "sweep.npz")
    assert {0.02, 0.05, 0.1, 0.25} <= {*arrays["width"].tolist()}
    for i in (0, len(arrays["width"]) // 2, -1):
        own = sdegen.load(run, ema=float(arrays["width"][i]))
        error = metrics.score_error(own.dataset, own.sde, own.score_on_cpu())
        assert arrays["score_error"][i] == pytest.approx(error, rel=1e-6)
    found = json.loads((folder / "metrics.json").read_text())
    assert found["score_error"]["value"] == pytest.approx(arrays["score_error"].min())
    assert found["held_out_loss"]["width"] in arrays["width"]
    assert found["held_out_loss"]["trainer.ema"] == pytest.approx(checkpoint.read(run).held_out, rel=1e-6)
    assert (folder / "figures" / "sweep.png").is_file()


def test_the_sweep_of_a_flow_map_measures_the_samples_of_the_map(tmp_path: Path) -> None:
    own = trained(tmp_path, "experiment=flow_map", *LINE, "trainer.widths=[0.05,0.1]", "sampler.steps=1")
    found = own.sweep(count=50)
    assert [*found.measures] == ["w1"]
    for i in (0, -1):
        one = sdegen.load(tmp_path, ema=found.widths[i])
        assert found.measures["w1"][i] == pytest.approx(one.evaluate(count=50)["w1"]["value"], rel=1e-5)
    assert len({*found.measures["w1"]}) > 1
    # Another sampler follows the score of the map.
    assert [*own.using("adams", steps=3).sweep(count=50).measures] == ["score_error"]


def test_a_sweep_takes_no_points_and_no_metrics(run: Path) -> None:
    for option in ("metrics=c2st", "weights=raw", "network=oracle"):
        refused(command("evaluate", f"run={run}", "ema=sweep", option, cwd=run), run, "ema=sweep: ")
