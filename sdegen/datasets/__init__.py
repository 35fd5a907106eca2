"""Data sets: points or images, with what is known of their law."""

from sdegen.datasets.base import Dataset, Units
from sdegen.datasets.digits import Digits
from sdegen.datasets.file import File
from sdegen.datasets.folder import Folder
from sdegen.datasets.idx import IDX
from sdegen.datasets.mixture import Mixture
from sdegen.datasets.planar import Checkerboard, Circles, Moons, Pinwheel, SwissRoll
from sdegen.datasets.smile import Smile

__all__ = [
    "IDX",
    "Checkerboard",
    "Circles",
    "Dataset",
    "Digits",
    "File",
    "Folder",
    "Mixture",
    "Moons",
    "Pinwheel",
    "Smile",
    "SwissRoll",
    "Units",
]
