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

    Floating-point numbers are averaged with the decay of the weights, all others are copied.

    Args:
        model: the model under training.
        average: its average, which was a copy of it.
        decay: of the average, in this step.
    """
    for own, other in zip(model.modules(), average.modules(), strict=True):
        for name, value in state(own):
            kept = getattr(other, name, None)
            if isinstance(kept, Tensor) and kept.shape == value.shape and value.is_floating_point():
                # Equal ones stay, infinite ones too.
                value = torch.where(kept == value, kept, torch.lerp(kept, value, 1 - decay))
            if isinstance(kept, Tensor):
                kept.data = value.detach().clone()
            else:
                other.register_buffer(name, value.clone(), persistent=name not in own._non_persistent_buffers_set)
        if type(own).get_extra_state is not nn.Module.get_extra_state:
            other.set_extra_state(copy.deepcopy(own.get_extra_state()))


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
    """The buffers and frozen parameters of a module itself, by name."""
    frozen = [(name, p) for name, p in module._parameters.items() if p is not None and not p.requires_grad]
    return frozen + [(name, buffer) for name, buffer in module._buffers.items() if buffer is not None]
