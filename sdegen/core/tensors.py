"""Functions of tensors that several packages use."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

CHUNK = 2**24
"""Largest number of entries read at once from data that may be larger than memory."""


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Returns a time, or a function of time, in a shape that broadcasts against a batch.

    ``t`` is ``()`` or ``(B,)``, ``x`` is ``(B, *)``, and the result is ``()`` or ``(B, 1, …, 1)`` with the device and
    type of ``x``. Always use this function: ``t`` itself would broadcast against the *last* axis of ``x``.
    """
    t = t.to(device=x.device, dtype=x.dtype)
    return t if t.ndim == 0 else t.reshape(-1, *[1] * (x.ndim - 1))


def squared_norm(x: Tensor) -> Tensor:
    """Returns the squared Euclidean norms ``(B,)`` of the rows of ``x`` ``(B, *)``."""
    return x.flatten(1).square().sum(1)


def flatten_parameters(parameters: Iterable[nn.Parameter]) -> nn.Parameter:
    """Makes the trainable parameters views of one vector, and their gradients views of the vector's ``grad``.

    The optimiser, the clipping and the moving average then need one operation each. With one operation for each layer,
    they would take most of the time of a step of a small network. The vector's ``grad`` is allocated and zero: reset it
    with ``grad.zero_()``, and never set it to None.
    """
    parameters = [p for p in parameters if p.requires_grad]
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]) if parameters else torch.zeros(0))
    vector.grad = torch.zeros_like(vector)
    sizes = [p.numel() for p in parameters]
    for p, data, grad in zip(parameters, vector.data.split(sizes), vector.grad.split(sizes), strict=True):
        p.data, p.grad = data.view_as(p), grad.view_as(p)
    return vector


def not_finite(parts: Iterable[Tensor], noun: str) -> str:
    """Returns words about the rows with NaN or infinity; empty if there are none.

    Args:
        parts: consecutive pieces of the rows, ``(n, *)`` each, so that not all rows must be in memory.
        noun: name of the rows in the plural.
    """
    good = torch.cat([part.flatten(1).isfinite().all(1) for part in parts])
    bad = torch.nonzero(~good).flatten()
    if not len(bad):
        return ""
    return f"{len(bad)} of {len(good)} {noun} hold NaN or infinity, the first is number {int(bad[0]) + 1}"


def chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Splits points ``(N, *)`` into pieces of at most :data:`CHUNK` entries and at least one point."""
    return x.split(max(1, CHUNK // max(1, math.prod(x.shape[1:]))))


def leave_out_compiler(function: object) -> None:
    """Keeps a function of torch from importing torch's compiler, which takes as long as torch and 70 MiB.

    Some functions import the compiler to exclude themselves from compilation, unless they are marked already.
    """
    if (inner := getattr(function, "__wrapped__", None)) is not None:
        setattr(inner, "__dynamo_disable", inner)  # noqa: B010 - Python would rename the attribute in a class
