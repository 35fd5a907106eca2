"""The probability-flow ODE: solvers, likelihoods, latents and interpolation.

Grids of a fixed number of steps are in samplers.
"""

from sdegen.flow.density import check_density
from sdegen.flow.likelihood import Exact, Flow, Hutchinson, Likelihood, bits_per_dim
from sdegen.flow.solvers import DormandPrince, ODESolver, SciPyRK45

__all__ = [
    "DormandPrince",
    "Exact",
    "Flow",
    "Hutchinson",
    "Likelihood",
    "ODESolver",
    "SciPyRK45",
    "bits_per_dim",
    "check_density",
]
