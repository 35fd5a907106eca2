"""Samplers along the probability-flow ODE by an ODE solver."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.flow import solvers
from sdegen.samplers.base import Sampler, Walk
from sdegen.sde.base import SDE, Score


class ProbabilityFlow(Sampler):
    r"""The end points of the flow :math:`\dot x = f(x, t) - \tfrac12 g(t)^2 \nabla \log p_t(x)`.

    Only the draw of the prior is random. Reference: Song et al. (2021), eq. 13.

    Args:
        denoise: see :class:`Sampler`.
    """

    def _integrate(self, sde: SDE, score: Score, x: Tensor, noise: RandnLike, frames: int) -> Walk:
        times = torch.linspace(sde.T, sde.eps, frames, dtype=torch.float64)
        solution = self._solution(sde, sde.reverse(score, eta=0).drift, x, times)
        return Walk(solution.x, solution.path, times)

    @abstractmethod
    def _solution(self, sde: SDE, field: solvers.Field, x: Tensor, times: Tensor) -> solvers.Solution:
        """Returns the solution from T to eps, with its path at the times."""


class RK45(ProbabilityFlow):
    """The flow by SciPy's ``solve_ivp`` with RK45: the paper's sampler.

    Its error control couples the samples of a batch; ``dopri5`` is as accurate and does not.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        denoise: see :class:`Sampler`.
    """

    couples = True

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, denoise: bool = False) -> None:
        super().__init__(denoise)
        self.solver = solvers.SciPyRK45(rtol, atol)

    def _solution(self, sde: SDE, field: solvers.Field, x: Tensor, times: Tensor) -> solvers.Solution:
        # The clock is t itself, as in the paper.
        return self.solver.solve(field, x, sde.T, sde.eps, times)


class Dopri5(ProbabilityFlow):
    """The flow by adaptive Dormand–Prince 5(4) with one step size for each sample.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: number of attempted steps after which the solver raises an error.
        denoise: see :class:`Sampler`.
    """

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 10000, denoise: bool = False) -> None:
        super().__init__(denoise)
        self.solver = solvers.DormandPrince(rtol, atol, max_steps)

    def _solution(self, sde: SDE, field: solvers.Field, x: Tensor, times: Tensor) -> solvers.Solution:
        return solvers.solve_flow(self.solver, sde, field, x, sde.T, sde.eps, times)
