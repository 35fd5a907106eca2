"""The training loop and its parts: resumption, other previews and other chunks give the same bits."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTBOOK
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sdegen.config import assembly, components
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.core.randomness import SampleNoise
from sdegen.core.tensors import flatten_parameters
from sdegen.networks.layers import Stage
from sdegen.runs import checkpoint, session, writer
from sdegen.training.batches import Batch, Points, Stream
from sdegen.training.gradient import Autograd
from sdegen.training.history import History
from sdegen.training.loop import Training
from sdegen.training.objective import Prepared
from sdegen.training.times import Grid
from sdegen.training.trainer import GRAIN, Trainer


def config(*overrides: str) -> dict[str, Any]:
    """Returns the configuration of a small run: 52 points in batches of 16, so that the last batch is short."""
    small = ("dataset=smile", "dataset.size=52", "network.hidden=[8]", "trainer.batch_size=16", "trainer.log_every=5",
             "sampler.steps=5", "trainer.preview_every=0", "figures=false")  # fmt: skip
    return composed("train", (*TEXTBOOK, *small, "optimizer.decay=cosine", *overrides))


def training(cfg: dict[str, Any]) -> Training:
    return assembly.build(cfg).training()


def run_to(cfg: dict[str, Any], stop: int) -> Training:
    trained = training(cfg)
    for chunks in trained.stream.steps(0, stop):
        trained.advance(chunks)
    return trained


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights, the averages and the moments in a checkpoint, by name."""
    saved = checkpoint.load(checkpoint.find(folder))
    moments = saved.optimizer["state"][0]
    return {**{f"w {k}": v for k, v in saved.weights.items()}, **{f"e {k}": v for k, v in saved.ema.items()}, **moments}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


OPTIONS = [
    (),
    ("times.draws=3", "times.chunk=2", "weighting=uncertainty"),
    ("times=importance", "weighting=likelihood"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The run stops at step 37, within a block, an epoch and a log interval. Previews are on only after the stop."""
    whole = config("trainer.steps=80", *options)
    session.train(whole, tmp_path / "whole")

    class Stop(Exception):
        pass

    broken = config("trainer.steps=80", "trainer.checkpoint_every=37", *options)
    save = checkpoint.save

    def save_and_stop(content, folder: Path, *options: object) -> None:  # noqa: ANN001
        save(content, folder, *options)
        if content.step:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(Stop):
            session.train(broken, tmp_path / "broken")
    saved = checkpoint.load(checkpoint.find(tmp_path / "broken"))
    assert saved.step == 37
    resumed = {**saved.config, "trainer": {**saved.config["trainer"], "preview_every": 40}}
    session.train(resumed, tmp_path / "broken", resume=[saved])
    assert_same(state(tmp_path / "whole"), state(tmp_path / "broken"))
    samples = [sorted((tmp_path / name / "samples").glob("*/samples.csv"))[-1] for name in ("whole", "broken")]
    assert samples[0].read_bytes() == samples[1].read_bytes()


def test_previews_change_nothing(tmp_path: Path) -> None:
    session.train(config("trainer.steps=30"), tmp_path / "without")
    session.train(config("trainer.steps=30", "trainer.preview_every=10"), tmp_path / "with")
    assert_same(state(tmp_path / "without"), state(tmp_path / "with"))


def test_seed_repeats_and_seeds_differ() -> None:
    a, b, c = (run_to(config(f"seed={seed}", "trainer.steps=20"), 20).vector for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.isclose(a, c).any()


def test_steps_do_not_depend_on_the_noise_of_the_process() -> None:
    a = run_to(config("trainer.steps=10"), 10)
    torch.manual_seed(123)
    torch.randn(7)
    assert torch.equal(run_to(config("trainer.steps=10"), 10).vector, a.vector)


def test_chunks_bound_the_memory_and_change_only_rounding() -> None:
    gradients = []
    for chunk in (1, 7, 60):
        cfg = config("times=grid", "times.points=20", "times.simulations=3", f"times.chunk={chunk}")
        parts = assembly.build(cfg)
        model = parts.model.double()
        gradient = Autograd([model], parts.objective)
        points = Points(0, parts.dataset, 16, dtype=torch.float64)
        stream = Stream([points], gradient.prepare, parts.weighting, parts.times, parts.sde)
        trained = Training(gradient, parts.optimizer, parts.trainer, stream, 10)
        chunks = next(stream.steps(0, 1))
        assert max(batch.weight.numel() for batch in chunks) == chunk * 16
        assert sum(batch.weight.numel() for batch in chunks) == chunks[0].total == 60 * 16
        for batch in chunks:
            gradient.add(batch)
        gradients.append(trained.vector.grad.clone())  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[2], rtol=1e-10, atol=1e-12)


def test_epoch_meets_every_point_once() -> None:
    (points,) = training(config("trainer.steps=8")).stream.points
    for epoch in range(3):
        steps = range(epoch * points.per_epoch, (epoch + 1) * points.per_epoch)
        sizes = [points.size(step) for step in steps]
        assert sizes == [16, 16, 16, 4]
        indices = [row[:size] for row, size in zip(points.indices(steps), sizes, strict=True)]
        assert torch.equal(torch.cat(indices).sort().values, torch.arange(52))


@pytest.mark.parametrize(
    "options",
    [
        ("times=stratified", "parametrization=noise"),
        ("times=stratified", "parametrization=gaussian"),
        ("times=importance", "parametrization=noise"),
        ("times=importance", "weighting=variance", "parametrization=gaussian"),
    ],
)
def test_batches_do_not_depend_on_where_the_stream_starts(options: tuple[str, ...]) -> None:
    """With short batches, the bits are equal. Products and exponentials of more rows may differ in their last bits."""
    small = ("dataset=smile", "network.hidden=[8]", "trainer.batch_size=32", "trainer.steps=1050")
    own = composed("train", (*small, *options))
    a, b = training(own).stream, training(own).stream
    from_start = [chunks[0] for chunks in a.steps(0, 1050)]
    for start in (3, 31, 32, 33, 69, *range(210, 1050, 140)):
        for step, (row,) in zip(range(start, 1050), b.steps(start, 1050), strict=True):
            mine, other = ((*vars(batch.rows).values(), batch.weight) for batch in (row, from_start[step]))
            assert all(map(torch.equal, mine, other))


def test_blocks_and_epochs_have_noise_and_orders_of_their_own() -> None:
    stream = training(config("trainer.steps=100", "trainer.gradient=autograd")).stream
    noises = [chunks[0].rows.noise for chunks in stream.steps(0, 70) if chunks[0].weight.numel() == 16]
    assert len({float(noise[0, 0, 0]) for noise in noises}) == len(noises)
    orders = {tuple(row.tolist()) for row in stream.points[0].indices(range(0, 20))[::4]}
    assert len(orders) == 5


@pytest.mark.parametrize("options", [(), ("times.draws=3", "times.chunk=2"), ("dataset.size=500",)])
def test_how_many_blocks_are_prepared_at_once_changes_no_number(options: tuple[str, ...]) -> None:
    """With short batches, the bits are equal, from any first step on."""
    streams = [training(config("trainer.steps=1", *options)).stream for _ in range(2)]
    streams[0].together = 1
    assert streams[1].together == 16
    for start, stop in ((0, 150), (45, 47), (127, 300)):
        for one, many in zip(*(stream.steps(start, stop) for stream in streams), strict=True):
            for a, b in zip(one, many, strict=True):
                assert a.total == b.total
                pairs = zip((*vars(a.rows).values(), *a[1:4]), (*vars(b.rows).values(), *b[1:4]), strict=True)
                assert all(torch.equal(*pair) for pair in pairs)


def test_large_batches_are_prepared_fewer_steps_ahead() -> None:
    assert training(config("trainer.steps=1")).stream.ahead == 32
    wide = training(config("trainer.steps=1", "times=grid_100x30")).stream
    assert wide.ahead == 2**20 // (3000 * 16 * 2)


def test_a_seed_keeps_its_numbers() -> None:
    """These numbers must not change, because the results of all seeds depend on them (see ``Stream``)."""
    (batch,) = next(training(config("trainer.steps=40", "trainer.gradient=autograd")).stream.steps(33, 34))
    torch.testing.assert_close(batch.rows.noise[0, 0], torch.tensor([-0.720225, -0.567792]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(batch.rows.t[0, :2], torch.tensor([0.047636, 0.098793]), rtol=1e-5, atol=1e-6)
    noise = SampleNoise(0, 70, 72, (2,))
    draws = torch.stack([noise(torch.empty(0)) for _ in range(18)])
    torch.testing.assert_close(draws[17, 1], torch.tensor([-0.380066, -0.051531]), rtol=1e-5, atol=1e-6)


def test_threads_follow_the_work_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, small work gets one thread and large work all cores.

    A given number is used, unless a launcher allows fewer threads.
    """
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    counts = [Trainer().threads_for(work) for work in (0, 1e3, 2 * GRAIN, 1e15)]
    assert counts == [1, 1, min(2, cores), cores]
    assert Trainer(threads=3).threads_for(1e3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Trainer().threads_for(1e15) == Trainer(threads=3).threads_for(1e15) == 1


def test_threads_that_were_chosen_are_recorded_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from sdegen.runs.files import log

    log.propagate = True
    with caplog.at_level(logging.INFO, "sdegen"):
        run = session.train(config("trainer.steps=2", "trainer.device=cpu"), tmp_path / "run")
    assert run.config["trainer"]["threads"] == 1
    assert "on cpu, 1 thread\n" in caplog.text
    # There are 16 rows, which pass through layers of 3 × 8 and 8 × 2.
    assert components.work(assembly.replicated(config("trainer.steps=2"))) == 16 * (3 * 8 + 8 * 2) * 2


def test_epochs_are_counted_in_steps_of_all_points() -> None:
    """An epoch of 400 points in batches of 64 has 7 steps."""
    assert Trainer(epochs=3, batch_size=64).total(400) == 21
    assert Trainer(epochs=3, batch_size=100).total(400) == 12
    assert Trainer(epochs=3, steps=5).total(400) == 5
    assert Trainer(epochs=2, batch_size=64).total(10) == 2


def test_preview_shows_the_average_not_the_raw_weights(tmp_path: Path) -> None:
    seen = []
    original = writer.draw

    def watch(sde, model, *rest, **options):  # noqa: ANN001, ANN002, ANN003, ANN202
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]).cpu().clone())
        return original(sde, model, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "draw", watch)
        session.train(config("trainer.steps=20", "trainer.preview_every=20"), tmp_path / "run")
    saved = checkpoint.load(checkpoint.find(tmp_path / "run"))
    assert torch.equal(seen[0], torch.cat([w.flatten() for w in saved.ema.values()]))
    assert not torch.equal(seen[0], torch.cat([w.flatten() for w in saved.weights.values()]))


def test_device_that_auto_has_chosen_is_recorded(tmp_path: Path) -> None:
    run = session.train(config("trainer.steps=2"), tmp_path / "run")
    assert run.config["trainer"]["device"] == str(run.device)


def test_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    session.train(config("trainer.steps=2"), tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already"):
        session.train(config("trainer.steps=2"), tmp_path / "run")


def test_short_batch_is_stratified_over_the_whole_interval() -> None:
    stream = training(config("trainer.steps=8")).stream
    *_, (short,) = list(stream.steps(0, 4))
    quarter = (short.rows.t[0] * 4).long().sort().values
    assert quarter.tolist() == [0, 1, 2, 3]


def test_short_step_may_be_a_block_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one step in a block, each point is used once, and the times of the short step cover the interval."""
    monkeypatch.setattr(Stream, "NUMBERS", 1)
    stream = training(config("trainer.steps=8", "trainer.gradient=autograd", "sde.eps=1e-9")).stream
    assert stream.ahead == stream.together == 1
    batches = [batch for (batch,) in stream.steps(0, 8)]
    assert [batch.weight.numel() for batch in batches] == [16, 16, 16, 4] * 2
    assert (batches[3].rows.t[0] * 4).long().sort().values.tolist() == [0, 1, 2, 3]
    points = stream.points[0]
    whole = points.take(range(4), range(1), 16)[0].flatten(0, 1)[:52]
    torch.testing.assert_close(points.take(range(3, 4), range(3, 4), 4)[0][0], whole[48:])


@pytest.mark.parametrize("clip", [0.1, 1000.0])
def test_step_equals_plain_pytorch(clip: float) -> None:
    """One flat vector with fused Adam, clipping and averaging agrees with the textbook loop, layer by layer."""
    cfg = config("trainer.steps=25", f"trainer.clip={clip}", "trainer.ema=0.9", "optimizer.lr=1e-2",
                 "trainer.gradient=autograd", "trainer.device=cpu")  # fmt: skip
    trained = training(cfg)
    parts = assembly.build(cfg)
    plain = torch.optim.Adam(parts.model.parameters(), lr=1e-2)
    average = [p.detach().clone() for p in parts.model.parameters()]
    clipped = 0
    for step, chunks in enumerate(trained.stream.steps(0, 25)):
        trained.advance(chunks)
        batch = chunks[0].of(0)
        plain.zero_grad()
        (batch.weight * parts.objective.loss(parts.model, batch.rows)).mean().backward()
        clipped += float(torch.nn.utils.clip_grad_norm_(parts.model.parameters(), clip)) > clip
        plain.param_groups[0]["lr"] = parts.optimizer.lr_at(step, 25)
        plain.step()
        decay = min(0.9, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, parts.model.parameters(), strict=True)]
    assert clipped == (25 if clip < 1 else 0)
    flat = torch.cat([p.detach().flatten() for p in parts.model.parameters()])
    torch.testing.assert_close(trained.vector.detach(), flat, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trained.average_vector, torch.cat([a.flatten() for a in average]), rtol=1e-4, atol=1e-5)


def test_flat_vector_and_layers_are_one_memory() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    before = [p.detach().clone() for p in network.parameters()]
    vector = flatten_parameters(network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    network(torch.ones(5, 3)).sum().backward()
    assert vector.grad is not None
    assert torch.equal(vector.grad, torch.cat([p.grad.flatten() for p in network.parameters()]))  # type: ignore[union-attr]
    with torch.no_grad():
        vector.zero_()
    assert not any(bool(p.any()) for p in network.parameters())


def test_schedule_rises_and_falls() -> None:
    from sdegen.training.optimizer import Adam

    rates = [Adam(lr=1.0, warmup=9, decay="cosine").lr_at(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == max(rates[8:12])
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[50] == pytest.approx(0.5)
    assert {Adam(lr=0.3, decay="constant").lr_at(step, 10) for step in range(10)} == {0.3}


def left_by_a_broken_run(cfg: dict[str, Any], folder: Path, step: int, harm: str, words: str) -> checkpoint.Checkpoint:
    """Returns the last checkpoint of a run whose loss or gradient breaks at a step, after it failed with ``words``."""
    advance = Training.advance

    def poison(self: Training, chunks) -> None:  # noqa: ANN001
        if self.step == step and harm == "loss":
            self.vector.data[0] = float("nan")
        if self.step == step and harm == "gradient":
            assert self.vector.grad is not None
            self.vector.grad[0] = float("inf")
        advance(self, chunks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "advance", poison)
        with pytest.raises(UserError, match=words):
            session.train(cfg, folder)
    return checkpoint.load(checkpoint.find(folder))


def test_loss_that_turns_nan_stops_with_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    cfg = config("trainer.steps=100", "trainer.checkpoint_every=10", "optimizer.lr=1e-3", "trainer.log_every=4")
    words = "the loss is nan at step 33, .* the checkpoint of step 30 was saved before"
    saved = left_by_a_broken_run(cfg, tmp_path / "run", 32, "loss", words)
    assert saved.step == 30
    assert all(bool(w.isfinite().all()) for w in saved.weights.values())


@pytest.mark.parametrize("harm", ["loss", "gradient"])
def test_a_checkpoint_is_never_written_from_broken_weights(tmp_path: Path, harm: str) -> None:
    """The failure comes at the step of a checkpoint, and between two steps that are logged."""
    cfg = config("trainer.steps=60", "trainer.checkpoint_every=10", "trainer.log_every=50")
    saved = left_by_a_broken_run(cfg, tmp_path / "run", 29, harm, "at step 30")
    assert saved.step == 20
    assert all(bool(w.isfinite().all()) for w in saved.weights.values())


def test_loss_by_time_does_not_depend_on_how_the_times_are_drawn() -> None:
    """With the loss 1/σ², stratified sampling and importance sampling give the same means."""
    means = []
    for times in ("stratified", "importance"):
        stream = training(
            config(
                "trainer.steps=1",
                f"times={times}",
                "times.draws=40",
                "weighting=uniform",
                "sde.eps=0.05",
                "trainer.gradient=autograd",
            )
        ).stream
        history = History(lambda losses: losses, 1, 0.05, 1.0)
        for step, (batch,) in enumerate(stream.steps(0, 40)):
            history.add(step, batch, (batch.weight / batch.rows.sigma**2,))
            history.add_norms(torch.ones(1, 1))
        means.append(torch.tensor(list(by_time(history).values())))
    assert len(means[0]) == 10
    torch.testing.assert_close(means[0], means[1], rtol=0.1, atol=0)


def by_time(history: History) -> dict[str, float]:
    """Returns the losses by time of a single model."""
    (scalars,) = history.read()
    return {name: value for name, value in scalars.items() if name.startswith("loss_by_t/")}


def test_loss_by_time_is_the_mean_of_each_bin() -> None:
    history = History(lambda losses: losses, 1, 0.0, 1.0)

    def add(t: Tensor, losses: Tensor) -> None:
        ones = torch.ones(1, len(t))
        history.add(0, Batch(Prepared(ones, t[None]), ones, ones, ones, len(t)), (losses[None],))

    t = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    for part in t.split(130):
        add(part, 3 * part)
    history.add_norms(torch.ones(1, 1))
    means = by_time(history)
    assert len(means) == 10
    for i, value in enumerate(means.values()):
        inside = t[(t * 10).long() == i]
        assert value == pytest.approx(3 * float(inside.mean()), rel=1e-5)
    add(torch.tensor([0.55]), torch.tensor([7.0]))
    history.add_norms(torch.ones(1, 1))
    assert by_time(history) == {"loss_by_t/0.5-0.6": 7.0}


def losses_of(steps: list[list[Tensor]], totals: list[int]) -> History:
    """Returns the history of two replicas. ``steps`` has the losses ``(2, N)`` of each chunk in each step."""
    history = History(lambda losses: losses, 2, 0.0, 1.0)
    for step, (chunks, total) in enumerate(zip(steps, totals, strict=True)):
        for losses in chunks:
            rows = Prepared(losses, torch.full_like(losses, 0.5))
            history.add(step, Batch(rows, losses, losses, torch.ones_like(losses), total), (losses,))
        history.add_norms(torch.tensor([[1.0], [2.0 + step]]))
    return history


def test_history_has_the_mean_over_steps_of_uneven_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replica has means of its own, for any number of intermediate sums."""
    source = torch.Generator().manual_seed(0)
    sizes = [[3, 3, 2], [8], [5, 1]]
    steps = [[torch.rand(2, n, generator=source) for n in own] for own in sizes]
    expected = torch.stack([torch.cat(own, 1).mean(1) for own in steps]).mean(0)
    for kept in (0, 7, 2**18):
        monkeypatch.setattr(History, "KEPT", kept)
        history = losses_of(steps, [8, 8, 6])
        values = history.read()
        assert [v["train/loss"] for v in values] == pytest.approx(expected.tolist(), rel=1e-6)
        assert [v["train/gradient_norm"] for v in values] == pytest.approx([1.0, 3.0])
        everything = torch.cat([losses for own in steps for losses in own], 1).mean(1)
        assert [v["loss_by_t/0.5-0.6"] for v in values] == pytest.approx(everything.tolist(), rel=1e-6)
        assert len(history.check()) == 0


def test_history_names_the_first_step_that_is_no_number() -> None:
    steps = [[torch.ones(2, 4), torch.ones(2, 4)] for _ in range(5)]
    steps[3][1][1, 2] = math.inf
    with pytest.raises(UserError, match="the loss is inf at step 4, and the norm of its gradient is 5"):
        losses_of(steps, [8] * 5).check()


def test_bfloat16_is_autocast_and_warned_of_for_points(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from sdegen.runs.files import log

    log.propagate = True
    session.train(config("trainer.steps=3", "trainer.precision=bfloat16"), tmp_path / "run")
    assert "use float32 for points" in caplog.text
    full = run_to(config("trainer.steps=3"), 3).vector
    half = torch.cat([w.flatten() for w in checkpoint.load(checkpoint.find(tmp_path / "run")).weights.values()])
    assert half.dtype == torch.float32
    assert 0 < float((half - full.detach()).abs().max()) < 1e-2


class Live(TorchDispatchMode):
    """Mode that counts the bytes of tensors that exist at the same time. ``peak`` is the largest count."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not made._is_view() and not any(made is x for x in args):
            size = made.nbytes
            self.count += size
            weakref.finalize(made.untyped_storage(), self._free, size)
        self.peak = max(self.peak, self.count)
        return made

    def _free(self, size: int) -> None:
        self.count -= size


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_that_are_computed_again_change_no_bit_and_need_less_memory(precision: str) -> None:
    """The network has dropout, too: its random numbers are those of the first computation."""
    unet = ("dataset=digits", "network=unet", "network.channels=8", "network.blocks=6", "network.multipliers=[1]",
            "network.attention=[8]", "trainer.batch_size=64", "parametrization=karras", "trainer.log_every=2",
            f"trainer.precision={precision}", "trainer.steps=3")  # fmt: skip

    def trained(recompute: bool) -> tuple[Tensor, int]:
        parts = assembly.build(composed("train", [*unet, f"network.recompute={recompute}"]))
        for part in parts.model.network.modules():
            if isinstance(part, Stage):
                part.attention = nn.Sequential(part.attention, nn.Dropout(0.2))
        trained = parts.training()
        with Live() as live:
            trained.run(lambda *_: None, lambda: None, lambda: None)
        return trained.vector.detach(), live.peak

    (kept, most), (again, less) = trained(False), trained(True)
    assert torch.equal(kept, again)
    assert less < most / 2


def test_tensorboard_holds_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    session.train(config("trainer.steps=30", "trainer.preview_every=15"), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == [5, 10, 15, 20, 25, 30]
    tags = events.Tags()
    names = {f"train/{name}" for name in ("loss", "gradient_norm", "learning_rate", "steps_per_second")}
    names |= {
        "train/held_out_loss",
        "train/loss_over_gaussian",
        "metrics/score_error",
        "loss_by_t/0.0-0.1",
        "loss_by_t/0.9-1.0",
    }
    assert names <= set(tags["scalars"])
    assert [event.step for event in events.Images("samples")] == [15, 30]


def test_grid_of_the_paper_counts_its_rows() -> None:
    """On the paper's grid, a batch of 64 points has 192,000 rows."""
    assert Grid(100, 30).draws * 64 == 192_000


def test_an_optimizer_imports_no_compiler() -> None:
    """The import of torch's compiler takes almost as long as that of torch."""
    code = (
        "import sys, torch; from sdegen.training import Adam; p = torch.nn.Parameter(torch.ones(3)); "
        "o = Adam().build(p); p.grad = torch.ones(3); Adam().step(o, 0.1); "
        "print('torch._dynamo' in sys.modules, bool(p[0] < 1))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False True\n"
