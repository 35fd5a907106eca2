"""Data sets: distributions, units, and valid and damaged files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sdegen.core import tensors
from sdegen.core.randomness import generator
from sdegen.datasets import Checkerboard, Circles, Dataset, File, Mixture, Moons, Pinwheel, Smile, SwissRoll
from sdegen.datasets.columns import standard_units
from sdegen.datasets.file import read

PLANAR = [Moons, Circles, SwissRoll, Checkerboard, Pinwheel]


def test_mixture_is_the_paper_one() -> None:
    x = Mixture(0).x.flatten()
    assert len(x) == 5000
    left, right = x[x < 0], x[x >= 0]
    assert float(left.mean()) == pytest.approx(-3, abs=0.05)
    assert float(left.std()) == pytest.approx(0.5, abs=0.03)
    assert float(right.mean()) == pytest.approx(3, abs=0.08)
    assert float(right.std()) == pytest.approx(1, abs=0.06)


def test_smile_has_the_paper_counts_and_shape() -> None:
    dataset = Smile(0)
    parts = dataset.modes(dataset.x)
    assert torch.bincount(parts).tolist() == [100, 100, 200]
    eye, mouth = dataset.x[parts == 1], dataset.x[parts == 2]
    torch.testing.assert_close(eye.mean(0), torch.tensor([0.6, 0.8]).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(eye.std(0), torch.full((2,), 0.02).double(), atol=0.005, rtol=0)
    torch.testing.assert_close(mouth.norm(dim=1), torch.ones(200).double())
    assert bool((mouth[:, 1] <= 0).all())
    # x is uniform on [-1, 1], so its mean square is a third.
    x = Smile(0, size=40_000).x[20_000:, 0]
    assert float((x**2).mean()) == pytest.approx(1 / 3, abs=0.01)


def test_smile_noise_is_on_the_mouth_alone() -> None:
    clean, noisy = Smile(0, size=4000), Smile(0, noise=0.02, size=4000)
    assert torch.equal(clean.x[:2000], noisy.x[:2000])
    torch.testing.assert_close((noisy.x - clean.x)[2000:].std(0), torch.full((2,), 0.02).double(), rtol=0.06, atol=0)


def test_smile_knows_what_is_off_its_support() -> None:
    points = [[0.6, 0.8], [0.6, 0.89], [0.0, -1.0], [0.0, -0.94], [0.0, -1.06], [1.0, 0.03], [1.0, 0.07], [0, 0]]
    off = Smile(0).off_support(torch.tensor(points).double())
    assert off.tolist() == [False, True, False, True, True, False, True, True]


@pytest.mark.parametrize("dataset", [Smile(0), Smile(0, noise=0.02), Mixture(0)], ids=["smile", "noisy", "mixture"])
def test_law_is_that_of_the_draws(dataset: Dataset) -> None:
    """Draws from the mixture ``law`` and draws from the data set agree in their moments."""
    assert dataset.law is not None
    source = generator("cpu", 1, "test")
    drawn, law = dataset.draw(100_000, source), dataset.law.sample(100_000, source)
    assert drawn is not None
    for moment in (lambda x: x, lambda x: x**2, lambda x: (3 * x).sin(), lambda x: x.prod(1, keepdim=True)):
        a, b = moment(drawn), moment(law)
        tolerance = 5 * float(a.std()) * math.sqrt(2 / 100_000)
        torch.testing.assert_close(a.mean(0), b.mean(0), atol=tolerance, rtol=0)


def test_smile_law_is_smooth_along_the_mouth_at_the_smallest_noise() -> None:
    """With σ at ε, the density along the mouth does not show the single components of the mixture."""
    law = Smile(0).law
    assert law is not None
    angle = torch.linspace(1.5, 1.51, 401, dtype=torch.float64)
    on_arc = torch.stack([-angle.cos(), -angle.sin()], dim=1)
    density = law.log_prob(on_arc, 1.0, 6e-4) - angle.sin().log()
    assert float(density.max() - density.min()) < 1e-4


@pytest.mark.parametrize("cls", PLANAR)
def test_planar_draws_are_fresh_and_of_one_law(cls) -> None:  # noqa: ANN001
    dataset = cls(0)
    assert dataset.x.shape == (5000, 2)
    assert torch.equal(dataset.x, cls(0).x)
    assert not torch.isclose(dataset.x, cls(1).x).any(1).all()
    a, b = (dataset.draw(20_000, generator("cpu", seed, "test")) for seed in (1, 2))
    assert float((a - b).abs().min()) >= 0
    torch.testing.assert_close(a.mean(0), b.mean(0), atol=0.05 * float(a.std()), rtol=0)
    torch.testing.assert_close(a.T.cov(), b.T.cov(), atol=0.05 * float(a.var()), rtol=0)


def test_checkerboard_fills_the_dark_squares_evenly() -> None:
    x = Checkerboard(0, size=40_000).x
    column, row = (x + 2).floor().long().T
    assert bool(((column + row) % 2 == 0).all())
    counts = torch.bincount(4 * column + row, minlength=16)
    assert sorted(counts.tolist())[:8] == [0] * 8
    assert bool(((counts[counts > 0] - 5000).abs() < 300).all())


def test_pinwheel_has_five_like_arms() -> None:
    """The distribution is invariant under a rotation by a fifth of a turn, so the moments E zᵏ vanish for 0 < k < 5."""
    z = torch.view_as_complex(Pinwheel(0, size=50_000).x)
    for k in range(1, 5):
        assert abs((z**k).mean()) < 5 * float((z**k).abs().square().mean()) ** 0.5 / math.sqrt(len(z))
    assert abs((z**5).mean()) > 20 * float((z**5).abs().square().mean()) ** 0.5 / math.sqrt(len(z))


def test_vectors_are_float64_and_labels_need_no_held_out_part() -> None:
    dataset = Dataset(torch.tensor([[0.1], [0.3], [0.2]]), y=torch.tensor([0, 1, 0]), classes=2)
    assert dataset.x.dtype == torch.float64
    assert (dataset.classes, dataset.held_out, dataset.held_out_y, dataset.mapped) == (2, None, None, False)


def test_units_standardise_and_come_back() -> None:
    dataset = Mixture(0, means=((100.0, -7.0), (104.0, -7.5)), variances=(1.0, 0.1))
    encoded = dataset.units.encode(dataset.x)
    torch.testing.assert_close(encoded.mean(0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(encoded.std(0, correction=0), torch.ones(2).double())
    torch.testing.assert_close(dataset.units.decode(encoded), dataset.x)
    raw = Mixture(0, standardize=False)
    assert torch.equal(raw.units.encode(raw.x), raw.x)


def test_constant_coordinates_and_images_have_sound_units(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.column_stack([np.arange(10.0), np.full(10, 3.0)]))
    dataset = File(0, str(tmp_path / "a.npy"))
    assert bool(dataset.units.encode(dataset.x).isfinite().all())
    images = np.random.default_rng(0).integers(0, 17, (20, 1, 4, 4))
    np.save(tmp_path / "b.npy", images)
    dataset = File(0, str(tmp_path / "b.npy"))
    assert dataset.units.shape == (1, 4, 4)
    assert len(dataset.units.scale.unique()) == 1
    assert float(dataset.units.encode(dataset.x).std(correction=0)) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32])
def test_images_keep_their_type_and_their_values(tmp_path: Path, dtype: type) -> None:
    images = np.random.default_rng(0).integers(0, 100, (20, 2, 3, 3)).astype(dtype)
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", images.astype(np.float64))
    np.save(tmp_path / "c.npy", images.astype(images.dtype.newbyteorder(">")))
    own, double, swapped = (File(7, str(tmp_path / f"{name}.npy")) for name in "abc")
    assert own.x.numpy().dtype == dtype
    assert double.x.dtype == torch.float64
    for dataset in (own, swapped):
        assert torch.equal(dataset.x.double(), double.x)
        assert torch.equal(dataset.units.encode(dataset.x), double.units.encode(double.x))


@pytest.mark.parametrize("shape", [(1000, 5), (500, 2, 3, 3)])
def test_statistics_in_chunks_are_those_of_the_whole(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the data drifts, so the means of the chunks differ."""
    x = np.random.default_rng(0).normal(size=shape) + np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    axes = 0 if len(shape) == 2 else None
    whole = standard_units(torch.from_numpy(x))
    monkeypatch.setattr(tensors, "CHUNK", 997)
    assert len(tensors.chunks(torch.from_numpy(x))) > 5
    for units in (whole, standard_units(torch.from_numpy(x))):
        np.testing.assert_allclose(units.shift, np.broadcast_to(x.mean(axes), shape[1:]), rtol=1e-12)
        np.testing.assert_allclose(units.scale, np.broadcast_to(x.std(axes), shape[1:]), rtol=1e-12)


def test_one_value_in_a_late_chunk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "CHUNK", 100)
    images = np.zeros((90, 1, 4, 4), dtype=np.float32)
    images[77, 0, 3, 1] = 17
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(ValueError, match="levels=17: .* but one is 17: rescale"):
        File(0, str(tmp_path / "a.npy"), levels=17)
    images[77, 0, 3, 1] = np.inf
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(ValueError, match="1 of 90 points hold NaN or infinity, the first is number 78"):
        File(0, str(tmp_path / "a.npy"))


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 255), (np.int8, -1), (np.int16, 256)])
def test_levels_of_bytes_are_checked_where_bytes_have_more(tmp_path: Path, dtype: type, value: int) -> None:
    images = np.zeros((5, 1, 2, 2), dtype=dtype)
    images[3, 0, 1, 1] = value
    np.save(tmp_path / "a.npy", images)
    levels = 256 if value != 255 else 255
    with pytest.raises(ValueError, match=f"levels={levels}: .* but one is {value}: rescale"):
        File(0, str(tmp_path / "a.npy"), levels=levels)
    if value == 255:
        assert File(0, str(tmp_path / "a.npy"), levels=256).levels == 256


def test_large_images_stay_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set shows changes of the open file, because nothing is copied. The end of the file is held out."""
    images = np.random.default_rng(0).integers(0, 250, (50, 1, 4, 4)).astype(np.uint8)
    path = tmp_path / "a.npy"
    np.save(path, images)
    assert not File(0, str(path)).mapped
    monkeypatch.setattr(File, "MAPPED", path.stat().st_size - 1)
    dataset = File(0, str(path), levels=256, dequantize=True)
    assert (dataset.mapped, dataset.dequantize, dataset.levels) == (True, True, 256)
    np.testing.assert_array_equal(dataset.x, images[:40])
    np.testing.assert_array_equal(dataset.held_out, images[40:])
    np.testing.assert_allclose(dataset.units.scale, np.full((1, 4, 4), images[:40].std()))
    np.load(path, mmap_mode="r+")[[5, 45]] = 255
    assert dataset.held_out is not None
    assert bool((dataset.x[torch.tensor([5])] == 255).all() and (dataset.held_out[5] == 255).all())
    assert torch.equal(dataset.x[6], torch.from_numpy(images[6]))


def test_large_files_of_other_kinds_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(File, "MAPPED", 1)
    points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", points)
    dataset = File(0, str(tmp_path / "a.npy"))
    assert dataset.held_out is not None
    assert (dataset.mapped, dataset.x.dtype) == (False, torch.float64)
    both = torch.cat([dataset.x, dataset.held_out]).numpy()
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(points.astype(np.float64), axis=0))
    np.savez(tmp_path / "a.npz", np.arange(80, dtype=np.uint8).reshape(20, 1, 2, 2))
    assert not File(0, str(tmp_path / "a.npz"), standardize=False).mapped
    np.save(tmp_path / "b.npy", np.zeros((20, 1, 2, 2), dtype=">f4"))
    with pytest.raises(ValueError, match="too large to be read as >f4: save it as uint8 or float32"):
        File(0, str(tmp_path / "b.npy"))


def test_file_is_split_once_and_for_all(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(100.0))
    dataset = File(0, str(tmp_path / "a.npy"), held_out=0.2)
    assert dataset.held_out is not None
    assert (len(dataset.x), len(dataset.held_out)) == (80, 20)
    assert torch.equal(torch.cat([dataset.x, dataset.held_out]).flatten().sort().values, torch.arange(100.0).double())
    assert torch.equal(File(0, str(tmp_path / "a.npy")).x, dataset.x)


def test_three_formats_hold_the_same_points(tmp_path: Path) -> None:
    points = np.array([[1.0, 2.5], [3.0, -4e-3], [0.0, 7.0]])
    np.save(tmp_path / "a.npy", points)
    np.savez(tmp_path / "a.npz", points)
    np.savez(tmp_path / "b.npz", other=np.ones(2), x=points)
    (tmp_path / "a.csv").write_text("left, right\n1,2.5\n\n3,-4e-3\n0,7\n")
    (tmp_path / "b.csv").write_text("1,2.5\r\n3,-0.004\r\n0,7\r\n")
    for name in ("a.npy", "a.npz", "b.npz", "a.csv", "b.csv"):
        np.testing.assert_array_equal(read(tmp_path / name).x.numpy(), points)


def test_labels_follow_their_points(tmp_path: Path) -> None:
    """In these data y is a function of x, so a wrong label is found. The split is the same as without labels."""
    x = np.random.default_rng(0).normal(size=(90, 2))
    x[:3, 0] = [-2, 0, 2]
    y = np.searchsorted([-1, 1], x[:, 0]).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.save(tmp_path / "a.npy", x)
    labelled, plain = File(3, str(tmp_path / "a.npz")), File(3, str(tmp_path / "a.npy"))
    assert (labelled.classes, plain.classes, plain.y, plain.held_out_y) == (3, None, None, None)
    for points, labels, same in (
        (labelled.x, labelled.y, plain.x),
        (labelled.held_out, labelled.held_out_y, plain.held_out),
    ):
        assert points is not None and labels is not None and same is not None
        assert torch.equal(points, same)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, (points[:, 0] > -1).long() + (points[:, 0] > 1).long())


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.array([0, 1, 1, 0]), r"y must have one label for each of 3 points, not the shape \(4,\): if it has no"),
        (np.array([[0], [1], [1]]), "y must have one label for each of 3 points"),
        (np.array([0, 1, np.nan]), "y: 1 of 3 labels are missing"),
        (np.array(["a", "", "NA"]), "y: 2 of 3 labels are missing"),
        (np.array([0, 1j, 1]), "y: holds complex128, which are no labels: give words, booleans or integers"),
        (np.array(["2020-01-01"] * 3, dtype="datetime64[D]"), r"y: holds datetime64\[D\], which are no labels"),
        (np.array(["one", "all", "one"]), "y: a class has the label all, but label=all means every class: rename it"),
    ],
)
def test_bad_labels_are_told_in_one_line(tmp_path: Path, y: np.ndarray, words: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), y=y)
    with pytest.raises(ValueError, match=words) as error:
        read(tmp_path / "a.npz")
    assert str(error.value).startswith(f"path={tmp_path / 'a.npz'}: y")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "holds no line of numbers"),
        ("a.csv", "x,y\n", "holds no line of numbers"),
        ("a.csv", "1,2\n3,b\n4,5\n", "line 2, column 2: 'b' is not a number"),
        ("a.csv", "1,2\n3\n4,5\n", "line 1 has 2 values, but line 2 has 1 value"),
        ("a.csv", "1,2\nnan,3\n4,5\n", "column 1: 1 of 3 values are missing, NaN or infinity, the first in line 2"),
        ("a.csv", "1\n2\n", "holds 2 points, but training needs at least 3"),
        ("a.doc", "1\n", "must end in .csv, .tsv, .txt, .parquet, .npy or .npz: convert or rename the file"),
        ("a.xlsx", "1\n", "must end in .* or .npz: save the sheet as .csv"),
        ("a.npy", "not an array", "not a readable array file"),
        ("a.npz", "not an archive", "not a readable array file"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        read(tmp_path / name)
    assert str(error.value).startswith(f"path={tmp_path / name}: ")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("largest", [1, 10**9], ids=["mapped", "read"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_every_damaged_byte_of_a_file_is_read_or_told_in_one_line(tmp_path: Path, name: str, largest: int) -> None:
    images = np.arange(27, dtype=np.uint8).reshape(3, 1, 3, 3)
    np.save(tmp_path / "a.npy", images)
    np.savez_compressed(tmp_path / "a.npz", x=images, y=np.arange(3))
    path, told = tmp_path / name, 0
    whole = path.read_bytes()
    for content in (
        *(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(len(whole))),
        *(whole[:i] for i in range(len(whole))),
    ):
        path.unlink()  # A mapped file must not become shorter.
        path.write_bytes(content)
        try:
            read(path, largest)
        except ValueError as error:
            assert str(error).startswith(f"path={path}: ")
            assert "\n" not in str(error)
            told += 1
    assert told > len(whole)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([["a"]] * 3), "not real numbers"),
        (np.ones((3, 2), dtype=complex), "not real numbers"),
        (np.array([{}, 1, 2], dtype=object), "not a readable array file"),
        (np.ones((3, 2, 2)), r"is ambiguous: set dataset.layout="),
        (np.ones((3, 0)), "neither"),
        (np.array([[1.0], [np.inf], [2.0]]), "NaN or infinity"),
        (np.full((3, 1, 1, 1), np.nan, dtype=np.float16), "3 of 3 points hold NaN or infinity"),
    ],
)
def test_bad_arrays_are_told_in_one_line(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Smile(0, size=10), "size=10 must be a multiple of 4"),
        (lambda: Smile(0, noise=-1.0), "noise=-1 must be at least 0"),
        (lambda: Moons(0, size=1), "size=1 must be at least 2"),
        (lambda: Mixture(0, variances=(0.0, 1.0)), "must be above 0"),
        (lambda: Mixture(0, means=((0.0,), (1.0, 2.0))), "the same length"),
        (lambda: Mixture(0, weights=(1.0,)), "one weight, mean and covariance for each component, not 1, 2 and 2"),
        (lambda: File(0, "nowhere.csv"), "path=nowhere.csv: no such file"),
        (lambda: File(0, "x.csv", held_out=1.0), "held_out=1 must be above 0 and below 1"),
        (lambda: Dataset(torch.ones(3, 1), y=torch.tensor([0, 1, 2]), classes=2), "y must be labels from 0 to"),
        (lambda: Dataset(torch.ones(3, 1), y=torch.tensor([0, 1, -1]), classes=2), "y must be labels from 0 to"),
        (lambda: Dataset(torch.ones(3, 1), y=torch.tensor([0, 1]), classes=2), "y must be a label for each point"),
        (lambda: Dataset(torch.ones(3, 1), y=torch.tensor([0, 1, 1])), "classes=None"),
        (lambda: Dataset(torch.ones(3, 1), classes=2), "y must be a label for each point"),
        (
            lambda: Dataset(torch.ones(3, 1), torch.ones(2, 1), y=torch.tensor([0, 1, 1]), classes=2),
            "y must be a label for each point",
        ),
        (lambda: Dataset(torch.ones(3, 1), dequantize=True), "dequantize=true needs quantised values"),
    ],
)
def test_values_out_of_range_are_refused(build, words: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=words):
        build()
