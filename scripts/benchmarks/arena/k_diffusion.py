"""k-diffusion's samplers, called as they are; the Brownian trees of some are replaced by independent noise."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena.grids import denoised, gridded, level, seeded
from arena.race import TOLERANCES, Contestant

if TYPE_CHECKING:
    from torch import Tensor

    from sdegen.sde import LinearSDE
    from sdegen.sde.base import Score

ODE: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("euler", "heun", "dpm_2", "dpmpp_2m")},
    **{f"lms {order}": ("lms", {"order": order}) for order in (2, 3, 4)},
    **{f"{name} eta=0": (name, {"eta": 0.0}) for name in ("dpmpp_2s_ancestral", "dpmpp_3m_sde")},
    "dpmpp_2m_sde heun eta=0": ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}),
}
"""Name: the sampler and its options."""

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
"""Those whose noise is replaced."""


def contestants(kind: str) -> list[Contestant]:
    """The samplers with every grid, and those that place their steps themselves."""
    sampling = k_sampling()
    if kind == "sde":
        fair = [(f"k-diffusion {name}", partial(independent, sampling, *how)) for name, how in INDEPENDENT.items()]
        found = [contestant for name, how in fair for contestant in gridded(name, how)]
    else:
        found = [Contestant("k-diffusion dpm_fast", "its own", partial(whole, sampling, "dpm_fast", {}))]
        for order in (2, 3):
            for tolerance in TOLERANCES:
                options = {"order": order, "rtol": tolerance, "atol": 0.156 * tolerance}
                how = partial(whole, sampling, "dpm_adaptive", options)
                found.append(Contestant(f"k-diffusion dpm_adaptive {order}", f"tolerance {tolerance:.2g}", how, True))
    for name, (sampler, options) in (ODE if kind == "ode" else SDE).items():
        found += gridded(f"k-diffusion {name}", partial(stepped, sampling, sampler, options))
    return found


def stepped(
    sampling: types.ModuleType,
    sampler: str,
    options: dict[str, Any],
    sde: LinearSDE,
    score: Score,
    x: Tensor,
    times: Tensor,
) -> Tensor:
    """A sampler on a grid; it moves x / alpha."""
    walk = getattr(sampling, f"sample_{sampler}")
    x = walk(model(sde, score), x / sde.alpha(times[0]), level(sde, times), disable=True, **options)
    return x * sde.alpha(times[-1])


def independent(
    sampling: types.ModuleType,
    sampler: str,
    options: dict[str, Any],
    sde: LinearSDE,
    score: Score,
    x: Tensor,
    times: Tensor,
) -> Tensor:
    """A sampler on a grid with independent noise at each step."""
    import torch

    noise = {"noise_sampler": lambda sigma, sigma_next: torch.randn_like(x)}
    return stepped(sampling, sampler, {**options, **noise}, sde, score, x, times)


def whole(
    sampling: types.ModuleType,
    sampler: str,
    options: dict[str, Any],
    sde: LinearSDE,
    score: Score,
    x: Tensor,
    steps: int,
    seed: int,
) -> Tensor:
    """A sampler that places its own steps between the ends."""
    import torch

    times = torch.tensor([sde.eps, sde.T], dtype=torch.float64)
    walk = getattr(sampling, f"sample_{sampler}")
    placed = {} if "rtol" in options else {"n": steps}
    with seeded(seed):
        ends = level(sde, times).tolist()
        x = walk(model(sde, score), x / sde.alpha(times[1]), *ends, disable=True, **placed, **options)
    return x * sde.alpha(times[0])


def model(sde: LinearSDE, score: Score) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser of x / alpha, which is asked with the level of noise of each row."""

    def call(x: Tensor, sigma: Tensor) -> Tensor:
        t = sde.time(2 * sigma[0].log())
        return denoised(sde, score, sde.alpha(t) * x, t)

    return call


def k_sampling() -> types.ModuleType:
    """``k_diffusion.sampling`` without the rest of its package, which wants libraries for images."""
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
