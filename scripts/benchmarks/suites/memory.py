"""Peak memory of training steps, with the paper's grid of times and of U-Nets. Each is measured in its own process."""

from __future__ import annotations

import time

from suites.base import Row, composed, process, row


def measure(
    tasks: dict[str, str],
    chunks: list[int],
    steps: int,
    unets: dict[str, list[str]],
    options: list[str],
    rounds: int,
) -> list[Row]:
    """Returns the peak memory minus the memory of a process that only imports torch; ``tasks`` are experiments.

    The memory of ``unets`` is measured with each of the ``options``, and divided by what a forecast expects.
    """
    rows = [one for name, unet in unets.items() for one in of_unet(name, unet, options, rounds)]
    rows.sort(key=lambda each: each.panel)
    bare = [process("memory.peak()") for _ in range(rounds)]
    for task, name in tasks.items():
        for chunk in chunks:
            asked = [f"experiment={name}", f"times.chunk={chunk}"]
            held = [process(f"memory.of_steps({asked}, {steps})")["peak"] for _ in range(rounds)]
            above = [own - empty for own, empty in zip(held, bare, strict=True)]
            rows.append(row("memory above torch against draws in a chunk", task, chunk, above, "MiB"))
    return rows


def peak() -> float:
    """Returns the peak memory of this process in MiB, with torch imported."""
    import torch

    from sdegen.runs import machine

    torch.set_num_threads(1)
    return machine.peak_memory_mib() or 0.0


def of_unet(name: str, unet: list[str], options: list[str], rounds: int) -> list[Row]:
    """Returns the memory and time of a step of a U-Net with each option over those without, and over the forecast."""
    rows, plain = [], [process(f"memory.of_steps({unet}, 4)") for _ in range(rounds)]
    for option in options:
        asked = [*unet, *option.split()]
        real = [process(f"memory.of_steps({asked}, 4)") for _ in range(rounds)]
        option = option or "none"
        for kind in ("peak", "seconds"):
            ratio = [own[kind] / bare[kind] for own, bare in zip(real, plain, strict=True)]
            rows.append(row(f"{kind} over those without options", name, option, ratio, ""))
        for parts in (1, 4):
            expected = [process(f"memory.expected({asked}, {parts})") for _ in range(rounds)]
            ratio = [said / own["peak"] for said, own in zip(expected, real, strict=True)]
            rows.append(row(f"forecast over measured peak, from 1/{parts} of a step", name, option, ratio, ""))
        rows.append(row("measured peak", name, option, [own["peak"] for own in real], "MiB"))
    return rows


def expected(asked: list[str], parts: int) -> float:
    """Returns the peak memory in MiB of a training on one device, forecast from steps of a share of the points."""
    from sdegen.runs import memory

    found = memory.measure(composed(*asked, "trainer.device=cpu"), parts)
    return found.at(found.points).bytes / 2**20


def of_steps(asked: list[str], steps: int) -> dict[str, float]:
    """Returns the peak memory of this process in MiB, and the CPU time of a step, after ``steps`` steps."""
    from sdegen.config.assembly import build

    training = build(composed(*asked, "trainer.device=cpu")).training()
    began = time.process_time()
    for chunks in training.stream.steps(0, steps):
        training.advance(chunks)
    return {"seconds": (time.process_time() - began) / steps, "peak": peak()}
