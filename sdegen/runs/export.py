"""Models for use without this package: the score as a ``torch.export`` program, and the weights as safetensors."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdegen.core.errors import UserError
from sdegen.models.score import ScoreModel
from sdegen.runs import files
from sdegen.runs.trained import Trained

EXAMPLES = 7
"""Number of points with which the score is traced. The program takes any number of points."""


class ExportedScore(nn.Module):
    """Score of points, in the user's units if the map to the network's units is affine, else in the network's units."""

    def __init__(self, model: ScoreModel, trained: Trained) -> None:
        super().__init__()
        self.model, self.dtype = copy.deepcopy(model).requires_grad_(False), trained.dtype
        affine = trained.units.affine
        shift = torch.zeros(trained.units.shape).double() if affine is None else affine.shift
        scale = torch.ones(trained.units.shape).double() if affine is None else affine.scale
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", shift.to(trained.device))
        self.register_buffer("scale", scale.to(trained.device))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        # Convert in float64: far from 0, float32 would lose the digits in which points differ.
        inner = ((x.double() - self.shift) / self.scale).to(self.dtype)
        score = self.model if y is None else self.model.given(y)
        return (score(inner, t).double() / self.scale).to(self.dtype)


def export(trained: Trained, path: Path) -> Path:
    """Write the score as a ``torch.export`` program: see :meth:`sdegen.Run.export`."""
    module = ExportedScore(trained.score_model, trained).eval()
    x = torch.zeros(EXAMPLES, *trained.units.shape, device=trained.device, dtype=trained.dtype)
    example = [x, x.new_full((EXAMPLES,), 0.5 * trained.sde.T)]
    if trained.model.network.condition is not None:
        example.append(torch.zeros(EXAMPLES, dtype=torch.int64, device=trained.device))
    batch = {0: torch.export.Dim("batch")}
    try:
        with torch.no_grad():
            # Without strict, len(x) would fix the number of points.
            program = torch.export.export(module, tuple(example), dynamic_shapes=(batch,) * len(example), strict=True)
    except Exception as error:
        # torch raises many types of errors for code that it cannot trace.
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(
            f"export: torch cannot trace the network of {trained.folder}: {reason}: change the network, or use "
            f"run.save_weights()"
        ) from error
    extra = {"sdegen.json": json.dumps(_description(trained))}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            torch.export.save(program, file, extra_files=extra)

    files.replace(path, write)
    return path


def save_weights(trained: Trained, path: Path) -> Path:
    """Write the weights as safetensors: see :meth:`sdegen.Run.save_weights`."""
    try:
        from safetensors.torch import save
    except ImportError:
        raise UserError("save_weights: needs the package safetensors: pip install safetensors") from None
    state = {
        name if name.startswith("network.") else f"parametrization.{name}": value
        for name, value in trained.model.state_dict().items()
    }
    state |= {f"units.{name}": value for name, value in trained.units.state().items()}
    if foreign := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise UserError(f"save_weights: {foreign[0]} is not a tensor: use run.export(), which writes the whole score")
    # safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    metadata = {"sdegen": json.dumps(_description(trained))}
    # save_file would make a file that only its owner can read.
    files.replace(path, lambda temporary: temporary.write_bytes(save(tensors, metadata)))
    return path


def _description(trained: Trained) -> dict[str, Any]:
    return {
        "config": trained.config,
        "step": trained.step,
        "weights": trained.weights,
        "units": "the network's" if trained.units.affine is None else "the data's",
        "eps": trained.sde.eps,
        "T": trained.sde.T,
        "classes": trained.classes,
    }
