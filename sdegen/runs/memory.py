"""Memory and time of a training step with the options that need less memory, on one or several devices."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from datetime import timedelta
from typing import NamedTuple

import torch

from sdegen.config.assembly import COPIES
from sdegen.config.components import Components, together
from sdegen.config.compose import Config
from sdegen.core import capacity, schema
from sdegen.core.errors import UserError
from sdegen.core.progress import announced
from sdegen.core.schema import Trust
from sdegen.runs import machine
from sdegen.runs.forecast import timed
from sdegen.runs.teachers import replicated

SAFE = 0.8
"""Share of the available memory up to which steps are tried."""
SHARE = 0.25
"""Share of the memory that the points of a step must take for options that need less memory to be measured."""
GROWTH = 4
"""Ratio of the numbers of points of two measured sizes."""
WARM = 2
"""Number of steps before the time is measured. The first one creates the moments of the optimiser."""
LINK = {"cpu": 1e9, "cuda": 2e10}
"""Assumed bytes per second between two devices: 10-gigabit Ethernet, and PCI Express 4.0 with 16 lanes."""
GIB = 2**30


class Size(NamedTuple):
    """Memory and time of a training step of ``rows`` data points.

    Attributes:
        rows: number of data points.
        bytes: peak memory of the process, or of the program on its GPU.
        seconds: time of the step.
    """

    rows: int
    bytes: float
    seconds: float


class Measured(NamedTuple):
    """Training steps with increasing numbers of data points.

    Attributes:
        sizes: measured sizes. The first has no points, and its memory is an estimate.
        points: number of data points in a step of the run.
        steps: number of steps of the run.
        gradient: number of bytes of the gradient.
        room: number of bytes of memory that are available to a process, or to the program on its GPU.
        device: name of the device.
    """

    sizes: tuple[Size, ...]
    points: int
    steps: int
    gradient: int
    room: float
    device: str

    def at(self, rows: int) -> Size:
        """Returns the memory and time for a number of points, on the line through the two nearest measured sizes."""
        after = next((i for i, size in enumerate(self.sizes) if size.rows >= rows), len(self.sizes) - 1)
        (few, low, fast), (many, high, slow) = self.sizes[max(after, 1) - 1 : max(after, 1) + 1]
        share = (rows - few) / (many - few)
        return Size(rows, low + share * (high - low), fast + share * (slow - fast))


class Option(NamedTuple):
    """Memory and time of a step on each device with an option.

    Attributes:
        name: option as on the command line.
        bytes: peak memory of the process, or of the program on its GPU.
        seconds: time of a step, with the sum of the gradients over the devices.
        fits: True if the memory is available.
    """

    name: str
    bytes: float
    seconds: float
    fits: bool


class Plan(NamedTuple):
    """Options of a run on a number of devices. The first option is the configuration itself."""

    devices: int
    run: Measured
    options: tuple[Option, ...]


def plan(config: Config, devices: int) -> Plan:
    """Measures a run and the options that need less memory, each in its own process.

    The options are measured if the points of a step take a considerable share of the memory. More shards are an option
    only for a number of devices that is a power of two, because other numbers of processes cannot share them.
    """
    trainer, network = config["trainer"], config["network"]
    shards = max(trainer.get("shards") or 1, devices)
    run = _alone("as configured", config, shards)
    options = [option("as configured", run, devices, shards)]
    rows = -(-run.points // shards)
    if len(run.sizes) < 2 or run.at(rows).bytes - run.sizes[0].bytes < SHARE * run.at(rows).bytes:
        return Plan(devices, run, tuple(options))
    tried = {}
    if schema.takes(network, "recompute", schema.ANYTHING) and not network.get("recompute"):
        changed = {**config, "network": {**network, "recompute": True}}
        tried["network.recompute=true"] = changed
    if trainer["precision"] == "float32" and trainer["gradient"] != "written" and trainer["replicas"] == 1:
        changed = {**config, "trainer": {**trainer, "precision": "bfloat16"}}
        tried["trainer.precision=bfloat16"] = changed
    options += [option(name, _alone(name, changed, shards), devices, shards) for name, changed in tried.items()]
    parts, smaller, shared = shards, options[0], not devices & (devices - 1)
    while shared and -(-run.points // parts) > 1 and (parts == shards or not smaller.fits):
        parts = 1 << parts.bit_length()
        smaller = option(f"trainer.shards={parts}", run, devices, parts)
    return Plan(devices, run, (*options, *([smaller] if parts > shards else [])))


def option(name: str, run: Measured, devices: int, shards: int) -> Option:
    """Returns the memory and time of a step of which each device computes a share of ``shards`` parts, one by one."""
    part = run.at(-(-run.points // shards))
    # A ring of N devices sends the gradient 2 (N - 1) / N times through each link.
    summed = 2 * (devices - 1) / devices * run.gradient / LINK[run.device.partition(":")[0]]
    return Option(name, part.bytes, -(-shards // devices) * part.seconds + summed, part.bytes <= run.room)


def measure(config: Config, shards: int = 1, room: float | None = None, trust: Trust = schema.ANYTHING) -> Measured:
    """Takes training steps of 1, 4, 16, … data points, up to one of ``shards`` parts of the points of a step.

    Steps that could need more than a share of the available memory are not taken. ``room`` is the number of bytes that
    are available; None for what the machine or the GPU has.
    """
    config = {**config, "trainer": {**config["trainer"], **({"shards": None} if "shards" in config["trainer"] else {})}}
    replicas = replicated(config, trust)
    trainer, data = replicas[0].trainer, replicas[0].dataset
    device = trainer.device
    points = trainer.batch_size if data.fresh else min(trainer.batch_size, len(data.x))
    weights = sum(p.nbytes for one in replicas for p in one.model.parameters() if p.requires_grad)
    room = available(device) if room is None else room
    sizes = [Size(0, peak_of(device) + (COPIES + len(trainer.widths or ()) - 1) * weights, 0.0)]
    run = Measured(tuple(sizes), points, trainer.total(len(data.x)) if weights else 0, weights, room, str(device))
    most = -(-points // shards)
    while run.steps and run.sizes[-1].rows < most:
        rows = min(GROWTH * run.sizes[-1].rows or 1, most)
        if len(run.sizes) > 1 and run.at(rows).bytes > SAFE * room:
            break
        run = run._replace(sizes=(*run.sizes, _size(replicas, rows, run.steps if rows == most else 1)))
    return run


def _size(replicas: Sequence[Components], rows: int, steps: int) -> Size:
    """Takes steps of ``rows`` data points, of which at most ``steps`` are timed."""
    device = replicas[0].trainer.device
    for one in replicas:
        one.trainer.batch_size = rows
    forget_peak(device)
    training = together(replicas)
    coming = training.stream.steps(0, 2**31)
    for _ in range(WARM):
        training.advance(next(coming))
    # Many steps are prepared together, so the time of a few steps says little if they are fast.
    seconds = timed(lambda: training.advance(next(coming)), steps, device)
    return Size(rows, peak_of(device), seconds)


def forget_peak(device: torch.device) -> None:
    """Resets :func:`peak_of`."""
    machine.forget_peak_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_of(device: torch.device) -> float:
    """Returns the peak number of bytes of this process, or of this process on its GPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    return (machine.peak_memory_mib() or 0.0) * 2**20


def available(device: torch.device) -> float:
    """Returns the number of bytes that this process may have at most, on its GPU if it uses one."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    return min(capacity.memory(), capacity.free() + (machine.peak_memory_mib() or 0.0) * 2**20)


def _alone(name: str, config: Config, shards: int) -> Measured:
    """Returns the result of :func:`measure` in a process of its own, which holds no memory of other measurements."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    try:
        with ProcessPoolExecutor(1, context) as pool, announced(f"measuring training steps, {name}"):
            return pool.submit(measure, config, shards).result()
    except BrokenExecutor:
        raise UserError(
            "forecast=true: the system ended the process that measured a step, probably for lack of memory: use a "
            "smaller network"
        ) from None


def table(found: Plan) -> str:
    """Returns a plan as lines of text."""
    run, devices = found.run, found.devices
    each = "one device" if devices == 1 else f"{devices} devices, each"
    lines = [
        f"{each} with {-(-run.points // devices)} of {run.points} points of a step and {run.room / GIB:.3g} GiB of "
        f"memory, like this one ({run.device})"
    ]
    if devices > 1:
        link = LINK[run.device.partition(":")[0]]
        lines.append(f"adding the gradients, {run.gradient / 2**20:.3g} MiB, at {link / 1e9:g} GB/s (assumed)")
    lines.append(f"{'memory':>12}{'step':>12}{'training':>18}{'fits':>6}   option")
    for one in found.options:
        whole = timedelta(seconds=round(run.steps * one.seconds))
        cells = f"{one.bytes / GIB:>8.2f} GiB{one.seconds:>10.3g} s{whole!s:>18}{'yes' if one.fits else 'NO':>6}"
        lines.append(f"{cells}   {one.name}")
    return "\n".join(lines)
