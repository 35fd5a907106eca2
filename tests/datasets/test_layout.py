"""Arrays of images and signals with their axes in every order, and the units of signals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdegen.datasets import File
from sdegen.datasets.fingerprint import fingerprint

RANDOM = np.random.default_rng(0)


def made(folder: Path, values: np.ndarray, **options) -> tuple[np.ndarray, File]:  # noqa: ANN003
    """Returns all entries in the order of the file, and the data set."""
    np.save(folder / "x.npy", values)
    dataset = File(0, str(folder / "x.npy"), **options)
    assert dataset.held_out is not None
    x = torch.cat([dataset.x, dataset.held_out]).numpy()
    return x[np.argsort(x.reshape(len(x), -1)[:, 0])], dataset


def numbered(*shape: int, kind: type = np.float32) -> np.ndarray:
    """Returns an array in which the first number of an entry gives its place."""
    values = RANDOM.integers(20, 256, shape).astype(kind)
    values.reshape(len(values), -1)[:, 0] = np.arange(len(values))
    return values


@pytest.mark.parametrize(
    ("shape", "kind", "axes", "words"),
    [
        ((20, 16, 16, 3), np.uint8, (0, 3, 1, 2), "read as images (N, H, W, C), 20 of 3 channels and 16 × 16 pixels"),
        ((20, 16, 12, 1), np.float32, (0, 3, 1, 2), "read as images (N, H, W, C), 20 of 1 channel and 16 × 12 pixels"),
        ((20, 16, 16, 4), np.uint16, (0, 3, 1, 2), "read as images (N, H, W, C), 20 of 4 channels"),
        ((20, 16, 16, 2), np.float32, (0, 3, 1, 2), "read as images (N, H, W, C), 20 of 2 channels and 16 × 16 pixels"),
        ((20, 3, 16, 16), np.uint8, (0, 1, 2, 3), "read as images (N, C, H, W), 20 of 3 channels and 16 × 16 pixels"),
        ((20, 1, 4, 4), np.uint8, (0, 1, 2, 3), "read as images (N, C, H, W), 20 of 1 channel and 4 × 4 pixels"),
        ((20, 5, 16, 8), np.uint8, (0, 1, 2, 3), "read as images (N, C, H, W), 20 of 5 channels and 16 × 8 pixels"),
        ((20, 64, 8, 8), np.float32, (0, 1, 2, 3), "read as images (N, C, H, W), 20 of 64 channels and 8 × 8 pixels"),
        ((20, 1, 50), np.float64, (0, 1, 2), "read as signals (N, C, L), 20 of 1 channel and 50 steps"),
        ((20, 2, 3), np.uint8, (0, 1, 2), "read as signals (N, C, L), 20 of 2 channels and 3 steps"),
        ((20, 12, 100), np.float32, (0, 1, 2), "read as signals (N, C, L), 20 of 12 channels and 100 steps"),
        ((20, 100, 12), np.float32, (0, 2, 1), "read as signals (N, L, C), 20 of 12 channels and 100 steps"),
    ],
    ids=str,
)
def test_the_order_of_the_axes_is_recognised_and_said(
    tmp_path: Path, shape: tuple[int, ...], kind: type, axes: tuple[int, ...], words: str
) -> None:
    values = numbered(*shape, kind=kind)
    found, dataset = made(tmp_path, values)
    np.testing.assert_array_equal(found, values.transpose(axes))
    assert dataset.x.is_contiguous()
    report = dataset.description.report[1:]
    assert report[0].startswith(words) and "set dataset.layout=" in report[0]
    # Torch's minimum is missing for some types of integers.
    assert float(dataset.x.min()) == float(found[: len(dataset.x)].min())


def test_bytes_of_three_axes_are_grey_images(tmp_path: Path) -> None:
    values = numbered(20, 28, 28, kind=np.uint8)
    found, dataset = made(tmp_path, values, levels=256, dequantize=True)
    np.testing.assert_array_equal(found, values[:, None])
    assert dataset.description.report[1:][0].startswith("read as images (N, H, W), 20 of 1 channel and 28 × 28 pixels")


@pytest.mark.parametrize(
    ("shape", "layout", "axes"),
    [
        ((20, 28, 28), "grey", None),
        ((20, 28, 28), "channels_first", (0, 1, 2)),
        ((20, 28, 28), "channels_last", (0, 2, 1)),
        ((20, 4, 9, 3), "channels_last", (0, 3, 1, 2)),
        ((20, 16, 16, 3), "channels_first", (0, 1, 2, 3)),
    ],
)
def test_the_layout_that_is_asked_for_is_taken(
    tmp_path: Path, shape: tuple[int, ...], layout: str, axes: tuple[int, ...] | None
) -> None:
    values = numbered(*shape)
    found, dataset = made(tmp_path, values, layout=layout)
    np.testing.assert_array_equal(found, values[:, None] if axes is None else values.transpose(axes))
    assert dataset.description.report[1:] == ()


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((20, 28, 28), {}, "is ambiguous: set dataset.layout=grey for images .*, channels_first for signals"),
        ((20, 3, 3), {}, "is ambiguous: set dataset.layout=grey"),
        ((20, 3, 16, 3), {}, r"may be \(N, C, H, W\) or \(N, H, W, C\): set dataset.layout=channels_first or"),
        ((20, 3, 3, 3), {}, r"may be \(N, C, H, W\) or"),
        ((20, 16, 2, 2), {}, r"may be \(N, C, H, W\) or"),
        ((20, 16, 16, 8), {}, r"may be \(N, C, H, W\) or"),
        ((20, 4, 4, 3), {}, r"may be \(N, C, H, W\) or"),
        ((20, 3, 16, 1), {}, r"may be \(N, C, H, W\) or \(N, H, W, C\): set dataset.layout=channels_first or"),
        ((20, 3, 16, 16), {"layout": "grey"}, "layout=grey is for arrays .*: use dataset.layout=auto"),
        ((20, 2, 2, 2, 2), {}, r"is neither .*: reshape the array"),
        ((20, 0, 2), {}, r"is neither .*: reshape the array"),
    ],
)
def test_an_order_that_is_not_clear_is_refused_in_one_line(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, str], words: str
) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape, dtype=np.float32))
    with pytest.raises(ValueError, match=words) as error:
        File(0, str(tmp_path / "x.npy"), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(50, 3, 40), (50, 40, 3), (50, 9, 8, 3)])
def test_large_arrays_stay_on_the_disk_in_every_order(
    tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = numbered(*shape)
    monkeypatch.setattr(File, "MAPPED", 100)
    found, dataset = made(tmp_path, values)
    assert dataset.mapped
    assert dataset.held_out is not None
    last = values if shape[1] == 3 else np.moveaxis(values, -1, 1)
    np.testing.assert_array_equal(dataset.held_out.numpy(), last[-10:])
    np.testing.assert_array_equal(found, last)
    before = fingerprint(dataset, True)
    values[-1, -1, -1] += 1
    np.save(tmp_path / "x.npy", values)
    assert fingerprint(File(0, str(tmp_path / "x.npy")), True) != before


@pytest.mark.parametrize("standardize", [True, "robust"])
def test_signals_are_scaled_by_channel(tmp_path: Path, standardize: bool | str) -> None:
    """Each channel has its own unit, which all steps share: shift and scale of one channel change nothing else."""
    values = RANDOM.normal(size=(300, 2, 30)).cumsum(2)
    _, plain = made(tmp_path, values, standardize=standardize)
    _, other = made(tmp_path, values * [[1.0], [1000.0]] + [[0.0], [5.0]], standardize=standardize)
    torch.testing.assert_close(plain.units.encode(plain.x), other.units.encode(other.x), rtol=1e-9, atol=1e-9)
    inner = plain.units.encode(plain.x).numpy().transpose(1, 0, 2).reshape(2, -1)
    if standardize is True:
        np.testing.assert_allclose(inner.mean(1), 0, atol=1e-12)
        np.testing.assert_allclose(inner.std(1), 1)
    else:
        low, middle, high = np.quantile(inner, [0.05, 0.5, 0.95], axis=1)
        np.testing.assert_allclose(middle, 0, atol=1e-12)
        np.testing.assert_allclose(high - low, 3.2897072539)
    assert plain.units.kind == "signals"
