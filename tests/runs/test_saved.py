"""Checkpoints that are kept, the last ones and the best one: full disks, damaged files and overflow."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TEXTBOOK
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sdegen
from sdegen.config.compose import composed
from sdegen.core.errors import Pruned, UserError
from sdegen.runs import checkpoint, session
from sdegen.training import held_out
from sdegen.training.loop import Training

ROOT = Path(__file__).parents[2]
SMALL = (
    *TEXTBOOK,
    "dataset=smile",
    "network.hidden=[16]",
    "trainer.steps=60",
    "trainer.batch_size=32",
    "trainer.checkpoint_every=10",
    "trainer.log_every=4",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=5",
    "count=100",
)


def train(folder: Path, *options: str) -> None:
    session.train(composed("train", (*SMALL, *options)), folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([w.flatten() for w in checkpoint.read(folder).weights.values()])


def logged_steps(folder: Path, tag: str = "train/loss") -> list[int]:
    return [event.step for event in EventAccumulator(str(folder), {"scalars": 0}).Reload().Scalars(tag)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that is not disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder, "trainer.keep=null")
    return folder


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path, whole: Path) -> None:
    all_steps = [f"step-{step:08d}.pt" for step in range(0, 61, 10)]
    assert names(whole) == ["best.pt", "last.pt", *all_steps]
    train(tmp_path / "run", "trainer.keep=2")
    assert names(tmp_path / "run") == ["best.pt", "last.pt", *all_steps[-2:]]
    steep = ("optimizer.lr=0.3", "trainer.ema=0", "trainer.steps=100")
    train(tmp_path / "steep", "trainer.keep=1", *steep)
    best = checkpoint.read(tmp_path / "steep", "best")
    logged = EventAccumulator(str(tmp_path / "steep")).Reload().Scalars("train/held_out_loss")
    assert [event.step for event in logged] == list(range(0, 101, 5))
    train(tmp_path / "all", "trainer.keep=null", *steep)
    losses = {step: checkpoint.read(tmp_path / "all", step).held_out for step in range(0, 101, 10)}
    assert best.step == min(losses, key=losses.__getitem__) != 100
    assert best.held_out == pytest.approx(losses[best.step], rel=1e-6)
    assert sdegen.load(tmp_path / "steep", checkpoint="best").step == best.step
    with pytest.raises(UserError, match="choose checkpoint= from 100"):
        sdegen.load(tmp_path / "steep", checkpoint=best.step)


def test_a_resumed_run_keeps_the_checkpoints_of_an_undisturbed_one(tmp_path: Path) -> None:
    folder, options = tmp_path / "run", ("trainer.keep=2", "trainer.steps=55")
    train(tmp_path / "whole", *options)
    with pytest.raises(Pruned):
        session.train(composed("train", (*SMALL, *options)), folder, watch=lambda step, loss: step >= 32)
    stopped = checkpoint.read(folder).step
    assert stopped % 10 and names(folder)[2:] == [f"step-{step:08d}.pt" for step in (20, 30, stopped)]
    with pytest.raises(Pruned):
        session.resume(folder, {}, watch=lambda step, loss: True)
    again = checkpoint.read(folder).step
    assert names(folder)[2:] == [f"step-{step:08d}.pt" for step in (20, 30, again)]
    session.resume(folder, {})
    assert names(folder) == names(tmp_path / "whole") == ["best.pt", "last.pt", "step-00000050.pt", "step-00000055.pt"]


def test_loss_on_held_out_points_agrees_with_fresh_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored loss agrees with the definition, λ ‖score - target‖², at fresh points with fresh noise, in float64."""
    monkeypatch.setattr(held_out, "ROWS", 4096)
    train(tmp_path / "run", "trainer.checkpoint_every=60")
    source = torch.Generator().manual_seed(1)
    for step in (0, 60):
        run = sdegen.load(tmp_path / "run", checkpoint=step, precision="float64")
        x0 = run.units.encode(run.dataset.draw(20_000, source))  # type: ignore[arg-type]
        z = torch.randn(x0.shape, generator=source, dtype=torch.float64)
        t = 1e-3 + (1 - 1e-3) * torch.rand(len(x0), generator=source, dtype=torch.float64)
        b = 0.1 * t + 0.5 * (20 - 0.1) * t**2
        alpha, sigma = (-b / 2).exp()[:, None], (1 - (-b).exp()).sqrt()[:, None]
        with torch.no_grad():
            score = run.score_model(alpha * x0 + sigma * z, t)
        losses = (sigma.squeeze() ** 2) * ((score + z / sigma) ** 2).sum(1)
        stored = checkpoint.read(tmp_path / "run", step).held_out
        # The stored loss is a mean over about 4000 points.
        assert stored == pytest.approx(float(losses.mean()), abs=4 * float(losses.std()) / math.sqrt(4000))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """Flips one bit of a number. Torch would read the file without an error."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        number = max(archive.infolist(), key=lambda member: member.file_size)
    # The numbers follow a header of 30 bytes, the name, and padding for alignment.
    name, padding = struct.unpack_from("<HH", content, number.header_offset + 26)
    content[number.header_offset + 30 + name + padding + number.file_size // 2] ^= 1
    # Break the links first: a file with two names would be flipped twice, and would be whole again.
    path.unlink()
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.unlink()
    torch.save({"state_dict": {}}, path)


HARMS = [cut, flip, empty, foreign]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_reported_and_the_previous_one_found(
    tmp_path: Path, whole: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    from sdegen.runs.files import log

    log.propagate = True
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "metrics.json").unlink()
    for name in ("last.pt", "step-00000060.pt", "step-00000040.pt"):
        harm(folder / "checkpoints" / name)
    with pytest.raises(UserError, match=r"last.pt: .*: use checkpoint=50, the newest whole one$") as error:
        sdegen.load(folder)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"step-00000040.pt: .*: use checkpoint=50, the newest whole one$"):
        sdegen.load(folder, checkpoint=40)
    with caplog.at_level("INFO", "sdegen"):
        session.resume(folder, {})
    assert "step-00000060.pt: " in caplog.text and "skipped" in caplog.text and "steps 50 to 60" in caplog.text
    assert torch.equal(weights(folder), weights(whole))
    assert logged_steps(folder) == logged_steps(whole)
    for name in set(names(folder)) - {"step-00000040.pt"}:
        harm(folder / "checkpoints" / name)
    with pytest.raises(UserError, match="no other is whole, train again$"):
        sdegen.load(folder)
    with pytest.raises(UserError, match="holds no whole checkpoint: start again in another folder"):
        session.resume(folder, {})


def test_a_run_cannot_be_resumed_with_fewer_steps(tmp_path: Path, whole: Path) -> None:
    """The refusal is the same for a finished run and for a run that was killed after its last step."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for _ in range(2):
        with pytest.raises(UserError, match="nothing to do: the run finished at step 60; set trainer.steps=… for more"):
            session.resume(folder, {"trainer.steps": 50})
        (folder / "metrics.json").unlink(missing_ok=True)
    session.resume(folder, {})
    assert (folder / "metrics.json").read_text() == (whole / "metrics.json").read_text()


@pytest.mark.slow
def test_replicas_go_back_to_a_step_that_all_have(tmp_path: Path) -> None:
    for name in ("whole", "run"):
        train(tmp_path / name, "trainer.replicas=2")
    for path in (tmp_path / "run").rglob("metrics.json"):
        path.unlink()
    flip(tmp_path / "run" / "replicas" / "seed-1" / "checkpoints" / "step-00000060.pt")
    flip(tmp_path / "run" / "checkpoints" / "step-00000050.pt")
    session.resume(tmp_path / "run", {})
    for own in (".", "replicas/seed-1"):
        assert torch.equal(weights(tmp_path / "run" / own), weights(tmp_path / "whole" / own))


def test_replicas_are_checked_before_a_run_is_resumed(tmp_path: Path) -> None:
    train(tmp_path / "run", "trainer.replicas=2", "trainer.steps=10")
    replica = tmp_path / "run" / "replicas" / "seed-1"
    foreign = checkpoint.read(replica)._replace(provenance={"python": "3\n4"})
    checkpoint.save(foreign, replica / "checkpoints")
    with pytest.raises(UserError, match="the checkpoint's provenance is refused"):
        session.resume(tmp_path / "run", {"trainer.steps": 20})
    shutil.rmtree(replica)
    with pytest.raises(UserError, match="replicas: holds 0 replicas, and trainer.replicas=2 needs 1"):
        session.resume(tmp_path / "run", {"trainer.steps": 20})


FULL = """
mount -t tmpfs -o size=2000k tmpfs {disk} || exit 9
cd {disk}
head -c {ballast}k /dev/zero > ballast
{train} hydra.run.dir=run {options} > {results}/out 2> {results}/err
echo $? > {results}/status
cp -r run {results}/full
rm ballast
{train} resume=run > {results}/again 2>&1 || exit 8
cp -r run {results}/run
"""


def filled(folder: Path, ballast: int, *options: str) -> None:
    """Trains on a disk with little room, then makes room and resumes. Copies the run to ``folder`` both times."""
    (folder / "disk").mkdir()
    train = f"{sys.executable} {ROOT / 'scripts' / 'train.py'}"
    line = " ".join((*SMALL, *options))
    script = FULL.format(disk=folder / "disk", results=folder, ballast=ballast, train=train, options=line)
    # In a new namespace, a user may mount a file system.
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode in (1, 9):
        pytest.skip(f"a user cannot mount file systems on this machine: {done.stderr}")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs the command unshare")
@pytest.mark.parametrize(
    ("room", "figures"), [(90, "false"), *(pytest.param(k, "true", marks=pytest.mark.slow) for k in range(30, 400, 20))]
)
def test_a_full_disk_damages_no_earlier_file(tmp_path: Path, whole: Path, room: int, figures: str) -> None:
    """Earlier checkpoints stay whole. After room is made, the resumed run ends like an undisturbed run."""
    filled(tmp_path, 2000 - 4 - room, f"figures={figures}")
    error, status = (tmp_path / "err").read_text(), (tmp_path / "status").read_text().strip()
    if "nothing was saved yet" not in error:
        assert status == "2" and len(error.splitlines()) == 1, error
        found = error.strip().rpartition("saved at step ")[2]
        assert found.endswith("; continue with sdegen train resume=run")
        steps = [int(name[5:-3]) for name in names(tmp_path / "full") if name.startswith("step")]
        for step in steps:
            assert checkpoint.read(tmp_path / "full", step).step == step
        assert checkpoint.read(tmp_path / "full").step == int(found.partition(";")[0])
    assert torch.equal(weights(tmp_path / "run"), weights(whole))
    samples = [sorted((run / "samples").glob("*/samples.csv"))[-1].read_bytes() for run in (tmp_path / "run", whole)]
    assert samples[0] == samples[1]


def poisoned(patch: pytest.MonkeyPatch, at: int, variants: tuple[int, ...]) -> None:
    """Sets a weight to NaN before a step, for the given variants of the noise."""
    advance = Training.advance

    def poison(self: Training, chunks) -> None:  # noqa: ANN001
        if self.step == at and self.stream.variant in variants:
            self.vector.data[0] = math.nan
        advance(self, chunks)

    patch.setattr(Training, "advance", poison)


def test_a_retry_goes_back_and_uses_other_noise(tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No step is logged twice, and the weights differ from an undisturbed run.

    A run that is killed after the retries, and resumed, ends with the same weights.
    """
    from sdegen.runs.files import log

    log.propagate = True
    with pytest.MonkeyPatch.context() as patch:
        poisoned(patch, 37, (0, 1))
        train(tmp_path / "run", "trainer.retries=2", "trainer.keep=null")
    assert "the loss is nan at step 38" in caplog.text
    assert "retry 1 of 2, from step 30" in caplog.text and "retry 2 of 2, from step 30" in caplog.text
    assert logged_steps(tmp_path / "run") == logged_steps(whole)
    before, after = (checkpoint.read(tmp_path / "run", step) for step in (30, 40))
    assert (before.stream, after.stream) == (0, 2)
    assert all(torch.equal(w, checkpoint.read(whole, 30).weights[name]) for name, w in before.weights.items())
    assert not torch.isclose(weights(tmp_path / "run"), weights(whole)).any()
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    (tmp_path / "killed" / "metrics.json").unlink()
    for name in ("last.pt", "step-00000060.pt", "step-00000050.pt"):
        (tmp_path / "killed" / "checkpoints" / name).unlink()
    session.resume(tmp_path / "killed", {})
    assert torch.equal(weights(tmp_path / "killed"), weights(tmp_path / "run"))


def test_when_all_retries_have_failed_the_last_good_checkpoint_stays(tmp_path: Path, whole: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="step 30 was saved before"):
        poisoned(patch, 37, (0, 1, 2))
        train(tmp_path / "run", "trainer.retries=2")
    found = checkpoint.read(tmp_path / "run")
    assert found.step == 30 and all(bool(w.isfinite().all()) for w in found.weights.values())
    assert all(torch.equal(w, checkpoint.read(whole, 30).weights[name]) for name, w in found.weights.items())


def test_a_checkpoint_stores_the_versions_that_made_it(whole: Path) -> None:
    import platform

    for step in (0, 60):
        stored = checkpoint.read(whole, step).provenance
        assert stored["python"] == platform.python_version()
        assert {name: stored["packages"][name] for name in ("torch", "hydra-core", "numpy")} == {
            "torch": torch.__version__,
            "hydra-core": __import__("hydra").__version__,
            "numpy": __import__("numpy").__version__,
        }
        git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        assert stored["commit"] == (git.stdout.strip() or None) and isinstance(stored["clean"], bool | None)


def test_a_run_resumed_under_other_versions_logs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from sdegen.runs.files import log

    log.propagate = True
    train(tmp_path / "run")
    saved = checkpoint.read(tmp_path / "run")
    packages = {**saved.provenance["packages"], "torch": "1.0"}
    checkpoint.save(
        saved._replace(provenance={**saved.provenance, "packages": packages}), tmp_path / "run" / "checkpoints"
    )
    session.resume(tmp_path / "run", {"trainer.steps": 70}, command="sdegen train resume=run trainer.steps=70")
    assert "the run began with other versions" in caplog.text
    for stored in (
        checkpoint.read(tmp_path / "run").provenance,
        json.loads((tmp_path / "run" / "provenance.json").read_text()),
    ):
        assert stored["packages"]["torch"] == "1.0"
        assert stored["resumed"] == [
            {
                "step": 60,
                "command": "sdegen train resume=run trainer.steps=70",
                "options": {"trainer.steps": 70},
                "packages": saved.provenance["packages"],
            }
        ]
