"""Teachers: trained scores from which another network learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdegen.core.schema import FromRun
from sdegen.datasets import Units
from sdegen.models.score import ScoreModel


@dataclass(frozen=True)
class Teacher(FromRun):
    """Score of a trained run, and what the run was trained on.

    Attributes:
        folder: the run's folder, as the user named it, or that of the run that ``latest`` names.
        step: step of the checkpoint.
        digest: hash of the tensors of the model.
        model: trained score, in evaluation mode.
        data: fingerprint of the data: see :mod:`sdegen.datasets.fingerprint`.
        sde: node of the forward process.
        units: units of the data.
    """

    folder: str
    step: int
    digest: str
    model: ScoreModel
    data: Mapping[str, Any]
    sde: Mapping[str, Any]
    units: Units
