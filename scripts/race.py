"""The paper's grid of times against continuous t, same network and data: error of the score by seconds of training.

``python scripts/benchmark.py time_to_quality`` runs it: each contestant in a process and on a thread of its own, one
after the other. The clock starts once the optimiser is constructed, and stands still while the error is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHARE = 300
"""The paper's method has so many times the seconds of the others."""
TASKS = {"mixture": "gaussian_mixture", "smile": "smile"}
AUTOGRAD, WRITTEN = "trainer.gradient=autograd", "trainer.gradient=written"
RECIPE = ("optimizer.lr=1e-2", "optimizer.decay=cosine", "trainer.ema=0.99")
CONTESTANTS: dict[str, tuple[str, ...]] = {
    "grid of times": (AUTOGRAD,),
    "continuous t": (AUTOGRAD,),
    "and a faster step": (WRITTEN,),
    "and our optimiser": (WRITTEN, *RECIPE),
}
"""Each has what the one before it has, and more."""


def race(seconds: float) -> dict[str, Any]:
    """Curves of all contestants, the paper's over ``seconds``, and when ours reach the paper's last error."""
    results: dict[str, Any] = {}
    for task in TASKS:
        curves = {name: alone(task, name, seconds if i == 0 else seconds / SHARE) for i, name in enumerate(CONTESTANTS)}
        paper, *_, ours = curves.values()
        reached = next((t for t, error in ours["curve"] if error <= paper["curve"][-1][1]), None)
        results[task] = {
            "contestants": curves,
            "seconds_to_the_papers_error": reached,
            "share_of_its_time": reached and reached / paper["curve"][-1][0],
            "share_of_its_memory": ours["memory_mib"] / paper["memory_mib"],
        }
    return results


def draw(results: dict[str, Any]) -> Any:  # noqa: ANN401 - matplotlib is imported late
    """The error of the score against seconds of training, a panel for each task, the paper's last error dashed."""
    import matplotlib
    from matplotlib.figure import Figure

    from sdegen import figures
    from sdegen.frontier import COLOURS

    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        for axes, (task, found) in zip(figure.subplots(1, len(results)), results.items(), strict=True):
            for colour, (name, one) in zip(COLOURS, found["contestants"].items(), strict=False):
                axes.plot(*zip(*one["curve"], strict=True), color=colour, linewidth=1.2, label=name)
            last = found["contestants"]["grid of times"]["curve"][-1][1]
            axes.axhline(last, color="0.5", linestyle="--", linewidth=1, label="where the grid ends")
            axes.set(xscale="log", yscale="log", title=task, xlabel="seconds of training")
            figures.log_ticks(axes.yaxis)
        figure.axes[0].set_ylabel("relative error of the score")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def alone(task: str, name: str, seconds: float) -> dict[str, Any]:
    """A contestant in a process of its own, which another has told how many steps there are."""
    steps = process(f"race.steps_in({task!r}, {name!r}, {seconds!r})")
    return process(f"race.contestant({task!r}, {name!r}, {seconds!r}, {steps})")


def process(call: str) -> Any:  # noqa: ANN401
    """What a call gives, in a new process; of memory it has the interpreter and torch before it."""
    code = (
        f"import json, resource, torch; torch.set_num_threads(1); from scripts import race; print(json.dumps({call}))"
    )
    root = Path(__file__).parents[1]
    output = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return json.loads(output.stdout.splitlines()[-1])


def training_of(task: str, name: str, *overrides: str) -> tuple[Any, Any]:
    """The parts and the training of a contestant."""
    from sdegen import assembly
    from sdegen.command import composed

    experiment = f"paper/{'grid/' if name == 'grid of times' else ''}{TASKS[task]}"
    options = [f"experiment={experiment}", *CONTESTANTS[name], "trainer.device=cpu", "trainer.epochs=null"]
    parts = assembly.build(composed("train", [*options, *overrides]))
    return parts, parts.training()


def contestant(task: str, name: str, seconds: float, steps: int) -> dict[str, Any]:
    """Train, and tell the errors on the way, and the peak memory above that of the bare interpreter with torch."""
    import torch

    from sdegen import files, metrics
    from sdegen.run import on_cpu

    bare = process("resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024")
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
    return {"steps": steps, "curve": curve, "memory_mib": (files.peak_memory_mib() or 0.0) - bare}


def steps_in(task: str, name: str, seconds: float) -> int:
    """How many steps take some seconds, by a few of them: a user knows beforehand how many he asks for."""
    _, training = training_of(task, name, f"trainer.steps={10**9}")
    coming = training.stream.steps(0, 10**9)
    training.advance(next(coming))
    since, steps = time.perf_counter(), 0
    while time.perf_counter() - since < min(2.0, seconds / 4):
        training.advance(next(coming))
        steps += 1
    return max(10, int(seconds * steps / (time.perf_counter() - since)))
