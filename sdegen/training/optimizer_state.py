"""The state of an optimiser in checkpoints: split by model, joined again, and checked before it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdegen.core.errors import UserError
from sdegen.training.optimizer import Optimizer

State = dict[str, Any]


def of_model(state: State, model: int, shape: torch.Size) -> State:
    """Returns the state of one of R models of P parameters, ``shape`` ``(R, P)``, as if it were trained alone."""
    return _mapped(lambda value: value.view(shape)[model].clone(), [state], shape.numel())


def load(optimizer: torch.optim.Optimizer, recipe: Optimizer, states: Sequence[State]) -> None:
    """Loads the states of models that are trained together.

    Args:
        optimizer: the optimiser of all models.
        recipe: the recipe that built it.
        states: the state of each model, as :func:`of_model` returned it.

    Raises:
        UserError: the states do not fit the optimiser and the models.
    """
    (group,) = optimizer.param_groups
    (vector,) = group["params"]
    # The kernel behind the optimiser trusts its state: a moment that is too short would be written past its end.
    expected = _expected_layout(recipe, vector)
    try:
        joined = _mapped(lambda *values: torch.cat(values), states, vector.numel() // len(states))
        optimizer.load_state_dict(joined)
        fits = optimizer.state.keys() <= {vector}
        fits &= _layout(optimizer.state[vector]) in ({}, expected)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
        fits = False
    if not fits:
        raise UserError("the checkpoint's state of the optimiser does not fit the optimiser and the network")


def _mapped(change: Callable[..., Tensor], states: Sequence[State], weights: int) -> State:
    """Returns one state: each tensor with one number per weight is ``change`` of that tensor in all states."""
    first, *_ = states
    changed = {
        index: {
            name: change(*(state["state"][index][name] for state in states))
            if isinstance(value, Tensor) and value.numel() == weights and value.ndim
            else value
            for name, value in own.items()
        }
        for index, own in first["state"].items()
    }
    return {**first, "state": changed}


def _expected_layout(recipe: Optimizer, vector: nn.Parameter) -> State:
    """Returns the layout of an optimiser's state after a step."""
    like = nn.Parameter(torch.zeros_like(vector))
    like.grad, fresh = torch.zeros_like(vector), recipe.build(like)
    recipe.step(fresh, 0.0)
    return _layout(fresh.state[like])


def _layout(state: Mapping[str, Any]) -> State:
    """Returns the shapes and types of an optimiser's state, by name."""
    return {
        name: (value.shape, value.dtype, value.stride()) if isinstance(value, Tensor) else type(value)
        for name, value in state.items()
    }
