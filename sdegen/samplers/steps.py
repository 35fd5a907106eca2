"""The loop over a time grid that predictors and correctors share."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.samplers.base import Sampler, Walk
from sdegen.samplers.grids import GRIDS, Grid, along
from sdegen.samplers.parts import Corrector, Memory, Predictor
from sdegen.sde.base import SDE
from sdegen.sde.scores import Counted


class StepSampler(Sampler):
    """A predictor along a time grid, with an optional corrector at every new time.

    Args:
        predictor: the scheme of one step; None if only the corrector moves the samples.
        corrector: the chain that is run at each new time; None for none.
        steps: number of steps, at least 1; ``auto`` in a configuration is one step from each level of a chain to
            the next.
        grid: the spacing of the times: see :mod:`sdegen.samplers.grids`.
        denoise: see :class:`Sampler`.
    """

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
            raise ValueError("predictor=null and corrector=null: nothing moves the samples; choose one of them")
        if steps == "auto":
            raise ValueError("steps=auto needs the levels of a chain such as sde=ddpm: give a number")
        in_range("steps", steps, at_least=1)
        if predictor is not None and predictor.memory > steps:
            raise ValueError(
                f"steps={steps} is below the {predictor.memory} that this predictor.order needs: use more steps"
            )
        if predictor is not None and predictor.revises and corrector is not None:
            raise ValueError(
                "corrector cannot follow this predictor, which revises its steps and would undo the corrector's moves: "
                "use sampler/predictor=dpm_solver or stochastic_adams"
            )
        self.predictor, self.corrector, self.steps, self.grid = predictor, corrector, steps, grid
        parts = {"predictor": predictor, "corrector": corrector, "grid": GRIDS[grid]}
        processes = {option: part.process for option, part in parts.items() if part is not None}
        self.processes = {**processes, **self.processes}
        self.evaluations = steps * sum(part.evaluations for part in (predictor, corrector) if part) + denoise
        if predictor is None and corrector is not None:
            # A corrector alone moves the samples at T as well.
            self.evaluations += corrector.evaluations

    def times(self, sde: SDE) -> Tensor:
        """Returns the grid, ``(steps + 1,)`` float64, from T down to eps exactly."""
        return along(self.grid, sde, self.steps)

    def _integrate(self, sde: Any, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:  # noqa: ANN401
        predictor, corrector, times = self.predictor, self.corrector, self.times(sde)
        steps = predictor.plan(sde, times) if predictor else ()
        sizes = corrector.sizes(sde, torch.cat([times[:1], times])).tolist() if corrector else ()
        reverse = sde.reverse(score, predictor.eta if predictor else 0.0)
        kept, accepted = frame_indices(self.steps, frames), []
        path, memory = [x] if kept else [], Memory()
        for i, t in enumerate(times):
            if predictor and i:
                x, memory = steps[i - 1](reverse, x, noise, memory)
            if corrector and (i or not predictor):
                x, acceptance = corrector(score, x, t, sizes[i], noise)
                accepted += [] if acceptance is None else [acceptance]
            if i in kept[1:]:
                path.append(x)
        rate = float(torch.stack(accepted).mean()) if accepted else None
        return Walk(x, torch.stack(path) if path else x.new_zeros(0, *x.shape), times[kept], rate)


def frame_indices(steps: int, frames: int) -> list[int]:
    """Returns the indices of ``frames`` times spread evenly over a grid of ``steps`` steps, from T to eps."""
    return torch.linspace(0, steps, frames, dtype=torch.float64).round().long().unique().tolist()
