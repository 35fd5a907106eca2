r"""Flow maps, learned from the trajectories of a teacher.

The flow of a score carries a point x at the time s to :math:`X_{s,t}(x)` at the time :math:`t < s`. A network of two
times learns this map: see :meth:`sdegen.models.ScoreModel.moved`. It learns from pairs of states on trajectories that a
solver has computed with the score of the teacher. These targets have no noise, and no error but that of the solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand, squared_norm
from sdegen.networks.condition import NONE
from sdegen.networks.oracle import Oracle
from sdegen.samplers.base import Memory
from sdegen.samplers.exponential import Adams
from sdegen.samplers.grids import logistic
from sdegen.sde.base import LinearSDE, Score
from sdegen.sde.mixture import GaussianMixture
from sdegen.sde.scores import of_rows
from sdegen.training.objective import Objective, Prepared
from sdegen.training.teacher import Teacher

ROWS = 8
"""Number of rows for which each trajectory is used."""
WHOLE = 0.3
"""Share of the rows that start at T, and share of the rows that end at eps; the other starts and ends are random."""
EVERY = 4
"""One in this number of rows trains the score at the start of the row, too."""
SMALL = 0.03
"""Distance, in standard deviations of an entry, below which the loss is quadratic; above it, the loss is linear."""
BATCH = 1000
"""Largest number of trajectories that are solved together."""


@dataclass(frozen=True)
class Pair(Prepared):
    """Two states of a trajectory: ``x`` at ``t`` and ``target`` ``(N, *)`` at ``end`` ``(N,)``.

    Attributes:
        end: time of the target.
        target: state at ``end``.
        size: standard deviation of an entry of the state at ``end``, for data with standard deviation 1, ``(N,)``.
        y: conditions of the trajectories, ``(N, *)``.
        score: score of the teacher at ``x`` and ``t``, ``(N, *)``; 0 where ``gain`` is 0.
        gain: factor with which an error of the score is one of the output of the network, ``(N,)``; 0 for rows that do
            not train the score.
    """

    end: Tensor
    target: Tensor
    size: Tensor
    y: Tensor
    score: Tensor
    gain: Tensor

    def conditions(self, y: Tensor) -> Tensor:
        return self.y


class FlowMap(Objective[LinearSDE, Pair]):
    r"""Distillation of the flow of a trained score into a map, for sampling in one or a few evaluations.

    .. math:: \frac{\left\| X_{s,t}(x_s) - x_t \right\|}{\sqrt{\alpha_t^2 + \sigma_t^2}}
              + \frac{\sigma_s \sqrt{\alpha_s^2 + \sigma_s^2}}{\alpha_s}
              \left\| s_\theta(x_s, s) - s_{\text{teacher}}(x_s, s) \right\|

    :math:`x_s` and :math:`x_t` are states of a trajectory that ``sampler=adams`` has computed from a draw of the prior.
    The second term trains the network at equal times, where it gives the score. Any other sampler then works with the
    trained network as well. Near 0, both norms are rounded off. The sampler of times draws s, which is moved to the
    nearest earlier step of the solver; three tenths of the rows start at T, and three tenths end at eps. If the network
    of the teacher takes a class or a condition, each trajectory has that of a data point, and the map is given it.

    A trajectory is used for several rows. Consistency distillation, Lagrangian distillation and mean flows, which need
    no trajectories, were less accurate after the same time: see the page on flow maps in the documentation.

    References: Boffi, Albergo & Vanden-Eijnden (2024), Flow map matching, https://arxiv.org/abs/2406.07507; Luhman &
    Luhman (2021), https://arxiv.org/abs/2101.02388, for the regression on end points

    Args:
        run: folder of the trained run, the teacher, with the same data and SDE; null for the exact score of data whose
            distribution is a known mixture.
        checkpoint: checkpoint of the teacher: a step, ``last`` or ``best``.
        steps: number of steps of the solver.
        digest: hash of the weights of the teacher, which a run keeps, so that it is not resumed with a teacher that was
            trained again; null to accept any.
        law: distribution of the data in the network's units, taken from the data set.
    """

    process = LinearSDE
    maps = True

    def __init__(
        self,
        law: GaussianMixture | None,
        run: Teacher | None = None,
        checkpoint: int | Literal["last", "best"] = "last",
        steps: int = 24,
        digest: str | None = None,
    ) -> None:
        if run is None and law is None:
            raise ValueError("run=null: the exact score of these data is not known: give the folder of a trained run")
        if run is not None and digest not in (None, run.digest):
            raise ValueError(
                f"run={run.folder}: the weights of step {run.step} have changed since the training of the map began: "
                f"restore them, or train a new map"
            )
        self.teacher, self.law = run, law
        self.steps = in_range("steps", steps, at_least=4)

    def prepare(self, sde: LinearSDE, x0: Tensor, t: Tensor, randn_like: RandnLike, y: Tensor | None = None) -> Pair:
        y = t.new_full(t.shape, NONE) if y is None else y
        count, index = -(-len(x0) // ROWS), torch.arange(len(x0), device=x0.device)
        # Rows of one step, which follow one another, are from different trajectories.
        own, noise = index % count, randn_like(x0)[:count]
        # Normal numbers are the only ones that a training draws for each row.
        u, v, w = (torch.special.ndtr(randn_like(t)) for _ in range(3))
        times = self._times(sde, float(u[0]))
        parts = zip(noise.split(BATCH), y[:count].split(BATCH), strict=True)
        path = torch.cat([self._solved(sde, self._score(sde, *part), part[0], times) for part in parts], dim=1)
        at = times.to(t)
        start = torch.where(u < WHOLE, 0, ((at >= t[:, None]).sum(1) - 1).clamp(0, self.steps - 1))
        end = start + 1 + (v * (self.steps - start)).long().clamp(max=self.steps - 1 - start)
        end = torch.where(w < WHOLE, self.steps, end)
        x, y = path[start, own], y[own]
        # Shards of 2, 4, … parts have their share of these rows.
        chosen = (index + index // EVERY) % EVERY == 0
        score = torch.zeros_like(x)
        chosen_parts = zip(*(part[chosen].split(BATCH) for part in (x, y, at[start])), strict=True)
        score[chosen] = torch.cat([self._score(sde, near, given)(near, s) for near, given, s in chosen_parts])
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        size = torch.hypot(alpha, sigma)
        gain = torch.where(chosen, (sigma * size / alpha).to(t)[start], 0)
        return Pair(x, at[start], at[end], path[end, own], size.to(t)[end], y, score, gain)

    def loss(self, score: Score, rows: Pair) -> Tensor:
        moved: Tensor = score.moved(rows.x, rows.t, rows.end)  # type: ignore[attr-defined]
        found = rounded((moved - rows.target) / expand(rows.size, rows.x))
        own = rows.gain.nonzero().flatten()
        if not len(own):
            return found
        error = of_rows(score, own)(rows.x[own], rows.t[own]) - rows.score[own]
        return found.index_add(0, own, EVERY * rounded(expand(rows.gain[own], error) * error))

    def _score(self, sde: LinearSDE, like: Tensor, y: Tensor) -> Score:
        """Returns the score of the teacher for points like ``like`` ``(B, *)``, given the conditions ``y``."""
        if self.teacher is not None:
            return self.teacher.model.to(like.device, like.dtype).given(y)
        exact = Oracle(self.law, sde)
        return lambda x, t: exact(x.double(), t.double()).to(x)

    def _times(self, sde: LinearSDE, place: float) -> Tensor:
        """Returns the times of the solver, from T to eps. The ``place`` in [0, 1] moves the steps in between."""
        inner = (torch.arange(1, self.steps, dtype=torch.float64) - 0.5 + place) / self.steps
        times = logistic(sde, inner)
        return torch.cat([times.new_tensor([sde.T]), times, times.new_tensor([sde.eps])])

    def _solved(self, sde: LinearSDE, score: Score, noise: Tensor, times: Tensor) -> Tensor:
        """Returns the states ``(steps + 1, B, *)`` of the flow from a draw of the prior."""
        x, memory, reverse = sde.sample_prior(noise, lambda _: noise), Memory(), sde.reverse(score, 0.0)
        path = [x]
        for step in Adams().plan(sde, times):
            x, memory = step(reverse, x, torch.zeros_like, memory)
            path.append(x)
        return torch.stack(path)


def rounded(x: Tensor) -> Tensor:
    """Returns the norms of the rows of ``x`` ``(N, *)``, rounded off below :data:`SMALL` for each entry."""
    small = SMALL * math.sqrt(x[0].numel())
    return (squared_norm(x) + small**2).sqrt() - small
