"""Runs on data with conditions: images given noisy images, and tables with numbers and labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import sdegen
from sdegen.core.errors import UserError
from sdegen.datasets import File

QUICK = ("figures=false", "count=1", "sampler=adams", "sampler.steps=6")
NOISE = 0.5


def noisy_images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of independent normal pixels, ``(N, 1, 8, 8)``, and the same images with normal noise."""
    source = np.random.default_rng(seed)
    x = source.normal(size=(count, 1, 8, 8))
    return x, x + NOISE * source.normal(size=x.shape)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> sdegen.Run:
    folder = tmp_path_factory.mktemp("images")
    x, c = (np.moveaxis(part, 1, -1) for part in noisy_images(2000))
    np.savez(folder / "images.npz", x=x, c=c)
    unet = (
        "network=unet",
        "network.channels=16",
        "network.multipliers=[1]",
        "network.blocks=1",
        "network.attention=[]",
    )
    data = ("dataset=file", f"dataset.path={folder / 'images.npz'}", "trainer.batch_size=64", "optimizer.lr=0.003")
    return sdegen.train(*data, *unet, *QUICK, folder=folder / "run", steps=150)


def score_error(run: sdegen.Run, hidden: bool = False) -> float:
    """Returns the relative error of the scores of new images, each given its noisy image or given nothing.

    A pixel of x given c = x + noise is normal with the mean c / (1 + NOISE²) and the variance 1 - 1 / (1 + NOISE²).
    """
    x, c = (torch.from_numpy(part) for part in noisy_images(200, seed=1))
    shift, scale = run.units.affine.shift, run.units.affine.scale
    mean, variance = (c / (1 + NOISE**2) - shift) / scale, (1 - 1 / (1 + NOISE**2)) / scale**2
    t = torch.linspace(0.05, 0.95, len(x), dtype=torch.float64).reshape(-1, 1, 1, 1)
    alpha, sigma = run.sde.alpha(t), run.sde.sigma(t)
    noisy = alpha * (x - shift) / scale + sigma * torch.from_numpy(noisy_images(200, seed=2)[0])
    exact = -(noisy - alpha * mean) / (alpha**2 * variance + sigma**2)
    if hidden:
        found = -noisy / (alpha**2 / scale**2 + sigma**2)
    else:
        with torch.no_grad():
            score = run.score_model.given(run.conditions.encode(c).float())
            found = score(noisy.float(), t.flatten().float())
    return float((sigma * (found - exact)).square().sum().sqrt() / (sigma * exact).square().sum().sqrt())


def test_images_given_images_have_the_exact_posterior_score(images: sdegen.Run) -> None:
    assert score_error(images) < 0.12 < 0.3 < score_error(images, hidden=True)


def test_the_condition_of_a_row_changes_only_the_score_of_this_row(images: sdegen.Run) -> None:
    x, c = (torch.from_numpy(part).float() for part in noisy_images(4, seed=3))
    swapped = c.clone()
    swapped[1] = c[2]
    with torch.no_grad():
        before, after = (images.score_model.given(part)(x, torch.tensor(0.3)) for part in (c, swapped))
    others = [0, 2, 3]
    torch.testing.assert_close(before[others], after[others], rtol=0, atol=1e-6)
    assert (before[1] - after[1]).abs().max() > 0.1


def test_an_observed_image_is_read_with_its_channels_on_either_axis(images: sdegen.Run, tmp_path: Path) -> None:
    c = noisy_images(2, seed=4)[1]
    whole = images.sample(2, condition=c)
    torch.testing.assert_close(whole[0], images.sample(2, condition=c[0]), rtol=0, atol=1e-5)
    for name, array in (("first", c), ("last", np.moveaxis(c, 1, -1)), ("grey", c[:, 0])):
        np.save(tmp_path / f"{name}.npy", array)
        torch.testing.assert_close(images.sample(2, condition=tmp_path / f"{name}.npy"), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 3), (40, 2)], ids=["image", "signal"])
def test_conditions_are_turned_as_the_points_are(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = np.random.default_rng(0)
    x = source.integers(0, 256, size=(20, *shape), dtype=np.uint8)
    # Square arrays with as many channels as pixels fit in every order, so the order of the points decides.
    c = np.repeat(x[..., :1], shape[0], axis=-1) + np.arange(shape[0], dtype=np.float32)
    np.savez(tmp_path / "data.npz", x=x, c=c)
    data = File(0, str(tmp_path / "data.npz"), layout="channels_last")
    assert data.c is not None and data.c.shape[1:] == (shape[0], *shape[:-1])
    # Channel k of a condition is the first channel of its point plus k.
    offsets = torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(data.c, data.x[:, :1].double() + offsets, rtol=0, atol=0)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> sdegen.Run:
    """Returns a run on a = b + 3 [colour is red] + noise of 0.3."""
    folder, source = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    red, b = source.integers(0, 2, 2000), source.normal(size=2000)
    a = b + 3 * red + 0.3 * source.normal(size=2000)
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "colour"), *zip(a, b, np.array(["blue", "red"])[red], strict=True)])
    data = ("dataset=file", f"dataset.path={folder / 'data.csv'}", "dataset.labels=colour", "dataset.condition=[b]")
    network = ("network.hidden=[64,64]", "network.label_dropout=0.2", "network.condition_dropout=0.2")
    return sdegen.train(*data, *network, *QUICK, folder=folder / "run", steps=600)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_each_row_of_a_file_has_its_number_and_its_label(table: sdegen.Run, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", "colour,b\nred,0.5\nblue,-1\n")
    samples = table.sample(1000, condition=rows)
    torch.testing.assert_close(samples.mean(1).flatten(), torch.tensor([3.5, -1.0]).double(), rtol=0, atol=0.15)
    torch.testing.assert_close(samples[0, :9], table.sample(9, condition=0.5, label="red"), rtol=0, atol=1e-4)
    x = torch.tensor([[3.4], [-1.2]])
    one_by_one = [
        table.given(b, label=label).log_prob(point)
        for b, label, point in zip((0.5, -1), ("red", "blue"), x, strict=True)
    ]
    torch.testing.assert_close(table.log_prob(x, condition=rows), torch.stack(one_by_one), rtol=1e-4, atol=1e-4)


def test_guidance_by_a_label_and_a_number_moves_away_from_the_mean(table: sdegen.Run) -> None:
    """For Gaussians p(x) and p(x|y), the guided score with scale 2 has a larger shift and a smaller deviation."""
    plain = table.guided("classifier_free", condition=[0.5], label="red", scale=1.0).sample(500)
    strong = table.guided("classifier_free", condition=[0.5], label="red", scale=2.0).sample(500)
    torch.testing.assert_close(plain, table.sample(500, condition=[0.5], label="red"), rtol=0, atol=1e-5)
    assert strong.mean() > plain.mean() + 0.02 and strong.std() < plain.std()


def test_exported_scores_take_the_class_before_the_numbers(table: sdegen.Run, tmp_path: Path) -> None:
    path = table.export(tmp_path / "score.pt2")
    extra = {"sdegen.json": ""}
    exported = torch.export.load(path, extra_files=extra).module()
    x, t, nan = torch.randn(3, 1), torch.full((3,), 0.3), float("nan")
    found = exported(x, t, torch.tensor([[1.0, 0.5], [0.0, -1.0], [-1.0, nan]]))
    exact = [table.given(0.5, label="red"), table.given(-1.0, label="blue"), table]
    for i, run in enumerate(exact):
        torch.testing.assert_close(found[i : i + 1].double(), run.score(x[i : i + 1], 0.3), rtol=1e-4, atol=1e-4)
    assert json.loads(extra["sdegen.json"])["condition"]["names"] == ["b"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda run, rows: run.sample(2, condition=rows, label="red"),
            "label=red: the rows of condition= have the lab",
        ),
        (
            lambda run, rows: run.sample(2, label="red"),
            "condition: .* give condition= too, or train .* above network.l",
        ),
        (lambda run, rows: run.sample(2, condition=0.5), "label: the network .* class of each point: give label= too"),
        (lambda run, rows: run.given(rows), "condition: has 2 rows: give one condition"),
        (lambda run, rows: run.given("data"), "condition: has a row for each sample: give one condition"),
        (lambda run, rows: run.log_prob([[0.5]], condition="data"), r"log_prob\(\) needs the condition of each point"),
        (
            lambda run, rows: run.given(0.5, label="red").evaluate(count=20),
            "evaluate: the exact distribution given a c",
        ),
        (lambda run, rows: run.sample(2, condition=write(rows, "b\n"), label="red"), "rows.csv: holds no line of numb"),
        (lambda run, rows: run.sample(2, condition=write(rows, "b\nhot\n"), label="red"), "'hot', which is not a numb"),
        (lambda run, rows: run.sample(2, condition=write(rows, "z\n1\n"), label="red"), "has the columns z: give b"),
        (lambda run, rows: run.sample(2, condition=write(rows, "b,colour\n1,green\n")), "label=green is no class"),
    ],
)
def test_conditions_that_contradict_or_lack_a_part_are_refused(
    table: sdegen.Run,
    tmp_path: Path,
    call: Callable[[sdegen.Run, Path], object],
    words: str,
) -> None:
    with pytest.raises(UserError, match=words):
        call(table, write(tmp_path / "rows.csv", "colour,b\nred,0.5\nblue,-1\n"))


X = np.random.default_rng(0).normal(size=(100, 2))


def test_columns_of_a_data_frame_of_conditions_are_matched_by_name(tmp_path: Path) -> None:
    """The same conditions in another order of the columns give the same samples and densities."""
    pandas = pytest.importorskip("pandas")
    c = pandas.DataFrame({"warm": X[:, 0] + 1, "cold": 100 * X[:, 1]})
    run = sdegen.fit(X, None, "network.hidden=[8]", *QUICK, c=c, folder=tmp_path / "run", steps=1)
    assert run.names.conditions == ("warm", "cold")
    turned, typed = c[["cold", "warm"]][:4], c[:4].to_numpy()
    torch.testing.assert_close(run.sample(2, condition=turned), run.sample(2, condition=typed), rtol=0, atol=0)
    found, expected = (run.log_prob(X[:4], condition=own) for own in (turned, typed))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(UserError, match="^c: column x has the name of another column or array: rename it$"):
        sdegen.fit(X, c=c.rename(columns={"warm": "x"}), folder=tmp_path / "b", steps=1)


@pytest.mark.parametrize(
    ("c", "words"),
    [
        (
            np.where(np.arange(100) == 41, np.nan, X[:, 0]),
            "^x: condition: 1 of 100 rows of c .* first is number 42: fill",
        ),
        (X[:50], r"the array c is float64 of shape \(50, 2\): give numbers, with a row for each of 100 points"),
        (["warm"] * 100, "^c: holds text, not real numbers"),
        (X[:, :, None, None], r"condition: has the shape \(2, 1, 1\), and points have \(2,\): give numbers"),
    ],
)
def test_arrays_that_are_no_conditions_are_refused(c: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        sdegen.fit(X, c=c, folder=tmp_path / "run", steps=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["dataset.condition=[colour]"], "'red' is not a number: use it as the label with dataset.labels=colour"),
        (["dataset.condition=[b]", "dataset.columns=[a,b]"], "b is named twice in dataset.columns, labels, condition"),
        (["dataset.condition=[bb]", "dataset.drop=[colour]"], "dataset.condition: the file has no column bb: did you"),
    ],
)
def test_columns_that_are_no_conditions_are_refused(options: list[str], words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "a,b,colour\n" + "".join(f"{i},{i % 7},red\n" for i in range(30)))
    with pytest.raises(UserError, match=words):
        sdegen.train("dataset=file", f"dataset.path={path}", *options, folder=tmp_path / "run", steps=1)


def test_a_constant_condition_and_a_slower_gradient_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    wide = np.random.default_rng(1).normal(size=(100, 129))
    wide[:, 4] = 2
    run = sdegen.fit(X, None, "network.hidden=[8]", *QUICK, c=wide, folder=tmp_path / "run", steps=1)
    assert "condition y5 is the same in all rows" in caplog.text
    assert "autograd computes the gradient: the faster trainer.gradient=written needs a condition of at" in caplog.text
    assert run.sample(3, condition=wide[:2]).shape == (2, 3, 2)
    with pytest.raises(UserError, match="leave out condition=, or train a run with dataset.condition="):
        sdegen.fit(X, None, "network.hidden=[8]", *QUICK, folder=tmp_path / "b", steps=1).sample(3, condition=1)
