"""Schedulers of diffusers, unchanged."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from arena.grids import denoised, gridded, level
from arena.race import Contestant
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score


def contestants(kind: str) -> list[Contestant]:
    """Returns each scheduler with every grid; our noise levels replace the levels in the scheduler's table."""
    schedulers = importlib.import_module("diffusers.schedulers")
    importlib.import_module("diffusers").utils.logging.set_verbosity_error()
    found = []
    for name, (cls, options, space) in (DIFFUSERS_ODE if kind == "ode" else DIFFUSERS_SDE).items():
        found += gridded(f"diffusers {name}", partial(space, getattr(schedulers, cls), options))
    if kind == "sde":
        for eta in (0.5, 1.0):
            found += gridded(f"diffusers DDIM eta={eta}", partial(ddim, schedulers.DDIMScheduler, eta))
    return found


def ending(cls: type, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """Draws samples with a scheduler that steps x and has an option for grids that end at 0."""
    end = "sigma_min" if times[-1] > 0 else "zero"
    return preserving(cls, {"final_sigmas_type": end, **options}, sde, score, x, times)


def preserving(cls: type, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """Draws samples with a scheduler that steps x and takes the predicted noise."""
    scheduler = cls(**options)
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = level(sde, times)
    return stepped(scheduler, times[:-1], x, lambda x, t: -sde.sigma(t) * score(x, t))


def exploding(
    repeats: int, cls: type, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor
) -> Tensor:
    """Draws samples with a scheduler that steps x / alpha and evaluates each inner time ``repeats`` times."""
    scheduler = cls(**options)
    scheduler.set_timesteps(len(times) - 1)
    inner = times[1:-1].repeat_interleave(repeats)
    at = torch.cat([times[:1], inner])
    scheduler.sigmas = level(sde, torch.cat([at, times[-1:]]))
    scheduler.is_scale_input_called = True
    x = stepped(scheduler, at, x / sde.alpha(times[0]), lambda x, t: -sde.sigma(t) * score(sde.alpha(t) * x, t))
    return x * sde.alpha(times[-1])


def edm(cls: type, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """Draws samples with a scheduler for the networks of Karras et al. (2022). The scheduler steps x / alpha."""
    scheduler = cls(**options, final_sigmas_type="sigma_min" if times[-1] > 0 else "zero")
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = level(sde, times)
    data = scheduler.config.sigma_data

    def output(x: Tensor, t: Tensor) -> Tensor:
        sigma = level(sde, t)
        total = sigma**2 + data**2
        return (denoised(sde, score, sde.alpha(t) * x, t) - data**2 / total * x) * total.sqrt() / (sigma * data)

    return stepped(scheduler, times[:-1], x / sde.alpha(times[0]), output) * sde.alpha(times[-1])


def stepped(scheduler: Any, times: Tensor, x: Tensor, output: Callable[[Tensor, Tensor], Tensor]) -> Tensor:  # noqa: ANN401
    """Runs the sampling loop. The scheduler does not know our times, and gets decreasing integers instead."""
    scheduler.timesteps = torch.arange(len(times) - 1, -1, -1, dtype=torch.float64)
    for t, label in zip(times, scheduler.timesteps, strict=True):
        x = scheduler.step(output(x, t), label, x, return_dict=False)[0].double()
    return x


def ddim(cls: type, eta: float, sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """Draws samples with DDIM. The noise levels of our grid replace the table of the scheduler."""
    steps = len(times) - 1
    scheduler = cls(num_train_timesteps=steps, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = sde.alpha(times[:-1].flip(0)) ** 2
    scheduler.final_alpha_cumprod = sde.alpha(times[-1]) ** 2
    for t, label in zip(times, scheduler.timesteps, strict=False):
        x = scheduler.step(-sde.sigma(t) * score(x, t), label, x, eta=eta, return_dict=False)[0]
    return x


DPM, SINGLE, DEIS, UNIPC = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
DIFFUSERS_ODE: dict[str, tuple[str, dict[str, Any], Any]] = {
    **{f"DPM++ {o}M": (DPM, {"solver_order": o}, ending) for o in (1, 2, 3)},
    **{f"DPM++ {o}M, full order": (DPM, {"solver_order": o, "lower_order_final": False}, ending) for o in (2, 3)},
    "DPM++ 2M heun": (DPM, {"solver_order": 2, "solver_type": "heun"}, ending),
    **{
        f"DPM {o}M": (DPM, {"solver_order": o, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, ending)
        for o in (2, 3)
    },
    **{f"DPM++ {o}S": (SINGLE, {"solver_order": o}, ending) for o in (2, 3)},
    **{f"DEIS {o}": (DEIS, {"solver_order": o}, preserving) for o in (2, 3)},
    **{f"UniPC {o}": (UNIPC, {"solver_order": o}, ending) for o in (1, 2, 3)},
    **{f"UniPC {o} bh1": (UNIPC, {"solver_order": o, "solver_type": "bh1"}, ending) for o in (1, 2, 3)},
    **{f"UniPC {o}, full order": (UNIPC, {"solver_order": o, "lower_order_final": False}, ending) for o in (2, 3)},
    **{f"UniPC {o} noise": (UNIPC, {"solver_order": o, "predict_x0": False}, ending) for o in (2, 3)},
    **{f"EDM DPM++ {o}M": ("EDMDPMSolverMultistepScheduler", {"solver_order": o}, edm) for o in (2, 3)},
    "Heun": ("HeunDiscreteScheduler", {}, partial(exploding, 2)),
}
"""Class of a scheduler, options, and function that runs the scheduler, by name."""

SDE_DPM = {"algorithm_type": "sde-dpmsolver++"}
SA = "SASolverScheduler"
DIFFUSERS_SDE: dict[str, tuple[str, dict[str, Any], Any]] = {
    **{f"SDE-DPM++ {o}M": (DPM, {"solver_order": o, **SDE_DPM}, ending) for o in (1, 2, 3)},
    "SDE-DPM++ 2M heun": (DPM, {"solver_order": 2, "solver_type": "heun", **SDE_DPM}, ending),
    "SDE-DPM++ 3M, full order": (DPM, {"solver_order": 3, "lower_order_final": False, **SDE_DPM}, ending),
    "SDE-DPM++ 2S": (SINGLE, {"solver_order": 2, **SDE_DPM}, ending),
    "SDE EDM DPM++ 2M": ("EDMDPMSolverMultistepScheduler", {"solver_order": 2, **SDE_DPM}, edm),
    **{
        f"SA-Solver {p},{c}": (SA, {"predictor_order": p, "corrector_order": c, "tau_func": lambda t: 1}, preserving)
        for p, c in ((1, 1), (2, 2), (3, 3), (3, 4))
    },
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}, partial(exploding, 1)),
}
