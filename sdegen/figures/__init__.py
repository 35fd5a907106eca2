"""Figures of data, samples, processes and densities, by matplotlib; every function returns a figure."""

from sdegen.figures.densities import density, interpolation, likelihoods
from sdegen.figures.images import accuracy, classes, generation, posterior, steering
from sdegen.figures.paths import process, score_field
from sdegen.figures.points import (
    COLOURS,
    DATA,
    DENSITY,
    MARKERS,
    SAMPLES,
    STYLE,
    compare,
    histogram,
    image_grid,
    log_ticks,
    marginals,
    save,
    trajectories,
)

__all__ = [
    "COLOURS",
    "DATA",
    "DENSITY",
    "MARKERS",
    "SAMPLES",
    "STYLE",
    "accuracy",
    "classes",
    "compare",
    "density",
    "generation",
    "histogram",
    "image_grid",
    "interpolation",
    "likelihoods",
    "log_ticks",
    "marginals",
    "posterior",
    "process",
    "save",
    "score_field",
    "steering",
    "trajectories",
]
