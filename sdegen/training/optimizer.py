"""Optimisers, with the schedule of their learning rate and their states in checkpoints."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sdegen.core.checks import in_range
from sdegen.core.errors import UserError

State = dict[str, Any]
"""State of a torch optimiser, as its ``state_dict`` returns it."""


class Optimizer(ABC):
    """Recipe for a torch optimiser and for the learning rate of each step."""

    @abstractmethod
    def build(self, vector: nn.Parameter) -> torch.optim.Optimizer:
        """Returns a torch optimiser of the network's parameters, which are one vector."""

    @abstractmethod
    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Takes a step of the optimiser that :meth:`build` returned, with a learning rate."""

    @abstractmethod
    def lr_at(self, step: int, steps: int) -> float:
        """Returns the learning rate of step ``step`` of ``steps``, counted from 0."""


class Adam(Optimizer):
    r"""Adam (Kingma & Ba 2015), fused: one kernel for the whole update.

    Args:
        lr: learning rate after the warm-up.
        betas: decay factors of the two moments.
        eps: number added to the square root of the second moment.
        warmup: number of steps in which the rate rises from 0.
        decay: ``constant``, or ``cosine`` for a fall to 0 at the last step.
    """

    def __init__(
        self,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        warmup: int = 0,
        decay: Literal["constant", "cosine"] = "cosine",
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={list(betas)} must each be at least 0 and below 1")
        self.lr, self.eps = in_range("lr", lr, above=0), in_range("eps", eps, above=0)
        self.betas, self.warmup, self.decay = betas, in_range("warmup", warmup, at_least=0), decay

    def build(self, vector: nn.Parameter) -> torch.optim.Optimizer:
        return torch.optim.Adam([vector], lr=self.lr, betas=self.betas, eps=self.eps, fused=True)

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        (group,) = optimizer.param_groups
        (vector,) = group["params"]
        group["lr"], state = lr, optimizer.state[vector]
        if not state:
            # The first step creates the moments.
            optimizer.step()
            return
        # This is the kernel of the optimiser's step without its bookkeeping, which would triple the time.
        state["step"].add_(1)
        torch._fused_adam_(
            [vector], [vector.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]], lr=lr,
            beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0, eps=self.eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    def lr_at(self, step: int, steps: int) -> float:
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        fall = 0.5 * (1 + math.cos(math.pi * step / steps)) if self.decay == "cosine" else 1.0
        return self.lr * rise * fall


def state_of_model(state: State, model: int, shape: torch.Size) -> State:
    """Returns the state of one of R models of P parameters, ``shape`` ``(R, P)``, as if it were trained alone."""
    return _mapped(lambda value: value.view(shape)[model].clone(), [state], shape.numel())


def load_states(optimizer: torch.optim.Optimizer, recipe: Optimizer, states: Sequence[State]) -> None:
    """Loads the states of models that are trained together, as :func:`state_of_model` returned them.

    Raises:
        UserError: the states do not fit the optimiser, which ``recipe`` built, and the models.
    """
    (group,) = optimizer.param_groups
    (vector,) = group["params"]
    # The kernel behind the optimiser trusts its state: a moment that is too short would be written past its end.
    like = nn.Parameter(torch.zeros_like(vector))
    like.grad, fresh = torch.zeros_like(vector), recipe.build(like)
    recipe.step(fresh, 0.0)
    try:
        joined = _mapped(lambda *values: torch.cat(values), states, vector.numel() // len(states))
        optimizer.load_state_dict(joined)
        fits = optimizer.state.keys() <= {vector}
        fits &= _layout(optimizer.state[vector]) in ({}, _layout(fresh.state[like]))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
        fits = False
    if not fits:
        raise UserError("the checkpoint's state of the optimiser does not fit the optimiser and the network")


def _mapped(change: Callable[..., Tensor], states: Sequence[State], weights: int) -> State:
    """Returns a state in which ``change`` of all states' tensors replaces each tensor with a number per weight."""
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


def _layout(state: Mapping[str, Any]) -> State:
    """Returns the shapes and types in an optimiser's state, by name."""
    return {
        name: (value.shape, value.dtype, value.stride()) if isinstance(value, Tensor) else type(value)
        for name, value in state.items()
    }
