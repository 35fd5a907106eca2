"""Functions of tensors that several rooms share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Returns a time, or a function of time, in a shape that broadcasts against a batch.

    ``t`` is ``()`` or ``(B,)``, ``x`` is ``(B, *)``, and the result is ``()`` or ``(B, 1, …, 1)`` with the device and
    type of ``x``. Always use it: an unchanged ``(B,)`` would broadcast against the *last* axis of ``x``.
    """
    t = t.to(device=x.device, dtype=x.dtype)
    return t if t.ndim == 0 else t.reshape(-1, *[1] * (x.ndim - 1))


def squared_norm(x: Tensor) -> Tensor:
    """Returns the squared Euclidean norm of each row of a batch: ``(B, *)`` to ``(B,)``."""
    return x.flatten(1).square().sum(1)


def flatten_parameters(parameters: Iterable[nn.Parameter]) -> nn.Parameter:
    """Moves the trainable parameters and their gradients into one vector and its ``grad``; they become views of it.

    The optimiser, the clipping and the moving average then need one operation each. One operation for each layer would
    be most of the cost of a step for a small network. The vector's ``grad`` is allocated and zero: reset it with
    ``grad.zero_()``, never to None.
    """
    parameters = [p for p in parameters if p.requires_grad]
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]) if parameters else torch.zeros(0))
    vector.grad = torch.zeros_like(vector)
    sizes = [p.numel() for p in parameters]
    for p, data, grad in zip(parameters, vector.data.split(sizes), vector.grad.split(sizes), strict=True):
        p.data, p.grad = data.view_as(p), grad.view_as(p)
    return vector
