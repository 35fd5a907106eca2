"""Samplers on a time grid: predictors with correctors, and sequential Monte Carlo."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import squared_norm
from sdegen.samplers.base import Corrector, Memory, Predictor, Sampler, Walk
from sdegen.samplers.exponential import Exponential, StochasticAdams
from sdegen.samplers.fitting import Fit
from sdegen.samplers.grids import GRIDS, Grid, along, steps_of
from sdegen.sde.base import SDE, LinearSDE
from sdegen.sde.scores import Counted, Parts

NOISY = 50
"""Largest number of steps with noise that can be fitted. More steps are nearly as fine as the paths of the fit."""


class StepSampler(Sampler):
    """Sampler on a time grid, with a predictor for each step, a corrector at each new time, or both.

    Args:
        predictor: scheme of one step; None if only the corrector moves the samples. Then a step to a new time only
            scales the samples as the signal α, so that a chain that was made for α = 1 samples every path.
        corrector: Markov chain that is run at each new time; None for no corrector.
        steps: number of steps, at least 1. In a configuration, ``auto`` stands for one step from each level of a chain,
            such as ``sde=ddpm``, to the next level. A list of times in ``grid`` fixes this number.
        grid: spacing of the times: ``uniform`` or ``quadratic`` in t; ``log_snr``, ``karras`` or ``logistic`` in
            log(σ/α); ``fitted``; or a list of times. See :mod:`sdegen.samplers.grids`. A list falls from T, which is 1
            for most processes, to ``sde.eps``, such as ``[1.0,0.6,0.3,0.1,1e-5]``. With ``fitted``, the steps of a
            multistep predictor are fitted to the score that is sampled, in seconds, and kept in the run's folder. If
            the fit is not more accurate on new starts, the sampler uses ``logistic``.
        denoise: see :class:`Sampler`.
    """

    grid: Grid

    def __init__(
        self,
        predictor: Predictor | None,
        corrector: Corrector | None = None,
        steps: int | Literal["auto"] = 1000,
        grid: Grid = "uniform",
        denoise: bool = False,
    ) -> None:
        super().__init__(denoise)
        if predictor is None and corrector is None:
            raise ValueError(
                "predictor=null and corrector=null: no part moves the samples: choose a predictor or a corrector"
            )
        steps = steps_of(grid, steps)
        if predictor is not None and predictor.memory > steps:
            raise ValueError(
                f"steps={steps} must be at least {predictor.memory} for this predictor.order: use more steps"
            )
        if predictor is not None and predictor.revises and corrector is not None:
            raise ValueError(
                "corrector cannot follow this predictor, which corrects its previous step and would undo the moves "
                "of the corrector: use sampler/predictor=dpm_solver or stochastic_adams"
            )
        if grid == "fitted" and (corrector is not None or not (predictor and predictor.fits)):
            raise ValueError(
                "grid=fitted needs a multistep predictor and no corrector: use sampler=adams, or grid=logistic"
            )
        if grid == "fitted" and isinstance(predictor, Exponential) and predictor.eta and steps > NOISY:
            raise ValueError(
                f"grid=fitted fits at most {NOISY} steps with noise, and steps={steps} is more: use grid=logistic"
            )
        self.predictor, self.corrector, self.steps, self.grid = predictor, corrector, steps, grid
        parts = {"predictor": predictor, "corrector": corrector}
        processes = {option: part.process for option, part in parts.items() if part is not None}
        processes["grid"] = SDE if isinstance(grid, tuple) else GRIDS[grid].process
        self.processes = {**processes, **self.processes}
        # Without a predictor, the corrector also moves the samples at T.
        corrected = steps if predictor else steps + 1
        self.evaluations = (
            steps * (predictor.evaluations if predictor else 0)
            + corrected * (corrector.evaluations if corrector else 0)
            + denoise
        )

    def fitted(self, found: Fit) -> StepSampler:
        """Returns this sampler with the times and the weights of a fit."""
        assert isinstance(self.predictor, Exponential)
        return StepSampler(
            self.predictor.adjusted(found.weights, found.order, found.spread), None, "auto", found.times, self.denoise
        )

    def times(self, sde: SDE) -> Tensor:
        """Returns the times of the grid, ``(steps + 1,)`` float64, from exactly T to exactly eps."""
        return along(self.grid, sde, self.steps)

    def _integrate(self, sde: Any, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:  # noqa: ANN401
        predictor, corrector, times = self.predictor, self.corrector, self.times(sde)
        steps = predictor.plan(sde, times) if predictor else ()
        sizes = corrector.sizes(sde, torch.cat([times[:1], times])).tolist() if corrector else ()
        # Without a predictor, a new time changes only the scale α of the data. The chain alone would lag behind it.
        scales = [] if predictor else [1.0, *(sde.alpha(times[1:]) / sde.alpha(times[:-1])).tolist()]
        reverse = sde.reverse(score, predictor.eta if predictor else 0.0)
        kept, accepted = frame_indices(self.steps, frames), []
        path, memory = x.new_empty(len(kept), *x.shape), Memory()
        path[:1] = x
        for i, t in enumerate(times):
            if predictor and i:
                x, memory = steps[i - 1](reverse, x, noise, memory)
            elif i:
                x = x * scales[i]
            if corrector and (i or not predictor):
                x, acceptance = corrector(score, x, t, sizes[i], noise)
                accepted += [] if acceptance is None else [acceptance]
            if i in kept[1:]:
                path[kept.index(i)] = x
        return Walk(x, path, times[kept], float(torch.stack(accepted).mean()) if accepted else None)


class Twisted(Sampler):
    r"""Sequential Monte Carlo sampler for guidance with a likelihood. It is exact in the limit of many particles.

    The samples of a batch are particles. Each particle takes guided steps of ``stochastic_adams`` of order 1,
    :math:`x_s = A x_t + B\,(s_\theta + v) + C z`, where v is the pull of the guidance. The likelihood
    :math:`\ell_t(x)` of the guidance is approximate, except at the end. The weights

    .. math:: \log w = \log \ell_s(x_s) - \log \ell_t(x_t) - \frac{B^2 \|v\|^2}{2 C^2} - \frac{B}{C}\, v \cdot z

    correct the error of the approximation. The particles are resampled according to the weights when the effective
    number of particles falls below half of the total number. Without guidance, all weights are equal, and no particle
    is resampled.

    A sample depends on the other samples of the batch, and the accuracy depends on the number n of particles in a
    batch. The error of the weights of the modes is about :math:`1/\sqrt n`, and larger if few particles start towards a
    mode. A single particle has the distribution of the uncorrected guidance. Increase ``count`` and ``batch_size``
    together.

    Reference: Wu et al. (2023), Twisted Diffusion Sampler, https://arxiv.org/abs/2306.17775

    Args:
        steps: number of steps, at least 1, on ``grid=logistic``.
        denoise: see :class:`Sampler`.
    """

    couples = True
    smallest_batch = 1000

    def __init__(self, steps: int = 100, denoise: bool = False) -> None:
        super().__init__(denoise)
        self.processes = {"predictor": LinearSDE, **self.processes}
        self.steps = in_range("steps", steps, at_least=1)
        self.evaluations = self.steps + 1 + denoise

    def _integrate(self, sde: LinearSDE, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:
        times, kept = along("logistic", sde, self.steps), frame_indices(self.steps, frames)
        path = x.new_empty(len(kept), *x.shape)
        path[:1] = x
        parts = score.parts(x, times[0])
        weight = parts.log_likelihood.double()
        for i, step in enumerate(StochasticAdams(order=1).affine(sde, times), start=1):
            if effective(weight) < 0.5 * len(x):
                chosen = resampled(weight, noise(x))
                x, parts, weight = x[chosen], Parts(*(part[chosen] for part in parts)), torch.zeros_like(weight)
            z, before = noise(x), parts
            x = step.keep * x + step.pull * (before.score + before.pull) + step.std * z
            parts, ratio = score.parts(x, times[i]), step.pull / step.std
            gain = (parts.log_likelihood - before.log_likelihood).double()
            inner = (before.pull * z).flatten(1).sum(1)
            weight = weight + gain - 0.5 * ratio**2 * squared_norm(before.pull).double() - ratio * inner.double()
            if i in kept:
                path[kept.index(i)] = x
        if bool((weight != weight[0]).any()):
            x = x[resampled(weight, noise(x))]
        return Walk(x, path, times[kept])


def frame_indices(steps: int, frames: int) -> list[int]:
    """Returns the indices of ``frames`` times spread evenly over a grid of ``steps`` steps, from T to eps."""
    return torch.linspace(0, steps, frames, dtype=torch.float64).round().long().unique().tolist()


def effective(weight: Tensor) -> float:
    """Returns the effective number of particles with log-weights ``(B,)``."""
    return float(1 / weight.softmax(0).square().sum())


def resampled(weight: Tensor, normal: Tensor) -> Tensor:
    """Draws indices ``(B,)`` of particles by systematic resampling.

    Each index is drawn B times the normalised weight of the particle, up to rounding. ``weight`` holds log-weights,
    ``(B,)``. Only the first of the standard normal numbers ``normal`` is used.
    """
    u = torch.special.ndtr(normal.flatten()[0].double())
    at = (torch.arange(len(weight), device=weight.device, dtype=torch.float64) + u) / len(weight)
    return torch.searchsorted(weight.softmax(0).cumsum(0), at).clamp(max=len(weight) - 1)
