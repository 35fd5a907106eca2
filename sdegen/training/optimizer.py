"""Optimisers, the schedule of the learning rate, and the optimiser's state in checkpoints."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sdegen.core.checks import in_range
from sdegen.core.errors import UserError
from sdegen.core.tensors import leave_out_compiler

State = dict[str, Any]
"""State of a torch optimiser, as its ``state_dict`` returns it."""


class Optimizer(ABC):
    """Recipe for a torch optimiser and for the learning rate of each step."""

    @abstractmethod
    def build(self, vector: nn.Parameter) -> torch.optim.Optimizer:
        """Returns a torch optimiser for ``vector``, which holds all parameters."""

    @abstractmethod
    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Takes a step with the learning rate ``lr``. ``optimizer`` is the result of :meth:`build`."""

    @abstractmethod
    def lr_at(self, step: int, steps: int) -> float:
        """Returns the learning rate of step ``step`` of ``steps``, counted from 0."""


class Adam(Optimizer):
    r"""Adam (Kingma & Ba 2015), with torch's fused kernel for the whole update.

    Args:
        lr: learning rate after the warm-up.
        betas: decay factors of the two moments.
        eps: number added to the square root of the second moment.
        warmup: number of steps in which the learning rate rises to ``lr``.
        decay: schedule of the rate after the warm-up: ``constant``, or ``cosine``, which falls to 0 at the last step.
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
            raise ValueError(f"betas={list(betas)} must each be at least 0 and below 1: try [0.9,0.999]")
        self.lr, self.eps = in_range("lr", lr, above=0), in_range("eps", eps, above=0)
        self.betas, self.warmup, self.decay = betas, in_range("warmup", warmup, at_least=0), decay

    def build(self, vector: nn.Parameter) -> torch.optim.Optimizer:
        for method in vars(torch.optim.Optimizer).values():
            leave_out_compiler(method)
        return torch.optim.Adam([vector], lr=self.lr, betas=self.betas, eps=self.eps, fused=True)

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        (group,) = optimizer.param_groups
        (vector,) = group["params"]
        group["lr"], state = lr, optimizer.state[vector]
        # Call the kernel: the other work of ``optimizer.step()`` would triple the time and import the compiler.
        if not state:
            moments = {key: torch.zeros_like(vector) for key in ("exp_avg", "exp_avg_sq")}
            state.update({"step": torch.zeros((), device=vector.device), **moments})
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
    """Returns the optimiser's state for one model, as if this model had been trained alone.

    ``shape`` is ``(R, P)`` for R models with P parameters each.
    """
    return _mapped(lambda value: value.view(shape)[model].clone(), [state], shape.numel())


def load_states(optimizer: torch.optim.Optimizer, recipe: Optimizer, states: Sequence[State]) -> None:
    """Loads the states of models that are trained together, as :func:`state_of_model` returned them.

    Raises:
        UserError: the states do not fit the models or the optimiser that ``recipe`` built.
    """
    (group,) = optimizer.param_groups
    (vector,) = group["params"]
    # The kernel does not check the state: if a moment were too short, the kernel would write past its end.
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
        raise UserError(
            "optimizer: the checkpoint's state of the optimiser does not fit this optimiser and network: resume with "
            "the options of the run, or train a new run"
        )


def _mapped(change: Callable[..., Tensor], states: Sequence[State], weights: int) -> State:
    """Returns a copy of the first state, in which ``change`` replaces the tensors with one entry for each weight.

    The arguments of ``change`` are the corresponding tensors of all states.
    """
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
    """Returns the shape, type and strides of each tensor in an optimiser's state, by name."""
    return {
        name: (value.shape, value.dtype, value.stride()) if isinstance(value, Tensor) else type(value)
        for name, value in state.items()
    }
