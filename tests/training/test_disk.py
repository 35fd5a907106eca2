"""Data on the disk: their order, the thread that reads them ahead, and the memory that a training takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdegen.config.compose import composed
from sdegen.core import tensors
from sdegen.core.capacity import memory
from sdegen.datasets import Affine, Dataset, File
from sdegen.datasets.base import Shuffle
from sdegen.datasets.disk import Disk, ReadAhead, mapped, once, shared
from sdegen.metrics.labels import fit_features
from sdegen.runs import checkpoint, session
from sdegen.training import order
from sdegen.training.batches import Points
from sdegen.training.order import Order, Window

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def pixels(count: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, side, side), dtype=np.uint8)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 images of 8 × 8 bytes, and windows of 4 blocks."""
    monkeypatch.setattr(Dataset, "BLOCK", 512)
    monkeypatch.setattr(order, "MIXED", 4)


def twins(path: Path, shuffle: Shuffle) -> tuple[Dataset, Dataset]:
    """Returns the images of a file on the disk, and the same images in memory."""
    x = mapped(path)
    units = Affine.of_levels(256, x.shape[1:])
    own = {"levels": 256, "units": units, "dequantize": True, "shuffle": shuffle}
    return Dataset(shared(x), **own, disk=Disk.of(x)), Dataset(torch.from_numpy(np.array(x)), **own)


@pytest.mark.parametrize("count", [1, 2, 7, 50, 333])
@pytest.mark.parametrize("block", [None, 1, 7, 400])
def test_every_point_is_visited_once_in_each_epoch(
    count: int, block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order does not depend on the pieces in which it is asked for, and differs between epochs and seeds."""
    monkeypatch.setattr(order, "MIXED", 3)
    one, orders = Order(0, count, block), []
    for epoch in (0, 1, 5, 0):
        whole = one.rows(epoch, 0, count)
        assert whole.sort().values.tolist() == list(range(count))
        starts = range(0, count, 9)
        pieces = [Order(0, count, block).rows(epoch, start, min(start + 9, count)) for start in starts]
        assert torch.equal(torch.cat(pieces), whole)
        orders.append(whole.tolist())
    assert orders[0] == orders[3]
    if count > 7:
        others = [orders[1], orders[2], Order(1, count, block).rows(0, 0, count).tolist()]
        assert all(other != orders[0] for other in others) and orders[1] != orders[2]


def test_a_window_has_the_points_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are neighbours on the disk, come from the whole file, and are cut at other places in each epoch."""
    monkeypatch.setattr(order, "MIXED", 4)
    one, cuts, mixed, window = Order(0, 1000, 10), [], [], Window(0, 0)
    while window.epoch < 8:
        whole = torch.cat([one.rows(window.epoch, 0, 1000)])
        places = [place for place in range(1000) if one.windows(window.epoch, place, place + 1) == [window]]
        blocks = one.blocks(window)
        assert len(blocks) <= 4 and all(0 < end - first <= 10 for first, end in blocks)
        assert sorted(whole[places].tolist()) == [row for first, end in blocks for row in range(first, end)]
        mixed += [tuple(whole[places].argsort().tolist())] if len(places) == 40 else []
        cuts += [(window.epoch, min(first for first, _ in blocks if first) % 10)] if window.number == 0 else []
        window = one.following(window)
    assert len({cut for _, cut in cuts}) > 3
    assert len(set(mixed)) == len(mixed) > 100


def test_a_sorted_file_is_mixed_as_well_as_blocks_allow() -> None:
    """In a file of two sorted classes, the share of a class in a window of M blocks has the variance p (1 - p) / M."""
    one, shares = Order(3, 2**20, 64), []
    for epoch in range(4):
        rows = one.rows(epoch, 0, 2**20)
        shares += [float((part < 2**20 // 4).double().mean()) for part in rows.split(64 * order.MIXED)[:-1]]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.01)
    # There are 4 × 64 windows; the standard error of the deviation is 4 %.
    assert np.std(shares) == pytest.approx((0.25 * 0.75 / order.MIXED) ** 0.5, rel=0.16)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shuffle", ["rows", "blocks"])
def test_data_on_the_disk_and_in_memory_give_the_same_batches(tmp_path: Path, shuffle: Shuffle) -> None:
    """The batches have the images of the order, with noise, from any step on."""
    images = pixels(203)
    np.save(tmp_path / "x.npy", images)
    disk, plain = (Points(1, data, 16) for data in twins(tmp_path / "x.npy", shuffle))
    assert (disk._ahead is not None) == (shuffle == "blocks") and plain._ahead is None
    rows = disk.indices(range(26)).flatten()
    for epoch in rows.view(2, -1):
        assert sorted(epoch[:203].tolist()) == list(range(203))
    both = [points.take(range(26), range(2), 16) for points in (disk, plain)]
    assert all(torch.equal(*parts) for parts in zip(*both, strict=True))
    restored = disk.units.decode(both[0][0].double()).flatten(0, 1)
    torch.testing.assert_close(restored, shared(images)[rows].double(), rtol=0, atol=0.5001)
    later = [points.take(range(13, 26), range(1, 2), 16)[0] for points in (disk, plain)]
    assert torch.equal(later[0], later[1]) and torch.equal(later[0], both[0][0][13:])


@pytest.mark.usefixtures("small_blocks")
def test_a_resumed_training_by_blocks_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(File, "MAPPED", 0)
    monkeypatch.setattr(Dataset, "ROWS", 0)
    np.save(tmp_path / "x.npy", pixels(100))
    config = ("dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "network.hidden=[8]", "trainer.batch_size=16",
              "sampler.steps=2", "count=1", "figures=false", "optimizer.decay=constant")  # fmt: skip
    session.train(composed("train", (*config, "trainer.steps=14")), tmp_path / "whole")
    session.train(composed("train", (*config, "trainer.steps=6")), tmp_path / "parts")
    session.resume(tmp_path / "parts", {"trainer.steps": 14})
    whole, parts = (checkpoint.newest(tmp_path / name)[0].weights for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    rows = composed("train", (*config, "trainer.steps=14", "dataset.shuffle=rows"))
    session.train(rows, tmp_path / "rows")
    other = checkpoint.newest(tmp_path / "rows")[0].weights
    assert not all(torch.equal(value, other[name]) for name, value in whole.items())


def test_large_data_on_the_disk_are_shuffled_by_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", pixels(100))

    def blocks(shuffle: Shuffle) -> list[int | None]:
        return [data.block for data in twins(tmp_path / "x.npy", shuffle)]

    assert blocks("auto") == blocks("rows") == [None, None]
    assert blocks("blocks") == [2**20 // 64] * 2
    monkeypatch.setattr(Dataset, "ROWS", 99 * 64)
    assert blocks("auto") == [2**20 // 64, None] and blocks("rows") == [None, None]
    monkeypatch.setattr(Dataset, "BLOCK", 63)
    assert blocks("blocks") == [1, 1]


def resident(path: Path) -> Tensor:
    """Returns True for the pages of a file that are in the page cache."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        view = np.frombuffer(memory, np.uint8)
        found = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        addresses = [ctypes.c_void_p(array.ctypes.data) for array in (view, found)]
        assert libc.mincore(addresses[0], ctypes.c_size_t(len(view)), addresses[1]) == 0
        del view
    return torch.from_numpy(found & 1 > 0)


@LINUX
def test_a_window_is_in_the_page_cache_when_it_is_needed(tmp_path: Path) -> None:
    """The parts that are reached have been read from the disk, and no others but the following part."""
    path = tmp_path / "x.npy"
    np.save(path, pixels(64 * 4096, 8))
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if bool(resident(path).any()):
        pytest.skip("this file system keeps all pages in memory")
    disk = Disk.of(mapped(path))
    assert disk is not None
    # Without the header, rows would not begin with pages.
    disk = disk._replace(offset=0)
    rows = {"a": [(65536, 69632), (81920, 90112)], "b": [(90112, 94208)], "c": [(131072, 262144)]}
    ahead = ReadAhead(disk, rows.__getitem__)

    def read(name: str) -> bool:
        pages = resident(path)
        parts = [pages[first * 64 // 4096 : end * 64 // 4096] for first, end in rows[name]]
        return bool(torch.cat(parts).all())

    ahead.reach(["a"], "b")
    assert read("a") and not read("c")
    assert any(read("b") for _ in range(20_000))
    ahead.reach(["b"], "c")
    assert read("b")
    assert not bool(resident(path)[94208 // 64 + 32 : 131072 // 64].any())
    ahead.reach(["c", "a"], "b")
    assert read("c")


def test_the_thread_ends_with_the_training(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pixels(100))
    before = set(threading.enumerate())
    points = Points(0, twins(tmp_path / "x.npy", "blocks")[0], 16)
    points.take(range(2), range(1), 16)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon and thread.is_alive()
    del points
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_a_file_that_is_removed_can_be_read_to_the_end_and_one_that_is_cut_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, pixels(20_000))
    points = Points(0, twins(path, "blocks")[0], 16)
    os.truncate(path, 100_000)
    with pytest.raises(OSError, match="is shorter than it was at the start: restore it") as error:
        points.take(range(2), range(1), 16)
    assert error.value.filename == str(path)
    np.save(tmp_path / "y.npy", pixels(100))
    disk, plain = (Points(0, data, 16) for data in twins(tmp_path / "y.npy", "blocks"))
    (tmp_path / "y.npy").unlink()
    assert torch.equal(disk.take(range(20), range(1), 16)[0], plain.take(range(20), range(1), 16)[0])


def test_a_file_that_is_larger_than_the_memory_is_opened(tmp_path: Path) -> None:
    """The file has no content on the disk. A mapping that could be written would be refused."""
    path, count = tmp_path / "x.npy", int(1.5 * memory() / 4096)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, 1, 64, 64)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4096 * count)
    x = shared(mapped(path))
    assert x.shape == (count, 1, 64, 64) and not bool(x[-1].any())


def test_an_array_in_the_order_of_fortran_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the disk, each of its rows would be spread over the whole file."""
    monkeypatch.setattr(File, "MAPPED", 0)
    np.save(tmp_path / "x.npy", np.asfortranarray(pixels(50)))
    data = File(0, str(tmp_path / "x.npy"))
    assert data.disk is None and data.held_out is not None
    both = torch.cat([data.x, data.held_out]).flatten(1).tolist()
    assert sorted(both) == sorted(pixels(50).reshape(50, -1).tolist())


def test_a_result_is_kept_while_the_file_is_unchanged(tmp_path: Path) -> None:
    """A file that has just been written may change again within the resolution of its time."""
    path, counted = tmp_path / "x.npy", []

    def count() -> int:
        counted.append(Disk.of(mapped(path)))
        return len(counted)

    def found(name: str, age: float) -> int:
        os.utime(path, (1e9 - age, 1e9 - age))
        known = Disk.of(mapped(path))
        assert known is not None
        return once(known._replace(version=None if age < 2 else (int(age), path.stat().st_size)), name, count)

    np.save(path, pixels(10))
    assert [found("a", 0), found("a", 0)] == [1, 2]
    assert [found("a", 9), found("a", 9), found("b", 9), found("a", 8), found("a", 9)] == [3, 3, 4, 5, 3]
    np.save(path, pixels(11))
    assert [found("a", 9), once(None, "a", count), once(None, "a", count)] == [6, 7, 8]


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """Limits the memory that the process may get from the system, except for read-only mappings, to ``size`` more."""
    gc.collect()
    # Without holes in the heap: every larger piece of memory is returned to the system.
    threshold, libc = -3, ctypes.CDLL(None)
    libc.mallopt(threshold, 2**16)
    # Return the memory that earlier tests have freed: otherwise it would be returned inside, and more would be allowed.
    libc.malloc_trim(0)
    used = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line).split()[1])
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * used + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        libc.mallopt(threshold, 2**25)


@LINUX
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_training_takes_less_memory_than_its_data(
    tmp_path: Path, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """96 MiB of images are opened and trained on in 32 MiB of memory; in memory, they do not fit."""
    path, count = tmp_path / "x.npy", 96 * 2**20 // 784 // np.dtype(dtype).itemsize
    with path.open("wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (count, 1, 28, 28)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.arange(2 * 784, dtype=dtype).tobytes())
        file.truncate(file.tell() + (count - 2) * 784 * np.dtype(dtype).itemsize)
    monkeypatch.setattr(tensors, "CHUNK", 2**17)
    monkeypatch.setattr(Dataset, "BLOCK", 2**14)

    def train() -> Dataset:
        dataset = File(0, str(path), standardize=True, shuffle="blocks")
        points = Points(0, dataset, 128)
        assert all(bool(points.take(range(k, k + 4), range(1), 128)[0].any()) for k in range(0, 40, 4))
        return dataset

    # Reading the file fails, or the copy of its training part.
    short = "not enough memory: .* 96.0 MiB .*: use fewer points|can't allocate memory"
    with at_most(2**25), pytest.raises((ValueError, RuntimeError), match=short):
        train()
    monkeypatch.setattr(File, "MAPPED", 0)
    with at_most(2**25):
        dataset = train()
    assert dataset.disk is not None and dataset.x.nbytes > 2**26


def peak(command: list[str], folder: Path) -> int:
    """Returns the largest number of bytes of anonymous and shared memory that a command had, every 20 ms."""
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})
    most = 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            most = max(most, 1024 * sum(map(int, re.findall(r"(?:RssAnon|RssShmem):\s+(\d+)", status))))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    assert process.returncode == 0
    return most


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_8_gib_are_trained_on_in_2_gib(tmp_path: Path, dtype: type) -> None:
    """A whole run, from the first look at the data to the figures, on random images that lie on the disk."""
    if shutil.disk_usage(tmp_path).free < 10 * 2**30:
        pytest.skip("needs 10 GiB on the disk")
    path, count = tmp_path / "x.npy", 2**33 // 784 // np.dtype(dtype).itemsize
    options = ["dataset=file", f"dataset.path={path}", "network=unet", "network.channels=16", "trainer.batch_size=32",
               "trainer.steps=10", "count=16", "sampler.steps=2", "hydra.run.dir=run"]  # fmt: skip
    options += ["dataset.levels=256", "dataset.dequantize=true"] if dtype is np.uint8 else []
    try:
        with path.open("wb") as file:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (count, 1, 28, 28)}
            np.lib.format.write_array_header_1_0(file, header)
            piece = pixels(2**12, 28).astype(dtype)
            for start in range(0, count, len(piece)):
                file.write(piece[: count - start].tobytes())
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert path.stat().st_blocks * 512 >= 2**33 * 0.99
        assert peak([sys.executable, "-m", "sdegen", "train", *options], tmp_path) < 2 * 2**30
    finally:
        path.unlink()
    assert (
        f"shuffled by blocks of {2**20 // 784 // np.dtype(dtype).itemsize}"
        in (tmp_path / "run" / "train.log").read_text()
    )


@LINUX
def test_classes_of_images_on_the_disk_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of classes share the memory of the data, and few images give the features."""
    path = tmp_path / "x.npy"
    np.save(path, pixels(600))
    x, y = mapped(path), torch.arange(600) // 300
    units = Affine.of_levels(256, (1, 8, 8))
    dataset = Dataset(shared(x)[:600], shared(x)[:10], levels=256, units=units, y=y, held_out_y=y[:10], classes=2,
                      disk=Disk.of(x))  # fmt: skip
    own = dataset.of_class(1)
    assert torch.equal(own.x, dataset.x[300:]) and own.held_out is None
    assert own.x.untyped_storage().data_ptr() == dataset.x.untyped_storage().data_ptr()
    mixed = Dataset(dataset.x, levels=256, units=units, y=torch.arange(600) % 2, classes=2)
    assert torch.equal(mixed.of_class(1).x, dataset.x[1::2])
    monkeypatch.setattr("sdegen.metrics.labels.LEARNED", 40 * 64)
    monkeypatch.setattr("sdegen.metrics.features.EXAMPLES", 100)
    seen = []
    monkeypatch.setattr(units, "encode", lambda x: seen.append(len(x)) or Affine.encode(units, x))
    fit_features(dataset)
    assert max(seen) == 40
