"""Names of columns and labels of the user's data: in the log, in the folder of a run, in samples, and as ``label=``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run as shell

import sdegen
from sdegen.config.compose import composed
from sdegen.datasets import Dataset, Mixture
from sdegen.datasets.file import read
from sdegen.datasets.summary import summary
from sdegen.datasets.table import Choice
from sdegen.runs import results, session

TINY = ("trainer.epochs=null", "trainer.steps=60", "trainer.threads=1", "trainer.preview_every=0", "figures=false")
SMALL = (*TINY, "count=5", "sampler.steps=20", "network.hidden=[16]")
CENTRES = {"rose": (100.0, -5.0), "lily, white": (140.0, 5.0), "7": (60.0, 0.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a table of three flowers with two measures each, and trains a score and a classifier on the table."""
    folder, source = tmp_path_factory.mktemp("flowers"), np.random.default_rng(0)
    with (folder / "flowers.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["", "petal, in mm", "kind", 'the "slope"'])
        for i in range(90):
            kind = [*CENTRES][i % 3]
            x = source.normal(CENTRES[kind], (4, 1)).tolist()
            writer.writerow([i, str(x[0]).replace(".", ","), kind, str(x[1]).replace(".", ",")])
    data = ("dataset=file", f"dataset.path={folder / 'flowers.csv'}", "dataset.labels=kind", "dataset.drop=[1]")
    result = shell("train", *data, *SMALL, "hydra.run.dir=score", "trainer.steps=1000", cwd=folder)
    assert result.returncode == 0, result.stderr
    classifier = ("network=classifier_mlp", "objective=classification", "trainer.steps=400")
    session.train(composed("train", [*data, *SMALL, *classifier]), folder / "classifier")
    return folder


def test_the_log_and_the_folder_say_what_was_read(folder: Path) -> None:
    log, found = (folder / "score" / "train.log").read_text(), json.loads((folder / "score" / "data.json").read_text())
    values = read(folder / "flowers.csv", choice=Choice(labels="kind", drop=(1,))).x.numpy()
    for i, (name, column) in enumerate(zip(("petal, in mm", 'the "slope"'), found["columns"], strict=True)):
        assert column["name"] == name
        assert column["lowest"] == values[:, i].min() and column["highest"] == values[:, i].max()
        assert column["mean"] == pytest.approx(values[:, i].mean())
        assert f"{name:12}{values[:, i].min():>12.4g}{values[:, i].mean():>12.4g}{values[:, i].max():>12.4g}" in log
    assert (found["rows"], found["held_out"]) == (90, 18)
    assert found["classes"] == {"7": 30, "lily, white": 30, "rose": 30}
    for sentence in (
        "90 rows of 2 columns: 72 for training, 18 held out for the measures",
        "7 (30), lily, white (30), rose (30)",
        "semicolons separate the columns",
        "the decimal sign is a comma",
        "column kind has the labels",
        "left out column 1, as the options say",
    ):
        assert log.count(sentence) == 1
        assert any(sentence in line for line in found["text"])


@pytest.mark.parametrize(("label", "name"), [("rose", "rose"), ("LILY, white", "lily, white"), (7, "7"), ("7.0", "7")])
def test_a_label_of_the_data_steers_to_its_points(folder: Path, label: str | int, name: str) -> None:
    """More than half of the samples are of the flower; a third would be without the label, and fewer with another."""
    run = sdegen.load(folder / "score").using(steps=100)
    samples = run.guided("classifier", run=folder / "classifier", label=label, scale=2.0).sample(200)
    scaled = (samples[:, None] - torch.tensor([*CENTRES.values()])) / torch.tensor([4.0, 1.0])
    nearest = scaled.square().sum(2).argmin(1)
    assert float((nearest == [*CENTRES].index(name)).double().mean()) > 0.5


def test_a_wrong_label_is_refused_with_the_nearest(folder: Path) -> None:
    run = sdegen.load(folder / "score")
    for label, words in (
        ("rosa", "label=rosa is no class of the data: did you mean rose?"),
        (8, "label=8 is no class of the data: choose from 7, lily, white, rose"),
        ("all", "label=all: must be one class of the data: call guided"),
    ):
        with pytest.raises(sdegen.UserError) as refused:
            run.guided("classifier", run=folder / "classifier", label=label)
        assert str(refused.value).startswith(words)


def test_samples_have_the_names_without_the_data_and_are_read_again(folder: Path) -> None:
    """The labels on the command line are words; the table is away while the samples are drawn."""
    (folder / "flowers.csv").rename(folder / "away.csv")
    steered = ("guidance=classifier", f"guidance.run={folder / 'classifier'}", "count=3", "figures=false")
    try:
        for label, kinds in (("rose", ["rose"]), ("all", ["7", "lily, white", "rose"]), ("7", ["7"])):
            result = shell("sample", f"run={folder / 'score'}", *steered, f"label={label}", cwd=folder)
            assert result.returncode == 0, result.stderr
            written = folder / result.stdout.splitlines()[-1].removeprefix("results in ")
            with (written / "samples.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            assert list(rows[0]) == ["petal, in mm", 'the "slope"', "label"]
            assert [row["label"] for row in rows] == [kind for kind in kinds for _ in range(3)]
            stored = np.load(written / "samples.npz")
            assert stored["names"].tolist() == ["petal, in mm", 'the "slope"']
            assert stored["classes"][stored["y"]].tolist() == [row["label"] for row in rows]
            for name in ("samples.csv", "samples.npz"):
                again = read(written / name, choice=Choice(labels="label" if name == "samples.csv" else None))
                assert np.array_equal(again.x, stored["x"])
                assert again.y is not None
                assert [again.description.label(i) for i in again.y.tolist()] == [row["label"] for row in rows]
    finally:
        (folder / "away.csv").rename(folder / "flowers.csv")


def test_samples_have_the_decimal_sign_and_the_separator_of_the_data(folder: Path) -> None:
    (written,) = (folder / "score" / "samples").glob("0001-*")
    lines = (written / "samples.csv").read_text().splitlines()
    found = [[float(number.replace(",", ".")) for number in line.split(";")] for line in lines[1:]]
    assert np.array_equal(found, np.load(written / "samples.npz")["x"])
    assert "." not in "".join(lines[1:]) and np.array_equal(read(written / "samples.csv").x, found)


def test_a_column_of_the_name_label_stays_apart(tmp_path: Path) -> None:
    names = sdegen.datasets.Description(("label", "b"), ("u", "v"))
    x = torch.tensor([[1.0, 2], [3, 4], [5, 6]], dtype=torch.float64)
    results.write_table(tmp_path / "samples.csv", names, x, torch.tensor([0, 1, 0]))
    found = read(tmp_path / "samples.csv", choice=Choice(labels=3))
    assert (found.x.tolist(), found.description.columns) == ([[1, 2], [3, 4], [5, 6]], ("label", "b"))


def test_every_data_set_has_a_summary() -> None:
    text = "\n".join(summary(Mixture(0, size=100))["text"])
    assert text == (
        "data      100 rows of 1 column, all for training\n"
        "labels    0 (40), 1 (60)\n"
        "units     of the network: each column has mean 0 and standard deviation 1"
    )
    found = summary(sdegen.datasets.Digits())
    assert (found["rows"], found["held_out"], found["shape"]) == (1797, 359, [1, 8, 8])
    assert sum(found["classes"].values()) == 1797
    assert found["text"][:2] == [
        "data      1797 images of 1 × 8 × 8: 1438 for training, 359 held out for the measures",
        "pixels    0 to 16",
    ]
    assert found["text"][-1] == "units     of the network: (x - 8) / 8"
    many = Dataset(
        torch.zeros(30, 40), torch.ones(3, 40), y=torch.arange(30), held_out_y=torch.zeros(3).long(), classes=30
    )
    lines = summary(many)["text"]
    assert "          … 40 columns in all, see data.json" in lines
    assert any(line.startswith("labels    0 (4), 1 (1), ") and line.endswith("11 (1), … 30 in all") for line in lines)


def test_booleans_of_a_data_frame_are_labels_with_names(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    source = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": source.normal(size=40), "b": source.normal(size=40), "sick": [True, False] * 20})
    options = (*SMALL, "network.label_dropout=0")
    run = sdegen.fit(frame, "dataset.labels=sick", *options, folder=tmp_path / "frame", steps=2)
    assert (run.names.columns, run.names.classes) == (("a", "b"), ("False", "True"))
    # The labels of a later frame are found by their names.
    expected = [run.given(label=label).log_prob(frame[["a", "b"]][i : i + 1]) for i, label in enumerate((True, False))]
    torch.testing.assert_close(run.log_prob(frame[:2]), torch.cat(expected), rtol=1e-4, atol=1e-4)
    # Another column of booleans is a coordinate.
    plain = sdegen.fit(frame, *SMALL, folder=tmp_path / "plain", steps=2)
    assert plain.names.columns == ("a", "b", "sick")


def test_data_frames_train_as_their_columns_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    source = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {"a": source.normal(size=40), "n": source.integers(0, 99, 40), "c": source.normal(size=40)}
    )
    frame["kind"] = pandas.Categorical(["left", "right"] * 20)
    plain = frame[["a", "n", "c"]].to_numpy()
    whole = sdegen.fit(frame, "dataset.labels=kind", *SMALL, steps=2)
    for x, y, names in (
        (frame[["a", "n", "c"]], frame["kind"], None),
        (plain, frame["kind"].tolist(), ["a", "n", "c"]),
    ):
        run = sdegen.fit(x, y, *SMALL, names=names, steps=2)
        assert run.names == whole.names == sdegen.datasets.Description(("a", "n", "c"), ("left", "right"))
        assert torch.equal(run.sample(4), whole.sample(4))
    dropped = sdegen.fit(frame, "dataset.drop=[kind,n]", *SMALL, steps=2)
    assert (dropped.names.columns, dropped.classes) == (("a", "c"), None)
    gaps = frame.assign(n=frame["n"].astype("Int64").where(frame["n"] > 10), word=[None, "b"] * 20)
    for given, words in (
        (
            (frame,),
            "x: holds the array kind beside x, with an entry for each point: use it as the label with dataset.lab",
        ),
        ((frame, "dataset.labels=kin"), "x: labels=kin: no such column or array: did you mean kind?"),
        ((gaps, "dataset.labels=kind", "dataset.drop=[word]"), "x: column n: "),
        ((gaps, "dataset.labels=word", "dataset.drop=[kind,n]"), "x: word: 20 of 40 labels are missing"),
        ((plain, [None, "b"] * 20), "y: 20 of 40 labels are missing"),
        ((frame[["kind"]],), "x: no column of kind holds numbers"),
        ((frame[["a", "a"]],), "x: two columns are named 'a'"),
    ):
        with pytest.raises(sdegen.UserError) as refused:
            sdegen.fit(*given, *SMALL, steps=2)
        assert str(refused.value).startswith(words)
