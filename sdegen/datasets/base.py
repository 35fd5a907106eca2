"""What a data set is: training points, their units, and what is known of the law they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.mixture import GaussianMixture


class Units(NamedTuple):
    """The affine map between the user's units and those that networks meet: ``(x - shift) / scale``.

    Both are float64, of the shape of one point.
    """

    shift: Tensor
    scale: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return tuple(self.shift.shape)

    def encode(self, x: Tensor) -> Tensor:
        """From the user's units: ``(N, *)`` to ``(N, *)`` float64."""
        return (x.double() - self.shift.to(x.device)) / self.scale.to(x.device)

    def decode(self, x: Tensor) -> Tensor:
        """Back to the user's units: ``(N, *)`` to ``(N, *)`` float64."""
        return x.double() * self.scale.to(x.device) + self.shift.to(x.device)


class Dataset(ABC):
    """Training points in the user's units, and what is known of their law.

    Args:
        x: training points, ``(N, *)``.
        held_out: points kept from training, for measuring; None where the law can be drawn from.
        law: the exact law, where it is a Gaussian mixture.
        standardize: centre and scale the points for the network, by coordinate for vectors, as a whole for images.
        levels: where the points are quantised, the number of values that an entry can take: 0 to ``levels - 1``. It
            makes the likelihood one of dequantised points, and changes nothing else.
    """

    def __init__(
        self,
        x: Tensor,
        held_out: Tensor | None = None,
        law: GaussianMixture | None = None,
        standardize: bool = True,
        levels: int | None = None,
    ) -> None:
        self.x, self.held_out, self.law, self.levels = x.double(), held_out, law, levels
        if levels is not None:
            check_levels(levels, self.x if held_out is None else torch.cat([self.x, held_out.double()]))
        shape = self.x.shape[1:]
        shift, scale = torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
        if standardize:
            axes = 0 if len(shape) == 1 else tuple(range(self.x.ndim))
            shift = self.x.mean(axes).expand(shape).clone()
            deviation = self.x.std(axes, correction=0).expand(shape).clone()
            # A coordinate that never changes has no scale of its own.
            scale = torch.where(deviation > 0, deviation, 1.0)
        self.units = Units(shift, scale)

    @property
    def encoded_law(self) -> GaussianMixture | None:
        """The exact law in the network's units, where it is known."""
        return None if self.law is None else self.law.affine(*self.units)

    @abstractmethod
    def draw(self, n: int, source: torch.Generator) -> Tensor | None:
        """``n`` independent draws of the exact law, ``(n, *)``, or None where it is not known."""

    def modes(self, x: Tensor) -> Tensor | None:
        """The mode each point belongs to, ``(N,)`` integers; None where the law has no distinct modes."""
        return None

    def off_support(self, x: Tensor) -> Tensor | None:
        """Whether each point is off the support, ``(N,)`` booleans; None where that is not defined."""
        return None


def check_levels(levels: int, x: Tensor) -> None:
    """ValueError where the points are not whole numbers from 0 to ``levels - 1``."""
    if levels < 2:
        raise ValueError(f"levels={levels} must be at least 2")
    foreign = x[(x != x.round()) | (x < 0) | (x > levels - 1)]
    if len(foreign):
        raise ValueError(
            f"levels={levels}: the values must be whole numbers from 0 to {levels - 1}, and there is "
            f"{float(foreign[0]):g}: rescale them, or leave levels=null"
        )


def numpy_source(source: torch.Generator) -> np.random.Generator:
    """A NumPy generator that continues a torch one."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=source)))


def check_size(size: int) -> int:
    """``size``, or ValueError where it leaves nothing to learn from."""
    if size < 2:
        raise ValueError(f"size={size} must be at least 2")
    return size
