r"""Time grids: the times of a sampler's steps from T to eps.

Here :math:`\lambda = \log(\sigma_t/\alpha_t)` is the log noise-to-signal ratio.

=========  =====================================================================================================
uniform    uniform in t
quadratic  uniform in :math:`\sqrt t` (Song et al. 2021, DDIM)
log_snr    uniform in :math:`\lambda` (Lu et al. 2022)
karras     uniform in :math:`(\sigma/\alpha)^{1/7}` (Karras et al. 2022, eq. 5)
logistic   quantiles of :math:`\lambda` under a mixture of a logistic (70 %) and a uniform (30 %) distribution
fitted     fitted to the score that is sampled, see :mod:`sdegen.samplers.fitting`; until then the logistic grid
=========  =====================================================================================================

A grid may also be a list of times, which fall from T to eps.

The logistic grid is fitted to standardised data. Where :math:`\sigma \gg \alpha`, :math:`p_t` is nearly Gaussian.
Where :math:`\sigma` is far below the finest detail of the data, :math:`x/\alpha` no longer changes along the flow. Most
steps are placed between these noise levels, where the modes separate and become sharp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.sde.base import SDE, LinearSDE

Named = Literal["uniform", "quadratic", "log_snr", "karras", "logistic", "fitted"]
Times = tuple[float, ...]
Grid = Named | Times

RHO = 7.0
CENTRE, WIDTH, EVEN = -0.8, 0.75, 0.3
"""Centre and width of the logistic distribution of λ, and the share of the uniform distribution.

The values were tuned on mixtures that no reported result uses.
"""


CLOSE = 1e-4
"""Largest relative difference between an end of a list of times and T or eps, which replaces it."""


class TimeGrid(NamedTuple):
    """Function ``(sde, share) -> t`` of a grid, from T at 0 to eps at 1, and the type of its process."""

    times: Callable[[Any, Tensor], Tensor]
    process: type[SDE] = SDE


def along(grid: Grid, sde: SDE, steps: int) -> Tensor:
    """Returns the times of a grid, ``(steps + 1,)`` float64, from exactly T to exactly eps.

    Raises:
        ValueError: the grid is a list of times that does not begin at T or does not end at eps.
    """
    if isinstance(grid, tuple):
        check_ends(grid, sde)
        times = torch.tensor(grid, dtype=torch.float64)
    else:
        times = GRIDS[grid].times(sde, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    times[0], times[-1] = sde.T, sde.eps
    return times


def check_falling(times: Times) -> None:
    """Raises ValueError if a list of times has fewer than two times, or if the times do not fall."""
    if len(times) < 2:
        raise ValueError(f"grid has {len(times)} times and needs at least 2: list the times from T down to eps")
    for before, after in pairwise(times):
        if not before > after:
            raise ValueError(
                f"grid={shown(times)} must fall, and {after:g} follows {before:g}: list the times from T down to eps"
            )


def steps_of(grid: Grid, steps: int | Literal["auto"]) -> int:
    """Returns the number of steps along a grid, which a list of times fixes.

    Raises:
        ValueError: the times of a list do not fall, or their number does not fit ``steps``; ``steps`` is ``auto``
            without a list, or below 1.
    """
    if not isinstance(grid, tuple):
        if steps == "auto":
            raise ValueError(
                "steps=auto needs the levels of a chain such as sde=ddpm, or a list of times in grid: give a number"
            )
        return in_range("steps", steps, at_least=1)
    check_falling(grid)
    if steps not in ("auto", len(grid) - 1):
        raise ValueError(
            f"steps={steps} does not fit grid={shown(grid)}, whose {len(grid)} times make {len(grid) - 1} steps: "
            f"leave out steps, or use a named grid such as grid=logistic"
        )
    return len(grid) - 1


def check_ends(times: Times, sde: SDE) -> None:
    """Raises ValueError if a list of times does not begin at T or does not end at eps of a process."""
    for what, given, wanted, name in (("begin", times[0], sde.T, "T"), ("end", times[-1], sde.eps, "sde.eps")):
        if not math.isclose(given, wanted, rel_tol=CLOSE):
            raise ValueError(
                f"grid={shown(times)} must {what} at {name}={wanted:.6g}, not at {given:g}: change this time"
            )


def shown(times: Times) -> str:
    """Returns a list of times as text; the middle of a long list is left out."""
    words = [f"{t:g}" for t in times]
    return f"[{','.join(words if len(words) < 7 else [*words[:3], '…', *words[-2:]])}]"


def uniform(sde: SDE, share: Tensor) -> Tensor:
    return sde.T + share * (sde.eps - sde.T)


def quadratic(sde: SDE, share: Tensor) -> Tensor:
    return (math.sqrt(sde.T) + share * (math.sqrt(sde.eps) - math.sqrt(sde.T))) ** 2


def log_snr(sde: LinearSDE, share: Tensor) -> Tensor:
    first, last = ends(sde)
    return sde.time(2 * torch.lerp(first, last, share))


def karras(sde: LinearSDE, share: Tensor) -> Tensor:
    first, last = (torch.exp(end / RHO) for end in ends(sde))
    return sde.time(2 * RHO * torch.lerp(first, last, share).log())


def logistic(sde: LinearSDE, share: Tensor) -> Tensor:
    first, last = ends(sde)
    # Tabulate the distribution function. The 4096 cells are far finer than any time grid.
    table = torch.lerp(first, last, torch.linspace(0, 1, 4097, dtype=torch.float64))
    mass = torch.sigmoid((CENTRE - table) / WIDTH)
    done = EVEN * (first - table) / (first - last) + (1 - EVEN) * (mass - mass[0]) / (mass[-1] - mass[0])
    cell = torch.searchsorted(done, share, right=True).clamp(1, len(table) - 1)
    within = (share - done[cell - 1]) / (done[cell] - done[cell - 1])
    return sde.time(2 * torch.lerp(table[cell - 1], table[cell], within))


def ends(sde: LinearSDE) -> Tensor:
    """Returns λ at T and at eps, ``(2,)`` float64."""
    return 0.5 * sde.log_nsr(torch.tensor([sde.T, sde.eps], dtype=torch.float64))


GRIDS: dict[Named, TimeGrid] = {
    "uniform": TimeGrid(uniform),
    "quadratic": TimeGrid(quadratic),
    "log_snr": TimeGrid(log_snr, LinearSDE),
    "karras": TimeGrid(karras, LinearSDE),
    "logistic": TimeGrid(logistic, LinearSDE),
    "fitted": TimeGrid(logistic, LinearSDE),
}

NAMED: tuple[Named, ...] = tuple(name for name in GRIDS if name != "fitted")
"""Grids that need no fit."""
