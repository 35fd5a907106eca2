"""Checkpoints: saving and reading, damaged files, and runs that are reloaded from checkpoints."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

import sdegen
from sdegen.config import construction
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.models.moments import Moments
from sdegen.runs import checkpoint, session
from sdegen.runs.checkpoint import Checkpoint
from sdegen.runs.run import Run
from sdegen.training.learning import Curve

SMALL = (
    "dataset=smile",
    "network.hidden=[8]",
    "trainer.steps=3",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=3",
)


def content(step: int = 3) -> Checkpoint:
    weights = {"w": torch.arange(1000.0), "b": torch.zeros(2)}
    units = {"shift": torch.zeros(2).double(), "scale": torch.ones(2).double()}
    history = {"losses": torch.ones(2), "norms": torch.ones(2), "by_t": torch.ones(2, 10).double()}
    data = {"points": 4, "shape": [2], "classes": 10, "digest": "00"}
    known = {
        "weights": weights,
        "ema": weights,
        "optimizer": {},
        "units": units,
        "moments": None,
        "data": data,
        "conditions": None,
    }
    past = {"provenance": {"python": "3"}, "held_out": None, "best": math.inf, "history": history, "stream": 0}
    names: dict[str, list[str]] = {"columns": [], "classes": [], "conditions": []}
    curve = Curve(100).state()
    return Checkpoint(
        {"seed": 0}, step, 1.0, classes=10, names=names, curve=curve, weighting={}, averages={}, **known, **past
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    session.train(composed("train", SMALL), folder)
    return folder


def rewritten(run: Path, folder: Path, **changes: object) -> Path:
    """Returns a folder with the last checkpoint of a run, in which the fields in ``changes`` are replaced."""
    saved = checkpoint.load(checkpoint.find(run))
    config = {**saved.config, **changes.pop("config", {})}  # type: ignore[dict-item]
    checkpoint.save(saved._replace(config=config, **changes), folder / "checkpoints")
    return folder


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = checkpoint.save(content(), tmp_path)
    for file in (path, tmp_path / "last.pt"):
        loaded = checkpoint.load(file)
        assert loaded.config == {"seed": 0}
        assert loaded.step == 3
        assert torch.equal(loaded.weights["w"], torch.arange(1000.0))
    assert path.name == "step-00000003.pt"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt", "step-00000003.pt"]


def test_steps_are_found(tmp_path: Path) -> None:
    for step in (3, 20):
        checkpoint.save(content(step), tmp_path / "checkpoints")
    assert checkpoint.load(checkpoint.find(tmp_path)).step == 20
    assert checkpoint.load(checkpoint.find(tmp_path, 3)).step == 3
    with pytest.raises(UserError, match=r"choose checkpoint= from 3, 20"):
        checkpoint.find(tmp_path, 4)
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.find(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="no such folder"):
        checkpoint.find(tmp_path / "nowhere")


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.save(content(), tmp_path)
    whole, dice = path.read_bytes(), random.Random(0)
    silent = 0
    for _ in range(200):
        bit = dice.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load(path)
        except UserError:
            continue
        # Some bits of a zip file, such as padding and time stamps, have no effect. The content must then be unchanged.
        assert all(torch.equal(loaded.weights[key], value) for key, value in content().weights.items())
        assert loaded.config == content().config
        silent += 1
    assert silent < 100


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -200])
def test_cut_file_is_one_clear_error(tmp_path: Path, cut: int) -> None:
    path = checkpoint.save(content(), tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoint.load(path)


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not a checkpoint of sdegen"):
        checkpoint.load(tmp_path / "other.pt")


def test_trouble_without_words_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(construction.schema, "construct", exhaust)
    with pytest.raises(UserError, match="sde: cannot be built with these options: MemoryError"):
        construction.construct({"sde": {}}, "sde", ())


def test_loading_leaves_the_global_generator_alone(run: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    sdegen.load(run).sample(3)
    assert torch.equal(torch.rand(3), expected)


def test_units_of_the_checkpoint_hold_when_the_file_has_changed(tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(5, 2, (50, 2)))
    options = ("dataset=file", f"dataset.path={tmp_path / 'a.npy'}", *SMALL[1:])
    before = session.train(composed("train", options), tmp_path / "run").sample(10)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(-5, 9, (50, 2)))
    assert torch.equal(sdegen.load(tmp_path / "run").sample(10), before)


def test_trusted_module_may_add_a_class(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_module.py").write_text("from sdegen.sde import VP\nclass Mine(VP):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    changed = rewritten(run, tmp_path / "run", config={"sde": {"_target_": "my_module.Mine"}})
    assert type(sdegen.load(changed, trust=["my_module"]).sde).__name__ == "Mine"


def test_weights_must_fit_exactly(run: Path, tmp_path: Path) -> None:
    saved = checkpoint.load(checkpoint.find(run))
    missing = dict(list(saved.ema.items())[1:])
    foreign = {**saved.ema, "more": torch.zeros(1)}
    for i, ema in enumerate((missing, foreign)):
        with pytest.raises(UserError, match="do not fit its network"):
            sdegen.load(rewritten(run, tmp_path / str(i), ema=ema))


def test_average_and_raw_weights_are_told_apart(run: Path) -> None:
    saved = checkpoint.load(checkpoint.find(run))
    for kind, expected in (("ema", saved.ema), ("raw", saved.weights)):
        loaded = sdegen.load(run, weights=kind).model.network.state_dict()  # type: ignore[arg-type]
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    assert not all(torch.equal(saved.ema[key], value) for key, value in saved.weights.items())


def test_latest_names_the_newest_run(run: Path, tmp_path: Path) -> None:
    latest = run.parent / "latest"
    assert latest.read_text() == f"{run.name}\n"
    assert sdegen.load(latest).step == 3
    # A link of the user's own is followed, too.
    (tmp_path / "latest").symlink_to("run")
    checkpoint.save(checkpoint.load(checkpoint.find(run)), tmp_path / "run" / "checkpoints")
    assert sdegen.load(tmp_path / "latest").step == 3


def test_score_is_in_the_units_of_the_data(tmp_path: Path) -> None:
    """The score of the oracle equals the gradient of the mixture's log-density by automatic differentiation."""
    config = composed("train", ["dataset=gaussian_mixture", "network=oracle", "sampler.steps=3"])
    loaded = session.train(config, tmp_path / "run")
    law, x = loaded.dataset.law, torch.linspace(-5, 5, 11, dtype=torch.float64)[:, None].requires_grad_()
    assert law is not None
    (expected,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(loaded.score(x.detach(), 1e-5), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(loaded.score(loaded.sample(3), torch.full((3,), 0.5)).shape, torch.Size([3, 1]))
    with pytest.raises(UserError, match="count: must lie between 1 and 1e[+]09, not 0"):
        loaded.sample(0)


def test_samples_come_in_the_units_of_the_data(tmp_path: Path) -> None:
    """The data come from a file. They have the mean (100, -5) and the standard deviations 3 and 0.01."""
    import numpy as np

    points = np.random.default_rng(0).normal((100, -5), (3, 0.01), (500, 2))
    np.save(tmp_path / "points.npy", points)
    options = ("dataset=file", f"dataset.path={tmp_path / 'points.npy'}", "parametrization=karras", *SMALL[1:])
    session.train(composed("train", (*options, "sampler.steps=200", "trainer.steps=500")), tmp_path / "run")
    x = sdegen.load(tmp_path / "run").sample(2000)
    torch.testing.assert_close(x.mean(0), torch.tensor([100.0, -5.0]).double(), rtol=0.01, atol=0.003)
    torch.testing.assert_close(x.std(0), torch.tensor([3.0, 0.01]).double(), rtol=0.15, atol=0)
    (tmp_path / "points.npy").unlink()
    torch.testing.assert_close(sdegen.load(tmp_path / "run").sample(2000), x)


@pytest.mark.parametrize("own", [None, {"_target_": "users.Centred"}], ids=["gaussian", "the user's own"])
def test_a_resumed_run_keeps_the_axes_that_its_weights_were_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, str] | None
) -> None:
    """The sign of an eigenvector is arbitrary, so another library may return the opposite sign for the same data."""
    small = ("dataset=moons", "dataset.size=60", "optimizer.decay=constant", "trainer.keep=null", *SMALL[1:])
    replaced = {} if own is None else {"parametrization": own}

    def train(folder: str, steps: int) -> Run:
        return session.train(composed("train", (*small, f"trainer.steps={steps}")) | replaced, tmp_path / folder)

    whole = train("whole", 20)
    train("run", 10)
    of = Moments.of

    def turned(x: torch.Tensor) -> Moments:
        found = of(x)
        assert found.axes is not None
        return found._replace(axes=found.axes * torch.tensor([-1.0, 1.0], dtype=torch.float64))

    monkeypatch.setattr(Moments, "of", turned)
    resumed = session.resume(tmp_path / "run", {"trainer.steps": 20}, ["users"])
    assert torch.equal(resumed.sample(20), whole.sample(20))
    last = checkpoint.read(whole.folder).ema
    assert all(torch.equal(value, last[name]) for name, value in checkpoint.read(resumed.folder).ema.items())
