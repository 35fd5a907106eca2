"""FID in the features of a user's network: its value, what is written, and files that are refused before any sample."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import run as command
from scipy import linalg
from torch import Tensor, nn

from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.datasets import Dataset
from sdegen.runs import fid, files, session
from sdegen.runs.evaluation import Evaluation
from sdegen.runs.feature_file import FeatureFile
from sdegen.runs.run import Run

CODE = """
from torch import nn

class Small(nn.Sequential):
    def __init__(self, channels=1, features=12):
        super().__init__(nn.Conv2d(channels, features, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Large(Small):
    def __init__(self):
        super().__init__(1, 200)

class Square(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 12, 3))

class Needy(nn.Linear):
    pass

class Plain:
    pass
"""
SHORT = ["trainer.steps=2", "trainer.preview_every=0", "figures=false", "sampler.steps=2", "count=1"]
ANY = {"dynamic_shapes": ({0: torch.export.Dim("n")},)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    line = ["dataset=digits", "network.hidden=[8]", "name=digits", *SHORT]
    return session.train(composed("train", line), tmp_path_factory.mktemp("runs") / "outputs" / "digits" / "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with the module ``nets`` of classes, and files of networks."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "nets.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        torch.manual_seed(0)
        torch.save(small().state_dict(), folder / "weights.pt")
        torch.save(small(3).state_dict(), folder / "colour.pt")
        torch.save({name: torch.full_like(x, torch.nan) for name, x in small().state_dict().items()}, folder / "nan.pt")
        torch.save({name: torch.zeros_like(x) for name, x in small().state_dict().items()}, folder / "zero.pt")
        torch.save(nn.Sequential(nn.Conv2d(1, 12, 3)).state_dict(), folder / "square.pt")
        torch.save(small(1, 200).state_dict(), folder / "large.pt")
        (folder / "cut.pt").write_bytes((folder / "weights.pt").read_bytes()[:-500])
        torch.save(small(), folder / "whole.pt")
        exported(small(), folder / "program.pt2", 3, ANY)
        exported(small(), folder / "one.pt2", 1, {})
        exported(nn.Sequential(nn.BatchNorm2d(1), small()).train(), folder / "batch.pt2", 3, ANY)
        (folder / "cut.pt2").write_bytes((folder / "program.pt2").read_bytes()[:-500])
        yield folder


def small(channels: int = 1, features: int = 12) -> nn.Sequential:
    import nets  # type: ignore[import-not-found]

    network: nn.Sequential = nets.Small(channels, features)
    return network


def exported(network: nn.Module, path: Path, count: int, options: dict[str, object]) -> None:
    program = torch.export.export(network, (torch.rand(count, 1, 8, 8),), **options)  # type: ignore[arg-type]
    torch.export.save(program, path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_class(path: Path, name: str = "nets.Small", sha256: str | None = None, trust: str = "nets") -> FeatureFile:
    return FeatureFile(str(path), name, sha256, (trust,))


def evaluation(run: Run, file: FeatureFile | None, points: Path | None = None, **changes: int) -> Evaluation:
    options = {"count": 60, "seed": 0, "batch_size": 1000, "probes": 0, "rtol": 1e-3, "atol": 1e-3, **changes}
    return Evaluation(run, points=None if points is None else str(points), features=file, **options)  # type: ignore[arg-type]


def noisy(run: Run, path: Path, n: int = 200) -> Tensor:
    """Writes images of the data with noise; returns them as they are saved in pictures, from 0 to 1."""
    x = run.dataset.x[:n] + 3 * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save(path, x.numpy())
    return x.round().clamp(0, 16) / 16


def customary(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real))


@pytest.mark.parametrize("kind", ["state dict", "program"])
def test_fid_of_a_file_is_that_of_its_network_on_rounded_images(
    digits: Run, folder: Path, tmp_path: Path, kind: str
) -> None:
    x, known = noisy(digits, tmp_path / "x.npy"), folder / "program.pt2"
    file = of_class(folder / "weights.pt") if kind == "state dict" else FeatureFile(str(known), None, digest(known), ())
    network = torch.export.load(known).module()
    if kind == "state dict":
        network = small()
        network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    assert digits.dataset.held_out is not None
    with torch.no_grad():
        parts = (x, digits.dataset.held_out / 16)
        features = [network(part.float()).double().numpy() for part in parts]
    written = evaluation(digits, file, tmp_path / "x.npy").write("fid")
    assert written.metrics["fid"]["value"] == pytest.approx(customary(*features), rel=1e-4)
    assert written.metrics["fid"]["floor"] < 0.1 * written.metrics["fid"]["value"]
    assert written.metrics["fid"]["floor_from"] == "200 training images against 359 held-out images"
    own = yaml.safe_load((written.folder / "config.yaml").read_text())["features"]
    assert own["path"] == file.path and own["sha256"] == digest(Path(file.path))
    assert {"fid.npz", "figures"} <= {path.name for path in written.folder.iterdir()}
    again = evaluation(digits, file, tmp_path / "x.npy", batch_size=7).fid()
    for name in ("fid", "fid_infinity"):
        assert again.metrics[name]["value"] == pytest.approx(written.metrics[name]["value"], rel=1e-4)


def test_command_measures_samples_and_records_the_network(digits: Run, folder: Path) -> None:
    options = [f"features={folder / 'weights.pt'}", "features_class=nets.Small", "trust=[nets]", "count=40"]
    result = command("evaluate", f"run={digits.folder}", "metrics=fid", *options, cwd=folder)
    assert result.returncode == 0, result.stderr
    found = sorted((digits.folder / "evaluations").glob("*-fid"))[-1]
    assert yaml.safe_load((found / "config.yaml").read_text())["features"]["class"] == "nets.Small"
    metrics = json.loads((found / "metrics.json").read_text())
    assert metrics["fid"]["value"] > metrics["fid"]["floor"] and metrics["fid_infinity"]["standard_error"] > 0
    for wrong in ([options[0]], ["features_class=nets.Small", "metrics=fid"]):
        result = command("evaluate", f"run={digits.folder}", *wrong, cwd=folder)
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
        assert "metrics=fid" in result.stderr and "add " in result.stderr


class Evil:
    """Object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_a_program_that_runs_code_is_read_only_with_its_checksum(digits: Run, folder: Path, tmp_path: Path) -> None:
    made, evil = tmp_path / "made", tmp_path / "evil.pt2"
    inputs = io.BytesIO()
    torch.save(Evil(made), inputs)
    with zipfile.ZipFile(folder / "program.pt2") as archive, zipfile.ZipFile(evil, "w") as copy:
        for name in archive.namelist():
            is_inputs = name.endswith("sample_inputs/model.pt")
            copy.writestr(name, inputs.getvalue() if is_inputs else archive.read(name))
    with pytest.raises(UserError, match=f"can run any code .* if you trust it, set features_sha256={digest(evil)}"):
        evaluation(digits, FeatureFile(str(evil), None, None, ())).check("fid")
    with pytest.raises(UserError, match=f"another file than expected: its SHA-256 is {digest(evil)}"):
        evaluation(digits, FeatureFile(str(evil), None, digest(folder / "program.pt2"), ())).check("fid")
    with pytest.raises(UserError, match=r"weights\.pt: another file than expected"):
        evaluation(digits, of_class(folder / "weights.pt", sha256=64 * "0")).check("fid")
    torch.save(Evil(made), tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt: refused: it holds more than tensors"):
        evaluation(digits, of_class(tmp_path / "evil.pt")).check("fid")
    assert not made.exists()
    # The refusal is needed: torch runs the code.
    with pytest.raises(UserError):
        evaluation(digits, FeatureFile(str(evil), None, digest(evil), ())).check("fid")
    assert made.exists()


@pytest.mark.parametrize(
    ("name", "network", "trust", "words"),
    [
        ("gone.pt", "nets.Small", "nets", r"gone\.pt: no such file"),
        ("cut.pt", "nets.Small", "nets", r"cut\.pt: .*: save the state dict again with torch\.save"),
        ("whole.pt", "nets.Small", "nets", r"whole\.pt: refused: it holds more than tensors"),
        ("weights.pt", None, "nets", r"add features_class=module\.Class trust=\[module\]"),
        ("weights.pt", "nets.Small", "os", r"features_class=nets\.Small is outside of sdegen; .* add trust=\[nets\]"),
        ("weights.pt", "nets.Gone", "nets", r"features_class=nets\.Gone: module nets has no class Gone"),
        ("weights.pt", "nets.Plain", "nets", r"nets\.Plain: is no torch\.nn\.Module"),
        ("weights.pt", "nets.Needy", "nets", r"nets\.Needy: cannot be built without arguments"),
        ("colour.pt", "nets.Small", "nets", r"the weights do not fit features_class=nets\.Small .*shape"),
        ("nan.pt", "nets.Small", "nets", r"the features of images of the data are not finite: use another network"),
        ("zero.pt", "nets.Small", "nets", r"the features of different images are equal: use a network that takes numb"),
        ("square.pt", "nets.Square", "nets", r"returns \(1, 12, 6, 6\) for 1 images: return features \(N, F\)"),
        ("program.pt2", "nets.Small", "nets", r"a program needs no class: leave out features_class=nets\.Small"),
        ("cut.pt2", None, "", r"cut\.pt2: is no program that this version of torch reads"),
        ("one.pt2", None, "", r"shape \(3, 1, 8, 8\) .* export it with a dynamic number of images"),
        ("batch.pt2", None, "", r"change with the other images of its batch: export the network after network\.eval"),
    ],
)
def test_a_wrong_file_is_refused_before_samples_are_drawn(
    digits: Run, folder: Path, name: str, network: str | None, trust: str, words: str
) -> None:
    before = sorted(digits.folder.rglob("*"))
    sha256 = digest(folder / name) if name.endswith(".pt2") else None
    with pytest.raises(UserError, match=words) as error:
        evaluation(digits, FeatureFile(str(folder / name), network, sha256, (trust,))).check("fid")
    assert "\n" not in str(error.value)
    assert sorted(digits.folder.rglob("*")) == before


def test_images_of_another_shape_are_named_with_what_torch_says(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 17, (100, 3, 8, 8)))
    line = ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "dataset.levels=17", "network.hidden=[8]", *SHORT]
    colour = session.train(composed("train", line), tmp_path / "run")
    program = folder / "program.pt2"
    for file in (of_class(folder / "weights.pt"), FeatureFile(str(program), None, digest(program), ())):
        with pytest.raises(
            UserError, match=r"does not take float32 images of shape \(1, 3, 8, 8\) \(.*Error: .*give a n"
        ):
            evaluation(colour, file).check("fid")


def test_data_and_samples_without_a_fid_are_refused(
    digits: Run, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = of_class(folder / "weights.pt")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 17, (100, 1, 8, 8)))
    images = ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "network.hidden=[8]", *SHORT]
    for line, words in (
        (["dataset=moons", "network.hidden=[8]", *SHORT], "compares images, and the data are vectors"),
        (images, "the images have no levels, .*: train a run with dataset.levels=256"),
        ([*images, "dataset.levels=17", "dataset.held_out=0.1"], "only 10 images are held out: train a run that holds"),
    ):
        other = session.train(composed("train", line), tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        with pytest.raises(UserError, match=f"metrics=fid: {words}"):
            evaluation(other, file).check("fid")
    with pytest.raises(UserError, match="metrics=fid: no images are held out: train a run that holds out 20 or more"):
        fid.check(Dataset(digits.dataset.x, levels=17), file)
    with pytest.raises(UserError, match="metrics=fid: 9 images are for training, and at least 20 are needed"):
        fid.check(Dataset(digits.dataset.x[:9], held_out=digits.dataset.held_out, levels=17), file)
    with pytest.raises(UserError, match="metrics=fid: needs a network: add features="):
        evaluation(digits, None).check("fid")
    with pytest.raises(UserError, match="19 samples are too few: set count to 20 or more"):
        evaluation(digits, file, count=19).check("fid")
    for name, x, words in (
        ("alike", np.full((30, 1, 8, 8), 3.2), "all points are alike"),
        ("wild", np.full((30, 1, 8, 8), np.nan), "NaN"),
    ):
        np.save(tmp_path / f"{name}.npy", x)
        with pytest.raises(UserError, match=words):
            evaluation(digits, file, tmp_path / f"{name}.npy").write("fid")
    assert not list((digits.folder / "evaluations").glob(".*"))
    caplog.clear()
    evaluation(digits, of_class(folder / "weights.pt"), count=24).check("fid")
    assert not caplog.records
    evaluation(digits, of_class(folder / "large.pt", "nets.Large")).check("fid")
    assert [record.message.split(" are fewer")[0] for record in caplog.records] == [
        "metrics=fid: 60 samples",
        "metrics=fid: 359 held-out images",
    ]


def test_a_state_that_was_read_is_not_read_again_from_its_file(tmp_path: Path) -> None:
    """Another file may have its name by then."""
    path, state = tmp_path / "state.pt", {"weight": torch.arange(6.0).reshape(2, 3)}
    torch.save(state, path)
    content = path.read_bytes()
    torch.save({"weight": torch.zeros(2, 3)}, path)
    found = files.stored(path, content)
    assert isinstance(found, dict) and torch.equal(found["weight"], state["weight"])
    with pytest.raises(UserError, match=r"state\.pt: not a whole checkpoint"):
        files.stored(path, content[:-40])
