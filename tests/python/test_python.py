"""The package from Python: training, arrays of every kind, choices by name, and messages in one line."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run as shell
from PIL import Image

import sdegen
from sdegen.config.compose import composed
from sdegen.metrics import features
from sdegen.reports import report
from sdegen.runs import checkpoint, recorder, session

SMALL = ("network.hidden=[16]", "trainer.preview_every=0", "figures=false", "sampler.steps=5", "count=50")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sdegen.Run:
    """Makes a short run of the noisy smile. These data have a density."""
    return sdegen.train("experiment=smile_noisy", *SMALL, folder=tmp_path_factory.mktemp("runs") / "run", steps=30)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> sdegen.Run:
    """Makes a run that uses the exact score of the mixture on the line."""
    folder = tmp_path_factory.mktemp("exact") / "run"
    return sdegen.train("dataset=gaussian_mixture", *SMALL[1:], network="oracle", folder=folder)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sdegen.Run]:
    """Makes short runs of digits: a score, a score that takes the class, and a classifier."""
    folder, small = tmp_path_factory.mktemp("digits"), ("trainer.steps=2", "trainer.batch_size=8", *SMALL[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "EPOCHS", (1, 1))
        return {
            name: sdegen.train(f"experiment={name}", *small, *own, folder=folder / name)
            for name, own in (
                ("digits", ["network.channels=[8]"]),
                ("digits_conditional", ["network.channels=8", "network.multipliers=[1]", "network.blocks=1"]),
                ("digits_classifier", ["network.channels=[8]"]),
            )
        }


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([w.flatten() for w in checkpoint.read(folder).weights.values()])


def test_training_is_that_of_the_command_line(run: sdegen.Run, tmp_path: Path) -> None:
    options = ("experiment=smile_noisy", *SMALL, "trainer.steps=30")
    assert shell("train", *options, cwd=tmp_path).returncode == 0
    assert torch.equal(weights(run.folder), weights(tmp_path / "outputs" / "smile_noisy" / "latest"))
    assert (run.folder / "metrics.json").exists()


def test_a_resumed_run_has_the_same_bits(run: sdegen.Run) -> None:
    sdegen.train("experiment=smile_noisy", *SMALL, "optimizer.decay=constant", folder="whole", steps=30)
    sdegen.train("experiment=smile_noisy", *SMALL, "optimizer.decay=constant", folder="half", steps=10)
    resumed = sdegen.train("resume=half", "trainer.steps=30")
    assert resumed.step == 30
    assert torch.equal(weights(Path("half")), weights(Path("whole")))


def test_an_array_trains_as_its_file_does(tmp_path: Path) -> None:
    """Every kind of array, and the reloaded run, give the same samples."""
    x = np.random.default_rng(0).normal((100, -5), (3, 0.1), (60, 2))
    np.save("x.npy", x)
    options = ("dataset=file", "dataset.path=x.npy", *SMALL, "trainer.steps=20")
    expected = session.train(composed("train", options), tmp_path / "file").sample(7)
    for values in (x, torch.tensor(x), x.tolist(), x[::-1][::-1], x.astype(">f8")):
        run = sdegen.fit(values, *SMALL, steps=20)
        assert torch.equal(run.sample(7), expected)
    assert torch.equal(sdegen.load("outputs/array/latest").sample(7), expected)


def test_labels_train_a_network_that_takes_them() -> None:
    images = np.random.default_rng(0).integers(0, 9, (40, 1, 8, 8)).astype(np.uint8)
    small = ("network=unet", "network.channels=8", "network.multipliers=[1]", "network.blocks=1", *SMALL[1:])
    run = sdegen.fit(images, np.arange(40) % 2, *small, "network.label_dropout=0.1", steps=2)
    assert run.classes == 2
    assert run.sample(3, label=1).shape == (3, 1, 8, 8)


def test_every_kind_of_array_gives_the_same(run: sdegen.Run) -> None:
    x = torch.tensor([[0.5, -0.25], [1.0, 0.0]], dtype=torch.float64)
    for method in (lambda x: run.score(x, 0.5), run.log_prob, run.encode, run.decode):
        expected = method(x)
        for values in (x.numpy(), x.tolist(), x.float(), tuple(map(tuple, x.tolist()))):
            assert torch.equal(method(values), expected)
        # A solver treats each point separately, but matrix products of other shapes may round differently.
        torch.testing.assert_close(method(x[0]), expected[0], rtol=1e-4, atol=1e-4)
        assert method(x[0].tolist()).shape == expected[0].shape
    times = run.score(x, [0.5, 0.25])
    torch.testing.assert_close(times[1], run.score(x[1], 0.25), rtol=1e-4, atol=1e-4)


def test_both_ends_of_time_are_taken_as_any_kind_of_number(run: sdegen.Run) -> None:
    """eps is also accepted in float32, in which it is rounded down."""
    eps, end = run.sde.eps, run.sde.T
    for t, same in ((eps, torch.tensor(eps)), (eps, np.float32(eps)), (end, 1), (end, np.float32(end))):
        torch.testing.assert_close(run.score([[0.5, -0.25]], same), run.score([[0.5, -0.25]], t))


def test_public_names_are_listed_before_their_first_use() -> None:
    """Tab completion needs the names. Listing them does not import torch."""
    code = "import sys, sdegen; print(*dir(sdegen)); assert 'torch' not in sys.modules"
    listed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {*sdegen.__all__, "__version__"} <= {*listed}


def test_points_on_the_line_need_no_axis(exact: sdegen.Run) -> None:
    """The oracle is the log-density of the mixture, and its derivative by finite differences."""
    law = exact.dataset.law
    assert law is not None
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)
    torch.testing.assert_close(exact.log_prob(x.tolist()), law.log_prob(x[:, None]), rtol=1e-3, atol=2e-3)
    assert exact.log_prob(1.5).shape == ()
    step = 1e-4
    slope = (law.log_prob(torch.tensor([[1.5 + step]])) - law.log_prob(torch.tensor([[1.5 - step]]))) / (2 * step)
    assert float(exact.score(1.5, 1e-5)) == pytest.approx(float(slope), rel=1e-2)


def test_choices_are_those_of_the_command_line(run: sdegen.Run) -> None:
    chosen = ("sampler=predictor_corrector", "sampler/corrector=hmc", "sampler.steps=4", "sampler.corrector.moves=2")
    node = composed("train", chosen)["sampler"]
    expected = sdegen.load(run.folder, nodes={"sampler": node}).sample(9, seed=3)
    options = {"sampler": "predictor_corrector", "corrector": "hmc", "steps": 4}
    with_inner = run.using("predictor_corrector", corrector="hmc").using(steps=4, corrector={"moves": 2})
    assert torch.equal(with_inner.sample(9, seed=3), expected)
    assert not torch.equal(run.sample(9, seed=3, **options), run.sample(9, seed=3))  # type: ignore[arg-type]
    assert torch.equal(run.sample(9, seed=3, steps=5), run.sample(9, seed=3))


def test_guided_score_is_that_of_the_class(digits: dict[str, sdegen.Run]) -> None:
    """The oracle is the definition ∇ log p + γ ∇ log p(y | x), with log p(y | x) from the classifier."""
    score, classifier = digits["digits"], digits["digits_classifier"]
    guided = score.guided("classifier", run=classifier, label=3, scale=2.0)
    x = score.sample(4)
    inner = score.units.encode(x).float().requires_grad_()
    log_p = classifier.model.network(inner, torch.tensor(0.5)).log_softmax(1)[:, 3]
    (pull,) = torch.autograd.grad(log_p.sum(), inner)
    expected = score.score(x, 0.5) + 2 * score.units.score(x, pull)
    torch.testing.assert_close(guided.score(x, 0.5), expected, rtol=1e-4, atol=1e-4)
    by_folder = score.guided("classifier", run=classifier.folder, label=3, scale=2.0)
    assert torch.equal(guided.sample(3, seed=1), by_folder.sample(3, seed=1))
    assert not torch.equal(guided.sample(3, seed=1), score.sample(3, seed=1))
    assert score.guidance is None


def test_a_label_is_enough_for_a_network_that_takes_it(digits: dict[str, sdegen.Run]) -> None:
    run = digits["digits_conditional"]
    assert torch.equal(run.sample(3, label=4), run.guided("classifier_free", label=4).sample(3))
    with pytest.raises(sdegen.UserError, match="guided already"):
        run.guided("classifier_free", label=4).sample(3, label=5)
    with pytest.raises(sdegen.UserError, match="no latents and no density"):
        run.guided("classifier_free", label=4).encode(np.zeros((1, 8, 8)))


def test_an_observation_is_an_array_or_a_file(digits: dict[str, sdegen.Run]) -> None:
    run = digits["digits"]
    picture = np.random.default_rng(0).integers(0, 16, (1, 8, 8)).astype(float)
    kept = picture[:, :, :4].ravel()
    np.save("left.npy", kept)
    mask = {"mask": "left"}
    by_array = run.guided("inpaint", observed=kept.tolist(), measurement=mask)
    by_file = run.guided("inpaint", path="left.npy", measurement=mask)
    assert torch.equal(by_array.sample(2), by_file.sample(2))


def test_metrics_know_the_data_from_others(run: sdegen.Run) -> None:
    """Draws from the data distribution have values near the floor. Shifted draws have much larger values."""
    draws = run.dataset.draw(1000, torch.Generator().manual_seed(5))
    assert draws is not None
    good, bad = run.evaluate(draws), run.evaluate(draws.numpy() + 1)
    assert good["energy"]["value"] < 3 * good["energy"]["floor"] < bad["energy"]["value"]
    assert good["nll"]["value"] == pytest.approx(good["nll"]["floor"], abs=0.2)
    assert bad["nll"]["value"] > good["nll"]["value"]
    assert good["c2st"]["value"] < 0.54 < 0.7 < bad["c2st"]["value"]
    own = run.evaluate(count=200)
    assert own["energy"] == run.evaluate(run.sample(200))["energy"]


def test_a_notebook_shows_the_figures_and_an_animation(run: sdegen.Run) -> None:
    figure = run.draw(run.sample(50))
    figure.savefig("figure.png")
    assert len(Image.open("figure.png").convert("RGB").getcolors(10**6)) > 10
    found = re.search(r"data:image/gif;base64,([^\"]+)", run.animate(50)._repr_html_())
    assert found
    gif = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert gif.n_frames > 5  # type: ignore[attr-defined]


def test_one_constant_column_is_drawn_without_a_warning() -> None:
    run = sdegen.fit(np.column_stack([np.full(30, 7.0), X[:, 0]]), *SMALL, steps=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data, samples, *_ = run.draw(np.column_stack([np.full(30, 7.0), X[:, 1]])).axes
    assert not caught
    assert data.get_xlim() == samples.get_xlim()
    assert data.get_xlim()[0] < 7 < data.get_xlim()[1]


def test_a_run_says_what_it_is(run: sdegen.Run) -> None:
    said = repr(run.using("adams"))
    parts = ("smile_noisy: ", "dataset=smile", "sde=vp", "network=mlp", "sampler=adams", "step 30", str(run.folder))
    assert all(part in said for part in parts)
    assert "\n" not in said


@pytest.mark.parametrize(
    "option", ["trainer.stpes=3", "sde=vq", "trainer.steps=many", "trainer.steps=-1", "sampler.steps", "seed=x"]
)
def test_mistakes_are_those_of_the_command_line(option: str, tmp_path: Path) -> None:
    told = shell("train", "experiment=smile", option, cwd=tmp_path).stderr.strip()
    with pytest.raises(sdegen.UserError) as error:
        sdegen.train("experiment=smile", option)
    assert str(error.value) == told
    assert not list(tmp_path.iterdir())


X = np.random.default_rng(0).normal(size=(30, 2))
MISTAKES: list[tuple[Callable[[], object], str]] = [
    (lambda: sdegen.train(stpes=3), r"trainer\.stpes: no such option.*did you mean trainer\.steps"),
    (lambda: sdegen.train(sde="vq"), r"sde=vq: no such choice; did you mean sde=vp\?"),
    (lambda: sdegen.train("seed=1,2"), "seed=1,2: several values"),
    (lambda: sdegen.train("~seed"), "seed is missing: leave out ~seed"),
    (lambda: sdegen.train("sweep=weighting"), "hydra.mode=MULTIRUN: sweeps run on the command line only"),
    (lambda: sdegen.train("--multirun"), "'--multirun': not an option"),
    (lambda: sdegen.train(3), "3: not an option"),  # type: ignore[arg-type]
    (lambda: sdegen.train("resume=nowhere"), "nowhere: no such folder"),
    (lambda: sdegen.train("resume=nowhere", "sde=ve"), "sde: cannot change on resume"),
    (lambda: sdegen.train("resume=nowhere", folder="here"), "folder: a resumed run stays in its own folder"),
    (lambda: sdegen.train("forecast=true"), "forecast: works on the command line only"),
    (lambda: sdegen.fit([[1, 2], [3]]), "x: holds lists of different lengths: give lists of equal length$"),
    (lambda: sdegen.fit(X, [[1], [2, 3]]), "y: holds lists of different lengths"),
    (
        lambda: sdegen.fit("points.npy"),  # type: ignore[arg-type]
        r"x: 'points\.npy' is a path, .*: use sdegen\.train\('dataset=file', 'dataset\.path=points\.npy'\)",
    ),
    (lambda: sdegen.fit(Path("points.npy")), r"x: 'points\.npy' is a path"),  # type: ignore[arg-type]
    (lambda: sdegen.fit("dataset=moons"), r"x: 'dataset=moons' is an option, .* sdegen\.train\('dataset=moons'\)"),  # type: ignore[arg-type]
    (lambda: sdegen.fit(None), "x: holds Python objects, not real numbers"),  # type: ignore[arg-type]
    (lambda: sdegen.fit(), "fit: missing a required argument: 'x': the arguments are x, y, "),  # type: ignore[call-arg]
    (lambda: sdegen.fit(X, folder=3), "folder: must be a path"),  # type: ignore[arg-type]
    (lambda: sdegen.load(3), "run: must be a path, such as .*, not 3$"),  # type: ignore[arg-type]
    (lambda: sdegen.load("run", step=3), "load: got an unexpected keyword argument 'step': the arguments are run, "),  # type: ignore[call-arg]
    (
        lambda: sdegen.fit([[1.0, float("nan")], *X.tolist()]),
        "x: column 2: 1 of 31 values are missing, NaN or infinity, the first in row 1",
    ),
    (lambda: sdegen.fit(["a", "b", "c"]), "x: holds .*, not real numbers"),
    (lambda: sdegen.fit(X + 1j), "x: holds complex128, not real numbers"),
    (lambda: sdegen.fit(torch.zeros(4, 2, dtype=torch.bool)), "x: holds bool, not real numbers"),
    (lambda: sdegen.fit(X[:2]), "x: holds 2 points, but training needs at least 3"),
    (
        lambda: sdegen.fit(np.arange(90.0).reshape(3, 5, 6)),
        r"x: shape \(3, 5, 6\) is ambiguous: set dataset.layout=grey",
    ),
    (lambda: sdegen.fit(X, [1, 2]), "x: y must have one label for each of 30 points"),
    (lambda: sdegen.fit(np.ones((30, 2))), "x: all 30 points are equal, so there is nothing to learn"),
    (lambda: sdegen.fit([3.0] * 30), "x: all 30 points are equal"),
    (lambda: sdegen.fit(np.full((30, 1, 8, 8), 7, np.uint8)), "x: all 30 points are equal"),
    (lambda: sdegen.fit(X, "network=unet"), "network: .*"),
    (lambda: sdegen.load("nowhere"), "nowhere: no such folder"),
]


@pytest.mark.parametrize(("wrong", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_a_mistake_in_training_is_one_line_and_leaves_nothing(
    wrong: Callable[[], object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(sdegen.UserError, match=f"^{words}") as error:
        wrong()
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.npz"))


RUN_MISTAKES: list[tuple[Callable[[sdegen.Run], object], str]] = [
    (lambda run: run.sample(0), "count: must lie between 1 and"),
    (lambda run: run.sample("many"), "count: must be an integer"),  # type: ignore[arg-type]
    (lambda run: run.sample(5, sampler="adamz"), "sampler=adamz: no such choice; did you mean adams"),
    (lambda run: run.sample(5, stpes=3), r"sampler\.stpes: no such option .*did you mean sampler\.steps"),
    (lambda run: run.sample(5, sampler="adams", steps=-1), "sampler.steps=-1 must be at least 1"),
    (lambda run: run.sample(5, label=3), "label=3: the data of .* have no labels"),
    (lambda run: run.guided("clasifier"), "guidance=clasifier: no such choice; did you mean classifier"),
    (lambda run: run.guided("classifier"), "guidance.run is missing: give run="),
    (lambda run: run.guided("classifier", run=run), "guidance.run=.*: holds no classifier"),
    (lambda run: run.guided("linear"), "guidance.measurement.path is missing"),
    (
        lambda run: run.guided("inpaint", observed=[1.0, 2.0], measurement={"mask": "left"}),
        r"observed: has the shape \(2,\): give an array of shape",
    ),
    (lambda run: run.score([1.0, 2.0, 3.0], 0.5), r"x: has the shape \(3,\): give points \(N, 2\)"),
    (lambda run: run.score([[1.0, 2.0]], [0.5, 0.5]), r"t: has the shape \(2,\): give a number"),
    (lambda run: run.score([1.0, 2.0], 0.0), r"t: must lie between 1e-05 \(sde\.eps\) and 1, not 0:"),
    (lambda run: run.score([[1.0, 2.0]] * 3, [1.0, 1.01, 0.5]), "t: must lie between .* and 1, not 1.01:"),
    (lambda run: run.score([1.0, 2.0], float("nan")), "t: must lie between .* and 1, not nan:"),
    (lambda run: run.score([1.0, 2.0], -1), "t: must lie between .* and 1, not -1:"),
    (lambda run: run.score([[1.0, 2.0], [3.0]], 0.5), "x: holds lists of different lengths"),
    (lambda run: run.score("one", 0.5), "x: holds text, not real numbers"),
    (lambda run: run.score([1.0, float("inf")], 0.5), "x: 1 of 1 points hold NaN or infinity"),
    (lambda run: run.log_prob([[0.0, 0.0], [0.0, float("nan")]]), "x: 1 of 2 points hold NaN .* is number 2"),
    (lambda run: run.interpolate(X, X[0], 3), "interpolate: a and b hold 30 and 1 points: give one for each"),
    (lambda run: run.evaluate(np.zeros((2, 3))), r"x: has the shape \(2, 3\)"),
    (
        lambda run: run.evaluate(X, metrics="likelihood"),  # type: ignore[call-arg]
        "evaluate: got an unexpected keyword argument 'metrics': the arguments are x, count, seed$",
    ),
    (lambda run: run.evaluate(X, seed="one"), "seed: must be an integer, not 'one'"),  # type: ignore[arg-type]
    (lambda run: run.sample(5, 3), "sample: too many positional arguments"),  # type: ignore[misc]
    (lambda run: run.animate(0), "count: must lie between 1 and 1e.09, not 0$"),
    (lambda run: run.log_prob(X, probes="one"), "probes: must be an integer"),  # type: ignore[arg-type]
    (lambda run: run.flow(rtol="tight"), "rtol: must be a number"),  # type: ignore[arg-type]
    (lambda run: run.interpolate(X[0], X[1], 3.5), "n: must be an integer, not 3.5"),  # type: ignore[arg-type]
    (lambda run: run.export(3), "path: must be a path"),  # type: ignore[arg-type]
    (
        lambda run: run.guided("inpaint"),
        r"guidance\.measurement\.mask=top leaves no entry known of a point of the shape \(2,\): use mask=left",
    ),
    (lambda run: sdegen.load(run.folder, weights="emma"), "weights: must be one of ema, raw"),  # type: ignore[arg-type]
    (lambda run: sdegen.load(run.folder, precision="half"), "precision: must be one of"),  # type: ignore[arg-type]
    (lambda run: sdegen.load(run.folder, device="tpu"), "device=tpu is not a device"),
    (lambda run: sdegen.fit(X, folder=run.folder), ".*: contains a run already: give another folder="),
]


@pytest.mark.parametrize(("wrong", "words"), RUN_MISTAKES, ids=[words for _, words in RUN_MISTAKES])
def test_a_mistake_with_a_run_is_one_line(
    run: sdegen.Run, exact: sdegen.Run, wrong: Callable[[sdegen.Run], object], words: str
) -> None:
    with pytest.raises(sdegen.UserError, match=f"^{words}") as error:
        wrong(run)
    assert "\n" not in str(error.value)


def test_the_record_of_a_run_has_the_call(run: sdegen.Run) -> None:
    command = json.loads((run.folder / "provenance.json").read_text())["command"]
    assert command.startswith("sdegen.train('experiment=smile_noisy', ")
    assert command.endswith("steps=30)")


def test_the_record_of_a_resumed_run_has_all_calls(tmp_path: Path) -> None:
    """The first command stays. Each resume adds its own, from Python and from the shell, also to the report."""
    sdegen.train("dataset=moons", *SMALL, folder="run", steps=3)
    sdegen.train("resume=run", steps=4)
    assert shell("train", "resume=run", "trainer.steps=5", cwd=tmp_path).returncode == 0
    first, *resumed = (json.loads(Path("run/provenance.json").read_text())[key] for key in ("command", "resumed"))
    assert first.startswith("sdegen.train('dataset=moons', ")
    ((python, command),) = resumed
    assert python == {"step": 3, "command": "sdegen.train('resume=run', steps=4)", "options": {"trainer.steps": 4}}
    assert command.keys() == {"step", "command", "options"} and command["step"] == 4
    assert command["command"].endswith("train.py resume=run trainer.steps=5")
    page, _, _ = report.write(Path())
    shown = html.unescape(page.read_text())
    assert "\n".join([first, python["command"], command["command"]]) in shown


def logged(folder: Path) -> list[str]:
    """Returns the messages of a run's log, without the times, the run's folder and measured durations."""
    text = re.sub(rf" in \S*{folder.name}\b", "", (folder / "train.log").read_text())
    return re.sub(r"(?m)^20\S+ \S+  |\d\S* (?=steps/s|s\b)", "", text).splitlines()


def test_a_training_from_python_warns_and_logs_as_the_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    x[:, 1] = np.arange(200)
    np.savetxt("x.csv", x, delimiter=",", header="a,id", comments="")
    options = ("dataset=file", "dataset.path=x.csv", *SMALL, "trainer.steps=3", "name=own")
    told = shell("train", *options, "hydra.run.dir=command", cwd=tmp_path)
    # A script in Python has set up no logging, but pytest has.
    monkeypatch.setattr(session.log, "propagate", False)
    run = sdegen.train(*options, folder="python")
    assert logged(run.folder) == logged(tmp_path / "command") and len(logged(run.folder)) > 10
    (warning,) = [line for line in logged(run.folder) if "numbers the rows" in line]
    assert warning.startswith("warning: column id")
    assert capsys.readouterr() == ("", f"{warning.removeprefix('warning: ')}\n")
    assert warning in told.stdout


def test_a_long_training_from_python_shows_progress_at_each_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session.log, "propagate", False)
    monkeypatch.setattr(recorder, "INTERVAL", 0.0)
    sdegen.train("dataset=moons", *SMALL, "trainer.log_every=3", steps=5)
    steps = re.findall(r"^step (\d) of 5   (loss)?", capsys.readouterr().err, re.MULTILINE)
    # The loss is known from step 3 on.
    assert list(dict(steps).items()) == [("1", ""), ("2", ""), ("3", "loss"), ("4", "loss"), ("5", "loss")]
