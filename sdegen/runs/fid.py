"""FID of the samples of a run, or of a user's images, in the features of a network that the user gives."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.tensors import not_finite
from sdegen.datasets import Dataset
from sdegen.metrics.extrapolation import FEWEST, ByCount, by_count
from sdegen.metrics.images import part, quantized
from sdegen.runs.evaluated import Result
from sdegen.runs.feature_file import FeatureFile, FeatureNetwork

log = logging.getLogger("sdegen")


def check(dataset: Dataset, file: FeatureFile | None) -> FeatureFile:
    """Returns the file of the network; raises UserError if there is none, or if the data have no FID."""
    if file is None:
        raise UserError("metrics=fid: needs a network: add features=network.pt2, or features=weights.pt with its class")
    if dataset.units.kind != "images":
        raise UserError(f"metrics=fid: compares images, and the data are {dataset.units.kind}: use metrics=c2st")
    if dataset.levels is None:
        raise UserError(
            "metrics=fid: the images have no levels, so that black and white are not known: train a run with "
            "dataset.levels=256 on whole numbers from 0 to 255"
        )
    if dataset.held_out is None or len(dataset.held_out) < FEWEST:
        held_out = "no" if dataset.held_out is None else f"only {len(dataset.held_out)}"
        raise UserError(f"metrics=fid: {held_out} images are held out: train a run that holds out {FEWEST} or more")
    if len(dataset.x) < FEWEST:
        raise UserError(f"metrics=fid: {len(dataset.x)} images are for training, and at least {FEWEST} are needed")
    return file


def tried(dataset: Dataset, file: FeatureFile, count: int, device: torch.device) -> FeatureNetwork:
    """Returns the network of a file, after a trial with images of the data.

    Raises UserError if the network does not take the images. Warns if ``count`` samples or the held-out images are
    fewer than twice the features.
    """
    if count < FEWEST:
        raise UserError(f"metrics=fid: {count} samples are too few: set count to {FEWEST} or more")
    network = file.read(device)
    assert dataset.held_out is not None
    size = network.check(_scaled(dataset, dataset.held_out[:FEWEST]))
    for number, what in ((count, "samples"), (len(part(dataset.held_out)), "held-out images")):
        if number < 2 * size:
            log.warning(
                f"metrics=fid: {number} {what} are fewer than twice the {size} features, so that the values are mostly "
                f"bias: use {2 * size} or more, or a network with fewer features"
            )
    return network


def measured(dataset: Dataset, x: Tensor, network: FeatureNetwork, batch_size: int, points: str) -> Result:
    """Returns the FID of images ``x`` ``(N, C, H, W)`` and its extrapolation, with the floors and the curves.

    The reference is the held-out images. The floor is the value of as many training images, or of all of them if they
    are fewer. ``points`` is the kind of the images.
    """
    from sdegen import figures

    x = quantized(x.detach().cpu(), dataset.levels)
    if why := not_finite([x], points):
        raise UserError(f"metrics=fid: {why}: use other samples")
    if bool((x == x[:1]).all()):
        raise UserError(f"metrics=fid: all {points} are alike, so that they have no distribution: use other samples")
    assert dataset.held_out is not None
    count = min(len(x), len(dataset.x))
    sets = {points: x, "training images": part(dataset.x, count), "held-out images": part(dataset.held_out)}
    features = [network(_scaled(dataset, images), batch_size, name) for name, images in sets.items()]
    seen, known = by_count(features[0], features[2]), by_count(features[1], features[2])
    entries = _entries(seen, known, f"{count} training images against {len(features[2])} held-out images")
    curves = {points: seen, "training images": known}
    arrays: dict[str, Any] = {
        f"{name}{kind}": torch.tensor(getattr(curve, name)).double()
        for kind, curve in (("", seen), ("_floor", known))
        for name in ("counts", "values")
    }
    figure = figures.fid({name: (c.counts, c.values, c.infinity, c.slope, c.error) for name, c in curves.items()})
    return Result(entries, arrays, figure, points)


def _entries(seen: ByCount, known: ByCount, source: str) -> dict[str, dict[str, Any]]:
    """Returns the content of ``metrics.json``."""
    shared = {"train": None, "standard_error": seen.error, "floor_from": source}
    return {
        "fid": {"value": seen.values[0], "floor": known.values[0], **shared},
        "fid_infinity": {
            "value": seen.infinity,
            "floor": known.infinity,
            **shared,
            "standard_error_of_fit": seen.error_of_fit,
            "floor_from": f"{source}, extrapolated",
        },
    }


def _scaled(dataset: Dataset, x: Tensor) -> Tensor:
    """Returns images in the user's units as float32 from 0 to 1."""
    assert dataset.levels is not None
    return x.to(torch.float32) / (dataset.levels - 1)
