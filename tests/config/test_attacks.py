"""Malicious files, made by these tests: none runs code, writes outside its folder or fills the memory.

Each file is refused with one line.
"""

from __future__ import annotations

import base64
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run as command
from PIL import Image

import sdegen
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.datasets import Folder, Smile, checks
from sdegen.datasets.file import read
from sdegen.datasets.idx import read_idx
from sdegen.reports import report
from sdegen.runs import checkpoint, files, session

ROOT = Path(__file__).parents[2]
SMALL = ("dataset=smile", "network.hidden=[8]", "trainer.steps=3", "trainer.preview_every=0", "sampler.steps=3")
SENTINEL = "RAN"
MODULES = ("antigravity", "this", "evil_module")
"""Modules that no run imports. If one of them is imported, an attack ran."""


class Call:
    """Object whose pickle calls ``function`` when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.called


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    session.train(composed("train", (*SMALL, "count=50")), folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Makes a stranger's run. Afterwards, nothing has run, been imported or been written outside the run's folder."""
    (tmp_path / "evil_module.py").write_text(f"open({SENTINEL!r}, 'w')\nclass VP: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = sorted(tmp_path.iterdir())
    yield folder
    kept = {tmp_path / "latest", tmp_path / "outside", tmp_path / "report.html"}
    assert not list(tmp_path.rglob(SENTINEL))
    assert set(tmp_path.iterdir()) - kept == set(before)
    assert not set(MODULES) & sys.modules.keys()


def refused(run: Path, words: str) -> None:
    """Asserts that loading and resuming raise one line with the words, and that the folder stays unchanged.

    To resume, the program looks for a whole checkpoint among all of them, so its message may say that there is none.
    """
    before = {path: path.lstat().st_mtime_ns for path in run.rglob("*")}
    for door, more in (
        (sdegen.load, ""),
        (lambda folder: session.resume(folder, {"trainer.steps": 4}), "|no whole checkpoint"),
    ):
        with pytest.raises(UserError, match=words + more) as error:
            door(run)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1500
    assert {path: path.lstat().st_mtime_ns for path in run.rglob("*")} == before


def content(trained: Path) -> dict[str, Any]:
    return {"format": checkpoint.FORMAT, **checkpoint.load(checkpoint.find(trained))._asdict()}


def save(run: Path, content: Mapping[str, Any]) -> None:
    """Replaces the content of a run's checkpoint under all names of the file."""
    for path in (run / "checkpoints").glob("*.pt"):
        torch.save(content, path)


@pytest.fixture
def rewrite(trained: Path, run: Path) -> Callable[..., None]:
    """Returns a function that replaces fields of the run's checkpoint, or groups and options of the configuration."""

    def change(nodes: Mapping[Any, Any] | None = None, **changes: object) -> None:
        whole = content(trained)
        config = {} if nodes is None else {"config": {**whole["config"], **nodes}}
        save(run, {**whole, **config, **changes})

    return change


def rezip(run: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> None:
    """Rewrites the archive of a run's checkpoint. ``change`` writes each file of the archive."""
    for path in (run / "checkpoints").glob("*.pt"):
        with zipfile.ZipFile(path) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
        path.unlink()
        with zipfile.ZipFile(path, "w") as archive:
            for info, data in members:
                change(archive, info, data)


PAYLOADS: dict[str, Callable[[], Call]] = {
    "os.system": lambda: Call(os.system, f"touch {SENTINEL}"),
    "builtins.exec": lambda: Call(exec, f"open({SENTINEL!r}, 'w')"),
    "subprocess.Popen": lambda: Call(subprocess.Popen, ["touch", SENTINEL]),
    "pathlib.Path.write_text": lambda: Call(Path.write_text, Path(SENTINEL), "ran"),
    "torch.hub.load": lambda: Call(torch.hub.load, ".", "VP", "local"),
    "importlib": lambda: Call(__import__, "evil_module"),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_smuggled_code_does_not_run(run: Path, rewrite: Callable[..., None], payload: Callable[[], Call]) -> None:
    for field in ("weights", "optimizer", "provenance"):
        rewrite(**{field: {"x": payload()}})
        refused(run, "refused: it holds more than tensors and plain data")
    rewrite({"sampler": payload()})
    refused(run, "refused: it holds more than tensors and plain data")
    spoken = pickle.dumps(payload(), protocol=2)
    rezip(run, lambda archive, info, data: archive.writestr(info, spoken if info.filename[-3:] == "pkl" else data))
    refused(run, "refused: it holds more than tensors and plain data")
    for path in (run / "checkpoints").glob("*.pt"):
        path.write_bytes(spoken)
    refused(run, "not a whole checkpoint")


VP = {"_target_": "sdegen.sde.VP"}
STEPS = "sdegen.samplers.StepSampler"
SYSTEM = {"_target_": "os.system", "command": f"touch {SENTINEL}"}


def deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


def wide(levels: int) -> list[Any]:
    """Returns nested lists. Each list has ten references to the same inner list."""
    entries: list[Any] = ["lol"] * 10
    for _ in range(levels):
        entries = [entries] * 10
    return entries


TARGETS = {
    "outside of sdegen": [
        *("os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "hydra.utils.get_method"),
        *("hydra.utils.instantiate", "torch.hub.load", "numpy.load", "pathlib.Path", "antigravity.VP", "this.VP"),
        *("evil_module.VP", "sdegenevil.sde.VP", "__main__.VP"),
    ],
    "cannot be imported": [
        "sdegen.runs.files.os.system",
        "sdegen.sde.mixture.torch.load",
        "sdegen.core.schema.importlib.reload",
    ],
    "has no class": [
        "sdegen.__init__.x",
        "sdegen.sde.__class__",
        "sdegen.runs.files.write_json",
        "sdegen.runs.files.subprocess",
    ],
    "is not trusted": ["sdegen.sde.mixture.Tensor", "sdegen.runs.files.Path", "sdegen.core.schema.Mapping"],
    "is not a": ["sdegen.datasets.File", "sdegen.runs.run.Run", "sdegen.networks.Network"],
    "not of the form": ["", "sdegen", ".sdegen.x", "sdegen..x", "sdegen.sde/../x.VP", "sdegen" + ".a" * 1000],
}


@pytest.mark.parametrize(("words", "target"), [(words, one) for words, many in TARGETS.items() for one in many])
def test_a_node_names_a_class_of_its_group_and_nothing_else(
    run: Path, rewrite: Callable[..., None], words: str, target: str
) -> None:
    rewrite({"sde": {"_target_": target, "command": f"touch {SENTINEL}"}})
    refused(run, f"^sde: .*{words}")


NODES: list[tuple[dict[str, Any], str]] = [
    ({"sampler": {"_target_": STEPS, "predictor": SYSTEM}}, "sampler.predictor: .*outside of sdegen"),
    ({"network": {"_target_": "sdegen.networks.MLP", "hidden": [SYSTEM]}}, "network.hidden: must be a list"),
    ({"sde": {**VP, "beta_max": SYSTEM}}, "sde.beta_max: must be a number"),
    ({"sde": {"_target_": "${x}"}, "x": "os.system"}, "interpolation"),
    ({"sde": {**VP, "eps": "${oc.env:HOME}"}}, "interpolation"),
    ({"name": "${hydra:runtime.cwd}"}, "interpolation"),
    ({"${oc.env:HOME}": 1}, "interpolation"),
    ({"sde": {**VP, "_args_": ["x"]}}, "sde._args_: no such option"),
    ({"sde": {**VP, "_partial_": True}}, "sde._partial_: no such option"),
    ({"sde": {**VP, "_convert_": "all"}}, "sde._convert_: no such option"),
    ({"sde": {**VP, "defaults": [{"/hydra": "x"}]}}, "sde.defaults: no such option"),
    ({"sde": {**VP, "beta_max": 1.0, "x@_global_": SYSTEM}}, "no such option"),
    ({"sde": "os.system"}, "sde: must be a node"),
    (
        {"network": {"_target_": "sdegen.networks.Network"}},
        "Network is abstract: define forward in this class",
    ),
    ({"seed": [1]}, "seed: must be an integer"),
    ({"more": 1}, "more: no such option"),
    ({"defaults": [{"/hydra": "x"}]}, "defaults: no such option"),
    ({"name": "../../outside"}, "name: .* is no name for a folder"),
    ({"name": "/outside"}, "name: .* is no name for a folder"),
    ({"name": "a\nb"}, "not a single line"),
    ({"name": "a\x1b[2J"}, "not a single line"),
    ({"name": "a" * 10**7}, "too long"),
    ({"a" * 10**7: 1}, "too long"),
    ({"sde": {**VP, "beta_max": "a" * 4000}}, "must be a number"),
    ({"name": b"x"}, "contains a bytes"),
    ({"seed": torch.tensor(3)}, "contains a Tensor"),
    ({"x": deep(200)}, "nested too deeply"),
    ({"sde": {**VP, "beta_max": deep(200)}}, "nested too deeply"),
    ({"x": wide(12)}, "has too many entries"),
    ({"network": {"_target_": "sdegen.networks.MLP", "hidden": [1] * 10**4}}, "asks for more weights"),
    ({"network": {"_target_": "sdegen.networks.MLP", "hidden": [10**8]}}, "asks for more weights"),
    ({"network": {"_target_": "sdegen.networks.MLP", "hidden": [9]}}, "asks for more weights"),
    *(
        ({"network": {"_target_": "sdegen.networks.MLP", "time_embedding": "fourier", "fourier_features": n}}, told)
        for n, told in ((10**10, "fourier_features=10000000000 must be"), (2**20, "asks for more weights"))
    ),
]


@pytest.mark.parametrize(("node", "words"), NODES, ids=[words for _, words in NODES])
def test_a_configuration_is_plain_data_of_a_sensible_size(
    run: Path, rewrite: Callable[..., None], node: dict, words: str
) -> None:
    rewrite(node)
    refused(run, words)


def test_nested_beyond_what_python_can_write_is_refused(run: Path, rewrite: Callable[..., None]) -> None:
    """The pickle nests 100 000 dictionaries, and needs only eight bytes for each."""
    rewrite({"x": {"DEEP": None}})
    spoken, new = pickle.dumps({"DEEP": None}, protocol=2)[2:-1], b"}X\1\0\0\0a" * 100_000 + b"}" + b"s" * 100_000
    assert spoken[:1] == b"}"

    def change(archive: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
        at = data.find(b"DEEP")
        if at > 0:
            end = data.index(b"N", at)
            data = data[:end] + new + data[end + 1 :]
        archive.writestr(info, data)

    rezip(run, change)
    refused(run, "nested too deeply")


def test_a_dataset_larger_than_the_memory_is_refused_before_it_is_drawn(
    run: Path, rewrite: Callable[..., None]
) -> None:
    for node in (
        {"_target_": "sdegen.datasets.Smile", "size": 10**12},
        {"_target_": "sdegen.datasets.Moons", "size": 10**12},
        {"_target_": "sdegen.datasets.Mixture", "size": 10**12},
    ):
        rewrite({"dataset": node})
        for use in (lambda: sdegen.load(run).dataset, lambda: session.resume(run, {"trainer.steps": 4})):
            with pytest.raises(UserError, match=r"^dataset.size=1000000000000 must be at most \d+: .* memory$"):
                use()


TWO = torch.zeros(2).double()
UP = torch.arange(6.0).double().reshape(2, 3)
MAP = {"knots": UP, "scores": UP, "slopes": UP + 1, "logarithm": torch.tensor([True, False])}
BENT: list[tuple[str, object]] = [
    ("knots", -UP),
    ("knots", UP * torch.inf),
    ("knots", UP * 1e308),
    ("knots", UP[:, :1].expand(2, 3)),
    ("knots", UP.float()),
    ("knots", UP[:1]),
    ("scores", UP * 0),
    ("scores", UP.to_sparse()),
    ("slopes", UP),
    ("slopes", UP[:1, :1].expand(2, 10**9)),
    ("slopes", [1.0]),
    ("logarithm", torch.tensor([1, 0])),
    ("logarithm", torch.tensor([True])),
    ("shift", TWO),
    (1, TWO),  # type: ignore[list-item]
]
SQUARE = {"mean": TWO, "axes": torch.eye(2).double(), "variances": TWO + 1}
ON_ONE = {
    "conditions": {"shift": TWO[:1], "scale": TWO[:1] + 1, "low": TWO[:1], "high": TWO[:1]},
    "names": {"columns": [], "classes": [], "conditions": []},
}
"""Fields of a checkpoint whose data have one number as condition."""
GIVEN = {**SQUARE, **{f"given.{name}": value for name, value in SQUARE.items()}}
WRONG: list[dict[str, Any]] = [
    {"format": 1},
    {"format": torch.ones(2)},
    {"format": "2"},
    {"weights": [1, 2]},
    {"weights": {"a": 1}},
    {"weights": {1: torch.zeros(1)}},
    {"weights": {"a": torch.zeros(2).to_sparse()}},
    {"weights": {"a": torch.zeros(2, device="meta")}},
    {"weights": {"a": torch.zeros(1).expand(10**9)}},
    {"ema": {"a": torch.zeros(1).expand(10**9)}},
    {"ema": {"a": 2}},
    {"best": "0"},
    {"data": None},
    {"moments": {"mean": torch.zeros(2), "axes": None, "variances": torch.ones(1)}},
    {"moments": {"mean": torch.zeros(2), "axes": torch.eye(2), "variances": -torch.ones(2)}},
    {"moments": {"mean": torch.zeros(2), "axes": torch.eye(3), "variances": torch.ones(2)}},
    {"moments": {**GIVEN, "slope": torch.zeros(2, 1)}},
    {"moments": {**GIVEN, "slope": torch.zeros(2, 2)}, **ON_ONE},
    {"moments": {**GIVEN, "slope": torch.full((2, 1), torch.nan)}, **ON_ONE},
    {"moments": {**GIVEN, "slope": torch.zeros(1).expand(10**9, 1)}, **ON_ONE},
    {"moments": {**GIVEN, "slope": None}, **ON_ONE},
    {"moments": GIVEN, **ON_ONE},
    {"moments": {**GIVEN, "slope": torch.zeros(2, 1), "given.axes": torch.eye(3).double()}, **ON_ONE},
    {"moments": {**GIVEN, "slope": torch.zeros(2, 1), "given.variances": -TWO - 1}, **ON_ONE},
    {"units": {"shift": TWO}},
    {"units": {"shift": TWO + torch.nan, "scale": TWO + 1}},
    {"units": {"shift": TWO, "scale": TWO}},
    {"units": {"shift": TWO, "scale": torch.ones(3).double()}},
    {"units": {"shift": TWO[:1].expand(10**9), "scale": TWO[:1].expand(10**9)}},
    {"units": {"shift": TWO.to_sparse(), "scale": (TWO + 1).to_sparse()}},
    *({"units": {**MAP, name: value}} for name, value in BENT),
    {"units": {**MAP, "knots": -UP, "scores": -UP}},
    {"step": "x"},
    {"step": -1},
    {"config": None},
    {"seconds": None},
    {"classes": 10**12},
    {"classes": -1},
    {"names": {"columns": [], "classes": []}},
    {"names": {"columns": ["a"], "classes": [], "conditions": []}},
    {"names": {"columns": [1, 2], "classes": [], "conditions": []}},
    {"names": {"columns": [], "classes": ["red"], "conditions": []}},
    {"names": {"columns": [], "classes": [], "conditions": ["y"]}},
    {"conditions": {"shift": TWO, "scale": TWO + 1}},
    {"conditions": {"shift": TWO, "scale": TWO + 1, "low": TWO + 1, "high": TWO}},
    {"conditions": {"shift": TWO, "scale": TWO + 1, "low": TWO, "high": TWO.float()}},
    {"conditions": {"shift": TWO, "scale": TWO, "low": TWO, "high": TWO}},
    {"conditions": {"shift": TWO, "scale": TWO + 1, "low": TWO, "high": [1.0]}},
    {"more": 1},
]


@pytest.mark.parametrize("changes", WRONG, ids=lambda changes: next(iter(changes)))
def test_checkpoint_of_the_wrong_make_is_one_clear_error(
    run: Path, rewrite: Callable[..., None], changes: dict
) -> None:
    rewrite(**changes)
    refused(run, "not a checkpoint of sdegen")


def test_a_checkpoint_that_lacks_something_is_one_clear_error(trained: Path, run: Path) -> None:
    whole = content(trained)
    for name in whole:
        save(run, {key: value for key, value in whole.items() if key != name})
        refused(run, "not a checkpoint of sdegen")


def test_a_state_of_the_optimizer_that_is_too_short_is_not_written_past(
    trained: Path, run: Path, rewrite: Callable[..., None]
) -> None:
    """Adam's fused kernel does not check the sizes of the moments, and would write beyond their end."""
    whole = content(trained)["optimizer"]
    (own,) = whole["state"].values()
    for state in (
        {0: {**own, "exp_avg": torch.zeros(1)}},
        {0: {**own, "exp_avg_sq": torch.zeros(())}},
        {0: {**own, "exp_avg": own["exp_avg"].reshape(1, -1)}},
        {0: {"step": own["step"]}},
        {0: {**own, "exp_avg": "x"}},
        {5: own},
        [],
    ):
        rewrite(optimizer={**whole, "state": state})
        with pytest.raises(UserError, match="state of the optimiser does not fit") as error:
            session.resume(run, {"trainer.steps": 4})
        assert "\n" not in str(error.value)
    rewrite(optimizer={"a": 1})
    with pytest.raises(UserError, match="state of the optimiser does not fit"):
        session.resume(run, {"trainer.steps": 4})


def test_provenance_is_plain_data(run: Path, rewrite: Callable[..., None]) -> None:
    for harm in ({"x": torch.zeros(1)}, {"x": deep(200)}, {"x": wide(12)}):
        rewrite(provenance=harm)
        refused(run, "provenance is refused")


@pytest.mark.parametrize("name", ["../../outside", "/outside", "archive/../../outside", "..\\outside"])
def test_a_file_of_the_archive_that_would_lie_elsewhere_is_refused(
    run: Path, rewrite: Callable[..., None], name: str
) -> None:
    rezip(run, lambda archive, info, data: archive.writestr(info, data))
    sdegen.load(run)
    for path in (run / "checkpoints").glob("*.pt"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, "x")
    refused(run, "with a path outside of it")


def test_a_compressed_file_of_the_archive_is_refused_before_it_is_read(run: Path, rewrite: Callable[..., None]) -> None:
    """Torch does not compress the files of its archives. A compressed file may expand a thousandfold."""

    def change(archive: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
        archive.writestr(info.filename, data, zipfile.ZIP_DEFLATED)

    rezip(run, change)
    refused(run, "it holds a compressed file")


def test_files_of_the_archive_that_lie_on_each_other_are_refused(run: Path) -> None:
    """The directory of the archive lists the same bytes a hundred times."""
    for path in (run / "checkpoints").glob("*.pt"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/more", bytes(1000))
            archive.filelist += archive.filelist[-1:] * 100
    refused(run, "claims to hold more bytes than it has")


@pytest.mark.parametrize("text", ["../outside", "outside/run", "/outside", "..", ".", "", "a\nb", "a" * 10**6, "\0"])
def test_latest_names_a_folder_beside_it(run: Path, rewrite: Callable[..., None], text: str) -> None:
    latest = run.parent / "latest"
    latest.write_text(text)
    with pytest.raises(UserError, match="latest does not name a folder in") as error:
        sdegen.load(latest)
    assert "\n" not in str(error.value)
    if 0 < len(text) < 100 and text.isprintable():
        latest.unlink()
        latest.symlink_to(text)
        with pytest.raises(UserError, match="latest does not name a folder in"):
            session.resume(latest, {"trainer.steps": 4})


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/last.pt",
        "metrics.json",
        "provenance.json",
        "train.log",
        "figures/samples.png",
        "samples",
        "evil.pt",
    ],
)
def test_a_link_in_a_run_leads_nothing_out_of_it(run: Path, rewrite: Callable[..., None], name: str) -> None:
    outside = run.parent / "outside"
    if (run / name).is_dir():
        shutil.move(run / name, outside)
    else:
        outside.write_bytes((run / name).read_bytes() if (run / name).exists() else b"mine")
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    refused(run, "is a link, through which files outside of the run could be written")


def npy(shape: object, kind: str = "<f8", data: bytes = bytes(24)) -> bytes:
    """Returns a ``.npy`` file, written by the description of the format, whose header claims a shape and a type."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


CLAIMS = [
    (10**12,),
    (10**8,),
    (10**6, 10**6),
    (10**9, 1, 10**5, 10**5),
    (4,),
    (-1,),
    (2**63, 2),
    (2**62, 4),
    "x",
    (3, "a"),
]


@pytest.mark.parametrize("shape", CLAIMS, ids=str)
def test_arrays_that_claim_more_than_there_is_are_refused(tmp_path: Path, shape: object) -> None:
    (tmp_path / "a.npy").write_bytes(npy(shape))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy(shape))
    for name, largest in (("a.npy", 0), ("a.npy", 10**9), ("a.npz", 10**9)):
        words = "says 32 bytes, but the file holds 24" if (shape, name) == ((4,), "a.npz") else ""
        tracemalloc.start()
        with pytest.raises(ValueError, match=f"not a readable array file: .*{words}") as error:
            read(tmp_path / name, largest)
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()
        assert "\n" not in str(error.value)


def test_objects_in_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    harm = np.array([PAYLOADS["os.system"](), 1, 2], dtype=object)
    np.save(tmp_path / "a.npy", harm, allow_pickle=True)
    np.savez(tmp_path / "a.npz", allow_pickle=True, x=harm)
    np.savez(tmp_path / "b.npz", allow_pickle=True, x=np.ones(3), y=harm)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(PAYLOADS["os.system"]()))
    np.savez(tmp_path / "c.npz", _target_=np.array(["os.system"] * 3))
    # The header claims an array of pointers, and the file has as many bytes as this array would have.
    spoken = pickle.dumps(PAYLOADS["os.system"]())
    spoken += bytes(-len(spoken) % 8)
    (tmp_path / "d.npy").write_bytes(npy((len(spoken) // 8,), "|O", spoken))
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.write(tmp_path / "d.npy", "x.npy")
    names = ["a.npy", "a.npz", "b.npy", "b.npz", "c.npz", "d.npy", "d.npz"]
    for name in names:
        with pytest.raises(ValueError, match="not a readable array file|not real numbers") as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_an_array_that_would_not_fit_into_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are smaller than the memory, but the arrays in them are larger."""
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((2**17, 2)))
    np.save(tmp_path / "a.npy", np.zeros((2**17, 2), dtype=np.uint8))
    (tmp_path / "a.csv").write_text("0,0\n" * 2**14)
    (tmp_path / "a.gz").write_bytes(zlib.compress(struct.pack(">HBB3I", 0, 8, 3, 2**17, 4, 4) + bytes(2**21), wbits=31))
    assert (tmp_path / "a.npz").stat().st_size < 2**15
    for name in ("a.npz", "a.npy", "a.csv"):
        read(tmp_path / name)
    read_idx(tmp_path / "a.gz", 3)
    monkeypatch.setattr(checks, "memory", lambda: 2**20)
    for name, words in (("a.npz", "not a readable array file: "), ("a.npy", "in float64 "), ("a.csv", "")):
        with pytest.raises(ValueError, match=words + r"needs 0.00\d+ GiB, but this process has 0.000977 GiB"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match=r"needs 0.00195 GiB, but this process has 0.000977 GiB"):
        read_idx(tmp_path / "a.gz", 3)


def test_images_that_would_not_fit_into_memory_are_refused_by_their_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        Image.new("1", (2000, 2000)).save(tmp_path / f"{i}.png")
    Folder(str(tmp_path))
    monkeypatch.setattr(checks, "memory", lambda: 4 * 3 * 2000 * 2000 - 1)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="needs 0.0447 GiB, .*: use fewer points or smaller images"):
        Folder(str(tmp_path))


def test_more_points_than_fit_into_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="size=1000000000000 must be at most"):
        Smile(0, size=10**12)


@pytest.mark.parametrize("path", ["a\0b", "a" * 4000, "a" * 4000 + ".npy", "\udcff.npy"])
def test_paths_that_cannot_be_are_one_line(path: str) -> None:
    for use in (lambda: read(Path(path)), lambda: Folder(path)):
        with pytest.raises(ValueError, match="no such") as error:
            use()
        assert "\n" not in str(error.value)


def test_a_page_writes_and_shows_nothing_that_lies_elsewhere(run: Path, rewrite: Callable[..., None]) -> None:
    """The stranger's folder has links, pipes, markup in every text, and YAML that would build objects."""
    outside, root = run.parent / "outside", run.parent
    outside.mkdir()
    (outside / "text.png").write_text("mine")
    (root / ".report.html").symlink_to(outside / "text.png")
    (run / "ledger.jsonl").write_text('{"job": 5, "config": "x", "state": "failed", "error": {}}\n')
    picture = run / "figures" / "samples.png"
    shutil.move(picture, outside / "mine.png")
    picture.symlink_to(outside / "mine.png")
    os.mkfifo(run / "figures" / "classes.png")
    (run / "evaluations" / "0001-likelihood" / "figures").mkdir(parents=True)
    (run / "evaluations" / "0001-likelihood" / "figures" / "likelihood.png").symlink_to(outside / "mine.png")
    mark = "<img src=x onerror=alert(1)>"
    text = files.as_yaml({**composed("train", SMALL), mark: mark, "name": "${oc.env:HOME}"})
    (run / "config.yaml").write_text(text)
    (run / "provenance.json").write_text(f'{{"command": "{mark}"}}')
    (run / "metrics.json").write_text(f'{{"{mark}": {{"value": 1.0}}}}')
    path, entries, _ = report.write(root)
    assert [entry.folder for entry in entries] == [run]
    assert entries[0].name == "${oc.env:HOME}"
    assert "<img src=x" not in path.read_text() and "&lt;img src=x" in path.read_text()
    mine = base64.b64encode((outside / "mine.png").read_bytes()).decode()
    assert mine not in path.read_text()
    assert not path.is_symlink() and (outside / "text.png").read_text() == "mine"
    for harm in (
        f"!!python/object/apply:os.system ['touch {SENTINEL}']",
        f"sde: !!python/object/new:os.system ['touch {SENTINEL}']",
        "sde: !!python/name:evil_module.VP",
    ):
        (run / "config.yaml").write_text(harm)
        with pytest.raises(UserError, match="config.yaml is damaged") as error:
            report.write(root)
        assert "\n" not in str(error.value)
    (run / "config.yaml").unlink()
    os.mkfifo(run / "config.yaml")
    with pytest.raises(UserError, match="config.yaml is damaged"):
        report.write(root)


@pytest.mark.parametrize("payload", [Call(os.system, f"touch {SENTINEL}"), SYSTEM], ids=["pickle", "node"])
@pytest.mark.parametrize("line", ["sample run=run", "evaluate run=run", "train resume=run", "report run"])
def test_on_the_command_line_an_attack_is_one_line_and_status_2(
    run: Path, rewrite: Callable[..., None], line: str, payload: object
) -> None:
    rewrite({"network": payload})
    (run / "config.yaml").write_text(f"!!python/object/apply:os.system ['touch {SENTINEL}']")
    script, *arguments = line.split()
    done = command(script, *arguments, cwd=run.parent)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    told = "config.yaml is damaged" if script == "report" else "refused: it holds|outside of sdegen|no whole checkpoint"
    assert re.search(told, done.stderr) and "Traceback" not in done.stdout + done.stderr
