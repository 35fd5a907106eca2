"""Data sets of images: digits, and valid and damaged IDX files and folders."""

from __future__ import annotations

import gzip
import itertools
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import idx_bytes
from PIL import Image

from sdegen.core import schema
from sdegen.datasets import IDX, Affine, Dataset, Digits, Folder
from sdegen.datasets.base import split
from sdegen.datasets.idx import FASHION_MNIST, read_idx

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def write_idx(folder: Path, change: str = "", to: Callable[[bytes], bytes] = bytes) -> dict[str, np.ndarray]:
    """Writes four IDX files and compresses the training set. ``to`` changes the content of the file ``change``."""
    arrays, random = {}, np.random.default_rng(0)
    for name, count in zip(FILES, (30, 30, 12, 12), strict=True):
        images, labels = random.integers(0, 256, (count, 5, 4)), random.permutation(np.arange(count) % 3)
        arrays[name] = (images if "images" in name else labels).astype(np.uint8)
        content = idx_bytes(arrays[name])
        content = to(content) if name == change else content
        packed = name.startswith("train")
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return arrays


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def one_line(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.2, 0.37])
def test_split_keeps_the_share_of_every_class_within_one(share: float) -> None:
    y = torch.from_numpy(np.repeat([0, 1, 2, 3], [1, 2, 57, 400])[np.random.default_rng(0).permutation(460)])
    train, kept = split(y, share)
    assert sorted([*train.tolist(), *kept.tolist()]) == list(range(460))
    for label in range(4):
        count = int((y == label).sum())
        assert abs(int((y[kept] == label).sum()) - share * count) < 1
        assert int((y[train] == label).sum()) > 0
    # The split must stay the same in later versions, because a stored run must hold out the same points.
    assert split(torch.arange(40) % 2, 0.2)[1].tolist() == [2, 4, 14, 15, 16, 17, 35, 39]


def test_digits_are_those_of_scikit_learn_between_minus_one_and_one() -> None:
    from sklearn.datasets import load_digits

    loaded, dataset = load_digits(), Digits()
    assert dataset.held_out is not None and dataset.y is not None and dataset.held_out_y is not None
    assert (dataset.levels, dataset.classes, dataset.dequantize) == (17, 10, True)
    assert Digits(dequantize=False).dequantize is False
    x, y = torch.cat([dataset.x, dataset.held_out]), torch.cat([dataset.y, dataset.held_out_y])
    rows = sorted((label, *image) for label, image in zip(y.tolist(), x.flatten(1).tolist(), strict=True))
    assert rows == sorted((label, *image) for label, image in zip(loaded.target, loaded.data.tolist(), strict=True))
    encoded = dataset.units.encode(x)
    assert encoded.dtype == torch.float64
    assert encoded.shape == (1797, 1, 8, 8)
    assert torch.equal(encoded, x / 8 - 1)
    assert (float(encoded.min()), float(encoded.max())) == (-1, 1)
    assert torch.equal(dataset.units.decode(encoded), x.double())
    # The change of units adds log 8 nats, three bits, for each pixel.
    assert float(dataset.units.scale.log2().sum()) == pytest.approx(3 * 64)


def test_digits_held_out_are_a_fifth_of_each_for_every_seed() -> None:
    datasets = [schema.construct({"_target_": "sdegen.datasets.Digits"}, seed=seed) for seed in (0, 1)]
    assert torch.equal(datasets[0].held_out, datasets[1].held_out)
    assert torch.equal(datasets[0].x, datasets[1].x)
    dataset = datasets[0]
    trained = {tuple(row) for row in dataset.x.flatten(1).tolist()}
    assert not trained & {tuple(row) for row in dataset.held_out.flatten(1).tolist()}
    for label in range(10):
        kept, all_of_it = (
            (dataset.held_out_y == label).sum(),
            (torch.cat([dataset.y, dataset.held_out_y]) == label).sum(),
        )
        assert abs(float(kept) - 0.2 * float(all_of_it)) < 1
    # The images are not sorted by class: if they were, the end of an epoch would hold a single class.
    assert len(dataset.y[:20].unique()) > 5


def test_idx_files_are_read_as_written(tmp_path: Path) -> None:
    arrays = write_idx(tmp_path)
    dataset = IDX(str(tmp_path))
    assert dataset.x.dtype == torch.uint8
    for name, found in zip(FILES, (dataset.x, dataset.y, dataset.held_out, dataset.held_out_y), strict=True):
        assert found is not None
        np.testing.assert_array_equal(found.numpy().reshape(arrays[name].shape), arrays[name])
    assert dataset.x.shape == (30, 1, 5, 4)
    assert (dataset.levels, dataset.classes, dataset.dequantize) == (256, 3, True)
    encoded = dataset.units.encode(torch.tensor([0.0, 127.5, 255.0])[:, None, None, None].expand(3, 1, 5, 4))
    assert torch.equal(encoded[:, 0, 4, 3], torch.tensor([-1.0, 0, 1]).double())


def test_size_takes_the_first_images_and_keeps_the_classes(tmp_path: Path) -> None:
    write_idx(tmp_path)
    whole, part = IDX(str(tmp_path)), IDX(str(tmp_path), size=2)
    assert whole.y is not None and part.y is not None and whole.held_out is not None and part.held_out is not None
    assert torch.equal(part.x, whole.x[:2])
    assert torch.equal(part.y, whole.y[:2])
    assert torch.equal(part.held_out, whole.held_out)
    assert part.classes == 3
    one_line(lambda: IDX(str(tmp_path), size=31), "^size=31: there are only 30 training images: give at most 30")
    one_line(lambda: IDX(str(tmp_path), size=1), "^size=1 must be at least 2")


def header(*sizes: int, kind: int = 8) -> Callable[[bytes], bytes]:
    """Returns a function that replaces the header of a file of images and keeps the data."""
    return lambda content: struct.pack(f">HBB{len(sizes)}I", 0, kind, len(sizes), *sizes) + content[16:]


DAMAGE: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda content: b"", "begins with nothing instead of 00 00 08 03"),
    (lambda content: content[:3], "begins with 00 00 08 instead"),
    (lambda content: content[:15], "ends within its header"),
    (lambda content: content[:-1], "its header says .* × 5 × 4 bytes, but the file has only .*: copy the file again"),
    (lambda content: content + b"\0", "but the file has more"),
    (lambda content: b"\x89PNG" + content[4:], "begins with 89 50 4e 47 instead of 00 00 08 03"),
    (lambda content: content[:2] + b"\x0d" + content[3:], "holds numbers of type 13; only unsigned bytes"),
    (header(12), "has 1 dimensions instead of 3"),
    (header(0, 5, 4), "is empty: its header says 0 × 5 × 4 bytes"),
    (
        header(12, 2**31, 2**31),
        "its header says 12 × 2147483648 × 2147483648 bytes, more than a file of .* bytes can hold",
    ),
]


@pytest.mark.parametrize("part", ["train", "t10k"], ids=["compressed", "plain"])
@pytest.mark.parametrize(("damage", "words"), DAMAGE)
def test_damaged_idx_files_are_told_in_one_line(
    tmp_path: Path, part: str, damage: Callable[[bytes], bytes], words: str
) -> None:
    write_idx(tmp_path, f"{part}-images-idx3-ubyte", damage)
    one_line(
        lambda: IDX(str(tmp_path)), f"^path={tmp_path}/{part}-images-idx3-ubyte.*: not a valid IDX file: .*{words}"
    )


def test_every_cut_of_a_compressed_file_is_told_in_one_line(tmp_path: Path) -> None:
    write_idx(tmp_path)
    path = tmp_path / f"{FILES[0]}.gz"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        one_line(lambda: read_idx(path, 3), f"^path={path}: not a valid IDX file: ")
    flipped = [whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(10, len(whole))]
    for content in flipped:
        path.write_bytes(content)
        one_line(lambda: read_idx(path, 3), f"^path={path}: not a valid IDX file: ")


def test_a_promise_is_refused_before_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a header claims 100 GB, only the header is read, and no memory is allocated for the data."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 10**5, 1000, 1000) + bytes(1000)))
    asked: list[int] = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda file, size: asked.append(size) or read(file, size))
    one_line(lambda: read_idx(path, 3), "its header says 100000 × 1000 × 1000 bytes, more than a file of")
    assert sum(asked) <= 16


def test_idx_files_that_do_not_fit_each_other_are_told(tmp_path: Path) -> None:
    write_idx(tmp_path, FILES[3], lambda content: idx_bytes(np.zeros(11)))
    one_line(
        lambda: IDX(str(tmp_path)), f"^path={tmp_path}/{FILES[3]}: holds 11 labels, but {FILES[2]} holds 12 images"
    )
    write_idx(tmp_path, FILES[2], lambda content: idx_bytes(np.zeros((12, 4, 4))))
    one_line(lambda: IDX(str(tmp_path)), "the train images are 5 × 4, but the t10k images are 4 × 4")
    write_idx(tmp_path, FILES[3], lambda content: idx_bytes(np.full(12, 4)))
    one_line(lambda: IDX(str(tmp_path)), "the labels of 4 classes range from 0 to 4: number the classes from 0 to 3")
    (tmp_path / FILES[2]).unlink()
    one_line(lambda: IDX(str(tmp_path)), f"^path={tmp_path}: has neither a file {FILES[2]} nor {FILES[2]}.gz")
    one_line(
        lambda: IDX(str(tmp_path / "no")),
        "no: no such folder: apt install dataset-fashion-mnist, or set dataset.path=",
    )


@pytest.mark.skipif(not Path(FASHION_MNIST).is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_is_what_its_authors_say() -> None:
    dataset = IDX(size=1000)
    assert dataset.held_out_y is not None and dataset.held_out is not None
    assert (dataset.x.shape, dataset.held_out.shape, dataset.classes) == ((1000, 1, 28, 28), (10_000, 1, 28, 28), 10)
    assert torch.bincount(dataset.held_out_y).tolist() == [1000] * 10
    assert (int(dataset.held_out.min()), int(dataset.held_out.max())) == (0, 255)


def fill(folder: Path, classes: tuple[str, ...] = ("",), count: int = 5) -> dict[str, list[np.ndarray]]:
    """Writes colour PNG files of 6 × 4 pixels and returns the images."""
    random = np.random.default_rng(0)
    images = {name: [random.integers(0, 256, (4, 6, 3)).astype(np.uint8) for _ in range(count)] for name in classes}
    for name, group in images.items():
        for i, pixels in enumerate(group):
            write_png(folder / name / f"{i}.png", pixels)
    return images


def together(dataset: Dataset) -> set[bytes]:
    assert dataset.held_out is not None
    return {image.tobytes() for image in torch.cat([dataset.x, dataset.held_out]).numpy()}


def test_a_folder_of_png_is_read_exactly(tmp_path: Path) -> None:
    images = fill(tmp_path)[""]
    (tmp_path / ".DS_Store").write_text("hidden")
    dataset = Folder(str(tmp_path))
    assert together(dataset) == {np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes() for image in images}
    assert (dataset.x.shape, dataset.x.dtype) == ((4, 3, 4, 6), torch.uint8)
    assert (dataset.classes, dataset.y, dataset.levels, dataset.dequantize) == (None, None, 256, True)
    torch.testing.assert_close(dataset.units.encode(dataset.x), dataset.x.double() / 127.5 - 1, rtol=0, atol=1e-15)
    again = Folder(str(tmp_path))
    assert torch.equal(dataset.x, again.x)


def test_grey_is_the_luma_of_the_colours(tmp_path: Path) -> None:
    """Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R 601).

    A grey file is unchanged in grey, and has three equal colours in rgb.
    """
    images = fill(tmp_path / "a")[""]
    found = {image.tobytes() for image in Folder(str(tmp_path / "a"), colour="grey").x.numpy()}
    luma = [image.astype(float) @ [0.299, 0.587, 0.114] for image in images]
    for image in found:
        pixels = np.frombuffer(image, dtype=np.uint8).reshape(4, 6)
        assert min(np.abs(pixels - expected).max() for expected in luma) <= 1
    grey = np.random.default_rng(1).integers(0, 256, (5, 4, 6)).astype(np.uint8)
    for i, pixels in enumerate(grey):
        write_png(tmp_path / "b" / f"{i}.png", pixels)
    assert together(Folder(str(tmp_path / "b"), colour="grey")) == {pixels.tobytes() for pixels in grey}
    assert together(Folder(str(tmp_path / "b"))) == {np.stack([pixels] * 3).tobytes() for pixels in grey}


def test_jpeg_files_are_read_nearly(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 16)
    for i, (a, b) in enumerate(itertools.product((ramp, ramp[::-1]), repeat=2)):
        pixels = np.stack([a[:, None] + 0 * b, 0 * a[:, None] + b, np.full((16, 16), 100)], axis=2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.JPG", quality=95)
    dataset = Folder(str(tmp_path), held_out=0.25)
    assert dataset.held_out is not None
    for image in torch.cat([dataset.x, dataset.held_out]).double().numpy():
        red, green, blue = image
        np.testing.assert_allclose(red, np.broadcast_to(red.mean(1, keepdims=True), (16, 16)), atol=12)
        np.testing.assert_allclose(np.sort(red.mean(1)), ramp, atol=8)
        np.testing.assert_allclose(np.sort(green.mean(0)), ramp, atol=8)
        np.testing.assert_allclose(blue, 100, atol=12)


def test_sub_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    images = fill(tmp_path, ("dog", "cat", "ant"), count=10)
    (tmp_path / ".git").mkdir()
    dataset = Folder(str(tmp_path), held_out=0.3)
    assert dataset.classes == 3
    assert dataset.held_out_y is not None and dataset.held_out is not None and dataset.y is not None
    assert torch.bincount(dataset.held_out_y).tolist() == [3, 3, 3]
    for points, labels in ((dataset.x, dataset.y), (dataset.held_out, dataset.held_out_y)):
        for x, label in zip(points.numpy(), labels.tolist(), strict=True):
            of_class = images[("ant", "cat", "dog")[label]]
            assert any(np.array_equal(x.transpose(1, 2, 0), image) for image in of_class)


def png_of(width: int, height: int) -> bytes:
    """Returns a PNG file with a size in its header and hardly any data."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0"))]
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def cut(folder: Path) -> None:
    path = folder / "3.png"
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (
            lambda folder: (folder / "3.png").write_text("no image"),
            "3.png: is not a PNG, JPEG, WebP, BMP or TIFF image: remove or",
        ),
        (
            lambda folder: (folder / "notes.txt").write_text("x"),
            "notes.txt: is not a PNG, JPEG, WebP, BMP or TIFF image",
        ),
        (lambda folder: (folder / "3.png").write_bytes(b""), "3.png: is not a PNG, JPEG, WebP, BMP or TIFF image"),
        (cut, "3.png: is damaged: remove it, or copy it again"),
        (lambda folder: (folder / "3.png").write_bytes(png_of(6, 4)), "3.png: is damaged"),
        (lambda folder: (folder / "3.png").write_bytes(png_of(10**4, 10**4)), "3.png: has too many pixels"),
        (lambda folder: (folder / "3.png").write_bytes(png_of(10**5, 10**5)), "3.png: has too many pixels"),
        (
            lambda folder: write_png(folder / "3.png", np.zeros((6, 4, 3), dtype=np.uint8)),
            r"3.png: has 6 × 4 pixels \(height × width\), but 0.png has 4 × 6: resize and crop all images, for "
            "example by dataset.size=4",
        ),
        (
            lambda folder: write_png(folder / "3.png", np.zeros((4, 6), dtype=np.uint16)),
            ": 3.png has 16 bits per pixel, but 0.png has 8: convert all to one depth, for example by mogrify -depth 8",
        ),
        (
            lambda folder: write_png(folder / "3.png", np.full((4, 6, 4), 254, dtype=np.uint8)),
            "3.png: has transparent pixels: flatten it",
        ),
        (lambda folder: fill(folder, ("cat",)), "0.png: lies beside folders of classes: move it"),
        (lambda folder: (folder / "4.png").symlink_to("nowhere"), "4.png: cannot be read: .*No such file"),
    ],
)
def test_a_bad_file_in_a_folder_is_named_in_one_line(
    tmp_path: Path, harm: Callable[[Path], object], words: str
) -> None:
    fill(tmp_path, count=4)
    harm(tmp_path)
    one_line(lambda: Folder(str(tmp_path)), f"^path={tmp_path}/?{words}")


def test_every_damaged_byte_of_an_image_is_read_or_told_in_one_line(tmp_path: Path) -> None:
    fill(tmp_path, count=3)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (4, 6, 3)).astype(np.uint8)).save(tmp_path / "3.jpg")
    told = 0
    for path in (tmp_path / "1.png", tmp_path / "3.jpg"):
        whole = path.read_bytes()
        for i in range(len(whole)):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
            try:
                Folder(str(tmp_path))
            except ValueError as error:
                assert str(error).startswith(f"path={tmp_path}/")
                assert "\n" not in str(error)
                told += 1
        path.write_bytes(whole)
    assert told > 100


def test_folders_that_hold_too_little_or_too_much_are_told(tmp_path: Path) -> None:
    one_line(lambda: Folder(str(tmp_path / "no")), f"^path={tmp_path}/no: no such folder")
    one_line(lambda: Folder(str(tmp_path)), f"^path={tmp_path}: holds no image")
    fill(tmp_path, ("cat", "dog"), count=1)
    one_line(lambda: Folder(str(tmp_path / "cat" / "0.png")), "0.png: is a file, not a folder")
    one_line(
        lambda: Folder(str(tmp_path)),
        "^held_out=0.2: of 2 images in 2 classes, 2 are left to train on and 0 are held out",
    )
    one_line(lambda: Folder(str(tmp_path), held_out=0.0), "^held_out=0 must be above 0 and below 1")
    (tmp_path / "eel").mkdir()
    one_line(lambda: Folder(str(tmp_path)), f"^path={tmp_path}/eel: holds no image: add images, or remove")
    (tmp_path / "eel").rmdir()
    fill(tmp_path / "cat", ("kitten",), count=1)
    one_line(lambda: Folder(str(tmp_path)), "cat/kitten: is a folder within the folder of a class: move its images up")


def test_units_of_levels_put_the_ends_at_minus_one_and_one() -> None:
    for levels in (2, 17, 256):
        ends = Affine.of_levels(levels, (1, 2, 2)).encode(torch.tensor([0, levels - 1])[:, None, None, None])
        assert torch.equal(ends, torch.tensor([-1.0, 1]).double()[:, None, None, None].expand(2, 1, 2, 2))
        assert math.isclose(float(ends.std(correction=0)), 1)
