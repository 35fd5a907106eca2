"""Time of a complete training step (clipping, averaging and TensorBoard) divided by the time of a bare PyTorch loop."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdegen.config.assembly import build
from sdegen.config.components import Components
from sdegen.networks import MLP
from sdegen.runs.recorder import Recorder
from suites.base import Row, composed, interleaved, over, row


def measure(tasks: Mapping[str, Mapping[str, Any]], rounds: int) -> list[Row]:
    """Returns the rows of the tasks; a task has ``options`` of train.py and the number of ``steps`` in a round."""
    torch.set_num_threads(1)
    rows = []
    for task, asked in tasks.items():
        steps = asked["steps"]
        parts = build(composed(*asked["options"], "trainer.preview_every=0", "trainer.device=cpu"))
        x = parts.dataset.units.encode(parts.dataset.x).float()
        bare = bare_loop(x, plain(parts), parts.trainer.batch_size, steps)
        with tempfile.TemporaryDirectory() as folder:
            seconds = interleaved({"bare": bare, "ours": our_loop(parts, Path(folder), steps)}, rounds)
        rows.append(row("time of a step divided by time of a bare step", "", task, over(seconds, "bare")["ours"], ""))
        for name, taken in seconds.items():
            rows.append(row("time of a step", name, task, [1e6 * s / steps for s in taken], "µs"))
    return sorted(rows, key=lambda each: each.panel, reverse=True)


def plain(parts: Components) -> nn.Module:
    """Returns a copy of the network of a run; for a perceptron, a copy of its layers."""
    network = copy.deepcopy(parts.model.network)
    return network.layers if isinstance(network, MLP) else network


def bare_loop(x: Tensor, network: nn.Module, batch: int, steps: int) -> Callable[[], None]:
    """Returns the baseline loop: noise, forward, backward and fused Adam in as little PyTorch as possible.

    The loop uses VP, one uniform t for each data point, and the noise-prediction loss.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    tail = [1] * (x.ndim - 1)
    beside = isinstance(network, nn.Sequential)

    def loop() -> None:
        for _ in range(steps):
            x0 = x[torch.randint(len(x), (batch,))]
            t = 1e-5 + (1 - 1e-5) * torch.rand(batch, *tail)
            integral = 0.1 * t + 0.5 * 19.9 * t * t
            sigma = torch.sqrt(-torch.expm1(-integral))
            z = torch.randn_like(x0)
            noisy = torch.exp(-0.5 * integral) * x0 + sigma * z
            output = network(torch.cat([noisy, t], 1)) if beside else network(noisy, t.flatten())
            loss = (output - z).square().flatten(1).sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return loop


def our_loop(parts: Components, folder: Path, steps: int) -> Callable[[], None]:
    """Returns a loop of our training steps that also writes the logs of a run."""
    training, recorder = parts.training(), Recorder(folder, 0, 10**9, silent=True)

    def loop() -> None:
        training.steps = training.step + steps
        training.run(lambda step, values: recorder.progress(step, values[0]), lambda: None, lambda: None)

    return loop
