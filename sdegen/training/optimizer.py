"""Optimisers, with the schedule of their learning rate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import nn


class Optimizer(ABC):
    """A recipe for a torch optimiser, and the learning rate of each step."""

    @abstractmethod
    def build(self, vector: nn.Parameter) -> torch.optim.Optimizer:
        """A torch optimiser of the network's parameters, which are one vector."""

    @abstractmethod
    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """A step of what :meth:`build` gave, at a learning rate."""

    @abstractmethod
    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` of ``steps``, counted from 0."""


class Adam(Optimizer):
    r"""Adam (Kingma & Ba 2015), fused: one kernel for the whole update.

    Args:
        lr: the learning rate, after the warm-up.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        warmup: steps over which the rate rises from 0.
        decay: ``constant``, or ``cosine``: down to 0 at the last step.
    """

    def __init__(
        self,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        warmup: int = 0,
        decay: Literal["constant", "cosine"] = "cosine",
    ) -> None:
        if lr <= 0:
            raise ValueError(f"lr={lr:g} must be above 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={list(betas)} must be at least 0 and below 1")
        if eps <= 0:
            raise ValueError(f"eps={eps:g} must be above 0")
        if warmup < 0:
            raise ValueError(f"warmup={warmup} must not be negative")
        self.lr, self.betas, self.eps, self.warmup, self.decay = lr, betas, eps, warmup, decay

    def build(self, vector: nn.Parameter) -> torch.optim.Optimizer:
        return torch.optim.Adam([vector], lr=self.lr, betas=self.betas, eps=self.eps, fused=True)

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        (group,) = optimizer.param_groups
        (vector,) = group["params"]
        group["lr"], state = lr, optimizer.state[vector]
        if not state:
            # Makes the moments.
            optimizer.step()
            return
        # The kernel behind the optimiser's step, without its book-keeping, which would take three times as long.
        state["step"].add_(1)
        torch._fused_adam_(
            [vector], [vector.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]], lr=lr,
            beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0, eps=self.eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    def lr_at(self, step: int, steps: int) -> float:
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        fall = 0.5 * (1 + math.cos(math.pi * step / steps)) if self.decay == "cosine" else 1.0
        return self.lr * rise * fall
