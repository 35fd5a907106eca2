r"""A Gaussian path from a table of :math:`\alpha` and :math:`\sigma`."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sdegen.sde.paths import LEAST, GaussianPath

Rows = tuple[tuple[float, float, float], ...]
"""Rows of a table: t, α and σ."""
COLUMNS = ("t", "alpha", "sigma")


class Table(GaussianPath):
    r"""Path through the rows of a table of t, :math:`\alpha` and :math:`\sigma`.

    Monotone cubic polynomials interpolate the logarithms of :math:`\sigma/\alpha` and of
    :math:`\sqrt{\alpha^2 + \sigma^2}`, so that :math:`\sigma/\alpha` also increases between the rows. The second
    derivatives jump at the rows, so schemes of high order lose accuracy on coarse tables.

    Reference: Fritsch & Carlson (1980), Monotone piecewise cubic interpolation, https://doi.org/10.1137/0717021

    Args:
        path: CSV file with the columns ``t``, ``alpha`` and ``sigma``. The times increase and lie between 0 and 1, and
            sigma / alpha increases. Only the last alpha may be 0. A row at t = 0 must have alpha 1 and sigma 0; without
            such a row, the path is extended to t = 0. If ``rows`` are given, the file is not read.
        rows: rows of the table, each a list of t, alpha and sigma. With ``auto`` in a configuration, they are read from
            ``path`` and stored, so that the run does not need the file again.
        eps: smallest time of training and sampling; None for the time at which :math:`\sigma/\alpha = 10^{-3}`, or for
            the first time of the table if this is later.
        spread: see :class:`GaussianPath`.
    """

    smooth = False

    def __init__(
        self,
        path: str | None,
        rows: Rows | Literal["auto"] = "auto",
        eps: float | None = None,
        spread: float | Literal["auto"] = 1.0,
    ) -> None:
        t, alpha, sigma = (read(path) if rows == "auto" else checked("rows", rows)).unbind(1)
        inner = (alpha > 0) & (sigma > 0)
        # If α is 0 at the last time, α/σ is nearly linear in the time that is left.
        self._last = float(t[-1]) if alpha[-1] == 0 else math.inf
        self._log_ratio = Monotone(self._clock(t[inner]), (sigma / alpha)[inner].log())
        # The logarithm of the size is 0 at t = 0.
        size = torch.hypot(alpha, sigma).log()
        self._log_size = Monotone(*(torch.cat([c.new_zeros(1), c[t > 0]]) for c in (t, size)))
        self.T = float(t[-1])
        super().__init__(max(float(t[0]), self.time_of(LEAST)) if eps is None else eps, spread)

    def alpha(self, t: Tensor) -> Tensor:
        return self._part(t, -1.0)

    def sigma(self, t: Tensor) -> Tensor:
        return self._part(t, 1.0)

    def rate(self, t: Tensor) -> Tensor:
        ratio, growth = self._ratio(t)
        return self._log_size(t)[1] - growth * torch.sigmoid(2 * ratio)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * (2 * self._ratio(t)[1]).sqrt()

    def time(self, u: Tensor) -> Tensor:
        clock = self._log_ratio.inverse(0.5 * u)
        return self._last * torch.sigmoid(clock) if math.isfinite(self._last) else clock.exp()

    def _part(self, t: Tensor, sign: float) -> Tensor:
        share = torch.nn.functional.logsigmoid(2 * sign * self._ratio(t)[0])
        return torch.exp(self._log_size(t)[0] + 0.5 * share)

    def _ratio(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log(σ/α) and its derivative in t. It is interpolated in log t, or in log(t / (T - t)) if α is 0 at T.

        At both ends, it is nearly linear in this number.
        """
        ratio, slope = self._log_ratio(self._clock(t))
        return ratio, slope * (1 / t + 1 / (self._last - t))

    def _clock(self, t: Tensor) -> Tensor:
        return t.log() - (self._last - t).log() if math.isfinite(self._last) else t.log()

    @classmethod
    def measure(cls, x: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
        rows = read(options["path"]).tolist() if options["rows"] == "auto" else options["rows"]
        return {**super().measure(x, options), "rows": rows}


class Monotone:
    """Monotone cubic interpolant, which straight lines continue on both sides.

    Args:
        x: nodes, increasing, ``(N,)`` float64 with N of at least 2.
        y: values at the nodes, ``(N,)``.
    """

    BISECTIONS = 50

    def __init__(self, x: Tensor, y: Tensor) -> None:
        width = x.diff()
        secant = y.diff() / width
        near, far = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
        mean = (near + far) / (near / secant[:-1] + far / secant[1:])
        # At a turning point, the interpolant is flat, so that it does not overshoot.
        inner = torch.where(secant[:-1] * secant[1:] > 0, mean, 0.0)
        first, last = end_slope(width, secant), end_slope(width.flip(0), secant.flip(0))
        slope = torch.cat([first[None], inner, last[None]])
        a, b, rise = width * slope[:-1], width * slope[1:], y.diff()
        self.x, self.y, self.ends = x, y, torch.stack([first, last])
        # In a cell, with w from 0 to 1, the value is c_0 + c_1 w + c_2 w² + c_3 w³.
        self.cubics = torch.stack([y[:-1], a, 3 * rise - 2 * a - b, a + b - 2 * rise], 1)

    def __call__(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the values and the derivatives at ``v``, both shaped like ``v``."""
        x = self.x.to(v)
        i = self._cell(x, v)
        inside, width = v.clamp(x[0], x[-1]), x[i + 1] - x[i]
        w, (c0, c1, c2, c3) = (inside - x[i]) / width, self.cubics.to(v)[i].unbind(-1)
        outer = self.ends.to(v)[(v >= x[0]).long()]
        value = c0 + w * (c1 + w * (c2 + w * c3)) + (v - inside) * outer
        return value, torch.where(v == inside, (c1 + w * (2 * c2 + 3 * w * c3)) / width, outer)

    def inverse(self, value: Tensor) -> Tensor:
        """Returns the points at which the values are ``value``, if the values at the nodes increase."""
        y = value.double()
        i = self._cell(self.y.to(y), y)
        c0, c1, c2, c3 = self.cubics.to(y)[i].unbind(-1)
        low, high = torch.zeros_like(y), torch.ones_like(y)
        for _ in range(self.BISECTIONS):
            w = 0.5 * (low + high)
            below = c0 + w * (c1 + w * (c2 + w * c3)) < y
            low, high = torch.where(below, w, low), torch.where(below, high, w)
        x, inside = self.x.to(y), y.clamp(float(self.y[0]), float(self.y[-1]))
        return (torch.lerp(x[i], x[i + 1], high) + (y - inside) / self.ends.to(y)[(y >= inside).long()]).to(value)

    @staticmethod
    def _cell(nodes: Tensor, v: Tensor) -> Tensor:
        return (torch.searchsorted(nodes, v.contiguous()) - 1).clamp(0, len(nodes) - 2)


def end_slope(width: Tensor, secant: Tensor) -> Tensor:
    """Returns the slope at the first node, ``()``: of the parabola through three nodes, or near the first secant."""
    if len(secant) == 1:
        return secant[0]
    parabola = ((2 * width[0] + width[1]) * secant[0] - width[0] * secant[1]) / (width[0] + width[1])
    low, high = sorted((secant[0] / 3, 3 * secant[0]))
    return parabola.clamp(low, high)


def read(path: str | None) -> Tensor:
    """Returns the rows of a CSV file, ``(N, 3)`` float64; raises ValueError if they give no path."""
    if path is None:
        raise ValueError("path=null and rows=auto: there is no table: set path to a CSV file with t, alpha and sigma")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"path={path}: cannot be read ({reason}): name a CSV file") from None
    if missing := [name for name in COLUMNS if not lines or name not in lines[0]]:
        raise ValueError(f"path={path}: has no column {missing[0]}: the first line must be t,alpha,sigma")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append([float(line[name]) for name in COLUMNS])
        except (TypeError, ValueError):
            found = ", ".join(str(line[name]) for name in COLUMNS)
            raise ValueError(f"path={path}: row {number}: {found}: write three numbers") from None
    return checked(f"path={path}", rows)


def checked(name: str, rows: Sequence[Sequence[float]]) -> Tensor:
    """Returns the rows of a table, ``(N, 3)`` float64; raises ValueError, with the number of a row, if it is wrong."""
    above = (-math.inf, -math.inf)
    for number, (t, alpha, sigma) in enumerate(rows, start=1):
        first, last = number == 1 and t == 0, number == len(rows)
        ratio = sigma / alpha if alpha else math.inf
        fault = ""
        if not all(map(math.isfinite, (t, alpha, sigma))):
            fault = "has a number that is not finite: use finite numbers"
        elif not 0 <= t <= 1:
            fault = f"t={t:g} must lie between 0 and 1: divide all times by the last one"
        elif first and (alpha, sigma) != (1, 0):
            fault = f"alpha={alpha:g} and sigma={sigma:g} must be 1 and 0 at t = 0: begin at a later time"
        elif alpha < 0 or (alpha == 0 and not last):
            fault = f"alpha={alpha:g} must be above 0, except in the last row: end the table earlier"
        elif sigma <= 0 and not first:
            fault = f"sigma={sigma:g} must be above 0, except at t = 0: begin the table later"
        elif t <= above[0]:
            fault = f"t={t:g} must be above {above[0]:g}, the time before: sort the rows"
        elif ratio <= above[1]:
            fault = f"sigma/alpha={ratio:g} must be above {above[1]:g}, its value before: it must increase with t"
        if fault:
            raise ValueError(f"{name}: row {number}: {fault}")
        above = (t, ratio)
    if sum(alpha > 0 and sigma > 0 for _, alpha, sigma in rows) < 2:
        raise ValueError(f"{name}: has {len(rows)} rows: give at least two with alpha and sigma above 0")
    return torch.tensor(rows, dtype=torch.float64)
