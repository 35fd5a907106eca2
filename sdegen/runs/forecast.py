"""Forecast of the cost of a run: evaluations are counted, and the time is measured on a few real steps."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch

from sdegen.config.components import together
from sdegen.config.compose import Config
from sdegen.core import schema
from sdegen.core.progress import Progress, announced
from sdegen.core.randomness import SampleNoise
from sdegen.core.schema import Trust
from sdegen.models.score import ScoreModel
from sdegen.runs import files, machine
from sdegen.runs.sampling import draw
from sdegen.runs.teachers import replicated
from sdegen.training.trainer import DTYPES

NAME = "forecast.json"
SECONDS = 2.0
"""Duration of the measured steps, and of the measured evaluations, in seconds; one of each is always measured."""
TRIED = 16
"""Number of samples for which the evaluations of an adaptive sampler are counted."""


class Forecast(NamedTuple):
    """Cost of a run.

    Attributes:
        steps: number of training steps.
        rows: number of noisy points that pass through the network in these steps.
        seconds: approximate time of the training, without previews and checkpoints.
        sampled_rows: number of evaluations of the network in sampling; for an adaptive sampler, they are counted with
            a network that is hardly trained.
        sampling_seconds: approximate time of the sampling, without metrics and figures.
        memory_mib: peak memory during the forecast, on the GPU if the run uses a GPU, else of the process.
    """

    steps: int
    rows: int
    seconds: float
    sampled_rows: float
    sampling_seconds: float
    memory_mib: float | None


def forecast(config: Config, trust: Trust = schema.ANYTHING) -> Forecast:
    """Counts and measures the cost of the run with a resolved configuration."""
    machine.forget_peak_memory()
    replicas = replicated(config, trust)
    parts, training = replicas[0], together(replicas)
    dataset, sde = parts.dataset, parts.sde
    device, dtype = parts.trainer.device, DTYPES[parts.trainer.precision]
    model, steps, seconds = training.models[0], training.steps, 0.0
    if steps:
        coming = training.stream.steps(0, steps)
        # The first step is slower, because some work is done only once.
        first = timed(lambda: training.advance(next(coming)), 1, device)
        seconds = first + (steps - 1) * timed(lambda: training.advance(next(coming)), steps - 1, device)
    epochs, rest = divmod(steps, training.stream.points[0].per_epoch)
    rows = len(replicas) * parts.times.draws * (epochs * len(dataset.x) + rest * parts.trainer.batch_size)
    count, sampled, sampling_seconds = parts.config["count"], 0.0, 0.0
    if isinstance(model, ScoreModel):
        nfe: float | None = parts.sampler.evaluations
        if nfe is None:
            tried = draw(
                sde, model, parts.sampler, dataset.units, TRIED, device=device, dtype=dtype, progress="sampling"
            )
            nfe = tried.nfe
        x = torch.empty(min(count, 1000), *dataset.units.shape, device=device, dtype=dtype)
        x = sde.sample_prior(x, SampleNoise(0, 0, len(x), dataset.units.shape, device))
        t = torch.as_tensor(sde.T, device=device, dtype=dtype)
        with torch.no_grad():
            model(x[:TRIED], t)
            once = timed(lambda: model(x, t), 5, device)
        sampled = nfe * count * len(replicas)
        sampling_seconds = once * sampled / len(x)
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else machine.peak_memory_mib()
    return Forecast(steps, rows, seconds, sampled, sampling_seconds, memory)


def timed(work: Callable[[], object], most: int, device: torch.device) -> float:
    """Returns the mean time of calls in seconds: of ``most`` calls, or of as many as take :data:`SECONDS`."""
    taken: list[float] = []
    while len(taken) < most and (not taken or sum(taken) < SECONDS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return mean(taken) if taken else 0.0


def table(forecasts: Sequence[tuple[str, Forecast]]) -> str:
    """Returns forecasts as lines of text. For several jobs, the last line has the sums of all columns but memory."""
    rows = list(forecasts)
    if len(rows) > 1:
        sums = [sum(column) for column in zip(*(cost[:5] for _, cost in rows), strict=True)]
        rows.append(("total", Forecast._make([*sums, None])))
    lines = [f"{'steps':>9}{'rows':>9}{'time':>18}{'sampling':>10}{'sampling time':>18}{'MiB':>7}   job"]
    for job, cost in rows:
        trained, drawn = (str(timedelta(seconds=round(value))) for value in (cost.seconds, cost.sampling_seconds))
        steps, points, sampled = map(_short, (cost.steps, cost.rows, cost.sampled_rows))
        memory = "" if cost.memory_mib is None else f"{cost.memory_mib:.0f}"
        lines.append(f"{steps:>9}{points:>9}{trained:>18}{sampled:>10}{drawn:>18}{memory:>7}   {job}")
    return "\n".join(lines)


def write(folder: Path, forecasts: Sequence[tuple[str, Forecast]]) -> Path:
    """Writes the forecasts of a sweep into its folder as ``forecast.json``: the fields of each forecast, by job."""
    files.write_json(folder / NAME, {job: cost._asdict() for job, cost in forecasts})
    return folder / NAME


def read(folder: Path) -> dict[str, Forecast]:
    """Reads the file of :func:`write`; returns an empty dictionary if it is missing or damaged."""
    try:
        found = {job: Forecast(**cost) for job, cost in json.loads(files.text(folder / NAME)).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    numbers = (number for cost in found.values() for number in (*cost[:5], cost.memory_mib or 0.0))
    return found if all(map(files.is_number, numbers)) else {}


def each(configs: Sequence[Config]) -> list[Forecast]:
    """Returns the forecasts of runs. Each of several runs has its own process, so that its memory is measured alone."""
    if len(configs) == 1:
        with announced("timing a few steps of the training and of the sampler"):
            return [forecast(configs[0])]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sdegen.runs.forecast"])
    progress, found = Progress("forecast", "runs"), []
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool, contextlib.closing(progress):
        for cost in pool.map(forecast, configs):
            found.append(cost)
            progress.to(len(found), len(configs))
    return found


def _short(value: float) -> str:
    """Returns a number with up to three digits and the letter k, M or G, such as 2.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"
