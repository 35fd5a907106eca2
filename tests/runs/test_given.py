"""Tail shares are conformal p-values; a user's points are matched with the columns of a run by name, else by order."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.metrics.typicality import tail_shares
from sdegen.runs import session
from sdegen.runs.evaluation import Evaluation
from sdegen.runs.given import given
from sdegen.runs.run import Run, load

SHORT = ["trainer.steps=2", "trainer.preview_every=0", "figures=false", "sampler.steps=2", "count=20"]


def evaluation(run: Run, points: str | None, **changes: float) -> Evaluation:
    options = {"count": 100, "seed": 0, "batch_size": 1000, "probes": 0, "rtol": 1e-3, "atol": 1e-3}
    return Evaluation(run, points=points, **{**options, **changes})  # type: ignore[arg-type]


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a run with the exact score of N((5, -3), 4 I)."""
    folder = tmp_path_factory.mktemp("gaussian")
    line = [
        "dataset=gaussian_mixture",
        "dataset.means=[[5,-3]]",
        "dataset.variances=[4]",
        "dataset.weights=[1]",
        "network=oracle",
        *SHORT,
    ]
    session.train(composed("train", line), folder)
    return load(folder, precision="float64")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a run on the columns b and a of a table; the column id was dropped, and kind has the labels."""
    folder = tmp_path_factory.mktemp("table")
    source = np.random.default_rng(0)
    rows = ["id,a,b,kind", *(f"{i},{100 + x:.3f},{y:.3f},{'ox' if i % 3 else 'cow'}" for i, (x, y) in
                             enumerate(source.normal(size=(60, 2))))]  # fmt: skip
    (folder / "train.csv").write_text("\n".join(rows))
    line = ["dataset=file", f"dataset.path={folder / 'train.csv'}", "dataset.columns=[b,a]", "dataset.labels=kind"]
    session.train(composed("train", [*line, "dataset.drop=[id]", "network.hidden=[8]", *SHORT]), folder / "run")
    return load(folder / "run")


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_each_rank_is_taken_once_when_each_point_is_compared_with_the_others(n: int) -> None:
    """The densities may have any distribution. With equal densities, the shares only become larger."""
    values = torch.from_numpy(np.random.default_rng(n).standard_cauchy(n + 1))
    shares = [float(tail_shares(values[i, None], values[torch.arange(n + 1) != i])) for i in range(n + 1)]
    assert sorted(shares) == pytest.approx([(k + 1) / (n + 1) for k in range(n + 1)])
    tied = values.round()
    tied[0] = -math.inf
    for i, share in itertools.product(range(n + 1), (0.05, 0.5)):
        shares[i] = float(tail_shares(tied[i, None], tied[torch.arange(n + 1) != i]))
        assert sum(own <= share for own in shares[: i + 1]) <= share * (n + 1)


def test_tail_share_of_a_gaussian_is_the_mass_outside_of_the_circle_through_the_point(gaussian: Run) -> None:
    radius = torch.tensor([0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 9.0], dtype=torch.float64)
    angle = torch.arange(7.0, dtype=torch.float64)
    x = torch.tensor([5.0, -3.0]) + 2 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    log_density, share = gaussian.typicality(x, count=2000, seed=3)
    exact = torch.exp(-(radius**2) / 2)
    torch.testing.assert_close(log_density, exact.log() - math.log(2 * math.pi * 4), rtol=1e-4, atol=1e-3)
    assert ((share - exact).abs() <= 3 * (exact * (1 - exact) / 2000).sqrt() + 1 / 2001).all()
    assert float(share[-1]) == pytest.approx(1 / 2001)
    single = gaussian.typicality(x[3], count=2000, seed=3)
    assert single.tail_share.ndim == 0 and float(single.tail_share) == float(share[3])


def test_tail_shares_of_fresh_points_are_uniform_and_of_other_points_are_not(gaussian: Run) -> None:
    x = torch.tensor([5.0, -3.0]) + 2 * torch.from_numpy(np.random.default_rng(5).normal(size=(800, 2)))
    for points, uniform in ((x, True), (x + 1, False)):
        share = gaussian.typicality(points, count=1500).tail_share.sort().values
        off = (share - (torch.arange(800) + 0.5) / 800).abs().max()
        # The 1 % quantile of the Kolmogorov–Smirnov statistic of two samples.
        assert bool(off < 1.63 * (1 / 800 + 1 / 1500) ** 0.5) is uniform


def test_points_of_a_file_return_with_their_own_columns_densities_and_tail_shares(
    gaussian: Run, tmp_path: Path
) -> None:
    (tmp_path / "new.csv").write_text("who;x2;x1\nnear;-3;5\nfar;-3,0;17\nodd;1;5,25\n")
    written = evaluation(gaussian, str(tmp_path / "new.csv"), rtol=1e-5, atol=1e-5).write("likelihood")
    assert written.folder.name == "0001-points"
    # A spreadsheet that reads decimal commas and semicolons reads the result, too.
    text = (written.folder / "points.csv").read_text()
    rows = [line.replace(",", ".").split(";") for line in text.splitlines()]
    assert "." not in text and rows[0] == ["who", "x2", "x1", "log_density", "tail_share"]
    assert [row[:3] for row in rows[1:]] == [["near", "-3", "5"], ["far", "-3", "17"], ["odd", "1", "5.25"]]
    z = np.array([0, 6, math.hypot(2, 0.125)])
    np.testing.assert_allclose([float(row[3]) for row in rows[1:]], -(z**2) / 2 - math.log(8 * math.pi), atol=1e-3)
    assert [float(row[4]) for row in rows[1:3]] == pytest.approx([1.0, 1 / 101])
    metrics = json.loads((written.folder / "metrics.json").read_text())
    assert metrics["unusual"] == {
        "value": pytest.approx(1 / 3),
        "floor": pytest.approx(1 / 101),
        "train": None,
        "floor_from": "expected of points like the fresh points",
    }
    # A table that was evaluated before keeps its columns.
    again = evaluation(gaussian, str(written.folder / "points.csv")).write("likelihood").folder / "points.csv"
    assert again.read_text().startswith("who;x2;x1;log_density;tail_share;log_density_2;tail_share_2\nnear;-3;5;")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("named.csv", "kind,a,note,b\nox,101,big,1\ncow,99,,-2\n"),
        ("unnamed.csv", "1,101\n-2,99\n"),
        ("tabs.tsv", "b\ta\n1\t101\n-2\t99\n"),
    ],
)
def test_columns_are_matched_by_name_or_by_order(table: Run, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = given(table, "points", tmp_path / name)
    assert found.x.tolist() == [[1, 101], [-2, 99]]
    if name == "named.csv":
        # Classes are numbered in the order of their names.
        assert found.y is not None and found.y.tolist() == [1, 0]
        assert found.columns["note"] == ["big", ""]


def test_a_column_y_beside_x_is_a_coordinate_and_else_the_label(gaussian: Run, tmp_path: Path) -> None:
    for text, x in (("x,y,label\n5,-3,0\n", [[5, -3]]), ("u,y,v\n5,0,-3\n", [[5, -3]])):
        (tmp_path / "new.csv").write_text(text)
        assert given(gaussian, "points", tmp_path / "new.csv").x.tolist() == x
    (tmp_path / "new.csv").write_text("x,y,weight\n5,-3,1\n")
    with pytest.raises(UserError, match="has 3 columns, but the run was trained on 2"):
        given(gaussian, "points", tmp_path / "new.csv")


def test_c2st_of_given_points_is_that_of_the_points_and_not_of_the_runs_samples(gaussian: Run, tmp_path: Path) -> None:
    x = np.array([5, -3]) + 2 * np.random.default_rng(8).normal(size=(600, 2))
    for name, points in (("far", x + 40), ("same", x)):
        np.save(tmp_path / f"{name}.npy", points)
    found = {
        name: evaluation(gaussian, str(tmp_path / f"{name}.npy")).write("c2st").metrics["c2st"]["value"]
        for name in ("far", "same")
    }
    assert found == {"far": 1.0, "same": pytest.approx(0.5, abs=0.04)}
    with pytest.raises(UserError, match="metrics=calibration takes no points"):
        evaluation(gaussian, str(tmp_path / "far.npy")).check("calibration")


def test_arrays_and_data_frames_are_matched_like_files(table: Run, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [101.0, 99.0], "kind": ["ox", "cow"], "b": [1, -2], "id": [7, 8]})
    frame.to_parquet(tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", x=[[101.0, 1.0], [99.0, -2.0]], names=["a", "b"], kind=["ox", "cow"])
    np.save(tmp_path / "x.npy", [[1.0, 101.0], [-2.0, 99.0]])
    sources = (frame, tmp_path / "x.parquet", str(tmp_path / "x.npz"), tmp_path / "x.npy")
    for source in sources:
        found = given(table, "x", source)
        assert found.x.tolist() == [[1, 101], [-2, 99]]
        if source is not sources[-1]:
            assert found.y is not None and found.y.tolist() == [1, 0]
    there = table.log_prob([[1.0, 101.0], [-2.0, 99.0]])
    for source in (frame, str(tmp_path / "x.parquet")):
        torch.testing.assert_close(table.log_prob(source), there, rtol=0, atol=0)
        assert table.typicality(source).tail_share.shape == (2,)


def trained(folder: Path, *line: str) -> Run:
    """Trains a run for two steps."""
    session.train(composed("train", [*line, "network.hidden=[8]", *SHORT]), folder)
    return load(folder)


def test_labels_and_codes_are_found_where_the_runs_own_were(tmp_path: Path) -> None:
    """The column of labels has no name but its number, and 01 is another class than 1."""
    codes = ["01", "1", "2"]
    (tmp_path / "x.csv").write_text("".join(f"{i % 7}.5,{codes[i % 3]},{i % 5}.25\n" for i in range(60)))
    run = trained(tmp_path / "run", "dataset=file", f"dataset.path={tmp_path / 'x.csv'}", "dataset.labels=2")
    assert run.names.classes == ("01", "1", "2")
    (tmp_path / "new.csv").write_text("3.5,1,1.25\n2.5,2,0.25\n1.5,01,2.25\n")
    found = given(run, "points", tmp_path / "new.csv")
    assert found.x.tolist() == [[3.5, 1.25], [2.5, 0.25], [1.5, 2.25]]
    assert found.y is not None and found.y.tolist() == [1, 2, 0]
    assert found.columns["x2"] == ["1", "2", "01"]
    # The same points without labels, and with labels that have only one spelling.
    (tmp_path / "new.csv").write_text("3.5,1.25\n")
    assert given(run, "points", tmp_path / "new.csv").y is None
    (tmp_path / "new.csv").write_text("3.5,1,1.25\n2.5,2,0.25\n")
    found = given(run, "points", tmp_path / "new.csv")
    assert found.y is not None and found.y.tolist() == [1, 2]


def test_the_number_of_the_column_of_labels_is_that_of_the_runs_own_file(tmp_path: Path) -> None:
    rows = "".join(f"{i % 7}.5,{i % 5}.25,{'uv'[i % 2]}\n" for i in range(60))
    (tmp_path / "x.csv").write_text(f"a,b,kind\n{rows}")
    run = trained(tmp_path / "run", "dataset=file", f"dataset.path={tmp_path / 'x.csv'}", "dataset.labels=3")
    (tmp_path / "new.csv").write_text("b,kind,note,a\n1,v,big,2\n3,u,small,4\n")
    found = given(run, "points", tmp_path / "new.csv")
    assert found.x.tolist() == [[2, 1], [4, 3]]
    assert found.y is not None and found.y.tolist() == [1, 0]


def test_the_decimal_sign_of_the_runs_own_file_settles_an_ambiguous_one(tmp_path: Path) -> None:
    rows = "".join(f"{i % 7},5;{i % 5},25\n" for i in range(60))
    (tmp_path / "x.csv").write_text(rows)
    run = trained(tmp_path / "run", "dataset=file", f"dataset.path={tmp_path / 'x.csv'}")
    (tmp_path / "new.csv").write_text("1,234;2\n")
    assert given(run, "points", tmp_path / "new.csv").x.tolist() == [[1.234, 2]]
    (tmp_path / "new.csv").write_text("1.234;2\n")
    assert given(run, "points", tmp_path / "new.csv").x.tolist() == [[1234, 2]]
    (tmp_path / "new.csv").write_text("1.5;2\n")
    assert given(run, "points", tmp_path / "new.csv").x.tolist() == [[1.5, 2]]


def test_the_layout_of_the_run_is_the_layout_of_its_points(tmp_path: Path) -> None:
    """Cubes fit in every order, and only the run's option says which axis has the channels."""
    values = np.random.default_rng(0).integers(0, 200, size=(40, 3, 3, 3)).astype(np.uint8)
    np.save(tmp_path / "x.npy", values)
    for layout, x in (("channels_last", np.moveaxis(values, -1, 1)), ("channels_first", values)):
        line = ("dataset=file", f"dataset.path={tmp_path / 'x.npy'}", f"dataset.layout={layout}")
        run = trained(tmp_path / layout, *line)
        np.testing.assert_array_equal(given(run, "points", tmp_path / "x.npy").x.numpy(), x)


def test_arrays_beside_the_points_need_no_option(table: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=[[101.0, 1.0], [99.0, -2.0]], names=["a", "b"], nfe=[7, 8])
    found = given(table, "points", tmp_path / "x.npz")
    assert (found.x.tolist(), found.y) == ([[1, 101], [-2, 99]], None)
    np.savez(tmp_path / "x.npz", x=[[1.0, 101.0], [-2.0, 99.0]], y=[2, 1], classes=["cow", "ox"])
    found = given(table, "points", tmp_path / "x.npz")
    assert found.y is not None and found.y.tolist() == [1, 0]


@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_pictures_of_a_folder_are_read_as_the_runs_own(tmp_path: Path, colour: str) -> None:
    """The run's pictures come back unchanged, with their classes; a larger picture is reduced to the run's size."""
    from PIL import Image

    source = np.random.default_rng(0)
    for i in range(24):
        own = tmp_path / "own" / ("cat" if i % 2 else "dog")
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.integers(0, 256, (2, 4, 3)).astype(np.uint8)).save(own / f"{i:02}.png")
    line = ("dataset=folder", f"dataset.path={tmp_path / 'own'}", f"dataset.colour={colour}")
    run = trained(tmp_path / "run", *line)
    found = given(run, "points", tmp_path / "own")
    assert run.dataset.held_out is not None and run.dataset.y is not None and found.y is not None
    everything = torch.cat([run.dataset.x, run.dataset.held_out]).double()
    assert sorted(found.x.flatten(1).tolist()) == sorted(everything.flatten(1).tolist())
    assert found.columns["file"][:2] == ["cat/01.png", "cat/03.png"]
    assert found.y.tolist() == [0] * 12 + [1] * 12
    (tmp_path / "new").mkdir()
    Image.fromarray(np.full((40, 80, 3), 77, np.uint8)).save(tmp_path / "new" / "plain.png")
    assert given(run, "points", str(tmp_path / "new")).x.unique().tolist() == [77]
    written = evaluation(run, str(tmp_path / "new"), rtol=0.1, atol=0.1, probes=1, count=3).write("likelihood")
    assert [row[0] for row in read(written.folder / "points.csv")] == ["file", "plain.png"]
    Image.fromarray(np.full((2, 4), 7000, np.uint16)).save(tmp_path / "new" / "plain.png")
    with pytest.raises(UserError, match="has pictures of 16 bits per pixel, but the run's images have 256 levels"):
        given(run, "points", tmp_path / "new")
    (tmp_path / "new" / "list.txt").write_text("plain.png")
    with pytest.raises(UserError, match=f"^points={tmp_path}/new: {tmp_path}/new/list.txt: is not a PNG"):
        given(run, "points", tmp_path / "new")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "a,c\n1,2\n", "has no column b, which the run was trained on: rename one of a, c"),
        ("x.csv", "1,2,3\n4,5,6\n", "has 3 columns, but the run was trained on 2: give 2 columns"),
        ("x.csv", "a,b\n1,2\n3,\n", "line 3, column b: has no finite number: correct or remove the row"),
        ("x.csv", "a,b\n1,2\n3,many\n", "line 3, column b: has 'many', which is not a number: correct or remove"),
        ("x.csv", "a,b,kind\n1,2,pig\n", "label=pig is no class of the data"),
        ("x.csv", "", "holds no line of numbers"),
        ("x.xlsx", "", "must end in .csv"),
        (
            "x.csv",
            "a,b,kind\n1,2,ox\n1,2,\n",
            "column kind: 1 of 2 values are missing, NaN or infinity, the first in line 3",
        ),
        ("", "", "is a folder, but the run's points have the shape (2,): give a file"),
        ("none.csv", None, "no such file in /"),
    ],
)
def test_unsuitable_files_are_refused_in_one_line(
    table: Run, tmp_path: Path, name: str, text: str | None, words: str
) -> None:
    path = tmp_path / name
    if name and text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        evaluation(table, str(path))
    assert str(error.value).startswith(f"points={path}: ") and words in str(error.value)
    assert "\n" not in str(error.value)


def test_samples_of_any_program_are_measured_as_our_own(table: Run, tmp_path: Path) -> None:
    samples = table.dataset.x[:40] + 0.01
    own = table.evaluate(samples)
    rows = ["a,b", *(f"{float(a)!r},{float(b)!r}" for b, a in samples)]
    (tmp_path / "theirs.csv").write_text("\n".join(rows))
    written = evaluation(table, str(tmp_path / "theirs.csv")).write("samples")
    assert written.metrics == {name: own[name] for name in written.metrics}
    assert {"sliced_w1", "energy"} <= set(written.metrics)
    far = tmp_path / "far.csv"
    far.write_text("\n".join(["a,b", *(f"{float(a) + 2},{float(b)}" for b, a in samples)]))
    worse = evaluation(table, str(far)).write("samples").metrics
    assert worse["sliced_w1"]["value"] > 3 * written.metrics["sliced_w1"]["value"]


def test_wrong_shares_of_the_classes_of_a_file_are_measured(table: Run, tmp_path: Path) -> None:
    """A third of the data are cows. The distances are those within each class, which do not see the shares."""
    rows = [f"0,100,{'cow' if i < 24 else 'ox'}\n" for i in range(30)]
    (tmp_path / "x.csv").write_text("b,a,kind\n" + "".join(rows))
    found = evaluation(table, str(tmp_path / "x.csv")).write("samples").metrics["class_balance"]
    assert found["value"] == pytest.approx(24 / 30 - 1 / 3) and found["floor"] < found["limit"] < 0.3
    assert table.evaluate(str(tmp_path / "x.csv"))["class_balance"] == found
    assert "class_balance" not in table.evaluate(table.dataset.x)


def test_images_of_a_file_have_densities_and_any_order_of_axes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 5, size=(60, 1, 2, 2))
    np.save(tmp_path / "x.npy", values)
    line = ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "dataset.levels=5", "network.hidden=[8]", *SHORT]
    run = session.train(composed("train", line), tmp_path / "run")
    shares = []
    for name, array in (("new", values[:6]), ("last", np.moveaxis(values[:6], 1, -1)), ("grey", values[:6, 0])):
        np.save(tmp_path / f"{name}.npy", array)
        folder = evaluation(run, str(tmp_path / f"{name}.npy")).write("likelihood").folder
        rows = read(folder / "points.csv")
        assert [row[0] for row in rows] == ["row", *map(str, range(1, 7))]
        shares.append([row[1:] for row in rows])
    assert shares[0] == shares[1] == shares[2]
    (tmp_path / "x.csv").write_text("1,2,3,4\n")
    with pytest.raises(UserError, match=r"has a table, but the run's points have the shape \(1, 2, 2\)"):
        given(run, "points", tmp_path / "x.csv")


def test_data_without_a_density_are_refused_alike_from_python_and_from_the_command_line(tmp_path: Path) -> None:
    line = ["dataset=smile", "network=oracle", "dataset.size=48", *SHORT]
    run = session.train(composed("train", line), tmp_path / "run")
    (tmp_path / "x.csv").write_text("0,1\n1,2\n")
    with pytest.raises(UserError) as by_command:
        evaluation(run, str(tmp_path / "x.csv")).check("likelihood")
    with pytest.raises(UserError) as by_python:
        run.typicality(tmp_path / "x.csv")
    assert "on a curve or at points and have no density" in str(by_python.value)
    assert str(by_python.value) == str(by_command.value)
    evaluation(run, str(tmp_path / "x.csv")).check("samples")
