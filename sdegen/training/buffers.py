"""The state of a network that no gradient moves: what a moving average of its weights does with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def duplicate(model: M) -> M:
    """A copy of a model that shares nothing with it.

    Values that a module computes from its parameters before each pass, such as those of an old-style weight norm, are
    cut from their graph first, with which they could not be copied.
    """
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())
    return copy.deepcopy(model)


@torch.no_grad()
def follow(model: nn.Module, average: nn.Module, decay: float) -> None:
    """Move the buffers, frozen parameters and extra state of a model's average towards the model's, after a step.

    Floating-point numbers are averaged with the decay of the weights, all others are copied. Buffers that no checkpoint
    has stay as they were made: the average is the model that a checkpoint gives again.

    Args:
        model: the model under training.
        average: its average, which was a copy of it.
        decay: of the average, in this step.
    """
    moved: set[int] = set()
    for own, other in zip(model.modules(), average.modules(), strict=True):
        for name, value in state(own):
            kept = getattr(other, name, None)
            if not isinstance(kept, Tensor):
                other.register_buffer(name, value.clone())
            elif id(kept) not in moved:
                # Several modules may share one.
                moved.add(id(kept))
                kept.data = _averaged(kept, value, decay)
        if type(own).get_extra_state is not nn.Module.get_extra_state:
            other.set_extra_state(copy.deepcopy(own.get_extra_state()))


def _averaged(kept: Tensor, value: Tensor, decay: float) -> Tensor:
    """The average after a step; what is not finite on either side, as a running minimum at its start, is copied."""
    if kept.shape != value.shape or not (kept.is_floating_point() and value.is_floating_point()):
        return value.detach().clone()
    value = value.to(kept.dtype)
    averaged = torch.where(kept == value, kept, torch.lerp(kept, value, 1 - decay))
    return torch.where(kept.isfinite() & value.isfinite(), averaged, value)


def repeats(
    model: M,
    average: M,
    loss: Callable[[M], Tensor],
    seeded: Callable[[], AbstractContextManager],
) -> bool:
    """Whether a model's loss is a function of its ``state_dict`` and of torch's generators alone.

    Two copies with the same ``state_dict`` are compared under the same seed: one of the model after a step, and one of
    its average, whose layers have not run yet. They differ where a layer keeps numbers outside of its ``state_dict`` or
    draws from another generator, NumPy's say. State that has no effect yet, such as a counter that is asked at a later
    step, cannot be seen so.

    Args:
        model: the model, after its first step.
        average: its average.
        loss: of a model, on some rows.
        seeded: seeds torch's generators, the same at each call.
    """
    carried, fresh = duplicate(model), duplicate(average).train()
    fresh.load_state_dict(model.state_dict())
    with seeded():
        one = loss(carried).detach()
    with seeded():
        other = loss(fresh).detach()
    # Far above what kernels that add in any order differ by.
    return torch.allclose(one, other, rtol=1e-3, equal_nan=True)


def state(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The frozen parameters of a module itself and the buffers that its ``state_dict`` has, by name."""
    frozen = [(name, p) for name, p in module._parameters.items() if p is not None and not p.requires_grad]
    unsaved = module._non_persistent_buffers_set
    return frozen + [(name, x) for name, x in module._buffers.items() if x is not None and name not in unsaved]


def layout(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype | None]]:
    """The shapes of the tensors of a ``state_dict`` by name, and their types; None for floating point."""
    named = ((name, x) for name, x in model.state_dict().items() if isinstance(x, Tensor))
    return {name: (x.shape, None if x.is_floating_point() else x.dtype) for name, x in named}


def replaced(model: nn.Module, vector: Tensor) -> str:
    """The first trainable parameter of a model that is no view of a vector any more; empty where all are."""
    first, last = vector.data_ptr(), vector.data_ptr() + vector.nbytes
    named = ((name, p) for name, p in model.named_parameters() if p.requires_grad and p.numel())
    return next((name for name, p in named if not first <= p.data_ptr() < last), "")
