"""Advice on the options of a run, measured on its data and on a short training of its network."""

from __future__ import annotations

import math
import shlex
import textwrap
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.config.components import Components, some, work
from sdegen.config.compose import Config
from sdegen.config.options import choice
from sdegen.core import schema
from sdegen.core.randomness import generator
from sdegen.core.schema import Trust
from sdegen.datasets import Dataset
from sdegen.datasets.summary import summary
from sdegen.metrics.distances import nearest
from sdegen.runs.teachers import build
from sdegen.sde.linear import largest_distance
from sdegen.training.calibration import MARGIN, Rated, noise_of, range_of

OPERATIONS = {"cpu": 3e11, "cuda": 3e13}
"""Largest number of operations of the networks that calibrating may take, by device: half a minute on two cores."""
TRAINED, RANGE, NOISE = 100, 300, 32
"""Largest number of steps before the noise of the gradient is measured, of the range test, and of the measurement."""
LEAST_STEPS = 60
"""Number of steps that must be affordable in total: a more expensive batch is made smaller."""
BATCHES = (32, 1024)
"""Smallest and largest suggested batch size."""
QUERIES, ORIGINALS = 1000, 100_000
"""Largest numbers of points whose nearest neighbours are searched, and among which they are searched."""
NOISES = (1e-5, 0.05)
"""Smallest suggested time, below which float32 has few digits of the noise, and largest suggested noise."""
TOLERANCE = 4.0
"""Factor within which the range test cannot tell learning rates apart."""
WIDTHS = (128, 2048)
"""Smallest and largest suggested width of a perceptron."""


class Advice(NamedTuple):
    """Advice on an option.

    Attributes:
        option: path of the option, or a name for a number that is no option of the chosen parts.
        value: suggested value; None to keep the present one.
        reason: sentence with the reason.
        measured: number that ``auto`` measures; None if the present value is not ``auto``.
    """

    option: str
    value: Any
    reason: str
    measured: float | None = None


class Findings(NamedTuple):
    """Sentences about the data, and the advice on the options."""

    data: list[str]
    advice: list[Advice]


def calibrate(config: Config, trust: Trust = schema.ANYTHING) -> Findings:
    """Returns the advice on the options of a configuration. The result depends only on the configuration and the data.

    Raises:
        Faults: the configuration has faults.
    """
    asked = config
    parts = build(config, trust)
    x = parts.dataset.units.encode(some(parts.dataset)).flatten(1)
    advice = [*_noise(parts, asked, x), _deviation(parts, x), *_width(parts)]
    if not parts.model.network.exact:
        advice += _steps(config, parts, trust)
    return Findings([*summary(parts.dataset)["text"], *parts.dataset.concerns()], advice)


def table(config: Config, found: Findings) -> str:
    """Returns the advice as lines of text: the option, its value now, the suggested value and the reason."""
    lines = [f"{'':28}{'now':>14}{'suggested':>16}"]
    for option, value, reason, measured in found.advice:
        now = _now(config, option)
        new = _written(value) if value not in (None, now) else "" if now is None else "keep"
        new += "" if measured is None else f" ({measured:g})"
        lines += [f"{option:28}{'' if now is None else _written(now):>14}{new:>16}"]
        lines += textwrap.wrap(reason, 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def changes(config: Config, found: Findings) -> list[str]:
    """Returns the suggested values that differ from those of a configuration, as on the command line."""
    new = ((option, value) for option, value, *_ in found.advice if value not in (None, _now(config, option)))
    return [f"{option}={_written(value)}" for option, value in new]


def command(line: str, config: Config, found: Findings) -> str:
    """Returns a command line with the suggested values that differ from those of its configuration."""
    new = changes(config, found)
    options = {word.partition("=")[0] for word in new}
    kept = [word for word in shlex.split(line) if word.lstrip("+").partition("=")[0] not in options]
    return shlex.join([*kept, *new])


def _now(config: Config, option: str) -> Any:  # noqa: ANN401
    group, _, key = option.partition(".")
    return config[group].get(key) if key else None


def _written(value: object) -> str:
    """Returns a value as it is written on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _noise(parts: Components, asked: Config, x: Tensor) -> list[Advice]:
    """Returns the advice on the largest and the smallest noise."""
    node, found = asked["sde"], []
    diameter = float(f"{largest_distance(x):.3g}")
    reason = f"the largest distance between two points is {diameter:g}, so that noise of this size mixes all points"
    if node.get("sigma_max") == "auto":
        found.append(Advice("sde.sigma_max", None, f"auto measures it on the data: {reason}", diameter))
    elif "sigma_max" in node:
        found.append(Advice("sde.sigma_max", diameter, reason))
    else:
        found.append(Advice("sigma_max", None, f"{reason}; sde={choice(node)} needs no such option, sde=ve has auto"))
    linear = parts.sde.linear
    if "eps" not in node or linear is None:
        return found
    size, rounded = resolution(parts.dataset, x)
    where = f"the values of the data are {size:.3g} apart" if rounded else f"nearest neighbours are {size:.3g} apart"
    # Rounding to cells of a width has the standard deviation width / sqrt(12).
    sigma = min(size / math.sqrt(12), NOISES[1])
    eps = float(linear.time(torch.tensor(2 * math.log(sigma), dtype=torch.float64)))
    reason = f"{where} in each coordinate, in the network's units"
    # The option may be null; then the process has chosen a time.
    own = parts.sde.eps
    if own <= eps and not rounded:
        reason += f": the noise at t = {own:.2g} is smaller, so no detail is lost"
        return [*found, Advice("sde.eps", None, reason)]
    reason += f": at t = {eps:.2g} the noise is {sigma:.2g}, and smaller noise cannot be told from "
    reason += "rounding, so learning it would be wasted" if rounded else "these distances"
    if eps < NOISES[0]:
        eps, reason = NOISES[0], f"{reason}, but below {NOISES[0]:g} float32 has few digits of the noise"
    return [*found, Advice("sde.eps", float(f"{eps:.1e}"), reason)]


def resolution(dataset: Dataset, x: Tensor) -> tuple[float, bool]:
    """Returns the size of the finest details of the data, and whether rounding limits it.

    It is the distance between neighbouring values of the finest column with tied values, and the distance between
    nearest neighbours for other columns, divided by the square root of the number of coordinates. Images count as one
    column. ``x`` ``(N, d)`` are points in the network's units.
    """
    columns = x.T if dataset.units.kind == "vectors" else x.reshape(1, -1)
    found, continuous = [], False
    for values in columns:
        distinct = values.unique()
        if len(distinct) == 1:
            continue
        if 2 * len(distinct) <= len(values):
            found.append((float(distinct.diff().median()), True))
        else:
            continuous = True
    if continuous:
        found.append((_neighbours(dataset) / math.sqrt(x.shape[1]), False))
    return min(found, default=(1.0, True))


def _neighbours(dataset: Dataset) -> float:
    """Returns the median distance of a point from its nearest neighbour in the network's units."""
    order = torch.randperm(len(dataset.x), generator=generator("cpu", 0, "neighbours"))
    queries, others = order[:QUERIES], order[QUERIES:][:ORIGINALS]
    if not len(others):
        queries, others = order[: len(order) // 2], order[len(order) // 2 :]
    a, b = (dataset.units.encode(dataset.x[part.sort().values]).flatten(1) for part in (queries, others))
    distances = nearest(a, b)
    return float(distances[distances > 0].median())


def _deviation(parts: Components, x: Tensor) -> Advice:
    deviation = float(f"{float((x - x.mean(0)).square().mean().sqrt()):.3g}")
    reason = f"the standard deviation of the data in the network's units is {deviation:g}"
    if "sigma_data" in parts.config["parametrization"]:
        return Advice("parametrization.sigma_data", deviation, reason)
    if parts.moments is not None:
        reason += "; the parametrization measures it, with all covariances"
    return Advice("sigma_data", None, reason)


def _width(parts: Components) -> list[Advice]:
    """Returns the advice on the width of a perceptron: every layer must pass all coordinates of the noise."""
    hidden = parts.config["network"].get("hidden")
    if not isinstance(hidden, list | tuple) or parts.model.network.exact:
        return []
    size = parts.dataset.units.size
    width = int(min(max(2 ** math.ceil(math.log2(2 * size)), WIDTHS[0]), WIDTHS[1]))
    reason = f"each layer must pass the {size} coordinates of a point and its noise"
    if min(hidden) >= width:
        return [Advice("network.hidden", None, f"{reason}, and {min(hidden)} numbers are enough")]
    return [Advice("network.hidden", [width] * len(hidden), f"{reason}, which takes twice as many numbers")]


def _steps(config: Config, parts: Components, trust: Trust) -> list[Advice]:
    """Returns the advice on the batch size and, with this batch size, on the learning rate."""
    device, n = parts.trainer.device, len(parts.dataset.x)
    # A step costs three forward passes.
    row = 3 * work([parts]) / min(parts.trainer.batch_size, n)
    rows = OPERATIONS["cuda" if device.type == "cuda" else "cpu"] / row
    limits = {rows / LEAST_STEPS: "a larger step would be slow on this device", n: f"there are {n} points"}
    trial = _with_batch(config, _power_of_two(min(*limits, BATCHES[0])), trust)
    steps = int(min(rows / 6 / trial.trainer.batch_size, TRAINED))
    training = trial.training()
    for chunks in training.stream.steps(0, steps):
        training.advance(chunks)
    scale = noise_of(training, steps, max(8, min(NOISE, steps)))
    limits |= {BATCHES[1]: "larger batches rarely pay", scale: "more rows would repeat what these say"}
    bound = min(limits)
    batch = min(2 ** round(math.log2(max(bound, BATCHES[0]))), _power_of_two(n))
    noise = f"{scale:.0f} rows" if math.isfinite(scale) else "too large to be measured"
    reason = f"the gradient-noise scale after {steps} steps is {noise}: {limits[bound]}"
    if batch > parts.trainer.batch_size:
        reason += f"; a step then takes {batch / parts.trainer.batch_size:.2g} times as long"
    return [Advice("trainer.batch_size", batch, reason), _rate(config, batch, rows / 2, trust)]


def _rate(config: Config, batch: int, rows: float, trust: Trust) -> Advice:
    """Returns the advice on the learning rate, from a range test of at most ``rows`` rows."""
    parts = _with_batch(config, batch, trust)
    rated = Rated(parts.optimizer)
    steps = int(max(20, min(rows / batch, RANGE)))
    training = parts._replace(optimizer=rated).training()
    found = range_of(training, rated, steps, max(1, steps // 50), max(batch, min(2048, int(rows / 50))))
    if found.suggested is None:
        return Advice("optimizer.lr", None, f"the loss has no clear limit in a range test of {steps} steps")
    reason = (
        f"in a range test of {steps} steps, the loss falls up to {found.limit:.1g} and rises beyond; {MARGIN:g} times "
        f"less is safe in a long training"
    )
    now = config["optimizer"].get("lr", math.inf)
    if max(now / found.suggested, found.suggested / now) <= TOLERANCE:
        reason += f", to within a factor of {TOLERANCE:g}: the present rate is as good"
        return Advice("optimizer.lr", None, reason)
    return Advice("optimizer.lr", found.suggested, reason)


def _with_batch(config: Config, batch: int, trust: Trust) -> Components:
    """Builds the parts of a run with another batch size, for a single network."""
    return build({**config, "trainer": {**config["trainer"], "batch_size": batch, "replicas": 1}}, trust)


def _power_of_two(value: float) -> int:
    """Returns the largest power of two that is at most ``value``, at least 1."""
    return 2 ** int(math.log2(max(value, 1)))
