"""Peak memory of training steps with the paper's grid of times. Each value is measured in its own process."""

from __future__ import annotations

from suites.base import Row, composed, process, row


def measure(tasks: dict[str, str], chunks: list[int], steps: int, rounds: int) -> list[Row]:
    """Returns the peak memory minus the memory of a process that only imports torch; ``tasks`` are experiments."""
    rows = []
    bare = [process("memory.peak()") for _ in range(rounds)]
    for task, name in tasks.items():
        for chunk in chunks:
            held = [process(f"memory.of_steps({name!r}, {chunk}, {steps})") for _ in range(rounds)]
            above = [own - empty for own, empty in zip(held, bare, strict=True)]
            rows.append(row("memory above torch against draws in a chunk", task, chunk, above, "MiB"))
    return rows


def peak() -> float:
    """Returns the peak memory of this process in MiB, with torch imported."""
    import torch

    from sdegen.runs import machine

    torch.set_num_threads(1)
    return machine.peak_memory_mib() or 0.0


def of_steps(name: str, chunk: int, steps: int) -> float:
    """Returns the peak memory of this process in MiB after ``steps`` steps of an experiment."""
    from sdegen.config.assembly import build

    training = build(composed(f"experiment={name}", f"times.chunk={chunk}", "trainer.device=cpu")).training()
    for chunks in training.stream.steps(0, steps):
        training.advance(chunks)
    return peak()
