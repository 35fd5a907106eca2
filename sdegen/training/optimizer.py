"""Optimisers, with the schedule of their learning rate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import nn

from sdegen.core.checks import in_range


class Optimizer(ABC):
    """A recipe for a torch optimiser, and the learning rate of each step."""

    @abstractmethod
    def build(self, vector: nn.Parameter) -> torch.optim.Optimizer:
        """Returns a torch optimiser of the network's parameters, which are one vector."""

    @abstractmethod
    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Takes a step of the optimiser that :meth:`build` returned, at a learning rate."""

    @abstractmethod
    def lr_at(self, step: int, steps: int) -> float:
        """Returns the learning rate of step ``step`` of ``steps``, counted from 0."""


class Adam(Optimizer):
    r"""Adam (Kingma & Ba 2015), fused: one kernel for the whole update.

    Args:
        lr: the learning rate after the warm-up.
        betas: decay factors of the two moments.
        eps: number added to the root of the second moment.
        warmup: number of steps over which the rate rises from 0.
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
        # The kernel of the optimiser's step without its bookkeeping, which would triple the time.
        state["step"].add_(1)
        torch._fused_adam_(
            [vector], [vector.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]], lr=lr,
            beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0, eps=self.eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    def lr_at(self, step: int, steps: int) -> float:
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        fall = 0.5 * (1 + math.cos(math.pi * step / steps)) if self.decay == "cosine" else 1.0
        return self.lr * rise * fall
