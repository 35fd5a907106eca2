"""State of a network without gradients, such as buffers: averages of this state, and checks of checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from sdegen.core.errors import UserError

M = TypeVar("M", bound=nn.Module)


def average_of(model: M) -> M:
    """Returns the moving average of a model before the first step, which is a copy in evaluation mode.

    Raises:
        UserError: the model cannot be copied.
    """
    try:
        return _duplicate(model.train()).eval()
    except (TypeError, RuntimeError) as error:
        name = type(model.network).__name__
        raise UserError(
            f"network: {name} cannot be copied for the moving average ({error}): keep only what copy.deepcopy copies"
        ) from None


@torch.no_grad()
def follow(model: nn.Module, average: nn.Module, decay: float) -> None:
    """Updates the buffers, frozen parameters and extra state of ``average`` after a step of ``model``.

    Floating-point numbers are averaged with the decay of the weights. All other values are copied. Buffers that are
    not in the ``state_dict`` keep their first values, as in a model that is loaded from a checkpoint.
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
                # Several modules may share a tensor.
                moved.add(id(kept))
                kept.data = _averaged(kept, value, decay)
        if keeps_extra_state(own):
            other.set_extra_state(copy.deepcopy(own.get_extra_state()))


def keeps_extra_state(module: nn.Module) -> bool:
    """Returns True if the ``state_dict`` of a module has more than tensors, in a form of its own."""
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _averaged(kept: Tensor, value: Tensor, decay: float) -> Tensor:
    """Returns the average after a step. Infinite numbers, such as the start of a running minimum, are copied."""
    if kept.shape != value.shape or not (kept.is_floating_point() and value.is_floating_point()):
        return value.detach().clone()
    value = value.to(kept.dtype)
    averaged = torch.where(kept == value, kept, torch.lerp(kept, value, 1 - decay))
    return torch.where(kept.isfinite() & value.isfinite(), averaged, value)


Layout = dict[str, tuple[torch.Size, torch.dtype | None]]


def layout(model: nn.Module) -> Layout:
    """Returns the shape and type of each tensor in a ``state_dict``. None stands for all floating-point types."""
    named = ((name, x) for name, x in model.state_dict().items() if isinstance(x, Tensor))
    return {name: (x.shape, None if x.is_floating_point() else x.dtype) for name, x in named}


def check_state(network: nn.Module, before: Layout, vector: Tensor) -> None:
    """Checks that a checkpoint can store everything that a step changes in a network.

    Raises:
        UserError: the layout of the ``state_dict`` is no longer ``before``, the layout before the first step, or a
            trainable parameter is no longer a view of ``vector``.
    """
    name, now = type(network).__name__, layout(network)
    if changed := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
        raise UserError(
            f"network: {name} creates the tensor {changed[0]} in training, or changes its shape or type, so that no "
            f"checkpoint could be loaded: register the tensor in __init__, with its final shape and type"
        )
    first, last = vector.data_ptr(), vector.data_ptr() + vector.nbytes
    named = ((key, p) for key, p in network.named_parameters() if p.requires_grad and p.numel())
    if moved := next((key for key, p in named if not first <= p.data_ptr() < last), ""):
        raise UserError(
            f"network: {name} replaces the parameter {moved} in training, and the new parameter is not trained: change "
            f"the parameter in place, with copy_() under torch.no_grad()"
        )


def repeats(model: M, average: M, loss: Callable[[M], Tensor]) -> bool:
    """Returns True if the loss of a model depends only on the ``state_dict`` and torch's generators.

    Two copies with the same ``state_dict`` are compared under the same seed: a copy of the model after a step, and a
    copy of ``average``, whose layers have not run yet. The losses differ if a layer keeps numbers outside of the
    ``state_dict`` or draws from another generator, such as NumPy's generator. State without an effect so far, such as a
    counter for a later step, is not found. If a model cannot be copied, for example because it keeps its last
    activations, the result is True.

    The function ``loss`` returns the losses of a model on fixed rows. Each call must seed torch's generators in the
    same way.
    """
    try:
        carried, fresh = _duplicate(model), _duplicate(average).train()
        fresh.load_state_dict(model.state_dict())
        one, other = loss(carried), loss(fresh)
    except (RuntimeError, TypeError):
        return True
    # The tolerance is far above the rounding errors of kernels that add in varying order.
    return torch.allclose(one, other, rtol=1e-3, equal_nan=True)


def _duplicate(model: M) -> M:
    """Returns a copy of a model that shares nothing with it.

    A tensor that a module computes from its parameters before each pass, as ``torch.nn.utils.weight_norm`` does, is
    first detached, because tensors with a graph cannot be copied.
    """
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())
    return copy.deepcopy(model)
