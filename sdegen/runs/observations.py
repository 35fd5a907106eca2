"""Results of measurements that guided samples agree with, and the agreement of samples with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.config.compose import Config
from sdegen.config.construction import construct
from sdegen.config.options import choice
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Units
from sdegen.guidance.measurement import Measurement, linear_units
from sdegen.guidance.measurement import array as stored
from sdegen.guidance.noise import STD, Gaussian, Noise, as_noise
from sdegen.guidance.operator import Decoded, Repeated, Together, check_operator
from sdegen.metrics.points import Metrics, unmeasured
from sdegen.runs.arrays import ArrayLike, array
from sdegen.runs.trained import Trained


class Observation(NamedTuple):
    """A measurement and its result.

    Attributes:
        truth: measured image, ``(1, *)`` in the user's units; None if the user gave the result.
        y: result of the measurement, ``(1, …)`` in the units of the measurement.
        measurement: measurement of points in the network's units.
        noise: noise of the measurement.
    """

    truth: Tensor | None
    y: Tensor
    measurement: Measurement
    noise: Noise


def results(node: Config, observed: ArrayLike | None) -> Tensor | list[Tensor] | None:
    """Returns the user's result of a measurement, or the results of the measurements of a node, as tensors."""
    if observed is None or not isinstance(node.get("measurement"), list | tuple):
        return None if observed is None else array("observed", observed)
    if not isinstance(observed, list | tuple):
        raise UserError("observed: must be a list with the result of each measurement")
    return [array(f"observed[{i}]", own) for i, own in enumerate(observed)]


def observed(trained: Trained, node: Config, given: Tensor | Sequence[Tensor] | None) -> Observation | None:
    """Returns the user's results, ``given`` or in ``guidance.path``, or else the results of measuring an image.

    Returns None if the guidance takes no measurement.
    """
    if not schema.takes(node, "observed", trained.trust):
        if given is not None:
            raise UserError(f"observed: guidance={choice(node)} takes no measurement: leave out observed=")
        return None
    if not isinstance(node["measurement"], list | tuple):
        assert given is None or isinstance(given, Tensor)
        return _seen(trained, node, given)
    number = len(node["measurement"])
    if number < 2:
        raise UserError(f"guidance.measurement: is a list of {number}: give two or more nodes, or another guidance")
    columns = {"guidance.path": node["path"], "guidance.noise": node["noise"], "observed": given}
    for name, values in columns.items():
        if isinstance(values, list | tuple) and len(values) != number:
            raise UserError(f"{name}: is a list of {len(values)}: give {number}, one for each guidance.measurement")
    if isinstance(node["path"], str):
        raise UserError(f"guidance.path={node['path']}: must be a list of {number} files, one for each measurement")
    seen = []
    for i in range(number):
        own = {key: _own(node[key], i) for key in ("measurement", "noise", "path")}
        seen.append(_seen(trained, {**node, **own}, _own(given, i), i))
    stds = [each.noise.std for each in seen if each.noise.std is not None]
    if len(stds) < number:
        raise UserError("guidance.noise: several measurements need Gaussian noise: give a standard deviation for each")
    together = Together([each.measurement for each in seen], stds)
    return Observation(seen[0].truth, together.joined([each.y for each in seen]), together, Gaussian(1.0))


def _own(values: Any, i: int) -> Any:  # noqa: ANN401
    """Returns the entry of the measurement with the number ``i``; a value that is not a list belongs to all of them."""
    return values[i] if isinstance(values, list | tuple) else values


def _seen(trained: Trained, node: Config, given: Tensor | None, number: int | None = None) -> Observation:
    """Returns the observation of one measurement. ``number`` is its place in a list of measurements."""
    which = "" if number is None else f"[{number}]"
    measurement, noise = _measurement(trained, node, which)
    name = f"observed{which}"
    if given is None:
        if node["path"] is None:
            return _measured_image(trained, node, measurement, noise, which)
        name = f"guidance.path={node['path']}"
        try:
            given = stored("guidance.path", node["path"])
        except ValueError as error:
            raise UserError(str(error)) from None
    shape = measurement(torch.zeros(1, *trained.units.shape, dtype=torch.float64)).shape[1:]
    y = given.double()[None]
    if y.shape[1:] != shape and y.shape[2:] == shape and y.shape[1]:
        measurement = Repeated(measurement, y.shape[1])
    elif y.shape[1:] != shape:
        raise UserError(
            f"{name}: has the shape {tuple(given.shape)}: give an array of shape {tuple(shape)}, or an array of "
            f"several of these for independent results of the same measurement"
        )
    _check_values(name, y, noise)
    return Observation(None, _encoded(trained.units, name, y, measurement), measurement, noise)


def _measurement(trained: Trained, node: Config, which: str) -> tuple[Measurement, Noise]:
    """Returns the measurement of a node, for points in the network's units, and its noise."""
    path, units = f"guidance.measurement{which}", trained.units
    measurement = construct({path: node["measurement"]}, path, trained.trust, shape=units.shape)
    try:
        noise = node.get("noise", STD)
        if isinstance(noise, Mapping):
            noise = construct({"guidance.noise": noise}, "guidance.noise", trained.trust)
        noise = as_noise(noise)
    except ValueError as error:
        raise UserError(f"guidance.{error}") from None
    if not (measurement.of_data or noise.of_data):
        linear_units(units, choice(node))
        return measurement, noise
    points = torch.randn(3, *units.shape, generator=generator("cpu", 0, "operator"), dtype=trained.dtype)
    check_operator(measurement, units.decode(points).to(trained.device, trained.dtype))
    return Decoded(measurement, units, trained.dtype), noise


def _check_values(name: str, y: Tensor, noise: Noise, fix: str = "give finite numbers") -> None:
    """Raises UserError if a measurement, with or without noise, is not finite, or the noise cannot have its numbers."""
    if not bool(y.isfinite().all()):
        raise UserError(f"{name}: has a measurement of NaN or infinity: {fix}")
    if bool((y < noise.lowest).any()):
        raise UserError(
            f"{name}: has a measurement of {float(y.min()):g}, and {type(noise).__name__.lower()} noise needs at least "
            f"{noise.lowest:g}: use guidance/noise=gaussian"
        )


def _encoded(units: Units, name: str, y: Tensor, measurement: Measurement) -> Tensor:
    """Returns the user's result of a measurement, ``(1, …)``, in the units of the measurement."""
    affine = units.affine
    if measurement.of_data or affine is None:
        return y
    zero, scale = measurement(affine.shift[None]), affine.scale.flatten()[0]
    if measurement.selects:
        scale = measurement(affine.scale[None])
    elif not affine.uniform:
        raise UserError(
            f"{name}: is in the units of the data, whose entries are scaled differently for the network: train a run "
            f"with dataset.standardize=false"
        )
    return (y - zero) / scale


def _measured_image(trained: Trained, node: Config, measurement: Measurement, noise: Noise, which: str) -> Observation:
    """Measures a held-out image, or a fresh image if none is held out. The noise is the same for every seed."""
    number, dataset = node["image"], trained.dataset
    images = dataset.held_out
    if images is None:
        images = dataset.draw(number + 1, generator("cpu", 0, "measured"))
    if images is None:
        raise UserError(
            f"guidance.image={number}: {unmeasured(dataset)}: give the result of a measurement with guidance.path="
        )
    if not 0 <= number < len(images):
        raise UserError(f"guidance.image={number}: no such image: choose from 0 to {len(images) - 1}")
    truth = images[number : number + 1].double()
    clean = measurement(trained.units.encode(truth))
    fix = "define guidance.measurement for all points near the data, also outside of their range"
    _check_values(f"guidance.image={number}", clean, noise, fix)
    return Observation(truth, noise.draw(clean, generator("cpu", 0, f"measurement{which}", number)), measurement, noise)


def picture(units: Units, seen: Observation) -> Tensor:
    """Returns an observation as a picture in the user's units.

    If the measurement mixes entries of different scales, the picture is in the network's units.
    """
    affine, measurement, y = units.affine, seen.measurement, seen.y
    if affine is not None and not measurement.of_data:
        if measurement.selects:
            return affine.decode(measurement.picture(y)[None])[0]
        if affine.uniform:
            y = y * affine.scale.flatten()[0] + measurement(affine.shift[None])
    return measurement.picture(y)


def agreement(units: Units, x: Tensor, seen: Observation) -> Metrics:
    """Returns the distances from samples to an observation, and from their mean to the truth in the network's units."""

    def rms(x: Tensor) -> float:
        return float(x.square().mean().sqrt())

    inner = units.encode(x)
    off, source = seen.measurement(inner) - seen.y, "the noise of the measurement"
    metrics: Metrics = {"residual": {"value": rms(off), "floor": None, "train": None, "floor_from": source}}
    if seen.truth is not None:
        truth, mean = units.encode(seen.truth), units.encode(x.mean(0, keepdim=True))
        metrics["residual"]["floor"] = rms(seen.measurement(truth) - seen.y)
        error, spread, source = rms(mean - truth), rms(inner - mean), "spread of the samples"
        metrics["error_of_mean"] = {"value": error, "floor": spread, "train": None, "floor_from": source}
    return metrics
