"""Signals of several channels through every command: training, sampling, guidance and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import newest, run

import sdegen
from sdegen.config import choices
from sdegen.runs.guiding import planned
from sdegen.runs.observations import picture

pytestmark = pytest.mark.usefixtures("one_epoch")

LENGTH = 16
TINY = (
    "network=unet",
    "network.channels=8",
    "network.multipliers=[1,2]",
    "network.blocks=1",
    "trainer.steps=3",
    "trainer.preview_every=3",
    "trainer.batch_size=8",
    "sampler=adams",
    "sampler.steps=3",
    "count=12",
    "name=signals",
)


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains on signals with two channels in different units, labelled by their sign; returns the folder."""
    folder, source = tmp_path_factory.mktemp("signals"), np.random.default_rng(0)
    x = source.normal(size=(60, 2, LENGTH)).cumsum(2) * [[1.0], [100.0]] + [[0.0], [5000.0]]
    np.savez(folder / "x.npz", x=x, y=(x[:, 0, -1] > 0).astype(int))
    done = run("train", "dataset=file", "dataset.path=x.npz", "network.label_dropout=0.1", *TINY, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def drawn(folder: Path) -> Path:
    return sorted((newest(folder, "signals") / "samples").iterdir())[-1]


def test_samples_are_signals_in_the_units_of_the_file(signals: Path) -> None:
    samples = drawn(signals)
    assert sorted(path.name for path in samples.iterdir()) == ["config.yaml", "figures", "metrics.json", "samples.npz"]
    figures = sorted(path.name for path in (samples / "figures").iterdir())
    # The network takes the class, and the samples have the classes of training signals.
    assert figures == ["classes.png", "generation.gif", "generation.png", "samples.png"]
    x = np.load(samples / "samples.npz")["x"]
    assert x.shape == (12, 2, LENGTH)
    assert abs(x[:, 0].mean()) < 10
    assert abs(x[:, 1].mean() - 5000) < 1000
    assert {"sliced_w1", "energy"} <= json.loads((samples / "metrics.json").read_text()).keys()


def test_classes_and_known_steps_guide_signals(signals: Path) -> None:
    done = run("sample", "run=outputs/signals/latest", "guidance=classifier_free", "label=all", "count=6", cwd=signals)
    assert (done.returncode, done.stderr) == (0, "")
    assert (drawn(signals) / "figures" / "classes.png").exists()
    assert np.load(drawn(signals) / "samples.npz")["y"].tolist() == [0] * 6 + [1] * 6
    assert "agreement" in json.loads((drawn(signals) / "metrics.json").read_text())
    known = ("guidance=inpaint", "guidance.measurement.mask=left")
    done = run("sample", "run=outputs/signals/latest", *known, "count=6", cwd=signals)
    assert (done.returncode, done.stderr) == (0, "")
    assert (drawn(signals) / "figures" / "posterior.png").exists()
    measured = np.load(drawn(signals) / "samples.npz")["measured"]
    # The measurement is shown in the units of the file, and only its steps are.
    assert np.isnan(measured[:, LENGTH // 2 :]).all()
    assert abs(measured[1, : LENGTH // 2].mean() - 5000) < 2000


def test_known_steps_are_given_in_the_units_of_the_file(signals: Path) -> None:
    trained = sdegen.load(newest(signals, "signals"), device="cpu")
    truth = torch.from_numpy(np.load(signals / "x.npz")["x"][0])
    node = choices.node("guidance", "inpaint", {"measurement": {"mask": "left"}})
    seen = planned(trained, node, None, truth[:, : LENGTH // 2].flatten()).seen
    assert seen is not None
    inner = trained.units.encode(truth[None])[0, :, : LENGTH // 2]
    torch.testing.assert_close(seen.y[0], inner.flatten())
    torch.testing.assert_close(picture(trained.units, seen)[:, : LENGTH // 2], truth[:, : LENGTH // 2])


def test_signals_have_likelihoods_and_interpolations(signals: Path) -> None:
    options = ("metrics=[likelihood,interpolation]", "count=4", "probes=1", "rtol=0.1", "atol=0.1")
    done = run("evaluate", "run=outputs/signals/latest", *options, cwd=signals)
    assert (done.returncode, done.stderr) == (0, "")
    (stored,) = (newest(signals, "signals") / "evaluations").glob("*/interpolation.npz")
    paths = np.load(stored)["paths"]
    assert paths.shape[2:] == (2, LENGTH)
    # An interpolation begins and ends at points of the data.
    x = np.load(signals / "x.npz")["x"]
    scale = x.std((0, 2))[:, None]
    for end in (paths[:, 0], paths[:, -1]):
        nearest = np.abs((end[:, None] - x[None]) / scale).mean((2, 3)).min(1)
        assert (nearest < 0.1).all()
