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
        self.y_shift, self.y_scale = (None if part is None else part.to(trained.device) for part in _condition(trained))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        # Convert in float64: far from 0, float32 would lose the digits in which points differ.
        inner = ((x.double() - self.shift) / self.scale).to(self.dtype)
        if y is not None and self.y_shift is not None and self.y_scale is not None:
            y = (y.double() - self.y_shift) / self.y_scale
        score = self.model if y is None else self.model.given(y)
        return (score(inner, t).double() / self.scale).to(self.dtype)


def _condition(trained: Trained) -> tuple[Tensor | None, Tensor | None]:
    """Returns the shift and the scale from the user's to the network's units of a condition; None for a class alone."""
    conditions, taken = trained.conditions, trained.model.network.condition
    if conditions is None or taken is None or not taken.valued:
        return None, None
    shift, scale = conditions.units.shift, conditions.units.scale
    if taken.labelled:
        # The number of the class comes first and has no units.
        shift, scale = torch.cat([shift.new_zeros(1), shift]), torch.cat([scale.new_ones(1), scale])
    return shift, scale


def export(trained: Trained, path: Path) -> Path:
    """Write the score as a ``torch.export`` program: see :meth:`sdegen.Run.export`."""
    module = ExportedScore(trained.score_model, trained).eval()
    x = torch.zeros(EXAMPLES, *trained.units.shape, device=trained.device, dtype=trained.dtype)
    example = [x, x.new_full((EXAMPLES,), 0.5 * trained.sde.T)]
    if trained.model.network.condition is not None:
        given, kind = (torch.zeros(()), torch.int64) if module.y_shift is None else (module.y_shift, trained.dtype)
        example.append(torch.zeros(EXAMPLES, *given.shape, dtype=kind, device=trained.device))
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
    if trained.conditions is not None:
        state |= {f"conditions.{name}": value for name, value in trained.conditions.state().items()}
    if foreign := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise UserError(f"save_weights: {foreign[0]} is not a tensor: use run.export(), which writes the whole score")
    # safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    metadata = {"sdegen": json.dumps(_description(trained))}
    # save_file would make a file that only its owner can read.
    files.replace(path, lambda temporary: temporary.write_bytes(save(tensors, metadata)))
    return path


def _description(trained: Trained) -> dict[str, Any]:
    taken, given = trained.model.network.condition, None
    if (shift := _condition(trained)[0]) is not None and taken is not None:
        names = [trained.names.condition(i) for i in range(len(shift) - taken.labelled)] if shift.ndim == 1 else []
        units = "the data's; the number of the class is first, -1 for none" if taken.labelled else "the data's"
        given = {"shape": list(shift.shape), "names": names, "units": f"{units}; NaN for no condition"}
    return {
        "config": trained.config,
        "step": trained.step,
        "weights": trained.weights,
        "ema": trained.ema,
        "units": "the network's" if trained.units.affine is None else "the data's",
        "eps": trained.sde.eps,
        "T": trained.sde.T,
        "classes": trained.classes,
        "condition": given,
    }
