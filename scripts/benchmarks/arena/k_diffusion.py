"""Samplers of k-diffusion, unchanged, except that independent noise replaces some Brownian trees."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arena.grids import denoised, gridded, level, seeded
from arena.race import TOLERANCES, Contestant
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score

Walk = Callable[..., Tensor]
"""Function ``(model, x / alpha, levels) -> x / alpha``: a sampler of the library with options."""

ODE: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("euler", "heun", "dpm_2", "dpmpp_2m")},
    **{f"lms {order}": ("lms", {"order": order}) for order in (2, 3, 4)},
    **{f"{name} eta=0": (name, {"eta": 0.0}) for name in ("dpmpp_2s_ancestral", "dpmpp_3m_sde")},
    "dpmpp_2m_sde heun eta=0": ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}),
}
"""Samplers of the flow: the sampler's name in the library and options, by our name."""

TREES = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
SDE: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral")},
    **{f"{name} tree": (name, {}) for name in TREES},
    **{f"{name} eta=0.5": (name, {"eta": 0.5}) for name in ("euler_ancestral", "dpmpp_2s_ancestral")},
    **{f"{name} churn": (name, {"s_churn": 40.0}) for name in ("euler", "heun")},
}
INDEPENDENT: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in TREES},
    "dpmpp_2m_sde heun": ("dpmpp_2m_sde", {"solver_type": "heun"}),
}
"""Samplers whose Brownian tree is replaced by independent noise."""


def contestants(kind: str) -> list[Contestant]:
    """Returns the samplers with every grid, and the samplers that choose their own steps."""
    sampling, found = k_sampling(), []

    def walk(sampler: str, options: dict[str, Any]) -> Walk:
        return partial(getattr(sampling, f"sample_{sampler}"), disable=True, **options)

    if kind == "sde":
        for name, how in INDEPENDENT.items():
            found += gridded(f"k-diffusion {name}", partial(independent, walk(*how)))
    else:
        found.append(Contestant("k-diffusion dpm_fast", "its own", partial(whole, walk("dpm_fast", {}), False)))
        for order in (2, 3):
            for tolerance in TOLERANCES:
                options = {"order": order, "rtol": tolerance, "atol": 0.156 * tolerance}
                run = partial(whole, walk("dpm_adaptive", options), True)
                found.append(Contestant(f"k-diffusion dpm_adaptive {order}", f"tolerance {tolerance:.2g}", run, True))
    for name, how in (ODE if kind == "ode" else SDE).items():
        found += gridded(f"k-diffusion {name}", partial(stepped, walk(*how)))
    return found


def stepped(walk: Walk, sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """Draws samples on a grid; the sampler steps x / alpha."""
    return walk(model(sde, score), x / sde.alpha(times[0]), level(sde, times)) * sde.alpha(times[-1])


def independent(walk: Walk, sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """Draws samples on a grid, with independent noise at each step."""
    noisy = partial(walk, noise_sampler=lambda sigma, sigma_next: torch.randn_like(x))
    return stepped(noisy, sde, score, x, times)


def whole(walk: Walk, adaptive: bool, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """Draws samples with a sampler that chooses its own times. A sampler that is not adaptive gets ``steps``."""
    times = torch.tensor([sde.eps, sde.T], dtype=torch.float64)
    with seeded(seed):
        counts = {} if adaptive else {"n": steps}
        x = walk(model(sde, score), x / sde.alpha(times[1]), *level(sde, times).tolist(), **counts)
    return x * sde.alpha(times[0])


def model(sde: LinearSDE, score: Score) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the denoiser, a function of x / alpha and the noise level of each row."""

    def call(x: Tensor, sigma: Tensor) -> Tensor:
        t = sde.time(2 * sigma[0].log())
        return denoised(sde, score, sde.alpha(t) * x, t)

    return call


def k_sampling() -> types.ModuleType:
    """Imports ``k_diffusion.sampling`` alone, because the whole package needs libraries for images."""
    if "k_diffusion.sampling" not in sys.modules:
        spec = importlib.util.find_spec("k_diffusion")
        if spec is None or spec.origin is None:
            raise ImportError("No module named 'k_diffusion'")
        package = types.ModuleType("k_diffusion")
        package.__path__ = [str(Path(spec.origin).parent)]
        utils = types.ModuleType("k_diffusion.utils")
        utils.append_dims = lambda x, dimensions: x[(...,) + (None,) * (dimensions - x.ndim)]  # type: ignore[attr-defined]
        sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
        package.utils = utils  # type: ignore[attr-defined]
    return importlib.import_module("k_diffusion.sampling")
