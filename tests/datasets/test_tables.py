"""Tables: what a program wrote comes back, in any dialect; what may be read wrongly is refused with the fix."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdegen.datasets import Dataset, Description, File
from sdegen.datasets.dialect import SIGNS, Delimiter
from sdegen.datasets.file import Contents, read
from sdegen.datasets.numerals import Decimal
from sdegen.datasets.table import Choice
from sdegen.datasets.text import Options

VALUES = st.floats(allow_nan=False, allow_infinity=False, width=64)
NAMES = ("length", "largura, em cm", 'the "third"', "µ;|")
WORDS = st.text("abc, ;|\t'\"é\n", min_size=1, max_size=8).map(lambda text: f"w{text}w")
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
FINITE = ("1.5,2\n", "3,4\n", "5.25,6\n")


def write(path: Path, rows: Sequence[Sequence[str]], delimiter: str, encoding: str = "utf-8") -> Path:
    """Writes rows by Python's own writer, which quotes what needs it."""
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def read_as(path: Path, content: str | bytes, choice: Choice = Choice(), options: Options = Options()) -> Contents:  # noqa: B008
    """Writes a text file and reads it."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path, choice=choice, options=options)


def tables(least: int) -> st.SearchStrategy[list[list[float]]]:
    """Returns tables of at least ``least`` and at most four columns."""
    return st.integers(least, 4).flatmap(
        lambda d: st.lists(st.lists(VALUES, min_size=d, max_size=d), min_size=3, max_size=6)
    )


@settings(deadline=None)
@given(
    table=tables(1),
    delimiter=st.sampled_from([*SIGNS]),
    decimal=st.sampled_from(["point", "comma"]),
    encoding=ENCODINGS,
    named=st.booleans(),
)
def test_every_number_comes_back_where_the_dialect_is_given(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[list[float]],
    delimiter: Delimiter,
    decimal: Decimal,
    encoding: str,
    named: bool,
) -> None:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    names = NAMES[: len(table[0])]
    rows = [[repr(value).replace(".", "." if decimal == "point" else ",") for value in row] for row in table]
    write(path, [names, *rows] if named else rows, SIGNS[delimiter], encoding)
    found = read(path, options=Options(delimiter, decimal, named))
    assert np.array_equal(found.x, np.array(table))
    assert found.description.columns == (names if named else ())


@settings(deadline=None)
@given(
    table=tables(2),
    delimiter=st.sampled_from([*SIGNS]),
    decimal=st.sampled_from([".", ","]),
    encoding=ENCODINGS,
)
def test_the_detected_dialect_is_the_one_in_which_the_file_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[list[float]],
    delimiter: Delimiter,
    decimal: str,
    encoding: str,
) -> None:
    """A number such as 0.5 shows the decimal sign, for 0.500 cannot be 500; the names have no delimiter."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    rows = [[repr(value).replace(".", decimal) for value in row] for row in [[0.5] * len(table[0]), *table]]
    write(path, [["a", "b", "c", "d"][: len(table[0])], *rows], SIGNS[delimiter], encoding)
    assert np.array_equal(read(path).x, np.array([[0.5] * len(table[0]), *table]))


@settings(deadline=None)
@given(words=st.lists(WORDS, min_size=3, max_size=12), delimiter=st.sampled_from([";", ",", "\t", "|"]))
def test_words_with_quotes_and_line_breaks_are_labels(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], delimiter: str
) -> None:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    write(path, [["kind", "x"], *([word, str(i)] for i, word in enumerate(words))], delimiter)
    found = read(
        path, choice=Choice(labels="kind"), options=Options(next(n for n, s in SIGNS.items() if s == delimiter))
    )
    assert found.y is not None
    assert [found.description.label(i) for i in found.y.tolist()] == words
    assert list(found.description.classes) == sorted(set(words))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("index", [True, False])
def test_tables_of_pandas_come_back(tmp_path: Path, delimiter: str, decimal: str, index: bool) -> None:
    pandas = pytest.importorskip("pandas")
    values = np.random.default_rng(0).normal(size=(30, 3)) * [1, 1e6, 1e-8]
    frame = pandas.DataFrame(values, columns=["a b", "c", "d"])
    frame["kind"] = ["left, or right", 'a "word"', "ä"] * 10
    frame.to_csv(tmp_path / "table.csv", sep=delimiter, decimal=decimal, index=index)
    path, choice = tmp_path / "table.csv", Choice(labels="kind", drop=(1,) if index else ())
    if index and delimiter == " ":
        # The name of the index is empty, which spaces cannot show.
        with pytest.raises(ValueError, match="line 1 names 4 columns, but line 2 has 5 values"):
            read(path, choice=choice)
        return
    found = read(path, choice=choice)
    assert np.array_equal(found.x, values)
    assert found.description.columns == ("a b", "c", "d")
    assert found.description.classes == ('a "word"', "left, or right", "ä")
    concerns = read(path, choice=Choice(labels="kind")).description.concerns
    assert any(concern.startswith("column 1 numbers the rows") for concern in concerns) == index


def test_parquet_has_numbers_words_and_the_index_of_pandas(tmp_path: Path) -> None:
    pandas, arrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [1.5, 2.5, 3.5], "n": [1, 2, 3], "k": pandas.Categorical(["u", "v", "u"])})
    frame["f"], frame["gap"], frame["word"] = [True, False, True], [1, None, 3], ["x", "y", None]
    frame.index = pandas.Index([7, 8, 9])
    path = tmp_path / "table.parquet"
    frame.to_parquet(path)
    found = read(path, choice=Choice(labels="k", drop=("f", "gap", "word")))
    assert found.x.tolist() == [[1.5, 1], [2.5, 2], [3.5, 3]]
    assert found.description.classes == ("u", "v")
    assert "left out the index of pandas" in found.description.report
    assert read(path, choice=Choice(("a",), "f")).description.classes == ("False", "True")
    with pytest.raises(ValueError, match="column gap: 1 of 3 values are missing, NaN or infinity, the first in row 2"):
        read(path, choice=Choice(("a", "gap")))
    with pytest.raises(ValueError, match="column word: 1 of 3 values are missing"):
        read(path, choice=Choice(("a",), "word"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"path={path}: is not a readable Parquet file: "):
        read(path)
    assert arrow


@pytest.mark.parametrize(
    ("text", "x"),
    [
        ("a;b\n0,126;0,106\n0,5;7\n1;1\n", [[0.126, 0.106], [0.5, 7], [1, 1]]),
        ("0,126;0,106\n0,5;7\n1;1\n", [[0.126, 0.106], [0.5, 7], [1, 1]]),
        ("a;b\n1.234,5;2\n-1;2e3\n1;1\n", [[1234.5, 2], [-1, 2000], [1, 1]]),
        ("a;b\n1.234.567;2\n1.234;3\n1;1\n", [[1234567, 2], [1234, 3], [1, 1]]),
        ('a,b\n"1,234.5",2\n"12,345,678",3\n1,1\n', [[1234.5, 2], [12345678, 3], [1, 1]]),
        ("a;b\n1'234,5;2\n3\u202f456,0;4\n1;1\n", [[1234.5, 2], [3456, 4], [1, 1]]),
        ("a\tb\n\u22121\t2\n3\t.5\n1.\t1\n", [[-1, 2], [3, 0.5], [1, 1]]),
        ("x\n1,5\n2,25\n4\n", [[1.5], [2.25], [4]]),
        ("  1.0e+00   -2\n 30 4\n1  1\n", [[1, -2], [30, 4], [1, 1]]),
        ("# from numpy\n1 2\n3 4\n1 1\n", [[1, 2], [3, 4], [1, 1]]),
        ("sep=;\na;b\n1;2\n3;4\n1;1\n", [[1, 2], [3, 4], [1, 1]]),
        ("a,b,\n1,2,\n\n3,4,\n1,1,\n,,\n", [[1, 2], [3, 4], [1, 1]]),
        (";;\n;;\na;b;\n0,5;2;\n3;4;\n1;1;\n" + ";;\n" * 2000, [[0.5, 2], [3, 4], [1, 1]]),
        ('a\n1\n2\n3\n""\n', [[1], [2], [3]]),
        ("1.234;2\n3.456;7\n1.5;1\n", [[1.234, 2], [3.456, 7], [1.5, 1]]),
        ("1.234\t2\n3.456\t7\n1.234\t1\n", [[1.234, 2], [3.456, 7], [1.234, 1]]),
        (",0,1\n0,5,6\n1,7,8\n2,1,1\n", [[0, 5, 6], [1, 7, 8], [2, 1, 1]]),
        ('"a" , "b"\r1, 2\r3, 4\r1, 1\r'.replace('" ,', '",'), [[1, 2], [3, 4], [1, 1]]),
    ],
)
def test_the_dialect_is_detected(tmp_path: Path, text: str, x: list[list[float]]) -> None:
    assert read_as(tmp_path / "table.csv", text).x.tolist() == x


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a,b\n0,126,0,106\n0,5,0,7\n",
            "line 1 names 2 columns, but line 2 has 4 values: name each column, or, if comma",
        ),
        (
            "a,b\n0,126;0,106\n0,5;0,7\n",
            "line 1 names 1 column, but line 2 has 2 values: name each column, or set dataset.delimiter=",
        ),
        ('"a" "b"\n"1" 1.5 2\n"2" 2.5 3\n', "line 1 names 2 columns, but line 2 has 3 values: name each column"),
        ("a,b\n1,2,3\n4,5,6\n", "line 1 names 2 columns, but line 2 has 3 values: name each column"),
        ("a,b\n1,2\n3\n", "line 1 names 2 columns, but line 3 has 1 value: correct it"),
        ("1,2\n3,4,5\n", "line 1 has 2 values, but line 2 has 3 values"),
        ("a\tb\n1,234\t2\n3,456\t5\n", "1,234 may be 1.234 or 1234: set dataset.decimal=point or comma"),
        ('a,b\n"1,234",2\n"3,456",5\n', "1,234 may be 1.234 or 1234: set dataset.decimal=point or comma"),
        ("a;b\n1.234;2\n3.456;5\n", "1.234 may be 1.234 or 1234: set dataset.decimal=point or comma"),
        ("a;b\n1.5;2\n3,5;5\n", "line 2 has 1.5 and line 3 has 3,5, with different decimal signs: use one sign"),
        (
            "a,b\n1,NA\n2,3\n4,\n",
            "column b: 2 of 3 values are missing, NaN or infinity, the first in line 2: fill them",
        ),
        ("a,b\n1,2\n,\n3,4\n", "column a: 1 of 3 values are missing, NaN or infinity, the first in line 3: fill them"),
        ("a\tb\n1\t2\n\t\n3\t4\n", "column a: 1 of 3 values are missing, NaN or infinity, the first in line 3"),
        ('a\n1\n""\n3\n', "column a: 1 of 3 values are missing, NaN or infinity, the first in line 3: fill them"),
        (
            "a,b\n1,-\n2,3\n4,inf\n",
            "column b: 2 of 3 values are missing, NaN or infinity, the first in line 2: fill them",
        ),
        (
            "a,b\n1,x\n2,y\n",
            "line 2, column b: 'x' is not a number: use it as the label with dataset.labels=b, or leave",
        ),
        ("a,b\n1,2\n2,y\n3,4\n5,6\n", "line 3, column b: 'y' is not a number: correct it, or leave the column out"),
        (
            "a,b c\n5,6\n1,1_0\n3,4\n",
            "line 3, column b c: '1_0' is not a number: correct it, or leave the column out with",
        ),
        (
            "a;b\n1,50 €;2\n2,50 €;3\n",
            "line 2, column a: '1,50 €' is not a number: write 1,50, or leave the column out",
        ),
        ("a,b\n12%,2\n13%,3\n", "line 2, column a: '12%' is not a number: write 12, or leave the column out"),
        ("a;b\n1 234,5;2\n1,5;3\n", "line 2, column a: '1 234,5' is not a number: write 1234,5, or leave"),
        ("a,b\n1.5,2\n(3.5),3\n4,5\n", "line 3, column a: '(3.5)' is not a number: correct it, or"),
        ("x,y\nm,s\n1,2\n3,4\n", "line 2, column x: 'm' is not a number: keep one line of names at the top and"),
        ("Measured;;\n\na;b;c\n1;2;3\n4;5;6\n7;8;9\n", "line 3, column Measured: 'a' is not a number: keep one line"),
        ("a,b\n1,2\nmissing,3\nmissing,4\n", "line 3, column a: 'missing' is not a number: correct it, or"),
        (
            "a,b\n" + "".join(f"2024-01-{i},{i}\n" for i in range(10, 32)),
            "line 2, column a: '2024-01-10' is not a number: "
            "convert it to numbers, or leave the column out with dataset.drop=[a]",
        ),
        (
            '"a" "b"\n"r1" 1.5 2\n"r2" 2.5 3\n',
            "line 1 names 2 columns, but line 2 has 3 values: name each column, also "
            "that of the row names, which R does with col.names=NA",
        ),
        ("1_0,2\n3,4\n", "the first row has numbers and '1_0': correct it, or set dataset.header=true"),
        (
            "country,2019\nFrance,1\nSpain,2\n",
            "the first row has numbers and 'country': correct it, or set dataset.header",
        ),
        ("a,b\n", "holds no line of numbers: line 1 names 2 columns, and no row follows"),
        ("a,a\n1,2\n", "two columns are named 'a': rename one"),
        ("", "holds no line of numbers: write each point as a line"),
        ('a,b\n1,"2\n3,4\n', "cannot be read: line 3: unexpected end of data: check the quotation marks"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\r", "is not a text file: save the table as text in UTF-8"),
        (b"a,b\n\x81,2\n", "is not a text file in UTF-8, UTF-16 or Windows-1252: save it in UTF-8"),
    ],
)
def test_a_table_that_may_be_read_wrongly_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_as(tmp_path / "table.csv", content)
    assert str(refused.value).startswith(f"path={tmp_path / 'table.csv'}: {message}")
    assert "\n" not in str(refused.value)


def test_integers_that_may_be_one_number_are_mentioned_or_refused(tmp_path: Path) -> None:
    path, text = tmp_path / "table.csv", "5,1\n4,9\n3,25\n"
    found = read_as(path, text)
    assert found.x.tolist() == [[5, 1], [4, 9], [3, 25]]
    words = "line 1 (5,1) is read as two integers: if the comma is a decimal sign, set dataset.decimal=comma"
    assert found.description.concerns == (words,)
    assert read_as(path, text, options=Options(decimal="comma")).x.tolist() == [[5.1], [4.9], [3.25]]
    assert read_as(path, text, options=Options(delimiter="comma")).description.concerns == ()
    assert read_as(path, "a,b\n" + text).description.concerns == ()
    with pytest.raises(
        ValueError, match="line 2: 0,05 may be one number or two: set dataset.decimal=comma if it is one"
    ):
        read_as(path, "5,1\n0,05\n3,25\n")
    assert read_as(path, "5,1\n0,05\n3,25\n", options=Options(delimiter="comma")).x.tolist()[1] == [0, 5]


def test_a_label_without_rows_to_train_on_is_mentioned() -> None:
    x, y = np.random.default_rng(0).normal(size=(10, 2)), [0, 2] * 5
    names = Description(classes=("u", "v", "w"))
    dataset = Dataset(torch.tensor(x), y=torch.tensor(y), classes=3, description=names)
    assert dataset.concerns() == ["label v has no row to train on: add rows, or remove those of this label"]


@pytest.mark.parametrize(
    ("text", "decimal", "first"),
    [
        ("a\tb\n1,234\t2\n3,456\t5\n1\t1\n", "comma", 1.234),
        ("a\tb\n1,234\t2\n3,456\t5\n1\t1\n", "point", 1234),
        ("a;b\n1.234;2\n3.456;5\n1;1\n", "comma", 1234),
        ("a;b\n1.234;2\n3.456;5\n1;1\n", "point", 1.234),
    ],
)
def test_an_ambiguous_sign_is_settled_by_the_option(tmp_path: Path, text: str, decimal: Decimal, first: float) -> None:
    x = read_as(tmp_path / "table.csv", text, options=Options(decimal=decimal)).x
    assert float(x[0, 0]) == first


def test_a_wrong_decimal_sign_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="line 3, column a: '0,5' is not a number: set dataset.decimal=comma, or leave"
    ):
        read_as(tmp_path / "table.csv", "a;b\n1;2\n0,5;3\n1;1\n", options=Options(decimal="point"))


def test_an_encoding_other_than_utf_8_is_reported(tmp_path: Path) -> None:
    text = "ação;b\n0,5;2\n1,5;3\n1;1\n"
    for encoding, words in (
        ("latin-1", "Windows-1252"),
        ("utf-16", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
    ):
        found = read_as(tmp_path / "table.csv", text.encode(encoding)).description
        assert found.columns == ("ação", "b")
        assert any(words in sentence for sentence in found.report)
        assert "semicolons separate the columns" in found.report
        assert "the decimal sign is a comma" in found.report


def test_columns_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    path, text = tmp_path / "flowers.csv", "id,petal,species,sepal\n1,0.5,rose,2\n2,0.25,lily,3\n3,1,rose,4\n"
    found = read_as(path, text, Choice(("sepal", 2), "species"))
    assert found.x.tolist() == [[2, 0.5], [3, 0.25], [4, 1]]
    assert found.y is not None and found.y.tolist() == [1, 0, 1]
    assert (found.description.columns, found.description.classes) == (("sepal", "petal"), ("lily", "rose"))
    assert "left out column id, as the options say" in found.description.report
    assert read_as(path, text, Choice(labels="species", drop=("id",))).description.columns == ("petal", "sepal")
    plain = read_as(path, "1,0.5,8\n2,0.25,9\n3,1,8\n", Choice((2, 1), 3))
    assert (plain.x.tolist(), plain.description.columns) == ([[0.5, 1], [0.25, 2], [1, 3]], ("x2", "x1"))
    assert plain.description.classes == ("8", "9")
    for choice, message in (
        (Choice(labels="species", drop=("spal",)), "drop: the file has no column spal: did you mean sepal?"),
        (
            Choice(("petal",), "petal"),
            "columns: petal is named twice in dataset.columns, labels, condition and drop",
        ),
        (Choice(condition=("petal", "petal")), "condition: petal is named twice"),
        (Choice(condition=("petal",), drop=("petal",)), "condition: petal is named twice"),
        (Choice(labels=5), "labels: the file has no column 5: choose from id, petal, sepal, species"),
        (Choice(()), "columns: no column is left for the coordinates of the points"),
        (Choice(("petal",), drop=(1, 2, 3, 4)), "columns: petal is named twice"),
    ):
        with pytest.raises(ValueError) as refused:
            read_as(path, text, choice)
        assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("labels", "classes", "y"),
    [
        (["10", "9", "9"], ("9", "10"), [1, 0, 0]),
        (["1", "0", "1"], (), [1, 0, 1]),
        (["-1", "1", "1"], ("-1", "1"), [0, 1, 1]),
        (["2.5", "10", "2.5"], ("2.5", "10"), [0, 1, 0]),
        (["True", "False", "True"], ("False", "True"), [1, 0, 1]),
        (["1", "b", "10"], ("1", "10", "b"), [0, 2, 1]),
        (["01", "1", "01"], ("01", "1"), [0, 1, 0]),
        (["02", "10", "01"], ("01", "02", "10"), [1, 2, 0]),
        (["0.5", "0", "0.5"], ("0", "0.5"), [1, 0, 1]),
    ],
)
def test_labels_of_any_kind_are_sorted_classes(
    tmp_path: Path, labels: list[str], classes: tuple[str, ...], y: list[int]
) -> None:
    rows = "".join(f"{label},{i}\n" for i, label in enumerate(labels))
    found = read_as(tmp_path / "table.csv", f"kind,x\n{rows}", Choice(labels="kind"))
    assert found.y is not None
    assert (found.description.classes, found.y.tolist()) == (classes, y)
    words = {"b", "01"} & {*labels}
    kinds: tuple[Callable[[str], object], ...] = (str,) if words else (str, lambda text: eval(text))
    for kind in kinds:
        np.savez(tmp_path / "a.npz", x=np.arange(3.0), y=np.array([kind(label) for label in labels]))
        stored = read(tmp_path / "a.npz")
        assert stored.y is not None
        assert (stored.description.classes, stored.y.tolist()) == (classes, y)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_codes_as_labels_stay_different_in_every_file(tmp_path: Path, suffix: str) -> None:
    path, codes = tmp_path / f"a.{suffix}", np.array(["01", "1", "01"])
    if suffix == "npz":
        np.savez(path, x=np.arange(3.0), code=codes)
    else:
        pytest.importorskip("pyarrow")
        pytest.importorskip("pandas").DataFrame({"x": np.arange(3.0), "code": codes}).to_parquet(path)
    found = read(path, choice=Choice(labels="code"))
    assert found.y is not None
    assert (found.description.classes, found.y.tolist()) == (("01", "1"), [0, 1, 0])


@pytest.mark.parametrize(
    ("y", "classes", "labels"),
    [
        ([0, 1, 1], ["u", "v"], "uvv"),
        ([1, 2, 2], ["u", "v"], "uvv"),
        ([1.0, 3.0, 2.0], ["u", "v", "w"], "uwv"),
        ([1, 2, 1], ["u", "v", "w"], "vwv"),
        ([True, False, True], ["u", "v"], "vuv"),
        (["v", "u", "v"], ["u", "v"], "vuv"),
    ],
)
def test_names_of_classes_belong_to_labels_from_0_or_from_1(
    tmp_path: Path, y: list[object], classes: list[str], labels: str
) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3.0), y=y, classes=classes)
    found = read(tmp_path / "a.npz")
    assert found.y is not None
    assert "".join(found.description.label(i) for i in found.y.tolist()) == labels


@pytest.mark.parametrize("y", [[0, 1, 2], [3, 4, 3], [-1, 1, 1], [0.5, 1, 1]])
def test_labels_without_a_name_among_the_classes_are_refused(tmp_path: Path, y: list[float]) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3.0), y=y, classes=["u", "v"])
    with pytest.raises(ValueError, match="classes: has 2 names, but the labels range from .*: number the classes from"):
        read(tmp_path / "a.npz")


def test_a_wrong_label_shows_the_nearest_and_at_most_ten() -> None:
    names = Description(
        classes=("alder", "ash", "beech", "birch", "elm", "fir", "larch tree", "lime", "oak", "pine", "yew")
    )
    listed = "alder, ash, beech, birch, elm, fir, larch tree, lime, oak, pine, … (11 in all)"
    with pytest.raises(ValueError) as error:
        names.number("larch", 11)
    assert str(error.value) == f"label=larch is no class of the data: did you mean larch tree? The labels are {listed}"
    with pytest.raises(ValueError) as error:
        names.number("zzz", 11)
    assert str(error.value) == f"label=zzz is no class of the data: choose from {listed}"
    codes = Description(classes=("01", "1"))
    assert [codes.number(label, 2) for label in ("01", 1)] == [0, 1]
    with pytest.raises(ValueError, match="label=1.0 is no class of the data: choose 01 or 1"):
        codes.number(1.0, 2)


def test_a_label_of_nearly_every_row_is_refused(tmp_path: Path) -> None:
    text = "id,x\n" + "".join(f"row{i},{i}\n" for i in range(30))
    with pytest.raises(ValueError, match="id: 30 of 30 labels are different, so they are no classes: choose other lab"):
        read_as(tmp_path / "table.csv", text, Choice(labels="id"))


def test_arrays_beside_the_points_do_not_vanish(tmp_path: Path) -> None:
    x, path = np.arange(20.0).reshape(10, 2) ** 2, tmp_path / "a.npz"
    np.savez(path, x=x, labels=np.array(["u", "v"] * 5), names=np.array(["a", "b"]), source=np.array("here"))
    with pytest.raises(ValueError, match=r"holds the array labels beside x, .* dataset.labels=labels, .* or"):
        read(path)
    found = read(path, choice=Choice(("b",), "labels"))
    assert (found.description.columns, found.description.classes) == (("b",), ("u", "v"))
    assert found.x.flatten().tolist() == x[:, 1].tolist()
    assert "left out source" in found.description.report
    assert read(path, choice=Choice(drop=("labels",))).y is None
    np.savez(path, x=x, y=np.arange(10) % 2, names=np.array(["a", "b", "c"]))
    with pytest.raises(ValueError, match="names: has 3 names for 2 columns"):
        read(path)
    records = np.array([(1.0, 2, "u"), (3.0, 4, "v"), (5.0, 6, "u")], dtype=[("a", "f4"), ("b", "i2"), ("k", "U1")])
    np.save(tmp_path / "a.npy", records)
    found = read(tmp_path / "a.npy", choice=Choice(labels="k"))
    assert (found.x.tolist(), found.description.columns) == ([[1, 2], [3, 4], [5, 6]], ("a", "b"))


def test_suspicious_columns_are_named_with_the_option(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    size = source.normal(size=60)
    columns = {"row": source.permutation(60) + 1, "size": size, "unit": np.ones(60), "again": size}
    columns |= {"grade": source.integers(3, 6, 60), "other": source.normal(size=60), "count": source.poisson(50, 60)}
    columns["square"] = np.arange(60) ** 2
    rows = [[*columns], *(map(str, row) for row in zip(*columns.values(), strict=True))]
    write(tmp_path / "table.csv", [list(row) for row in rows], ",")
    dataset = File(0, str(tmp_path / "table.csv"))
    assert dataset.concerns() == [
        "column row numbers the rows: leave it out with dataset.drop=[row], if it is an index",
        "column unit never changes: leave it out with dataset.drop=[unit]",
        "column again is a copy of column size: leave it out with dataset.drop=[again]",
        "column grade has only 3 different values, all integers: if it is a class, use it as the label with "
        "dataset.labels=grade",
    ]
    mended = File(0, str(tmp_path / "table.csv"), labels="grade", drop=("row", "unit", "again"))
    assert mended.concerns() == []


def test_copied_rows_are_counted_and_rows_of_coarse_values_are_not(tmp_path: Path) -> None:
    """A copy of a row of the training would be held out, and a model that repeats the training would look good."""
    source, path = np.random.default_rng(1), tmp_path / "x.npy"
    rows = source.normal(size=(80, 2))
    np.save(path, np.concatenate([rows, rows[:30], rows[:10]]))
    (concern,) = File(0, str(path)).concerns()
    assert concern.startswith("40 of 120 rows repeat an earlier row: if they are copies, remove them, because")
    for other in (rows, np.concatenate([rows, rows[:3]]), source.normal(size=(900, 2)).round(1)):
        np.save(path, other)
        assert File(0, str(path)).concerns() == []


def test_names_that_may_be_a_point_are_mentioned(tmp_path: Path) -> None:
    """A header of years is a point to any reader; real points with integers are not suspected."""
    rows = "".join(f"{value / 7:.3f},{value / 3:.3f},{value / 9:.3f}\n" for value in range(1, 30))
    found = read_as(tmp_path / "table.csv", "2019,2020,2021\n" + rows)
    assert len(found.x) == 30
    assert found.description.concerns == (
        "line 1 (2019, 2020, 2021) is read as a point: if it has the names of the columns, set dataset.header=true",
    )
    named = read_as(tmp_path / "table.csv", "2019,2020,2021\n" + rows, options=Options(header=True)).description
    assert (named.columns, named.concerns) == (("2019", "2020", "2021"), ())
    assert read_as(tmp_path / "table.csv", "2,7,5\n" + rows).description.concerns == ()


@pytest.mark.parametrize(
    ("text", "choice", "x"),
    [
        ("t;speed, m/s\n10:00;3,05\n10:01;4,15\n10:02;5,25\n", Choice(drop=(1,)), [3.05, 4.15, 5.25]),
        ("5,1;a\n6,2;b\n7,1;a\n8,2;b\n", Choice(labels=2), [5.1, 6.2, 7.1, 8.2]),
        ("0,5 a\n1,5 b\n2,25 a\n", Choice(labels=2), [0.5, 1.5, 2.25]),
        ("0,5 0,75 a\n1,5 1 b\n2,25 3 a\n", Choice(labels=3), [0.5, 0.75, 1.5, 1, 2.25, 3]),
        (
            "a,b,address\n1.5,2,10 High Street\n3.5,4,12 Low Road\n5,6,7 Mill\n",
            Choice(drop=(3,)),
            [1.5, 2, 3.5, 4, 5, 6],
        ),
        ("length (cm, mean);kind\n5,1;a\n6,2;b\n7,3;a\n", Choice(labels=2), [5.1, 6.2, 7.3]),
        ("a\tb, c\ns0\t0,5\ns1\t1,5\ns2\t2,5\n", Choice(labels=1), [0.5, 1.5, 2.5]),
    ],
    ids=["unit", "no header", "spaces", "more spaces", "words", "header with a comma", "tab"],
)
def test_a_column_of_words_beside_decimal_commas_does_not_hide_the_delimiter(
    tmp_path: Path, text: str, choice: Choice, x: list[float]
) -> None:
    assert read_as(tmp_path / "x.txt", text, choice).x.flatten().tolist() == x


def test_rows_without_values_around_a_table_are_counted(tmp_path: Path) -> None:
    report = read_as(tmp_path / "x.csv", ",\na,b\n1,2\n3,4\n5,6\n,\n,\n").description.report
    assert "left out 3 rows without values around the table" in report


def test_a_number_of_a_column_counts_the_empty_columns_of_the_file(tmp_path: Path) -> None:
    found = read_as(tmp_path / "x.csv", "a,,b,c\n1,,2,3\n4,,5,6\n7,,8,9\n", Choice(drop=(3,)))
    assert (found.description.columns, found.x[:, 1].tolist()) == (("a", "c"), [3, 6, 9])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a;b\n1,5;48.137\n2,5;11.575\n3,5;10.100\n", "column b: 48.137 is read as 48137"),
        ("a;b\n0.5;1,234\n0.7;2,345\n0.9;3,456\n", "column b: 1,234 is read as 1234"),
        ("0\n0.5\n0.6\n0.7\n", "line 1 (0) is read as a point"),
        ("0,1,2,3\n5,200,3,9\n1,2,30,4\n7,7,7,8\n", "line 1 (0, 1, 2, 3) is read as a point"),
        ("x,y\n1,2\n#3,4\n5,6\n7,8\n", "line 3 begins with # and is left out as a comment"),
    ],
    ids=["points", "commas", "series", "pixels", "comment"],
)
def test_what_may_be_meant_otherwise_is_mentioned(tmp_path: Path, text: str, words: str) -> None:
    assert [one for one in read_as(tmp_path / "x.csv", text).description.concerns if one.startswith(words)]


def test_a_missing_value_in_the_first_row_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 of 4 values are missing, NaN or infinity, the first in line 1"):
        read_as(tmp_path / "x.csv", "nan\n1.5\n2.5\n3.5\n")


@pytest.mark.parametrize("kind", ["?", "S3", "M8[D]"])
def test_fields_of_records_that_are_no_numbers_are_words_or_refused(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "x.npy", np.zeros(4, dtype=[("a", "f8"), ("b", kind)]))
    if kind == "M8[D]":
        with pytest.raises(ValueError, match="field b has the type datetime64"):
            read(tmp_path / "x.npy")
    else:
        assert read(tmp_path / "x.npy", choice=Choice(drop=("b",))).x.tolist() == [[0.0]] * 4
