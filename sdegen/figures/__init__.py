"""Figures of data, samples, processes and densities, drawn with matplotlib."""

from sdegen.figures.calibration import calibration
from sdegen.figures.densities import density, interpolation, likelihoods
from sdegen.figures.fid import fid
from sdegen.figures.images import accuracy, classes, conditioned, generation, image_grid, nll, posterior, steering
from sdegen.figures.paths import process, score_field
from sdegen.figures.points import compare, marginals
from sdegen.figures.signals import signal_classes, signal_conditioned, signal_generation, signal_posterior
from sdegen.figures.style import (
    COLOURS,
    DATA,
    DENSITY,
    MARKERS,
    SAMPLES,
    STYLE,
    entitle,
    histogram,
    log_ticks,
    marked,
    png,
    save,
    styled,
    subplots,
)
from sdegen.figures.trajectories import FLOWS, flow, trajectories
from sdegen.figures.widths import widths

__all__ = [
    "COLOURS",
    "DATA",
    "DENSITY",
    "FLOWS",
    "MARKERS",
    "SAMPLES",
    "STYLE",
    "accuracy",
    "calibration",
    "classes",
    "compare",
    "conditioned",
    "density",
    "entitle",
    "fid",
    "flow",
    "generation",
    "histogram",
    "image_grid",
    "interpolation",
    "likelihoods",
    "log_ticks",
    "marginals",
    "marked",
    "nll",
    "png",
    "posterior",
    "process",
    "save",
    "score_field",
    "signal_classes",
    "signal_conditioned",
    "signal_generation",
    "signal_posterior",
    "steering",
    "styled",
    "subplots",
    "trajectories",
    "widths",
]
