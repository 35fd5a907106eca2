"""Samplers of this package, composed from options as on the command line."""

from __future__ import annotations

import functools
import sys
import time

import torch
from torch import Tensor

from arena.race import TOLERANCES, Contestant
from sdegen.config import compose, construction
from sdegen.core.randomness import SampleNoise, generator, randn_like
from sdegen.samplers import Sampler, StepSampler, fitting
from sdegen.samplers.grids import NAMED
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score
from sdegen.sde.scores import Counted

CONFIGURED = {"ode": "sampler=adams", "sde": "sampler=stochastic_adams"}
"""Recommended sampler for each kind of contest. It has one more row, with its own configuration."""

STEPPED: dict[str, tuple[tuple[str, ...], ...]] = {
    "ode": (
        ("sampler=adams",),
        ("sampler=dpm_solver", "sampler.predictor.order=2"),
        ("sampler=dpm_solver", "sampler.predictor.order=3"),
        ("sampler=ddim",),
        ("sampler=heun",),
        ("sampler=rk4",),
    ),
    "sde": (
        ("sampler=stochastic_adams",),
        ("sampler=stochastic_adams", "sampler.predictor.eta=0.6"),
        ("sampler=stochastic_adams", "sampler.predictor.eta=0.3"),
        ("sampler=stochastic_dpm_solver", "sampler.predictor.order=2"),
        ("sampler=stochastic_dpm_solver", "sampler.predictor.order=3"),
        ("sampler=ancestral",),
        ("sampler=reverse_diffusion",),
        ("sampler=stochastic_heun",),
        ("sampler=euler_maruyama",),
    ),
}
"""Options of our samplers, to which ``sampler.grid`` and ``sampler.steps`` are added."""

ADAPTIVE: dict[str, tuple[str, ...]] = {"ode": ("sampler=rk45", "sampler=dopri5"), "sde": ()}
"""Options of our adaptive samplers, to which ``sampler.rtol`` and ``sampler.atol`` are added."""


def contestants(kind: str) -> list[Contestant]:
    """Returns our samplers with every grid or tolerance, and the recommended one as configured and fitted."""
    recommended = CONFIGURED[kind]
    found = [
        Contestant(f"{called(recommended)}, as configured", "", functools.partial(stepped, (recommended,))),
        Contestant(
            f"{called(recommended)}, fitted", "", functools.partial(fitted, (recommended, "sampler.grid=fitted"))
        ),
    ]
    for options in STEPPED[kind]:
        for grid in NAMED:
            how = functools.partial(stepped, (*options, f"sampler.grid={grid}"))
            found.append(Contestant(called(*options), grid, how))
    for option in ADAPTIVE[kind]:
        for tolerance in TOLERANCES:
            how = functools.partial(solved, (option, f"sampler.rtol={tolerance}", f"sampler.atol={tolerance}"))
            found.append(Contestant(called(option), f"tolerance {tolerance:.2g}", how, adaptive=True))
    return found


def called(*options: str) -> str:
    """Returns the name that a sampler with these options has in the table."""
    return " ".join(["sdegen", *(o.removeprefix("sampler=").removeprefix("sampler.") for o in options)])


def stepped(options: tuple[str, ...], sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """Draws samples in ``steps`` steps."""
    return solved((*options, f"sampler.steps={steps}"), sde, score, x, steps, seed)


def solved(options: tuple[str, ...], sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """Draws samples with the sampler that the options describe."""
    noise = SampleNoise(seed, 0, len(x), tuple(x.shape[1:]))
    return composed(options)(sde, score, x, noise=noise).x


def fitted(options: tuple[str, ...], sde: LinearSDE, score: Counted, x: Tensor, steps: int, seed: int) -> Tensor:
    """Draws samples with steps that are fitted to the score. The evaluations of the fit do not count."""
    noise = SampleNoise(seed, 0, len(x), tuple(x.shape[1:]))
    sampler = fitted_to((*options, f"sampler.steps={steps}"), sde, score.score, tuple(x.shape[1:]))
    return sampler(sde, score, x, noise=noise).x


@functools.cache
def fitted_to(options: tuple[str, ...], sde: LinearSDE, score: Score, shape: tuple[int, ...]) -> Sampler:
    """Returns the sampler that the options describe, fitted to a score from starts that no contest measures."""
    sampler = composed(options)
    assert isinstance(sampler, StepSampler)
    like = torch.zeros(fitting.number(sampler.predictor, shape, sampler.steps), *shape, dtype=torch.float64)
    x, began = sde.sample_prior(like, randn_like(generator("cpu", 0, "contest fit"))), time.process_time()
    found = fitting.fit(sampler.predictor, sde, score, x, sampler.steps, lambda count: None)
    print(f"{sampler.steps} steps fitted in {time.process_time() - began:.1f} s", file=sys.stderr, flush=True)
    return sampler.fitted(found)


@functools.cache
def composed(options: tuple[str, ...]) -> Sampler:
    """Returns the sampler that the options describe."""
    return construction.construct(compose.composed("train", options), "sampler", ())
