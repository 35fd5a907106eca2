"""Evaluations of a run: values in the user's units, an exact score at the floor, and data without a density."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.datasets import Dataset, Digits, File, Mixture, Smile
from sdegen.flow.density import check_density
from sdegen.runs import session
from sdegen.runs.densities import CELLS
from sdegen.runs.evaluation import Evaluation
from sdegen.runs.run import Run, load

MEANS, VARIANCES = "[[100,-1],[104,1]]", "[0.25,1.0]"


@pytest.fixture(autouse=True)
def _coarse_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws coarse figures, because these tests do not look at the figures."""
    monkeypatch.setitem(CELLS, 2, 10)


def evaluation(run: Run, **changes: float) -> Evaluation:
    options = {"count": 200, "seed": 0, "batch_size": 1000, "probes": 0, "rtol": 1e-5, "atol": 1e-5}
    return Evaluation(run, **{**options, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with the exact score of a mixture around (102, 0), standardised for the network."""
    line = ["dataset=gaussian_mixture", f"dataset.means={MEANS}", f"dataset.variances={VARIANCES}", "network=oracle"]
    folder = tmp_path_factory.mktemp("exact")
    session.train(composed("train", [*line, "sampler.steps=3", "figures=false"]), folder)
    return load(folder, precision="float64")


def scipys(x: torch.Tensor) -> torch.Tensor:
    parts = zip(((100, -1), (104, 1)), (0.25, 1.0), strict=True)
    p = sum(0.5 * norm.pdf(x.numpy(), mean, math.sqrt(v)).prod(axis=1) for mean, v in parts)
    return torch.from_numpy(np.log(p))


def test_log_prob_of_a_run_is_the_log_density_of_its_data_in_their_units(exact: Run) -> None:
    x = exact.dataset.draw(200, torch.Generator().manual_seed(1))
    assert x is not None
    off = (exact.log_prob(x) - scipys(x)).abs()
    assert float(off.mean()) < 2e-4
    assert float((exact.log_prob(x, probes=1, seed=3) - scipys(x)).abs().mean()) > 10 * float(off.mean())


def test_encoding_interpolating_and_decoding_are_in_the_users_units(exact: Run) -> None:
    x = exact.dataset.x[:6]
    latent = exact.encode(x)
    torch.testing.assert_close(exact.decode(latent), x, rtol=0, atol=1e-3)
    whole = exact.encode(exact.dataset.x[:1000])
    torch.testing.assert_close(whole.T.cov(), torch.eye(2).double(), rtol=0, atol=0.12)
    # An arc joins two latents at nearly a right angle, in eight equal angles.
    across = (whole @ latent[0] / whole.norm(dim=1)).abs().argmin()
    ends = torch.stack([x[0], exact.dataset.x[across]])
    path = exact.interpolate(ends[0], ends[1], 9)
    torch.testing.assert_close(path[[0, -1]], ends, rtol=0, atol=1e-3)
    turned = exact.encode(path)
    between = torch.acos(torch.nn.functional.cosine_similarity(latent[0], whole[across], dim=0))
    neighbours = turned[2:] + turned[:-2]
    torch.testing.assert_close(neighbours, 2 * torch.cos(between / 8) * turned[1:-1], rtol=0, atol=2e-3)


def test_exact_score_reaches_the_floor_and_the_training_set_is_beside_it(exact: Run) -> None:
    found = evaluation(exact).likelihood()
    nll = found.metrics["nll"]
    x = torch.as_tensor(found.arrays["x"])
    assert nll["value"] == pytest.approx(-float(scipys(x).mean()), abs=2e-4)
    assert nll["floor"] == pytest.approx(-float(scipys(x).mean()), abs=2e-5)
    train = torch.as_tensor(found.arrays["x_train"])
    assert nll["train"] == pytest.approx(-float(scipys(train).mean()), abs=2e-4)
    assert set(found.metrics) == {"nll"}
    seen = {tuple(point) for point in exact.dataset.x.tolist()}
    assert {tuple(point) for point in train.tolist()} <= seen
    assert not seen & {tuple(point) for point in x.tolist()}


def test_the_floor_of_densities_given_the_class_is_the_entropy_of_the_classes(tmp_path: Path) -> None:
    """The entropy of all points would be 0.6 nats larger, and the network would seem better than the exact density."""
    line = ["dataset=gaussian_mixture", f"dataset.means={MEANS}", f"dataset.variances={VARIANCES}", "figures=false"]
    network = ["network.label_dropout=0", "network.hidden=[8]", "trainer.steps=2", "sampler=adams", "sampler.steps=2"]
    session.train(composed("train", [*line, *network]), tmp_path)
    found = evaluation(load(tmp_path), rtol=1e-3, atol=1e-3).write("likelihood").metrics["nll"]
    entropy = sum(math.log(2 * math.pi * math.e * v) for v in (0.25, 1.0)) / 2
    # The standard deviation of the log-density of a Gaussian in the plane is 1, and that of the entropies 0.7.
    assert found["floor"] == pytest.approx(entropy, abs=4 * 1.22 / 200**0.5)
    assert found["floor"] < found["value"]


def test_probes_miss_by_their_standard_error(exact: Run) -> None:
    known, found = (evaluation(exact, probes=probes).likelihood() for probes in (0, 2))
    off = found.arrays["log_p"] - known.arrays["log_p"]
    nll = found.metrics["nll"]
    assert nll["standard_error_of_probes"] == pytest.approx(float(off.square().mean() / 200) ** 0.5, rel=0.25)
    assert 1e-4 < abs(nll["value"] - known.metrics["nll"]["value"]) < 4 * nll["standard_error_of_probes"]
    assert "standard_error_of_probes" not in known.metrics["nll"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"rtol": 0.0}, "rtol=0 must be at least 1e-13: try rtol=1e-5"), ({"probes": -1}, "probes=-1 must be at least 0")],
)
def test_mistakes_are_reported(exact: Run, change: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        evaluation(exact, **change)


def test_declared_levels_give_bits(tmp_path: Path) -> None:
    """The bits per dimension are the mean of -log p at the dequantised points, divided by d log 2."""
    values = np.random.default_rng(0).integers(0, 5, size=(60, 1, 2, 2))
    np.save(tmp_path / "x.npy", values)
    line = ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "dataset.levels=5", "network.hidden=[8]"]
    short = ["trainer.steps=2", "trainer.preview_every=0", "figures=false", "sampler.steps=2"]
    run = session.train(composed("train", [*line, *short]), tmp_path / "run")
    written = evaluation(run, rtol=1e-3, atol=1e-3).write("likelihood")
    stored = np.load(written.folder / "likelihood.npz")
    assert {tuple(x) for x in stored["x"].round().reshape(-1, 4)} <= {tuple(x) for x in values.reshape(-1, 4)}
    assert np.abs(stored["x"] - stored["x"].round()).max() > 0.4
    assert len(stored["x"]) == 12
    bits = json.loads((written.folder / "metrics.json").read_text())["bits_per_dim"]
    assert bits["value"] == pytest.approx(-stored["log_p"].mean() / (4 * math.log(2)))
    assert bits["floor"] is None
    assert evaluation(run).write("interpolation").metrics["reconstruction"]["value"] < 1e-2


def file(tmp_path: Path, values: np.ndarray, levels: int | None = None) -> Dataset:
    np.save(tmp_path / "x.npy", values)
    return File(0, str(tmp_path / "x.npy"), levels=levels, dequantize=levels is not None)


def test_data_without_a_density_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = np.random.default_rng(0)
    with pytest.raises(UserError, match="on a curve or at points and have no density"):
        check_density(Smile(0))
    constant = source.normal(size=(20, 3)) * [1, 0, 1]
    with pytest.raises(UserError, match="entry 2 of the data never changes"):
        check_density(file(tmp_path, constant))
    whole = source.integers(0, 5, size=(20, 3))
    for dataset in (Smile(0, noise=0.02), Mixture(0), file(tmp_path, whole, 5), file(tmp_path, 0.5 * whole)):
        check_density(dataset)
    assert not caplog.records
    check_density(file(tmp_path, whole))
    assert "all values are whole numbers" in caplog.text


@pytest.mark.parametrize("spread", [True, False], ids=["spread out", "whole"])
def test_a_warning_says_that_levels_without_noise_have_no_learned_density(
    spread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="sdegen"):
        check_density(Digits(dequantize=spread))
    assert ("train with dataset.dequantize=true" in caplog.text) is not spread


def test_density_of_data_without_one_is_refused_in_the_same_words_from_python(tmp_path: Path) -> None:
    short = [
        "network=oracle",
        "sampler.steps=2",
        "trainer.preview_every=0",
        "figures=false",
        "dataset.size=48",
        "count=20",
    ]
    run = session.train(composed("train", ["dataset=smile", *short]), tmp_path / "run")
    with pytest.raises(UserError) as by_command:
        evaluation(run).check("likelihood")
    with pytest.raises(UserError) as by_python:
        run.log_prob(run.dataset.x[:2])
    assert "on a curve or at points and have no density" in str(by_python.value)
    assert str(by_python.value) == str(by_command.value)


def test_density_is_computed_with_a_warning_where_the_data_are_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("sdegen"), "propagate", True)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 1)))
    line = ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "network.hidden=[8]", "trainer.steps=2"]
    options = ["trainer.preview_every=0", "figures=false", "sampler.steps=2", "count=10"]
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    there = session.train(composed("train", [*line, *options]), tmp_path / "run").log_prob(x)
    (tmp_path / "x.npy").unlink()
    caplog.clear()
    torch.testing.assert_close(load(tmp_path / "run").log_prob(x), there, rtol=0, atol=0)
    assert "cannot check that the data have a density" in caplog.text and "x.npy" in caplog.text


@pytest.mark.parametrize(
    ("values", "levels", "words"),
    [
        ([0, 1, 2, 5], 5, "levels=5: the values must be whole numbers from 0 to 4, but one is 5"),
        ([0, 1, 2, 0.5], 5, "but one is 0.5"),
        ([0, 1, 2, -1], 5, "but one is -1"),
        ([0, 0, 0, 1], 1, "levels=1 must be at least 2"),
    ],
)
def test_levels_that_the_values_do_not_have_are_refused(tmp_path: Path, values: list, levels: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        file(tmp_path, np.array(values), levels)
