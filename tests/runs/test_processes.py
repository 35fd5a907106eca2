"""Several processes train one run to the bits of one process, share the sampling, and end together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT, run, several
from torch import Tensor

from sdegen.config import assembly, components
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.core.meeting import Meeting
from sdegen.core.processes import Processes
from sdegen.runs import checkpoint
from sdegen.runs.follower import Follower
from sdegen.training.loop import Training
from sdegen.training.shards import Shards

SMALL = (
    *("dataset=smile", "dataset.size=52", "network.hidden=[8]", "trainer.batch_size=25", "trainer.threads=1"),
    *("optimizer.decay=constant", "trainer.log_every=5", "trainer.checkpoint_every=6", "trainer.preview_every=0"),
    *("count=100", "sampler.steps=5", "figures=false"),
)
"""A run of 52 points in batches of 25, so that the last batch has 2 points, and some of 4 shards have none."""


def tensors(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields all tensors in nested containers, by path."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from tensors(inner, f"{path}/{key}")


def state(folder: Path) -> dict[str, Tensor]:
    """Returns all tensors of the last checkpoint, such as weights, averages, buffers and moments, and of snapshots."""
    snapshots = {path.name: torch.load(path, weights_only=True) for path in (folder / "averages").glob("*")}
    return dict(tensors({**checkpoint.load(checkpoint.find(folder))._asdict(), **snapshots}))


def assert_equal(folder: Path, other: Path) -> None:
    own, others = state(folder), state(other)
    assert own.keys() == others.keys()
    for name, value in own.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=0, equal_nan=True, msg=name)


def train(count: int, folder: Path, *options: str, script: str = "train") -> None:
    """Runs a command in some processes, and checks that process 0 alone writes, without an error."""
    line = (*options,) if any("resume" in one or "run=" in one for one in options) else (*SMALL, *options)
    results = [run(script, *line, cwd=folder)] if count == 1 else several(count, script, *line, cwd=folder)
    for result in results:
        assert result.returncode == 0, result.stderr
    assert all(result.stdout == result.stderr == "" for result in results[1:])


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        pytest.param("trainer.shards=2 weighting=uncertainty trainer.widths=[0.05,0.1]", (1, 2)),
        pytest.param("trainer.shards=4 trainer.gradient=autograd times.draws=4 times.chunk=2", (2, 4), marks=SLOW),
        pytest.param("trainer.shards=4 trainer.precision=float64 dataset=moons", (1, 2, 4), marks=SLOW),
        pytest.param("trainer.shards=2 trainer.replicas=2 weighting=variance", (1, 2), marks=SLOW),
    ],
)
def test_any_number_of_processes_ends_in_the_same_bits(tmp_path: Path, options: str, sizes: tuple[int, ...]) -> None:
    for size in sizes:
        train(size, tmp_path, *options.split(), "trainer.steps=16", f"hydra.run.dir={size}")
        assert_equal(tmp_path / str(sizes[0]), tmp_path / str(size))


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    options = ("trainer.shards=4",)
    train(1, tmp_path, *options, "trainer.steps=17", "hydra.run.dir=whole")
    train(2, tmp_path, *options, "trainer.steps=9", "hydra.run.dir=parts")
    train(1, tmp_path, "resume=parts", "trainer.steps=13")
    train(2, tmp_path, "resume=parts", "trainer.steps=17")
    assert_equal(tmp_path / "whole", tmp_path / "parts")


def test_processes_share_samples_and_densities_without_a_change_of_a_bit(tmp_path: Path) -> None:
    data = ("dataset=smile_noisy", "network.hidden=[8]", "trainer.steps=2", "count=60", "figures=false")
    train(1, tmp_path, *data, "trainer.threads=1", "sampler.steps=3", "hydra.run.dir=own")
    np.savetxt(tmp_path / "points.csv", np.random.default_rng(0).normal(size=(50, 2)), delimiter=",")
    found = []
    for size in (1, 2):
        train(size, tmp_path, "run=own", "count=60", "batch_size=16", "figures=false", script="sample")
        (*_, newest) = sorted((tmp_path / "own" / "samples").iterdir())
        line = ("run=own", "points=points.csv", "batch_size=16", "rtol=0.01", "atol=0.01")
        train(size, tmp_path, *line, script="evaluate")
        densities = max((tmp_path / "own" / "evaluations").rglob("*.npz"), key=lambda path: path.stat().st_mtime)
        found.append({**np.load(newest / "samples.npz"), **np.load(densities)})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        if name == "seconds":
            continue
        np.testing.assert_array_equal(value, found[1][name])


def advanced(*options: str) -> Training:
    """Returns a training after five steps in this process."""
    training = assembly.build(composed("train", (*SMALL, *options))).training()
    for chunks in training.stream.steps(0, 5):
        training.advance(chunks)
    return training


@pytest.mark.parametrize("gradient", ["written", "autograd"])
def test_shards_have_the_gradient_of_the_whole_batch(gradient: str) -> None:
    options = (f"trainer.gradient={gradient}", "trainer.precision=float64", "optimizer.lr=1e-3", "trainer.clip=null")
    whole, parts = advanced(*options), advanced(*options, "trainer.shards=8")
    # Adam divides by the size of the gradient, so that rounding errors grow.
    torch.testing.assert_close(parts.vector, whole.vector, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(parts.history(0), whole.history(0), rtol=1e-8, atol=1e-8)


def test_running_statistics_are_the_mean_over_the_shards() -> None:
    config = composed("train", [*SMALL, "trainer.shards=4", "dataset.size=100"])
    config["network"] = {"_target_": "users.Regular", "dropout": 0.0}
    parts = assembly.build(config)
    network, training = parts.model.network, parts.training()
    assert isinstance(network, torch.nn.Module)
    inputs: list[Tensor] = []
    handle = network.norm.register_forward_pre_hook(lambda module, given: inputs.append(given[0].detach()))
    training.advance(next(iter(training.stream.steps(0, 1))))
    handle.remove()
    assert [len(x) for x in inputs] == [7, 6, 6, 6]
    oracle = [0.9 * torch.zeros(16) + 0.1 * x.mean(0) for x in inputs], [0.9 + 0.1 * x.var(0) for x in inputs]
    for found, wanted in zip((network.norm.running_mean, network.norm.running_var), oracle, strict=True):
        torch.testing.assert_close(found, torch.stack(wanted).mean(0))
    assert int(network.norm.num_batches_tracked) == int(network.passes) == 1


def test_every_shard_finds_the_state_from_before_the_step() -> None:
    config = composed("train", [*SMALL, "trainer.shards=4", "dataset.size=100"])
    config["network"] = {"_target_": "users.Moving"}
    parts = assembly.build(config)
    network, training = parts.model.network, parts.training()
    assert isinstance(network, torch.nn.Module)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def note(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append((*(x.detach().clone() for x in (network.count, network.mean, network.layers[0].weight)), given[0]))

    handle = network.register_forward_pre_hook(note)
    for chunks in training.stream.steps(0, 3):
        before = [x.detach().clone() for x in (network.count, network.mean)]
        training.advance(chunks)
        for own in found:
            torch.testing.assert_close(own[:3], found[0][:3], rtol=0, atol=0)
        sizes, means = zip(*((x.abs().mean(), x.mean()) for *_, x in found), strict=True)
        torch.testing.assert_close(network.count.data, before[0] + torch.stack(sizes).mean())
        torch.testing.assert_close(network.mean, 0.9 * before[1] + 0.1 * torch.stack(means).mean())
        found.clear()
    handle.remove()


def test_every_shard_has_all_noise_levels() -> None:
    options = ("dataset.size=64", "trainer.batch_size=64", "times=stratified", "trainer.shards=4")
    training = assembly.build(composed("train", [*SMALL, *options])).training()
    for chunks in training.stream.steps(0, 3):
        for chunk in chunks:
            counts = torch.histc(chunk.rows.t, bins=4, min=0, max=1)
            assert counts.tolist() == [4, 4, 4, 4]


def refusal(*options: str, size: int) -> str:
    """Returns the message about shards that processes cannot share."""
    training = advanced(*options)
    with pytest.raises(UserError) as error:
        Shards(training.gradient, 1, training.trainer.shards, Processes(0, size))
    return str(error.value)


def test_impossible_shares_are_refused_with_the_fix(tmp_path: Path) -> None:
    assert "start 1, 2, 4 processes" in refusal("trainer.shards=4", size=8)
    assert "3 processes cannot share" in refusal("trainer.shards=4", size=3)
    with pytest.raises(UserError, match="shards=6 must be a power of two: try 8"):
        advanced("trainer.shards=6")
    with pytest.raises(UserError, match="shards=32 exceeds batch_size=25"):
        advanced("trainer.shards=32")


def test_a_process_with_other_data_is_refused() -> None:
    config = assembly.build(composed("train", SMALL)).config
    other = assembly.build(composed("train", [*SMALL, "dataset.size=56"]))
    with pytest.raises(UserError, match="the data differ from those of process 0: .*: copy the same data"):
        Follower(config, (), [None], [components.known_by(other.config, other.dataset)])


def test_processes_with_different_commands_are_refused(tmp_path: Path) -> None:
    first, second = several(2, "train", *SMALL, "trainer.steps={rank}5", cwd=tmp_path)
    assert (first.returncode, first.stdout, second.stdout, second.stderr) == (2, "", "", "")
    assert first.stderr.count("\n") == 1
    assert "the arguments of process 1 and of process 0 differ" in first.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_mistake_is_reported_once(tmp_path: Path) -> None:
    first, second = several(2, "train", *SMALL, "trainer.batch_size=1", cwd=tmp_path)
    assert first.stderr.count("\n") == 1
    assert "trainer.batch_size=1 is smaller than the number of processes, 2: start at most 1" in first.stderr
    assert second.stderr == ""


def test_processes_that_start_again_find_nothing_of_the_earlier_ones() -> None:
    store = torch.distributed.HashStore()

    def met() -> list[Any]:
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(lambda rank: Meeting(rank, 3).met(store, 60), range(3)))

    first = met()
    first[2].set("address", "old")
    assert [one.get("address") for one in first] == 3 * [b"old"]
    again = met()
    assert not any(one.check(["address"]) for one in again)
    again[0].set("address", "new")
    assert [one.get("address") for one in again] == 3 * [b"new"]


def test_a_forecast_does_not_wait_for_other_processes(tmp_path: Path) -> None:
    first, second = several(2, "train", *SMALL, "forecast=true", "trainer.steps=20", cwd=tmp_path, limit=60)
    assert (first.returncode, first.stderr, second.returncode, second.stdout) == (0, "", 0, "")
    assert "measures process 0 alone" in first.stdout


class Torchrun:
    """A command that torchrun runs in two processes, which stop for nothing before step 40."""

    def __init__(self, folder: Path, *flags: str, wait: str = "600") -> None:
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *flags, "-m", "sdegen", "train"]
        options = [*SMALL, "trainer.steps=300000", "trainer.shards=2", "trainer.keep=2", "hydra.run.dir=own"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SDEGEN_TIMEOUT": wait}
        self.folder, self.log = folder / "own", folder / "log"
        with self.log.open("w") as log:
            self.agent = subprocess.Popen([*line, *options], cwd=folder, env=environment, stdout=log, stderr=log)
        self.until(lambda: self.step() >= 40)

    def step(self) -> int:
        """Step of the newest checkpoint."""
        return max((int(path.stem[5:]) for path in self.folder.glob("checkpoints/step-*.pt")), default=0)

    @staticmethod
    def until(done: Any, seconds: float = 240) -> None:  # noqa: ANN401 - a function without arguments
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end
            time.sleep(0.2)

    def workers(self) -> list[int]:
        """Numbers of the two processes, in the order of their start."""
        children = subprocess.run(["pgrep", "-P", str(self.agent.pid)], capture_output=True, text=True).stdout
        return sorted(int(line) for line in children.split())

    def said(self) -> str:
        """Output so far."""
        return self.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_with_a_line(tmp_path: Path, rank: int) -> None:
    command = Torchrun(tmp_path)
    os.kill(command.workers()[rank], signal.SIGKILL)
    assert command.agent.wait(60) != 0
    (line,) = re.findall(rf".*lost process {rank}: it was killed.*", command.said())
    assert rank == 0 or f"continue with sdegen train resume={command.folder.name}" in line


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [[1], [0, 1, 0, 1]])
def test_signals_end_all_processes_with_one_line(tmp_path: Path, ranks: list[int]) -> None:
    command = Torchrun(tmp_path)
    workers = command.workers()
    for rank in ranks:
        os.kill(workers[rank], signal.SIGTERM)
    command.agent.wait(60)
    assert len(re.findall(r"stopped by .*, saved at step \d+; continue with", command.said())) == 1
    assert "lost process" not in command.said()


@pytest.mark.slow
def test_restarted_processes_go_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    command = Torchrun(tmp_path, "--max-restarts=3")
    for rank in (1, 0):
        step, before = command.step(), command.workers()
        os.kill(before[rank], signal.SIGKILL)
        command.until(lambda before=before: len(command.workers()) == 2 and command.workers() != before)
        command.until(lambda step=step: command.step() > step + 40)
    command.agent.send_signal(signal.SIGTERM)
    command.agent.wait(60)
    assert command.said().count("goes on from its last checkpoint") == 2
    saved = re.findall(r"stopped by SIGTERM, saved at step (\d+)", command.said())
    assert [int(step) for step in saved] == [command.step()]
    train(1, tmp_path, *("trainer.shards=2", f"trainer.steps={saved[0]}", "hydra.run.dir=whole"))
    own, whole = state(command.folder), state(tmp_path / "whole")
    for name in (name for name in whole if name.startswith(("/weights", "/ema", "/optimizer"))):
        torch.testing.assert_close(own[name], whole[name], rtol=0, atol=0, msg=name)


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_with_the_reason(tmp_path: Path) -> None:
    command = Torchrun(tmp_path, wait="5")
    hung = command.workers()[1]
    os.kill(hung, signal.SIGSTOP)
    command.until(lambda: "no answer from process 1 in 5 s" in command.said(), 60)
    os.kill(hung, signal.SIGCONT)
    assert command.agent.wait(60) != 0
