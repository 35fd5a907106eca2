"""Folders of pictures: every format, depth, orientation and size, and the pack of their pixels on the disk."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdegen.datasets import Folder, packing
from sdegen.datasets.pictures import arrays

RANDOM = np.random.default_rng(0)


def blocks(height: int = 16, width: int = 24) -> np.ndarray:
    """Returns a picture of 8 × 8 squares of one colour each, which JPEG keeps nearly."""
    small = RANDOM.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    return small.repeat(8, axis=0).repeat(8, axis=1)


def saved(folder: Path, pixels: np.ndarray, kind: str, name: str = "0", turn: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    folder.mkdir(exist_ok=True)
    options = {"exif": exif} if turn != 1 else {}
    options |= {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(kind, {})
    Image.fromarray(pixels).save(folder / f"{name}.{kind}", **options)


def read(folder: Path, **options) -> tuple[np.ndarray, Folder]:  # noqa: ANN003
    """Returns the pictures ``(N, H, W, C)`` in the order of the data set, and the data set."""
    dataset = Folder(str(folder), held_out=0.3, **options)
    assert dataset.held_out is not None
    return torch.cat([dataset.x, dataset.held_out]).numpy().transpose(0, 2, 3, 1), dataset


def one_line(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp"])
def test_formats_without_loss_are_read_exactly(tmp_path: Path, kind: str) -> None:
    pictures = [RANDOM.integers(0, 256, (5, 7, 3)).astype(np.uint8) for _ in range(4)]
    for i, pixels in enumerate(pictures):
        saved(tmp_path, pixels, kind, str(i))
    found, dataset = read(tmp_path)
    assert {image.tobytes() for image in found} == {image.tobytes() for image in pictures}
    assert dataset.description.report == ()


def stored(upright: np.ndarray, turn: int) -> np.ndarray:
    """Returns the pixels that a camera stores with an orientation: the inverse of the turn that EXIF defines."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[turn]


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "webp"])
def test_every_orientation_is_upright_and_counted(tmp_path: Path, kind: str) -> None:
    upright = blocks()
    for turn in range(1, 9):
        saved(tmp_path, np.ascontiguousarray(stored(upright, turn)), kind, str(turn), turn)
    found, dataset = read(tmp_path)
    assert found.shape == (8, 16, 24, 3)
    assert np.abs(found.astype(int) - upright).max() <= (3 if kind == "jpg" else 0)
    assert dataset.description.report == ("7 images turned as the orientation in the EXIF data says",)


def test_orientation_behind_the_pixels_of_a_png_is_applied(tmp_path: Path) -> None:
    """The format allows the field at the end, where ImageMagick writes it."""
    upright = blocks()
    for turn in (1, 6, 6):
        saved(tmp_path, np.ascontiguousarray(stored(upright, turn)), "png", f"{turn}{len(os.listdir(tmp_path))}", turn)
    for path in tmp_path.glob("6*"):
        content = path.read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
        path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    assert all(np.array_equal(image, upright) for image in read(tmp_path)[0])


def test_a_large_jpeg_keeps_its_orientation_and_its_centre(tmp_path: Path) -> None:
    upright = np.zeros((640, 1280, 3), dtype=np.uint8)
    upright[:320, 320:960, 0], upright[320:, 320:960, 1], upright[:, 320:960, 2] = 200, 100, 50
    for turn in range(1, 9):
        saved(tmp_path, np.ascontiguousarray(stored(upright, turn)), "jpg", str(turn), turn)
    found, dataset = read(tmp_path, size=16)
    assert found.shape == (8, 16, 16, 3)
    assert np.abs(found[:, :7, 1:-1].astype(int) - [200, 0, 50]).max() <= 6
    assert np.abs(found[:, 9:, 1:-1].astype(int) - [0, 100, 50]).max() <= 6
    assert dataset.description.report[0] == "scaled from 640 × 1280 pixels and cut to the centre, 16 × 16"


@pytest.mark.parametrize("size", [32, (16, 32), (32, 16)])
def test_images_are_scaled_without_aliasing(tmp_path: Path, size: int | tuple[int, int]) -> None:
    """Stripes too fine for the small image become their mean. A smooth image becomes the means of its cells."""
    side = np.arange(256)
    stripes = np.broadcast_to(255 * (side % 2), (256, 256)).astype(np.uint8)
    smooth = 128 + 60 * np.sin(side / 40)[:, None] + 60 * np.cos(side / 50)
    for i, pixels in enumerate((stripes, stripes.T, smooth.round().astype(np.uint8))):
        saved(tmp_path, np.ascontiguousarray(pixels), "png", str(i))
    height, width = (size, size) if isinstance(size, int) else size
    cell = 256 // max(height, width)
    rows, columns = ((256 - cell * n) // 2 for n in (height, width))
    middle = smooth[rows : rows + cell * height, columns : columns + cell * width]
    means = middle.reshape(height, cell, width, cell).mean((1, 3))
    found, _ = read(tmp_path, size=size, colour="grey")
    assert found.shape == (3, height, width, 1)
    flat = sorted(found[..., 0].astype(float), key=np.ptp)
    inner = (slice(2, -2), slice(2, -2))
    assert all(np.abs(image[inner] - 127.5).max() < 8 for image in flat[:2])
    assert np.abs(flat[2] - means)[inner].max() < 3


def test_images_of_the_wanted_size_are_unchanged_and_small_ones_are_counted(tmp_path: Path) -> None:
    pictures = [RANDOM.integers(0, 256, (8, 8, 3)).astype(np.uint8) for _ in range(3)]
    for i, pixels in enumerate(pictures):
        saved(tmp_path, pixels, "png", str(i))
    found, dataset = read(tmp_path, size=8)
    assert {image.tobytes() for image in found} == {image.tobytes() for image in pictures}
    assert dataset.description.report == ()
    saved(tmp_path, np.full((4, 6, 3), 77, dtype=np.uint8), "png", "4")
    found, dataset = read(tmp_path, size=8)
    assert any((image == 77).all() for image in found)
    assert dataset.description.report == (
        "scaled from 4 to 8 × 6 to 8 pixels and cut to the centre, 8 × 8",
        "1 image enlarged, because the picture is smaller than 8 × 8",
    )
    one_line(lambda: Folder(str(tmp_path)), "resize and crop all images, for example by dataset.size=4")
    one_line(lambda: Folder(str(tmp_path), size=0), "^size=0 must lie between 1 and 16384")


@pytest.mark.parametrize(("top", "levels"), [(65535, 65536), (4095, 4096), (200, 256)])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_grey_images_with_16_bits_keep_their_values(tmp_path: Path, kind: str, top: int, levels: int) -> None:
    pictures = [RANDOM.integers(0, top + 1, (8, 8)).astype(np.uint16) for _ in range(4)]
    pictures[0][0, 0] = top
    for i, pixels in enumerate(pictures):
        saved(tmp_path, pixels, kind, str(i))
    found, dataset = read(tmp_path, colour="grey")
    assert {image[..., 0].astype(np.uint16).tobytes() for image in found} == {image.tobytes() for image in pictures}
    assert dataset.levels == levels
    assert dataset.description.report[-1].startswith(f"16 bits per pixel: the values are kept, and lie below {levels}")
    ends = dataset.units.encode(torch.tensor([0, levels - 1])[:, None, None, None].expand(2, 1, 8, 8))
    assert torch.equal(ends[:, 0, 0, 0], torch.tensor([-1.0, 1.0]).double())
    colours, _ = read(tmp_path)
    assert np.array_equal(colours, found.repeat(3, axis=3))


def test_images_with_16_bits_are_scaled_within_their_range(tmp_path: Path) -> None:
    edge = np.zeros((32, 32), dtype=np.uint16)
    edge[:, 16:] = 65535
    for name in "abc":
        saved(tmp_path, edge, "png", name)
    found, _ = read(tmp_path, size=8, colour="grey")
    assert found.min() == 0
    assert found.max() == 65535
    assert (np.diff(found[0, 0, [0, 3, 4, 7], 0]) >= 0).all()


def test_16_bits_per_colour_are_read_as_8_and_counted(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 2**16, (4, 4, 3))
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    (tmp_path / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    for name in "12":
        saved(tmp_path, np.zeros((4, 4, 3), dtype=np.uint8), "png", name)
    found, dataset = read(tmp_path)
    assert any(np.array_equal(image, values >> 8) for image in found)
    assert dataset.description.report == ("1 image read with 8 of the 16 bits of each colour",)


def test_numbers_with_32_bits_and_further_frames_are_told(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)) for value in (10, 20)]
    for name in "012":
        frames[0].save(tmp_path / f"{name}.tiff", save_all=True, append_images=frames[1:])
    found, dataset = read(tmp_path)
    assert (found == 10).all()
    assert dataset.description.report == ("3 images with several pictures in the file, of which the first is read",)
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "3.tiff")
    one_line(
        lambda: read(tmp_path), "3.tiff: has 32 bits per pixel: convert it to 16 or 8, or save all images as a .npy"
    )


def test_files_of_the_system_are_skipped_and_counted(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(3):
            saved(tmp_path / name, blocks(), "png", str(i))
    for stray in ("Thumbs.db", "cat/.DS_Store", "dog/.DS_Store", "dog/desktop.ini", "cat/._0.png"):
        (tmp_path / stray).write_text("x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "0.png").write_text("x")
    _, dataset = read(tmp_path)
    assert dataset.description.classes == ("cat", "dog")
    assert (dataset.classes, len(dataset.x)) == (2, 4)
    (line,) = dataset.description.report
    assert line.startswith("skipped 6 hidden files or files of the system: 2 × .DS_Store, ")


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes every folder large, so that it is packed; returns a folder of six pictures in two classes."""
    monkeypatch.setattr(Folder, "FILES", 0)
    monkeypatch.setattr(packing, "SETTLED", 0.05)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    for name in ("cat", "dog"):
        for i in range(5):
            pixels = RANDOM.integers(0, 256, (9, 11, 3)).astype(np.uint8)
            saved(tmp_path / "pictures" / name, pixels, "png", str(i))
    saved(tmp_path / "pictures" / "dog", np.ascontiguousarray(stored(blocks(), 6)), "jpg", "turned", 6)
    return tmp_path / "pictures"


def packs(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache" / "sdegen").iterdir())


@pytest.mark.parametrize("mapped", [False, True])
def test_a_pack_gives_the_same_data_and_is_read_again(
    large: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "FILES", 1000)
        _, plain = read(large, size=8)
    monkeypatch.setattr(Folder, "MAPPED", 0 if mapped else 2**20)
    _, first = read(large, size=8)
    (pack,) = packs(large)
    _, second = read(large, size=8)
    assert packs(large) == [pack]
    for dataset in (first, second):
        assert dataset.mapped is mapped
        for name in ("x", "held_out", "y", "held_out_y"):
            assert torch.equal(getattr(dataset, name), getattr(plain, name))
        assert dataset.description == plain.description
        assert dataset.levels == 256
    assert len(second.description.report) == 2
    # The second data set is read from the pack: a change of the pack changes it.
    whole = (pack / "images.npy").read_bytes()
    (pack / "images.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 0xFF]))
    assert torch.equal(read(large, size=8)[1].x, plain.x)
    assert not torch.equal(read(large, size=8)[1].held_out, plain.held_out)
    # Other options have a pack of their own.
    read(large, size=(4, 8))
    assert len(packs(large)) == 2


def test_a_changed_picture_is_noticed_and_its_old_pack_removed(large: Path) -> None:
    before, _ = read(large, size=8)
    (pack,) = packs(large)
    file = large / "cat" / "0.png"
    size, facts = file.stat().st_size, file.stat()
    Image.fromarray(np.zeros((9, 11, 3), dtype=np.uint8)).save(file)
    # The same size and the same time of the last change, as after a copy that keeps times.
    file.write_bytes(file.read_bytes().ljust(size, b"\0"))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (size, facts.st_mtime_ns)
    after, _ = read(large, size=8)
    assert not np.array_equal(before, after)
    assert any((image == 0).all() for image in after)
    (now,) = packs(large)
    assert now != pack
    (large / "cat" / "1.png").rename(large / "cat" / "9.png")
    assert read(large, size=8)[0].shape == before.shape
    assert packs(large) != [now]


@pytest.mark.parametrize(
    "harm",
    [
        lambda pack: (pack / "images.npy").write_bytes((pack / "images.npy").read_bytes()[:-1]),
        lambda pack: (pack / "images.npy").unlink(),
        lambda pack: np.save(pack / "images.npy", np.zeros((3, 3, 8, 8), dtype=np.uint8)),
        lambda pack: np.save(pack / "images.npy", np.zeros((11, 3, 8, 8))),
        lambda pack: np.save(pack / "images.npy", np.array([object()] * 11), allow_pickle=True),
        lambda pack: (pack / "facts.json").write_text("{}"),
        lambda pack: (pack / "facts.json").write_text(json.dumps({"levels": [], "report": 3})),
    ],
)
def test_a_damaged_pack_is_packed_again(large: Path, harm: Callable[[Path], object]) -> None:
    before, dataset = read(large, size=8)
    harm(packs(large)[0])
    after, again = read(large, size=8)
    assert np.array_equal(before, after)
    assert again.description == dataset.description
    assert len(packs(large)) == 1


def test_a_pack_is_whole_or_absent(large: Path) -> None:
    content = (large / "dog" / "3.png").read_bytes()
    (large / "dog" / "3.png").write_bytes(content[:-30])
    one_line(lambda: read(large, size=8), "^path=.*3.png: is damaged: remove it, or copy it again")
    assert packs(large) == []
    (large / "dog" / "3.png").write_bytes(content)
    left = large.parent / "cache" / "sdegen" / ".0123-4567.89"
    left.mkdir()
    (left / "images.npy").write_text("")
    read(large, size=8)
    assert len(packs(large)) == 2
    os.utime(left / "images.npy", (0, 0))
    read(large, size=4)
    assert left not in packs(large)


def test_a_cache_that_cannot_be_written_is_told(large: Path) -> None:
    (large.parent / "cache").write_text("a file")
    one_line(
        lambda: read(large, size=8),
        f"^path={large}: the decoded images could not be written to {large.parent}/cache/sdegen: .*: make room there, "
        f"or set the environment variable XDG_CACHE_HOME",
    )


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_an_uncompressed_tiff_is_turned_without_damage(tmp_path: Path, kind: type) -> None:
    """By EXIF, orientation 6 is a quarter turn clockwise."""
    values, exif = np.arange(48).astype(kind).reshape(6, 8), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "x.tiff", exif=exif)
    (found,) = arrays([tmp_path / "x.tiff"], "L", (8, 6), kind is np.uint16)
    np.testing.assert_array_equal(found[0], np.rot90(values, -1))
