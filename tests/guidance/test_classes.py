"""Networks that take the class learn the exact scores of labelled points, with and without the class."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run as shell
from torch import Tensor

import sdegen
from sdegen import figures
from sdegen.config import assembly, choices
from sdegen.config.components import Components
from sdegen.config.compose import composed
from sdegen.core import progress
from sdegen.core.errors import UserError
from sdegen.metrics import score_error
from sdegen.runs import gallery, results, session
from sdegen.runs.guiding import planned
from sdegen.sde.base import Score

QUIET = ("trainer.device=cpu", "trainer.threads=1", "trainer.preview_every=0", "figures=false")
SHORT = (*QUIET, "trainer.steps=2000", "network.hidden=[64,64]")


def learned(*overrides: str) -> tuple[Components, object]:
    (parts,) = assembly.replicated(composed("train", ["dataset=gaussian_mixture", *SHORT, *overrides]))
    training = parts.training()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    return parts, training.averages[0].eval()


def single(score: Score) -> Score:
    return lambda x, t: score(x.float(), t.float())


def test_a_network_learns_the_exact_score_of_each_class_and_of_all() -> None:
    """The mixture's components are its classes, so all three scores are known; so is that of the other class."""
    parts, model = learned("network.label_dropout=0.5")
    data, sde = parts.dataset, parts.sde
    _, plain = learned()
    reference = score_error(data, sde, single(plain))
    assert reference is not None and reference < 0.06
    errors = np.array(
        [[score_error(data.of_class(k), sde, single(model.given(torch.tensor(y)))) for y in (0, 1, -1)] for k in (0, 1)]
    )
    # Half of the steps are without a class, so each score has fewer rows than in the reference.
    assert errors[0, 0] < 1.5 * reference and errors[1, 1] < 1.5 * reference
    assert score_error(data, sde, single(model)) < 2 * reference  # type: ignore[operator]
    assert errors[0, 1] > 0.5 and errors[1, 0] > 0.5
    assert errors[0, 2] > 4 * errors[0, 0] and errors[1, 2] > 4 * errors[1, 1]


FAR = ("dataset=gaussian_mixture", "dataset.means=[[-9,0],[9,0]]", "dataset.variances=[1,0.25]", "dataset.size=500")
FEW = (*QUIET, "trainer.steps=400", "network.hidden=[32]", "sampler=adams", "sampler.steps=10", "count=60")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sdegen.Run]:
    """Makes runs of two distant classes: a score with the class, a score without the class, and a classifier."""
    folder = tmp_path_factory.mktemp("classes")
    classifier = ("network=classifier_mlp", "objective=classification", "weighting=uniform", *FAR, *QUIET)
    lines = {
        "conditional": (*FAR, *FEW, "network.label_dropout=0.1"),
        "plain": (*FAR, *FEW),
        "exact": (*FAR, *FEW[:4], *FEW[6:], "network=oracle"),
        "classifier": (*classifier, "trainer.steps=300"),
    }
    return {name: sdegen.train(*line, folder=folder / name) for name, line in lines.items()}


def shares(x: Tensor) -> list[float]:
    """Returns the shares of points at less than half of the distance between the classes from each of them."""
    return [float((side * x[:, 0] > 0).double().mean()) for side in (-1, 1)]


def test_a_run_samples_the_class_that_it_is_asked_for(runs: dict[str, sdegen.Run]) -> None:
    for label in (0, 1):
        asked = [float(k == label) for k in (0, 1)]
        assert shares(runs["conditional"].sample(100, label=label)) == asked
        assert shares(runs["exact"].sample(100, label=label)) == asked
        assert shares(runs["plain"].guided("classifier", run=runs["classifier"], label=label).sample(100)) == asked
    assert shares(runs["conditional"].sample(300)) == pytest.approx([0.5, 0.5], abs=0.2)


def test_a_guided_run_is_measured_against_its_class(runs: dict[str, sdegen.Run]) -> None:
    exact = runs["exact"].guided("classifier_free", label=1)
    found, all_ = exact.evaluate(count=400), runs["exact"].evaluate(exact.sample(400))
    assert found["sliced_w1"]["value"] < 2.5 * found["sliced_w1"]["floor"]
    assert all_["sliced_w1"]["value"] > 10 * all_["sliced_w1"]["floor"]
    other = runs["exact"].guided("classifier_free", label=0).evaluate(exact.sample(400))
    assert other["sliced_w1"]["value"] > 10 * other["sliced_w1"]["floor"]


def test_c2st_and_the_density_of_a_class_are_measured_against_this_class(runs: dict[str, sdegen.Run]) -> None:
    exact = runs["exact"].given(label=1)
    found = exact.evaluate(exact.sample(400))
    # The accuracy of equal distributions is close to 0.5, and the entropy of N((9, 0), 0.25 I) is log(2 π e 0.25).
    assert found["c2st"]["value"] < 0.55
    entropy = math.log(2 * math.pi * math.e * 0.25)
    assert [found["nll"][key] for key in ("value", "floor", "train")] == pytest.approx([entropy] * 3, abs=0.25)


def test_all_classes_leave_labels_measures_and_figures(runs: dict[str, sdegen.Run]) -> None:
    line = (f"run={runs['exact'].folder}", "guidance=classifier_free", "label=all", "count=200", "sampler.steps=10")
    result = shell("sample", *line, cwd=runs["exact"].folder.parent)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.splitlines()[-1].removeprefix("results in "))
    samples, found = np.load(folder / "samples.npz"), json.loads((folder / "metrics.json").read_text())
    assert samples["y"].tolist() == [0] * 200 + [1] * 200
    assert np.array_equal(samples["x"][:, 0] > 0, samples["y"] == 1)
    assert found["score_error"]["value"] < 1e-3
    assert found["sliced_w1"]["classes"].keys() == {"0", "1"}
    assert found["sliced_w1"]["value"] < 2.5 * found["sliced_w1"]["floor"]
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "samples.png",
        "marginals.png",
        "trajectories.png",
    }


def test_samples_of_a_network_with_classes_have_the_classes_of_the_data(runs: dict[str, sdegen.Run]) -> None:
    """Of the score without a class, the network has seen a tenth of the rows: the run's result does not use it."""
    run = runs["conditional"]
    folder = next((run.folder / "samples").iterdir())
    own, measured = np.load(folder / "samples.npz"), json.loads((run.folder / "metrics.json").read_text())
    assert np.array_equal(own["x"][:, 0] > 0, own["y"] == 1) and 15 < own["y"].sum() < 45
    assert {"sliced_w1", "class_w1"} <= measured.keys()
    assert measured["class_w1"]["classes"].keys() == {"0", "1"}
    assert run.evaluate(count=60)["sliced_w1"] == pytest.approx(measured["sliced_w1"])
    with pytest.raises(UserError, match="^label=1: condition=none asks for the score without a class: leave out one"):
        run.sample(60, condition="none", label=1)
    plain, hidden = (results.write(run, 60, condition=asked, figures=False) for asked in (None, "none"))
    for alike in (np.load(plain.folder / "samples.npz")["x"], run.sample(60).numpy(), run.sample(60, condition="data")):
        assert alike == pytest.approx(own["x"], abs=1e-5)
    assert "y" not in np.load(hidden.folder / "samples.npz")
    assert "class_w1" not in hidden.metrics
    assert np.load(hidden.folder / "samples.npz")["x"] == pytest.approx(
        run.sample(60, condition="none").numpy(), abs=1e-5
    )


def test_figures_show_the_data_of_the_class_and_name_it(runs: dict[str, sdegen.Run]) -> None:
    run = runs["conditional"]
    one = results._drawn(run, planned(run, None, 1), 30, 0, 30)
    beside, path = gallery._beside(run, one, None)
    assert beside.title == path.title == "class 1"
    assert bool((beside.dataset.x[:, 0] > 0).all()) and len(beside.dataset.x) < len(run.dataset.x)
    figure = figures.compare(beside.dataset, one.x, beside.y, beside.title)
    assert figure.get_suptitle() == "class 1" and not figure.legends
    both = results._drawn(run, planned(run, None, "all"), 30, 0, 30)
    beside, path = gallery._beside(run, both, None)
    assert beside.dataset is run.dataset and path.title == "the first of 2: class 0"
    assert bool((path.dataset.x[:, 0] < 0).all())
    node = choices.node("guidance", "classifier_free", {"scale": 2.0, "interval": [0.2, 0.8]})
    strong = results._drawn(run, planned(run, node, "all"), 30, 0, 30)
    beside, path = gallery._beside(run, strong, None)
    assert beside.title == "guidance scale 2 for t from 0.2 to 0.8"
    assert path.title == f"the first of 2: class 0, {beside.title}"


def test_progress_names_the_class_that_is_sampled(
    runs: dict[str, sdegen.Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("DELAY", "INTERVAL"):
        monkeypatch.setattr(progress, name, 0.0)
    caplog.set_level(logging.INFO, "sdegen")
    exact, node = runs["exact"], choices.node("guidance", "classifier_free", {})
    exact.drawn(planned(exact, node, "all"), 4)
    said = [line.partition(":")[0] for line in caplog.messages if "evaluations" in line]
    assert list(dict.fromkeys(said)) == [f"sampling guidance=classifier_free, label={label}" for label in (0, 1)]
    caplog.clear()
    runs["plain"].sample(4)
    assert caplog.messages[0].startswith("sampling: ")


def test_a_classifier_of_points_is_measured_on_fresh_points(runs: dict[str, sdegen.Run]) -> None:
    found = json.loads((runs["classifier"].folder / "metrics.json").read_text())
    assert found["accuracy_clean"]["value"] == pytest.approx(1, abs=0.01)
    assert 0.5 < found["accuracy"]["value"] < 1


def test_a_network_without_the_class_is_refused_with_a_fix_that_works(runs: dict[str, sdegen.Run]) -> None:
    with pytest.raises(sdegen.UserError, match="not take the class: train one with network.label_dropout=0.1$"):
        runs["plain"].sample(3, label=1)
    node = {"_target_": "users.Plain"}
    config = composed("train", [*FAR, *FEW]) | {"network": node}
    own = session.train(config, runs["plain"].folder.parent / "own")
    own = sdegen.load(own.folder, trust=["users"])
    fix = "network=plain cannot take it: train one with network.label_dropout=0.1 and network=mlp, scorenet or unet$"
    with pytest.raises(sdegen.UserError, match=f"does not take the class: {fix}"):
        own.sample(3, label=1)


@pytest.mark.parametrize(("label", "mean", "variance"), [(0, -9.0, 1.0), (1, 9.0, 0.25)])
def test_a_network_that_takes_the_class_is_given_it_beside_a_measurement(
    runs: dict[str, sdegen.Run], label: int, mean: float, variance: float
) -> None:
    """The first coordinate is measured as 0, with the variance 4. Each class is a Gaussian."""
    run = runs["exact"]
    noise = 2 / float(run.units.affine.scale[0])  # type: ignore[union-attr]
    given = {"measurement": {"mask": "left"}, "noise": noise, "observed": [0.0]}
    x = run.guided("inpaint", label=label, **given).sample(2000, steps=30)  # type: ignore[arg-type]
    expected = torch.tensor([1 / (1 / variance + 1 / 4), variance], dtype=torch.float64)
    off = x.mean(0) - torch.tensor([expected[0] * mean / variance, 0.0])
    assert float((off / (expected / 2000).sqrt()).abs().max()) < 4
    torch.testing.assert_close(x.var(0) / expected, torch.ones(2).double(), rtol=0, atol=0.13)
