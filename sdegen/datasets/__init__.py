"""Data sets of points and images, with units, and with the exact distribution if it is known.

Batches are drawn in the package ``sdegen.training``.
"""

from sdegen.datasets.base import Dataset
from sdegen.datasets.description import Description
from sdegen.datasets.file import File
from sdegen.datasets.idx import IDX
from sdegen.datasets.images import Digits, Folder
from sdegen.datasets.synthetic import Checkerboard, Circles, Mixture, Moons, Pinwheel, Smile, SwissRoll
from sdegen.datasets.units import Affine, Quantile, Units, restored

__all__ = [
    "IDX",
    "Affine",
    "Checkerboard",
    "Circles",
    "Dataset",
    "Description",
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
