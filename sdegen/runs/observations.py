"""Results of measurements that guided samples agree with, and the agreement of samples with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.config.compose import Config
from sdegen.config.construction import construct
from sdegen.config.options import choice
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Units
from sdegen.guidance.measurement import Measurement, array, linear_units
from sdegen.guidance.noise import STD, Noise, as_noise
from sdegen.guidance.operator import Decoded, Repeated, check_operator
from sdegen.metrics.points import Metrics, unmeasured
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


def observed(trained: Trained, node: Config, given: Tensor | None) -> Observation | None:
    """Returns the user's result, ``given`` or in ``guidance.path``, or else the result of measuring an image.

    Returns None if the guidance takes no measurement.
    """
    if not schema.takes(node, "observed", trained.trust):
        if given is not None:
            raise UserError(f"observed: guidance={choice(node)} takes no measurement: leave out observed=")
        return None
    measurement, noise = _measurement(trained, node)
    name = "observed"
    if given is None:
        if node["path"] is None:
            return _measured_image(trained, node, measurement, noise)
        name = f"guidance.path={node['path']}"
        try:
            given = array("guidance.path", node["path"])
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
    _check_lowest(name, y, noise)
    return Observation(None, _encoded(trained.units, name, y, measurement), measurement, noise)


def _measurement(trained: Trained, node: Config) -> tuple[Measurement, Noise]:
    """Returns the measurement of a node, for points in the network's units, and its noise."""
    path, units = "guidance.measurement", trained.units
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


def _check_lowest(name: str, y: Tensor, noise: Noise) -> None:
    """Raises UserError if a measurement, with or without noise, has numbers that the noise cannot have."""
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


def _measured_image(trained: Trained, node: Config, measurement: Measurement, noise: Noise) -> Observation:
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
    _check_lowest(f"guidance.image={number}", clean, noise)
    return Observation(truth, noise.draw(clean, generator("cpu", 0, "measurement", number)), measurement, noise)


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
