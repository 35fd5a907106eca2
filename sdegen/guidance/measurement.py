r"""Measurements :math:`y = H(x) + \text{noise}`, and the linear ones, :math:`H(x) = A x`, in the network's units."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sdegen.core.checks import in_range
from sdegen.core.errors import UserError
from sdegen.datasets import Affine, Units


class Linearised(NamedTuple):
    """A measurement near points ``x`` ``(B, *)``.

    Attributes:
        value: H(x), ``(B, …)``.
        forward: product of the Jacobian J with each row of ``(B, *)``.
        adjoint: product of the transpose of J with each row of ``(B, …)``.
    """

    value: Tensor
    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


class Measurement(ABC):
    r"""Map H from points to measured numbers.

    Attributes:
        gain: number c with :math:`A A^\top = c I` if H is a matrix A with this property, else None.
        selects: True if H(x) consists of entries of x.
        of_data: True if the results have the units of the data or their own units, False for the network's units.
    """

    gain: float | None = None
    selects = False
    of_data = False

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Returns H(x), ``(B, …)``, for each row of ``x`` ``(B, *)``."""

    @abstractmethod
    def linearised(self, x: Tensor) -> Linearised:
        """Returns the measurement near the points ``x`` ``(B, *)``."""

    @abstractmethod
    def picture(self, y: Tensor) -> Tensor:
        """Returns the measurement ``y`` ``(1, …)`` as a picture, with NaN for entries of x that H does not select."""


class LinearMeasurement(Measurement):
    """Linear map A of points, in the network's units."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        r"""Returns :math:`A^\top y`, ``(B, *)``, for each row of ``y`` ``(B, …)``."""

    def linearised(self, x: Tensor) -> Linearised:
        return Linearised(self(x), self, self.adjoint)

    def picture(self, y: Tensor) -> Tensor:
        if not self.selects:
            return y[0].cpu()
        known = self.adjoint(torch.ones_like(y))[0] > 0
        return torch.where(known, self.adjoint(y)[0], math.nan).cpu()


class Inpaint(LinearMeasurement):
    """Measurement of the known entries of x.

    Args:
        shape: shape of x; from the data of the run.
        mask: known entries: one half (``left``, ``right``, ``top`` or ``bottom``), the ``centre``, the ``frame`` around
            the centre, every second entry (``checkerboard``), or a ``.npy`` file with 1 for known entries and 0 for
            unknown entries. The array in the file has the shape of x, or ``(H, W)`` for the same mask in each channel;
            ``(L,)`` for signals. The steps of signals lie from left to right.
    """

    gain = 1.0
    selects = True

    def __init__(self, shape: tuple[int, ...], mask: str = "top") -> None:
        known = known_entries(mask, shape)
        if known.all() or not known.any():
            other = "another mask" if len(shape) == 3 else "mask=left, right or checkerboard, or a .npy file"
            raise ValueError(
                f"mask={mask} leaves no entry {'unknown' if known.all() else 'known'} of a point of the shape "
                f"{tuple(shape)}: use {other}"
            )
        self.shape, self.known = shape, known.flatten().nonzero().squeeze(1)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.known.to(x.device)]

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), math.prod(self.shape))
        return x.index_copy(1, self.known.to(y.device), y).reshape(-1, *self.shape)


class SuperResolution(LinearMeasurement):
    """Measurement of the means of square blocks of an image.

    Args:
        shape: shape ``(C, H, W)`` of an image; from the data of the run.
        factor: side of a block in pixels, at least 2 and a divisor of H and W.
    """

    def __init__(self, shape: tuple[int, ...], factor: int = 2) -> None:
        _, height, width = image(shape, "super_resolution")
        if factor < 2 or height % factor or width % factor:
            raise ValueError(f"factor={factor} must be at least 2 and divide {height} and {width}")
        self.factor, self.gain = factor, 1 / factor**2

    def __call__(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return functional.interpolate(y, scale_factor=self.factor, mode="nearest") / self.factor**2


class Grey(LinearMeasurement):
    """Measurement of the mean over the channels of an image.

    Args:
        shape: shape ``(C, H, W)`` of an image, with C > 1; from the data of the run.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.channels = image(shape, "colourise")[0]
        if self.channels < 2:
            raise ValueError(
                "guidance=colourise needs colours, and the images of this run are grey: use guidance=inpaint"
            )
        self.gain = 1 / self.channels

    def __call__(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return (y / self.channels).expand(-1, self.channels, -1, -1)


class Blur(LinearMeasurement):
    """Measurement by a Gaussian blur. The weights add up to 1 also at the edges.

    Args:
        shape: shape ``(C, H, W)`` of an image; from the data of the run.
        std: standard deviation of the blur, in pixels.
    """

    def __init__(self, shape: tuple[int, ...], std: float = 1.0) -> None:
        _, height, width = image(shape, "deblur")
        in_range("std", std, above=0)
        self.rows, self.columns = (blur_matrix(size, std) for size in (height, width))

    def __call__(self, x: Tensor) -> Tensor:
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return self.rows.to(y).T @ y @ self.columns.to(y)


class Linear(LinearMeasurement):
    """Measurement by the product with a matrix A.

    Args:
        shape: shape of x; from the data of the run.
        path: ``.npy`` file that holds A, ``(m, d)``, where d is the number of entries of x.
    """

    def __init__(self, shape: tuple[int, ...], path: str) -> None:
        self.shape, self.matrix = shape, array("path", path).double()
        if self.matrix.ndim != 2 or self.matrix.shape[1] != math.prod(shape):
            raise ValueError(
                f"path={path}: the matrix must have {math.prod(shape)} columns and a row for each "
                f"measured number, but has the shape {tuple(self.matrix.shape)}"
            )
        gram = self.matrix @ self.matrix.T
        gain = float(gram.diagonal().mean())
        if torch.allclose(gram, gain * torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=1e-6 * gain):
            self.gain = gain

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, *self.shape)


def known_entries(mask: str, shape: tuple[int, ...]) -> Tensor:
    """Returns a tensor of the shape ``shape`` that is True at the known entries; raises ValueError for a wrong mask."""
    # All channels of images and of signals have the same mask.
    one = shape[1:] if len(shape) == 2 else shape[-2:]
    *_, height, width = (1, *one)
    row, column = torch.arange(height)[:, None].expand(height, width), torch.arange(width).expand(height, width)
    inner = [(i >= n // 4) & (i < n - n // 4) for i, n in ((row, height), (column, width))]
    centre = inner[0] & inner[1] if height > 1 else inner[1]
    named = {
        "left": column < width // 2,
        "right": column >= width // 2,
        "top": row < height // 2,
        "bottom": row >= height // 2,
        "centre": centre,
        "frame": ~centre,
        "checkerboard": (row + column) % 2 == 0,
    }
    if mask in named:
        return named[mask].reshape(one).expand(shape)
    if not mask.endswith(".npy"):
        raise ValueError(f"mask={mask} is unknown: choose one of {', '.join(named)}, or a .npy file")
    values = array("mask", mask)
    if values.shape not in (shape, one) or not bool(((values == 0) | (values == 1)).all()):
        wanted = " or ".join(str(tuple(s)) for s in dict.fromkeys((shape, one)))
        raise ValueError(
            f"mask={mask}: must be zeros and ones of the shape {wanted}, but has the shape {tuple(values.shape)} or "
            f"other values: correct the file"
        )
    return values.bool().expand(shape)


def linear_units(units: Units, guidance: str) -> Affine:
    """Returns the units as an affine map; raises UserError if they are not affine, as linear measurements require."""
    if units.affine is None:
        raise UserError(
            f"guidance={guidance}: measurements must be linear, and dataset.standardize=quantile is not linear: "
            f"use a run with dataset.standardize=true or robust"
        )
    return units.affine


def array(option: str, path: str) -> Tensor:
    """Returns the array of the ``.npy`` file that ``option`` names, or raises ValueError if the file cannot be read."""
    try:
        # With mmap_mode, NumPy rejects a file that is shorter than the header says.
        values = np.load(Path(path), mmap_mode="r", allow_pickle=False)
        if not isinstance(values, np.ndarray) or not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
            raise ValueError
        found = torch.from_numpy(np.array(values, order="C"))
    except (OSError, ValueError, EOFError) as error:
        reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        raise ValueError(
            f"{option}={path}: not a readable .npy file{reason}: save an array of numbers with numpy.save"
        ) from None
    return found


def image(shape: tuple[int, ...], guidance: str) -> tuple[int, int, int]:
    """Returns the shape ``(C, H, W)`` of an image, or raises ValueError if ``shape`` has another form."""
    if len(shape) != 3:
        raise ValueError(
            f"guidance={guidance} needs images, not points of the shape {tuple(shape)}: use guidance=linear"
        )
    return shape[0], shape[1], shape[2]


def blur_matrix(size: int, std: float) -> Tensor:
    """Returns the matrix that blurs a line of pixels, ``(size, size)`` float64. Each row adds up to 1."""
    at = torch.arange(size, dtype=torch.float64)
    return (-0.5 * ((at[:, None] - at) / std) ** 2).softmax(1)
