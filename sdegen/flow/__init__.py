"""Probability-flow ODE: solvers, likelihoods, latents and interpolation.

Schemes with a fixed number of steps are in the package ``sdegen.samplers``.
"""

from sdegen.flow.density import check_density
from sdegen.flow.divergence import Exact, Hutchinson
from sdegen.flow.likelihood import Flow, Likelihood, bits_per_dim
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
