"""Data sets of points and images, with units, and with the exact distribution if it is known.

Batches are drawn in the package ``sdegen.training``.
"""

from sdegen.datasets.base import Dataset
from sdegen.datasets.conditions import Conditions, restored_conditions
from sdegen.datasets.description import Description
from sdegen.datasets.file import File
from sdegen.datasets.idx import IDX
from sdegen.datasets.images import Digits, Folder
from sdegen.datasets.simulators import LinearGaussian, ObservedMixture, Simulator, TwoMoons
from sdegen.datasets.synthetic import Checkerboard, Circles, Mixture, Moons, Pinwheel, Smile, SwissRoll
from sdegen.datasets.units import Affine, Quantile, Units, restored

__all__ = [
    "IDX",
    "Affine",
    "Checkerboard",
    "Circles",
    "Conditions",
    "Dataset",
    "Description",
    "Digits",
    "File",
    "Folder",
    "LinearGaussian",
    "Mixture",
    "Moons",
    "ObservedMixture",
    "Pinwheel",
    "Quantile",
    "Simulator",
    "Smile",
    "SwissRoll",
    "TwoMoons",
    "Units",
    "restored",
    "restored_conditions",
]
