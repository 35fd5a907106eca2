"""Time grids of the libraries and papers, and the combination of a sampler with every grid."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from arena.race import Contestant
from sdegen.samplers import DDIM, StepSampler
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score

Grid = Callable[[LinearSDE, int], Tensor]
"""Function ``(sde, steps) -> times``. The times are ``(steps + 1,)`` float64, and decrease from T."""


def share(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def power(rho: float, sde: LinearSDE, steps: int, last: float | None = None) -> Tensor:
    """Returns the grid that is uniform in t^(1/rho)."""
    low, high = (last or sde.eps) ** (1 / rho), sde.T ** (1 / rho)
    return (high + (low - high) * share(steps)) ** rho


def log_snr(sde: LinearSDE, steps: int, last: float | None = None) -> Tensor:
    """Returns the grid that is uniform in log(sigma / alpha)."""
    ends = sde.log_nsr(torch.tensor([sde.T, last or sde.eps], dtype=torch.float64))
    return sde.time(torch.lerp(ends[0], ends[1], share(steps)))


def karras(sde: LinearSDE, steps: int, last: float | None = None, rho: float = 7.0) -> Tensor:
    """Returns the grid that is uniform in (sigma / alpha)^(1/rho). Reference: Karras et al. (2022), eq. 5."""
    ends = (sde.log_nsr(torch.tensor([sde.T, last or sde.eps], dtype=torch.float64)) / (2 * rho)).exp()
    return sde.time(2 * rho * torch.lerp(ends[0], ends[1], share(steps)).log())


def to_zero(grid: Callable[..., Tensor], last: float, sde: LinearSDE, steps: int) -> Tensor:
    """Returns a grid from T to ``last``, or to eps if it is larger, and then to 0; the last evaluation is before 0."""
    if steps < 2:
        raise ValueError(f"steps={steps}: must be at least 2 for a grid that ends at 0")
    return torch.cat([grid(sde, steps - 1, last=max(last, sde.eps)), torch.zeros(1, dtype=torch.float64)])


def logistic(sde: LinearSDE, steps: int) -> Tensor:
    """Returns the grid of our ``sampler=adams``."""
    return StepSampler(DDIM(), steps=steps, grid="logistic").times(sde)


GRIDS: dict[str, Grid] = {
    "uniform t": partial(power, 1.0),
    "quadratic t": partial(power, 2.0),
    "log-SNR": log_snr,
    "Karras": karras,
    "uniform t to 1e-3, 0": partial(to_zero, partial(power, 1.0), 1e-3),
    "log-SNR to 1e-3, 0": partial(to_zero, log_snr, 1e-3),
    "Karras to 1e-3, 0": partial(to_zero, karras, 1e-3),
    "ours": logistic,
}
"""Grids of the libraries and papers, and our grid. Grids that end at 0 are the default in diffusers and k-diffusion."""

Stepper = Callable[[LinearSDE, Score, Tensor, Tensor], Tensor]
"""Function ``(sde, score, x, times) -> samples`` that draws noise from the global generator."""


def gridded(name: str, stepper: Stepper) -> list[Contestant]:
    """Returns a contestant for each grid, all with the same sampler."""

    def run(grid: Grid, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
        with seeded(seed):
            return stepper(sde, score, x, grid(sde, steps))

    return [Contestant(name, setting, partial(run, grid)) for setting, grid in GRIDS.items()]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generator and makes float64 the default in the context, as these libraries need."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def level(sde: LinearSDE, t: Tensor) -> Tensor:
    """Returns sigma / alpha, also at t = 0."""
    return sde.sigma(t) / sde.alpha(t)


def denoised(sde: LinearSDE, score: Score, x: Tensor, t: Tensor) -> Tensor:
    """Returns the mean of x(0) given x(t), by Tweedie's formula."""
    return (x + sde.sigma(t) ** 2 * score(x, t)) / sde.alpha(t)
