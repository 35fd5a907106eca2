"""SciPy's solvers of ODEs, along the flow."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from arena.race import TOLERANCES, Contestant

if TYPE_CHECKING:
    from torch import Tensor

    from sdegen.sde import LinearSDE
    from sdegen.sde.base import Score


def contestants(kind: str) -> list[Contestant]:
    """Returns SciPy's solvers of the flow, with the batch as one system; there are none of the reverse SDE."""
    if kind == "sde":
        return []

    def run(method: str, tolerance: float, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
        import torch
        from scipy.integrate import solve_ivp

        field = sde.reverse(score, eta=0).drift

        def flat(t: float, state):  # noqa: ANN001, ANN202 - arrays of SciPy's
            return field(torch.as_tensor(state).view_as(x), torch.tensor(t, dtype=torch.float64)).flatten().numpy()

        start = x.flatten().numpy()
        result = solve_ivp(
            flat, (sde.T, sde.eps), start, method=method, rtol=tolerance, atol=tolerance, t_eval=[sde.eps]
        )
        return torch.as_tensor(result.y[:, -1]).view_as(x)

    return [
        Contestant(f"scipy {method}", f"tolerance {tolerance:.2g}", partial(run, method, tolerance), True)
        for method in ("RK45", "RK23")
        for tolerance in TOLERANCES
    ]
