"""Check that the data have a density. It runs before a likelihood is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from sdegen.core.errors import UserError
from sdegen.core.tensors import chunks
from sdegen.datasets import Dataset

log = logging.getLogger("sdegen")


def check_density(dataset: Dataset) -> None:
    """Raises UserError if the data have no density: the likelihood would grow without bound as eps decreases.

    A warning says if the data have levels, and the training has not spread them out.
    """
    if dataset.levels is not None and not dataset.dequantize:
        log.warning(
            "likelihood: the training added no noise to the levels of the data, so that the density between them, "
            "which the likelihood needs, was not learned: train with dataset.dequantize=true"
        )
    if dataset.levels is not None or dataset.cells is not None:
        return
    if dataset.law is not None and dataset.law.singular:
        raise UserError(
            "likelihood: the data lie on a curve or at points and have no density, so that the likelihood grows "
            "without bound as sde.eps decreases: use a run with noisy data, such as dataset=smile_noisy"
        )
    parts = chunks(dataset.x)
    low = torch.stack([part.amin(0) for part in parts]).amin(0)
    high = torch.stack([part.amax(0) for part in parts]).amax(0)
    constant = torch.nonzero((low == high).flatten())
    if len(constant):
        raise UserError(
            f"likelihood: entry {int(constant[0]) + 1} of the data never changes, so the data have no density: leave "
            f"the entry out, or train with dataset.levels=… if the values are quantised"
        )
    if all(bool((part == part.double().round()).all()) for part in parts):
        log.warning(
            "likelihood: all values are whole numbers, and quantised data have no density: if they are quantised, "
            "train with dataset.levels=…"
        )


def check_density_of_run(dataset: Callable[[], Dataset]) -> None:
    """Checks the data of a run with :func:`check_density`; logs a warning if the data can no longer be read."""
    try:
        found = dataset()
    except UserError as error:
        log.warning(f"likelihood: cannot check that the data have a density: {error}")
    else:
        check_density(found)
