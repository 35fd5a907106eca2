"""Data sets: points or images, with what is known of their law."""

from sdegen.datasets.base import Dataset, Units
from sdegen.datasets.file import File
from sdegen.datasets.mixture import Mixture
from sdegen.datasets.planar import Checkerboard, Circles, Moons, Pinwheel, SwissRoll
from sdegen.datasets.smile import Smile

__all__ = [
    "Checkerboard",
    "Circles",
    "Dataset",
    "File",
    "Mixture",
    "Moons",
    "Pinwheel",
    "Smile",
    "SwissRoll",
    "Units",
]
