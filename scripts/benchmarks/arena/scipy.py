"""ODE solvers of SciPy, for the probability flow."""

from __future__ import annotations

from functools import partial

import torch
from numpy import ndarray
from scipy.integrate import solve_ivp
from torch import Tensor

from arena.race import TOLERANCES, Contestant
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score


def contestants(kind: str) -> list[Contestant]:
    """Returns the solvers, which solve the whole batch as one system. For the reverse SDE, the list is empty."""
    if kind == "sde":
        return []

    def run(method: str, tolerance: float, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
        field = sde.reverse(score, eta=0).drift

        def flat(t: float, state: ndarray) -> ndarray:
            return field(torch.as_tensor(state).view_as(x), torch.tensor(t, dtype=torch.float64)).flatten().numpy()

        tolerances = {"rtol": tolerance, "atol": tolerance}
        result = solve_ivp(flat, (sde.T, sde.eps), x.flatten().numpy(), method, [sde.eps], **tolerances)
        return torch.as_tensor(result.y[:, -1]).view_as(x)

    return [
        Contestant(f"scipy {method}", f"tolerance {tolerance:.2g}", partial(run, method, tolerance), True)
        for method in ("RK45", "RK23")
        for tolerance in TOLERANCES
    ]
