"""Sampler for a trained flow map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.samplers.base import Sampler, Walk
from sdegen.samplers.grids import Grid, along, steps_of
from sdegen.samplers.steps import frame_indices
from sdegen.sde.base import LinearSDE
from sdegen.sde.scores import Counted


class FlowMap(Sampler):
    r"""Steps along the flow by a network that was trained as a flow map, with one evaluation for each step.

    A step of a solver follows the velocity at its start, and so must be short. The network of a flow map is given both
    ends of a step, and returns the end point :math:`X_{s,t}(x)`. One step from T to eps gives samples. Several steps
    are not always more accurate: see the page on flow maps in the documentation.

    Args:
        steps: number of steps, at least 1. A list of times in ``grid`` fixes this number.
        grid: spacing of the times, or a list of times: see :mod:`sdegen.samplers.grids`.
    """

    maps = True
    grid: Grid

    def __init__(self, steps: int | Literal["auto"] = 2, grid: Grid = "logistic") -> None:
        super().__init__()
        if grid == "fitted":
            raise ValueError(
                "grid=fitted fits the steps of a multistep scheme, and not of a flow map: use grid=logistic"
            )
        self.steps, self.grid = steps_of(grid, steps), grid
        self.processes = {"steps": LinearSDE, **self.processes}
        self.evaluations = self.steps

    def _integrate(self, sde: LinearSDE, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:
        times, kept = along(self.grid, sde, self.steps), frame_indices(self.steps, frames)
        states = [x]
        for s, t in zip(times[:-1], times[1:], strict=True):
            states.append(score.moved(states[-1], s, t))
        path = torch.stack([states[i] for i in kept]) if kept else x.new_empty(0, *x.shape)
        return Walk(states[-1], path, times[kept])
