"""The probability-flow ODE: solvers, likelihoods, latents and interpolation.

Grids of a fixed number of steps are in samplers.
"""

from sdegen.flow.density import check_density
from sdegen.flow.likelihood import Exact, Flow, Hutchinson, Likelihood, bits_per_dim
from sdegen.flow.solvers import RK45, Dopri5, ODESolver

__all__ = ["Dopri5", "Exact", "Flow", "Hutchinson", "Likelihood", "ODESolver", "RK45", "bits_per_dim", "check_density"]
