"""The check, before every likelihood, that data have a density."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from sdegen.core.errors import UserError
from sdegen.datasets import Dataset
from sdegen.datasets.base import chunks

log = logging.getLogger("sdegen")


def check_density(dataset: Dataset) -> None:
    """Raises UserError if the data have no density: their likelihood would grow without bound as eps falls."""
    if dataset.levels is not None or dataset.cells is not None:
        return
    if dataset.law is not None and dataset.law.singular:
        raise UserError(
            "likelihood: the data lie on a curve or at points and have no density: their likelihood grows without "
            "bound as sde.eps falls; use a run of noisy data, such as dataset=smile_noisy"
        )
    parts = chunks(dataset.x)
    low = torch.stack([part.amin(0) for part in parts]).amin(0)
    high = torch.stack([part.amax(0) for part in parts]).amax(0)
    constant = torch.nonzero((low == high).flatten())
    if len(constant):
        raise UserError(
            f"likelihood: entry {int(constant[0]) + 1} of the data never changes, so the data have no density: leave "
            f"it out, or train with dataset.levels= if the values are quantised"
        )
    if all(bool((part == part.double().round()).all()) for part in parts):
        log.warning(
            "all values are whole numbers, which have no density: are they quantised? train with dataset.levels="
        )


def check_density_of_run(dataset: Callable[[], Dataset]) -> None:
    """Checks the data of a run with :func:`check_density`; logs a warning if they can no longer be read."""
    try:
        found = dataset()
    except UserError as error:
        log.warning(f"likelihood: cannot check that the data have a density: {error}")
    else:
        check_density(found)
