"""Error of the score against seconds of training, on the paper's grid of times and on continuous t.

``python scripts/benchmark.py time_to_quality`` runs the contestants one after the other, each in its own process with
one thread. The clock starts when the optimiser is ready, and stops while the error is measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sdegen import metrics
from sdegen.config import assembly
from sdegen.runs import machine
from sdegen.runs.sampling import on_cpu
from suites.base import Row, composed, process, row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR = "error of the score against seconds of training"
SHARE = 300
"""Training time of the paper's method divided by the training time of each other contestant."""
TASKS = {"mixture": "gaussian_mixture", "smile": "smile"}
AUTOGRAD, WRITTEN = "trainer.gradient=autograd", "trainer.gradient=written"
RECIPE = ("optimizer.lr=1e-2", "optimizer.decay=cosine", "trainer.ema=0.99")
CONTESTANTS: dict[str, tuple[str, ...]] = {
    "grid of times": (AUTOGRAD,),
    "continuous t": (AUTOGRAD,),
    "and a faster step": (WRITTEN,),
    "and our optimiser": (WRITTEN, *RECIPE),
}
"""Options of the contestants. A name that begins with *and* stands for the contestant above with one more change."""


def measure(seconds: float) -> list[Row]:
    """Returns the curves of all contestants, the time in which our method reaches the last error of the paper's method,
    and the memory.
    """
    curves, summary = [], []
    for task in TASKS:
        found = {name: alone(task, name, seconds if i == 0 else seconds / SHARE) for i, name in enumerate(CONTESTANTS)}
        paper, *_, ours = found.values()
        for name, one in found.items():
            curves += [row(f"{ERROR}, {task}", name, at, [error], "") for at, error in one["curve"]]
        taken, last = paper["curve"][-1]
        reached = next((t for t, error in ours["curve"] if error <= last), None)
        if reached is not None:
            summary.append(
                row("time to reach the last error of the paper's method", "and our optimiser", task, [reached], "s")
            )
            summary.append(
                row("time divided by the time of the paper's method", "and our optimiser", task, [reached / taken], "")
            )
        summary.append(
            row(
                "memory divided by the memory of the paper's method",
                "and our optimiser",
                task,
                [ours["memory_mib"] / paper["memory_mib"]],
                "",
            )
        )
    return curves + sorted(summary, key=lambda each: each.panel)


def draw(rows: Sequence[Row]) -> Figure:
    """Draws the error of the score against seconds of training, with a panel for each task."""
    # Import matplotlib late, because the peak memory of a contestant is measured without it.
    import matplotlib
    from matplotlib.figure import Figure

    from sdegen import figures

    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        for axes, task in zip(figure.subplots(1, len(TASKS)), TASKS, strict=True):
            for colour, name in zip(figures.COLOURS, CONTESTANTS, strict=False):
                own = [
                    (each.at, each.median) for each in rows if each.panel == f"{ERROR}, {task}" and each.line == name
                ]
                axes.plot(*zip(*own, strict=True), color=colour, linewidth=1.2, label=name)
                if name == next(iter(CONTESTANTS)):
                    axes.axhline(own[-1][1], color="0.5", linestyle="--", linewidth=1, label="where the grid ends")
            axes.set(xscale="log", yscale="log", title=task, xlabel="seconds of training")
            figures.log_ticks(axes.yaxis)
        figure.axes[0].set_ylabel("relative error of the score")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def alone(task: str, name: str, seconds: float) -> dict[str, Any]:
    """Runs a contestant in its own process, after another process has found the number of steps."""
    steps = process(f"time_to_quality.steps_in({task!r}, {name!r}, {seconds!r})")
    return process(f"time_to_quality.contestant({task!r}, {name!r}, {seconds!r}, {steps})")


def training_of(task: str, name: str, *overrides: str) -> tuple[Any, Any]:
    """Returns the parts and the training of a contestant."""
    torch.set_num_threads(1)
    experiment = f"paper/{'grid/' if name == 'grid of times' else ''}{TASKS[task]}"
    options = [f"experiment={experiment}", *CONTESTANTS[name], "trainer.device=cpu", "trainer.epochs=null"]
    parts = assembly.build(composed(*options, *overrides))
    return parts, parts.training()


def contestant(task: str, name: str, seconds: float, steps: int) -> dict[str, Any]:
    """Trains a contestant; returns the errors, and the peak memory minus the memory of a process with only torch."""
    bare = process("memory.peak()")
    often = f"trainer.log_every={max(1, steps // 256)}"
    parts, training = training_of(task, name, f"trainer.steps={steps}", "trainer.preview_every=0", often)
    score = on_cpu(training.averages[0], torch.device("cpu"), torch.float32)
    curve: list[tuple[float, float]] = []
    due, idle, since = seconds / 256, 0.0, time.perf_counter()

    def note(step: int, _: object) -> None:
        nonlocal due, idle
        now = time.perf_counter() - since - idle
        if now >= due or step == steps:
            error = metrics.score_error(parts.dataset, parts.sde, score)
            assert error is not None
            curve.append((now, error))
            due, idle = now * 1.25, time.perf_counter() - since - now

    training.run(note, lambda: None, lambda: None)
    return {"steps": steps, "curve": curve, "memory_mib": (machine.peak_memory_mib() or 0.0) - bare}


def steps_in(task: str, name: str, seconds: float) -> int:
    """Returns the number of steps that take ``seconds``, measured on a few steps."""
    _, training = training_of(task, name, f"trainer.steps={10**9}")
    coming = training.stream.steps(0, 10**9)
    training.advance(next(coming))
    since, steps = time.perf_counter(), 0
    while time.perf_counter() - since < min(2.0, seconds / 4):
        training.advance(next(coming))
        steps += 1
    return max(10, int(seconds * steps / (time.perf_counter() - since)))
