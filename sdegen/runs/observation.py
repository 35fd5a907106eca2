"""Measurements that samples are to agree with: what was observed, and how well samples agree with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.config.options import choice
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Affine, Dataset, Units
from sdegen.guidance.measurement import Measurement, array, linear_units
from sdegen.metrics.points import Metrics, unmeasured


class Observation(NamedTuple):
    """A measurement and its result.

    Attributes:
        truth: the image that was measured, ``(1, *)`` in the user's units; None where the result is the user's own.
        y: the result, ``(1, …)`` in the network's units.
        measurement: the linear map.
    """

    truth: Tensor | None
    y: Tensor
    measurement: Measurement


def observe(
    units: Units,
    dataset: Callable[[], Dataset],
    node: Mapping[str, Any],
    measurement: Measurement,
    given: Tensor | None = None,
) -> Observation:
    """Returns the observation that a guidance asks for: an array, the content of a file, or a measured held-out image.

    The noise of a measured image is the same for every seed of the samples.

    Args:
        units: between the network's units and the user's.
        dataset: returns the data; called only if an image is measured.
        node: of the guidance, with its ``path``, ``image`` and ``noise``.
        measurement: the linear map.
        given: the result of a measurement, in the user's units, instead of ``path`` and ``image``.

    Raises:
        UserError: there is no such image or file, or it does not have the shape of a result.
    """
    affine = linear_units(units, choice(node))
    if given is not None:
        return _found(affine, measurement, given, "observed")
    if node["path"] is not None:
        name = f"guidance.path={node['path']}"
        try:
            values = array(node["path"])
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        return _found(affine, measurement, values, name)
    return _measured_image(units, dataset(), node, measurement)


def _found(affine: Affine, measurement: Measurement, values: Tensor, name: str) -> Observation:
    """Returns the observation of a result that the user has, in the user's units."""
    y, zero = values.double()[None], measurement(affine.shift[None])
    if y.shape != zero.shape:
        raise UserError(f"{name}: must have the shape {tuple(zero.shape[1:])}, and has {tuple(y.shape[1:])}")
    if not affine.uniform:
        raise UserError(
            f"{name}: is in the units of the data, whose columns are scaled differently for the network: train a run "
            f"with dataset.standardize=false"
        )
    return Observation(None, (y - zero) / affine.scale.flatten()[0], measurement)


def _measured_image(units: Units, dataset: Dataset, node: Mapping[str, Any], measurement: Measurement) -> Observation:
    """Returns the observation of a held-out image, or of a fresh draw where nothing is held out."""
    number, images = node["image"], dataset.held_out
    if images is None:
        images = dataset.draw(number + 1, generator("cpu", 0, "measured"))
    if images is None:
        raise UserError(f"guidance.image={number}: {unmeasured(dataset)}: give what was measured by guidance.path=")
    if not 0 <= number < len(images):
        raise UserError(f"guidance.image={number}: choose from 0 to {len(images) - 1}")
    truth = images[number : number + 1].double()
    y = measurement(units.encode(truth))
    noise = torch.randn(y.shape, generator=generator("cpu", 0, "measurement", number), dtype=y.dtype)
    return Observation(truth, y + node["noise"] * noise, measurement)


def picture(units: Units, seen: Observation) -> Tensor:
    """Returns an observation as a picture, in the user's units.

    If the columns are scaled differently, it is in the network's.
    """
    affine = units.affine
    if affine is None or not affine.uniform:
        return seen.measurement.picture(seen.y)
    return seen.measurement.picture(seen.y * affine.scale.flatten()[0] + seen.measurement(affine.shift[None]))


def agreement(units: Units, x: Tensor, seen: Observation) -> Metrics:
    """Returns how far samples are from an observation, and their mean from the truth, in the network's units."""
    inner = units.encode(x)
    off, source = seen.measurement(inner) - seen.y, "the noise of the measurement"
    found: Metrics = {"residual": {"value": rms(off), "floor": None, "train": None, "floor_from": source}}
    if seen.truth is not None:
        truth, mean = units.encode(seen.truth), units.encode(x.mean(0, keepdim=True))
        found["residual"]["floor"] = rms(seen.measurement(truth) - seen.y)
        error, spread = rms(mean - truth), rms(inner - mean)
        found["error_of_mean"] = {"value": error, "floor": spread, "train": None, "floor_from": "spread of the samples"}
    return found


def rms(x: Tensor) -> float:
    """Returns the root mean square of all entries."""
    return float(x.square().mean().sqrt())
