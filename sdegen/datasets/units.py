r"""Units: maps between the user's coordinates and the network's coordinates.

A map acts on each coordinate separately and is increasing. With :math:`x' = e(x)`, densities and scores change by the
slope of the map:

.. math:: \log p(x) = \log p'(x') + \sum_i \log e_i'(x_i), \qquad
          \nabla \log p(x) = e'(x) \, \nabla \log p'(x') + \nabla \log e'(x).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["vectors", "signals", "images"]
KINDS: dict[int, Kind] = {1: "vectors", 2: "signals"}
"""Kinds of points by the number of their axes: vectors ``(d,)`` and signals ``(C, L)``. All other points are images."""


class Units(ABC):
    """Map between the user's coordinates and the network's coordinates.

    Attributes:
        affine: this map if it is affine, else None. Only affine maps turn Gaussian mixtures into Gaussian
            mixtures and linear measurements into linear measurements.
    """

    affine: Affine | None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one point."""

    @property
    def kind(self) -> Kind:
        """Kind of the points, by the number of their axes."""
        return KINDS.get(len(self.shape), "images")

    @property
    def size(self) -> int:
        """Number of coordinates of one point."""
        return math.prod(self.shape)

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Converts points ``x`` ``(N, *)`` from the user's to the network's units, ``(N, *)`` float64."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Converts points ``x`` ``(N, *)`` from the network's to the user's units, ``(N, *)`` float64."""

    @abstractmethod
    def log_slope(self, x: Tensor) -> Tensor:
        """Returns the log of the slope of :meth:`encode` at points ``x`` in the user's units, ``(N, *)`` float64.

        The result is -inf at points without density.
        """

    @abstractmethod
    def log_slope_gradient(self, x: Tensor) -> Tensor:
        """Returns the derivative of :meth:`log_slope` in the same coordinate; NaN where the log-slope is -inf."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Returns the tensors from which :func:`restored` rebuilds the map."""

    def log_det(self, x: Tensor) -> Tensor:
        """Returns the log-determinants ``(N,)`` of :meth:`encode` at points ``x`` ``(N, *)`` in the user's units."""
        return self.log_slope(x).flatten(1).sum(1)

    def score(self, x: Tensor, inner: Tensor) -> Tensor:
        """Converts ``inner``, the score at ``encode(x)`` in the network's units, to the score at ``x``, ``(N, *)``."""
        return self.log_slope(x).exp() * inner.double() + self.log_slope_gradient(x)

    def equals(self, other: Units) -> bool:
        """Returns True if ``other`` is the same map."""
        own, others = self.state(), other.state()
        return own.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in own.items())


class Affine(Units):
    """Map ``(x - shift) / scale``.

    Args:
        shift: shift, float64, in the shape of one point.
        scale: scale, float64, in the shape of one point, above 0.
    """

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        self.shift, self.scale, self.affine = shift, scale, self

    @classmethod
    def of_levels(cls, levels: int, shape: tuple[int, ...]) -> Affine:
        """Returns the units in which the values 0 to ``levels - 1`` are spread from -1 to 1."""
        half = torch.full(shape, (levels - 1) / 2, dtype=torch.float64)
        return cls(half, half.clone())

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.shift.shape)

    @property
    def uniform(self) -> bool:
        """True if all coordinates have the same scale. A linear map then has the same matrix in both units."""
        return bool((self.scale == self.scale.flatten()[0]).all())

    def encode(self, x: Tensor) -> Tensor:
        return (x.double() - self.shift.to(x.device)) / self.scale.to(x.device)

    def decode(self, x: Tensor) -> Tensor:
        return x.double() * self.scale.to(x.device) + self.shift.to(x.device)

    def log_slope(self, x: Tensor) -> Tensor:
        return -self.scale.log().to(x.device).expand(x.shape)

    def log_slope_gradient(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        return {"shift": self.shift, "scale": self.scale}


class Quantile(Units):
    r"""Increasing, continuously differentiable map of each column to normal scores, by rational quadratic splines.

    Between two knots :math:`(u_k, z_k)`, with :math:`\xi = (u - u_k) / (u_{k+1} - u_k)`, the secant s and the slopes
    :math:`d_k`,

    .. math:: z = z_k + (z_{k+1} - z_k) \frac{s \xi^2 + d_k \xi (1 - \xi)}{s + (d_k + d_{k+1} - 2 s) \xi (1 - \xi)}.

    The inverse is the root of a quadratic. Beyond the knots z is linear, so that standard normal scores give normal
    tails. Here u is the column, or the logarithm of the column if all its values are above 0. With the logarithm,
    decoded values are above 0 as well. Points at or below 0 have density 0, and are encoded far below all other points.

    Reference: Gregory and Delbourgo (1982), https://doi.org/10.1093/imanum/2.2.123

    Args:
        knots: values of u, ``(d, K)`` float64, ascending in each row.
        scores: values of z, ``(d, K)`` float64, ascending in each row.
        slopes: slopes at the knots, ``(d, K)`` float64, above 0.
        logarithm: True for columns that are mapped by their logarithm, ``(d,)``.
    """

    affine = None
    BELOW = 10.0
    """Distance below the lowest knot, in standard deviations, at which points without density are encoded."""

    def __init__(self, knots: Tensor, scores: Tensor, slopes: Tensor, logarithm: Tensor) -> None:
        self.knots, self.scores, self.slopes, self.logarithm = knots, scores, slopes, logarithm

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.knots),)

    def encode(self, x: Tensor) -> Tensor:
        u = self._plain(x)
        piece = _Piece(self, self.knots, u)
        inner = piece.low + piece.rise * (piece.secant * piece.xi**2 + piece.left * piece.both) / piece.denominator
        return (inner + self._beyond(u, self.knots, self.slopes)).T.reshape(x.shape)

    def decode(self, x: Tensor) -> Tensor:
        z = x.double().reshape(-1, len(self.knots)).T
        piece = _Piece(self, self.scores, z)
        xi = _root(piece.xi, piece.secant, piece.left, piece.right)
        eta = _root(piece.eta, piece.secant, piece.right, piece.left)
        # Measure from the nearer end of a piece, to keep the digits of points near an end.
        inner = torch.where(xi < eta, piece.start + piece.width * xi, piece.stop - piece.width * eta)
        u = (inner + self._beyond(z, self.scores, 1 / self.slopes)).T.reshape(x.shape)
        logarithm = self.logarithm.to(u.device)
        # The gradient of an exponential that overflows would be NaN also where it is not chosen.
        return torch.where(logarithm, torch.where(logarithm, u, 0.0).exp(), u)

    def log_slope(self, x: Tensor) -> Tensor:
        u = self._plain(x)
        piece = _Piece(self, self.knots, u)
        inner = 2 * piece.secant.log() + piece.numerator.log() - 2 * piece.denominator.log()
        logarithm = self.logarithm.to(x.device)
        found = torch.where(logarithm, (inner - u).T, inner.T).reshape(x.shape)
        return torch.where(logarithm & (x <= 0), -math.inf, found)

    def log_slope_gradient(self, x: Tensor) -> Tensor:
        u = self._plain(x)
        piece, knots = _Piece(self, self.knots, u), self.knots.to(x.device)
        over = 2 * (piece.right * piece.xi + piece.secant * (piece.eta - piece.xi) - piece.left * piece.eta)
        under = piece.excess * (piece.eta - piece.xi)
        inner = (over / piece.numerator - 2 * under / piece.denominator) / piece.width
        inner = torch.where((u < knots[:, :1]) | (u > knots[:, -1:]), 0.0, inner).T.reshape(x.shape)
        logarithm = self.logarithm.to(x.device)
        inner = torch.where(logarithm, (inner - 1) / x.double(), inner)
        return torch.where(logarithm & (x <= 0), math.nan, inner)

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("knots", "scores", "slopes", "logarithm")}

    def _plain(self, x: Tensor) -> Tensor:
        """Returns u, the columns or the logarithms of the columns, as ``(d, N)`` float64."""
        u, logarithm = x.double().reshape(-1, len(self.knots)).T, self.logarithm.to(x.device)[:, None]
        lowest = (self.knots - self.BELOW / self.slopes).to(x.device)[:, :1]
        return torch.where(logarithm, torch.where(u <= 0, lowest, u.clamp(min=5e-324).log()), u)

    def _beyond(self, u: Tensor, ends: Tensor, slopes: Tensor) -> Tensor:
        """Returns the term of the linear tails, ``(d, N)``; 0 between the knots."""
        ends, slopes = ends.to(u.device), slopes.to(u.device)
        below, above = (u - ends[:, :1]).clamp(max=0), (u - ends[:, -1:]).clamp(min=0)
        return slopes[:, :1] * below + slopes[:, -1:] * above


class _Piece:
    """Coefficients, ``(d, N)`` each, of the pieces of a spline that contain the numbers ``at``, ``(d, N)``.

    ``ends``, the knots or the scores, are the ends of the pieces. Numbers beyond all ends are moved to the nearest end.
    """

    def __init__(self, spline: Quantile, ends: Tensor, at: Tensor) -> None:
        ends = ends.to(at.device)
        index = (torch.searchsorted(ends, at.contiguous()) - 1).clamp(0, ends.shape[1] - 2)
        knots, scores, slopes = (each.to(at.device) for each in (spline.knots, spline.scores, spline.slopes))
        self.start, self.stop = knots.gather(1, index), knots.gather(1, index + 1)
        self.low, high = scores.gather(1, index), scores.gather(1, index + 1)
        self.left, self.right = slopes.gather(1, index), slopes.gather(1, index + 1)
        self.width, self.rise = self.stop - self.start, high - self.low
        self.secant = self.rise / self.width
        first, last = ends.gather(1, index), ends.gather(1, index + 1)
        # Do not compute eta as 1 - xi: a small eta would lose digits.
        self.xi, self.eta = (((a - b) / (last - first)).clamp(0, 1) for a, b in ((at, first), (last, at)))
        self.both = self.xi * self.eta
        self.excess = self.left + self.right - 2 * self.secant
        self.numerator = self.right * self.xi**2 + 2 * self.secant * self.both + self.left * self.eta**2
        self.denominator = self.secant + self.excess * self.both


def _root(y: Tensor, secant: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Returns the fraction of a piece's width at which the spline reaches the fraction ``y`` of the piece's rise."""
    b = left - y * (left + right - 2 * secant)
    a = secant - b
    root = (b * b + 4 * a * secant * y).clamp(min=0).sqrt()
    # Both forms give the same root. Use each where it does not subtract nearly equal numbers.
    convex = b >= 0
    # The other form may divide by 0, and its gradient would be NaN.
    return torch.where(
        convex,
        2 * secant * y / torch.where(convex, b + root, 1.0),
        (root - b) / (2 * torch.where(convex, 1.0, a)),
    )


def restored(state: Mapping[str, Tensor]) -> Units:
    """Rebuilds units from the tensors of :meth:`Units.state`. Check tensors from a file with :func:`is_sound` first."""
    return Affine(**state) if "shift" in state else Quantile(**state)


def is_sound(state: Mapping[str, Tensor]) -> bool:
    """Returns True if the tensors are the state of a finite, increasing map. A foreign file may hold other tensors."""
    named = dict(state)
    logarithm = named.pop("logarithm", None)
    if any(value.dtype != torch.float64 or not bool(value.isfinite().all()) for value in named.values()):
        return False
    if len({value.shape for value in named.values()}) != 1:
        return False
    if named.keys() == {"shift", "scale"}:
        return logarithm is None and bool((named["scale"] > 0).all())
    if named.keys() != {"knots", "scores", "slopes"} or logarithm is None or logarithm.dtype != torch.bool:
        return False
    knots, scores, slopes = (named[name] for name in ("knots", "scores", "slopes"))
    if knots.ndim != 2 or knots.shape[1] < 2 or not len(knots) or logarithm.shape != knots.shape[:1]:
        return False
    secants = scores.diff() / knots.diff()
    ascending = bool((knots.diff() > 0).all() and (scores.diff() > 0).all())
    return ascending and bool(secants.isfinite().all() and (secants > 0).all() and (slopes > 0).all())
