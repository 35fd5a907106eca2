"""Exported models: a score that runs without this package, and weights without the data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sdegen
from sdegen.core.randomness import generator

pytestmark = pytest.mark.usefixtures("one_epoch")

SMALL = ("trainer.preview_every=0", "figures=false", "trainer.batch_size=8", "sampler.steps=2", "count=4")
UNET = ("network.channels=8", "network.multipliers=[1,2]", "network.blocks=1", "network.attention=[8]")
RUNS = {
    "on a plane": ("dataset=file", "dataset.path=plane.npy", "network.hidden=[16]"),
    "karras": ("dataset=moons", "parametrization=karras", "sde=ve", "network.hidden=[16]"),
    "labels": ("experiment=digits_conditional", *UNET),
    "scorenet": ("dataset=digits", "network=scorenet", "network.channels=[8,16]", "network.label_dropout=0.1"),
    "moons": ("experiment=moons_conditional", "network.hidden=[16]"),
}
LABELLED = ("labels", "scorenet", "moons")

STRANGER = """
import json, pathlib, sys
sys.modules["sdegen"] = None
import numpy as np, torch
for folder in map(pathlib.Path, sys.argv[1:]):
    extra = {"sdegen.json": ""}
    score = torch.export.load(folder / "model.pt2", extra_files=extra).module()
    given = [torch.from_numpy(x) for x in np.load(folder / "given.npz").values()]
    one = score(*(x[:1] for x in given))
    assert json.loads(extra["sdegen.json"])["units"] == "the data's"
    np.savez(folder / "found.npz", all=score(*given).numpy(), one=one.numpy())
"""


def exported(name: str) -> np.ndarray:
    """Trains and exports a run, and returns the score at 1000 random times and noisy points in the data's units."""
    source = generator("cpu", 0, "exported")
    np.save("plane.npy", torch.randn(60, 2, generator=source).double().numpy() @ np.ones((2, 12)) + 100)
    run = sdegen.train(*RUNS[name], *SMALL, folder=name, steps=5)
    run.export(run.folder / "model.pt2")
    x0 = run.units.encode(run.dataset.x[torch.randint(len(run.dataset.x), (1000,), generator=source)])
    t = 0.01 + 0.99 * torch.rand(1000, generator=source)
    x = run.sde.perturb(x0, t, lambda like: torch.randn(like.shape, generator=source, dtype=like.dtype))
    x, y = run.units.decode(x).float(), None
    if name in LABELLED:
        y = torch.randint(-1, run.classes, (1000,), generator=source)
    given = {"x": x.numpy(), "t": t.numpy()} | ({} if y is None else {"y": y.numpy()})
    np.savez(run.folder / "given.npz", **given)
    inner = run.units.encode(x).float()
    with torch.no_grad():
        own = run.score_model(inner, t) if y is None else run.score_model.given(y)(inner, t)
    return run.units.score(x.double(), own).numpy()


def test_an_exported_score_is_ours_where_this_package_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores agree at 1000 random times and noisy points, in the units of the data."""
    monkeypatch.chdir(tmp_path)
    expected = {name: exported(name) for name in RUNS}
    subprocess.run([sys.executable, "-c", STRANGER, *RUNS], check=True, timeout=120)
    for name, own in expected.items():
        found = np.load(tmp_path / name / "found.npz")
        assert np.abs(own).max() > 0.1, name
        assert np.abs(found["all"] - own).max() <= 1e-5 * np.abs(own).max(), name
        assert np.abs(found["one"] - own[:1]).max() <= 1e-5 * np.abs(own).max(), name


def test_weights_leave_with_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of a perceptron, computed by hand from the stored weights, give the output of the network."""
    from safetensors import safe_open

    monkeypatch.chdir(tmp_path)
    run = sdegen.train("dataset=moons", "network.hidden=[16]", "network.time_embedding=concat", *SMALL, steps=5)
    run.save_weights("model.safetensors")
    with safe_open("model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        described = json.loads(file.metadata()["sdegen"])
    assert described["config"] == run.config
    assert described["step"] == 5
    x, t = torch.randn(9, 2, generator=generator("cpu", 0, "weights")), torch.full((9, 1), 0.3)
    first, last = (f"network.layers.{i}" for i in (0, 2))
    hidden = torch.cat([x, t], 1) @ tensors[f"{first}.weight"].T + tensors[f"{first}.bias"]
    hidden = hidden * hidden.sigmoid()
    expected = hidden @ tensors[f"{last}.weight"].T + tensors[f"{last}.bias"]
    with torch.no_grad():
        torch.testing.assert_close(run.model.network(x, torch.tensor(0.3)), expected)
    assert torch.equal(tensors["units.shift"], run.units.state()["shift"])


def test_what_cannot_leave_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = sdegen.train("dataset=moons", "network.hidden=[16]", *SMALL, folder="run", steps=2)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for wrong, words in (
        (
            lambda: run.save_weights("x.safetensors"),
            r"save_weights: needs the package safetensors: pip install safetensors$",
        ),
        (lambda: run.guided("inpaint", measurement={"mask": "left"}).export("x.pt2"), "guidance=inpaint: .* exported"),
    ):
        with pytest.raises(sdegen.UserError, match=words) as error:
            wrong()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("x.*"))
