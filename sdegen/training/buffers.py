"""The state of a network that has no gradient: its average, and the checks that a checkpoint can hold it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from sdegen.core.errors import UserError

M = TypeVar("M", bound=nn.Module)


def average_of(model: M) -> M:
    """Returns the moving average of a model before its first step: a copy in evaluation mode.

    Raises:
        UserError: the model cannot be copied.
    """
    try:
        return _duplicate(model.train()).eval()
    except (TypeError, RuntimeError) as error:
        name = type(model.network).__name__
        raise UserError(f"network: {name} cannot be copied, which its moving average needs: {error}") from None


@torch.no_grad()
def follow(model: nn.Module, average: nn.Module, decay: float) -> None:
    """Moves the buffers, frozen parameters and extra state of a model's average towards the model's, after a step.

    Floating-point numbers are averaged with the decay of the weights, all others are copied. Buffers that are not in
    the ``state_dict`` keep their first values, as in a model that is loaded from a checkpoint.
    """
    moved: set[int] = set()
    for own, other in zip(model.modules(), average.modules(), strict=True):
        # named_parameters() and named_buffers() would make each step of a small network slower.
        unsaved = own._non_persistent_buffers_set
        state = [(name, x) for name, x in own._buffers.items() if x is not None and name not in unsaved]
        state += [(name, p) for name, p in own._parameters.items() if p is not None and not p.requires_grad]
        for name, value in state:
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
    """Returns the average after a step; numbers that are infinite, such as an initial minimum, are copied."""
    if kept.shape != value.shape or not (kept.is_floating_point() and value.is_floating_point()):
        return value.detach().clone()
    value = value.to(kept.dtype)
    averaged = torch.where(kept == value, kept, torch.lerp(kept, value, 1 - decay))
    return torch.where(kept.isfinite() & value.isfinite(), averaged, value)


Layout = dict[str, tuple[torch.Size, torch.dtype | None]]


def layout(model: nn.Module) -> Layout:
    """Returns the shapes of the tensors in a ``state_dict`` and their types; None stands for floating point."""
    named = ((name, x) for name, x in model.state_dict().items() if isinstance(x, Tensor))
    return {name: (x.shape, None if x.is_floating_point() else x.dtype) for name, x in named}


def check_state(network: nn.Module, before: Layout, vector: Tensor) -> None:
    """Checks that a checkpoint can hold everything that a step changes in a network.

    Raises:
        UserError: the network has changed the layout that its ``state_dict`` had ``before`` the first step, or its
            trainable parameters are no longer views of ``vector``.
    """
    name, now = type(network).__name__, layout(network)
    if changed := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
        raise UserError(
            f"network: {name} creates {changed[0]} while it runs, or changes its shape or type, so that "
            f"no checkpoint could be loaded: register it in __init__, in its full size and type"
        )
    first, last = vector.data_ptr(), vector.data_ptr() + vector.nbytes
    named = ((key, p) for key, p in network.named_parameters() if p.requires_grad and p.numel())
    if moved := next((key for key, p in named if not first <= p.data_ptr() < last), ""):
        raise UserError(
            f"network: {name} replaces its parameter {moved} while it runs, and the new one is not trained: change "
            f"it in place, by copy_() under torch.no_grad()"
        )


def repeats(model: M, average: M, loss: Callable[[M], Tensor]) -> bool:
    """Returns True if a model's loss depends on nothing but its ``state_dict`` and torch's generators.

    Two copies with the same ``state_dict`` are compared under the same seed: a copy of the model after a step, and one
    of its average, whose layers have not run yet. They differ if a layer keeps numbers outside of its ``state_dict`` or
    draws from another generator, such as NumPy's. State that has no effect yet, such as a counter for a later step, is
    not found. A model that cannot be copied, such as one that keeps its last activations, passes.

    The ``loss`` returns the losses of a model on some rows. Each call must seed torch's generators in the same way.
    """
    try:
        carried, fresh = _duplicate(model), _duplicate(average).train()
        fresh.load_state_dict(model.state_dict())
        one, other = loss(carried), loss(fresh)
    except (RuntimeError, TypeError):
        return True
    # The tolerance is far above the differences of kernels that add in varying order.
    return torch.allclose(one, other, rtol=1e-3, equal_nan=True)


def _duplicate(model: M) -> M:
    """Returns a copy of a model that shares nothing with it.

    Values that a module computes from its parameters before each pass, such as those of an old-style weight norm, are
    first detached from their graph, because tensors with a graph cannot be copied.
    """
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())
    return copy.deepcopy(model)
