"""Data sets: points and images, their units, and their law if it is known.

The room ``training`` draws the batches.
"""

from sdegen.datasets.base import Dataset
from sdegen.datasets.digits import Digits
from sdegen.datasets.file import File
from sdegen.datasets.folder import Folder
from sdegen.datasets.idx import IDX
from sdegen.datasets.mixture import Mixture
from sdegen.datasets.planar import Checkerboard, Circles, Moons, Pinwheel, SwissRoll
from sdegen.datasets.smile import Smile
from sdegen.datasets.units import Affine, Quantile, Units, restored

__all__ = [
    "IDX",
    "Affine",
    "Checkerboard",
    "Circles",
    "Dataset",
    "Digits",
    "File",
    "Folder",
    "Mixture",
    "Moons",
    "Pinwheel",
    "Quantile",
    "Smile",
    "SwissRoll",
    "Units",
    "restored",
]
