"""k-diffusion's samplers, called as they are."""

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


def contestants(kind: str) -> list[Contestant]:
    """k-diffusion's samplers, which move x / alpha; their Brownian trees are replaced by independent noise."""
    import torch

    sampling = k_sampling()

    def model(sde: LinearSDE, score: Score) -> Callable[[Tensor, Tensor], Tensor]:
        def call(x: Tensor, sigma: Tensor) -> Tensor:
            t = sde.time(2 * sigma[0].log())
            return denoised(sde, score, sde.alpha(t) * x, t)

        return call

    def step(sampler: str, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
        walk = getattr(sampling, f"sample_{sampler}")
        x = walk(model(sde, score), x / sde.alpha(times[0]), level(sde, times), disable=True, **options)
        return x * sde.alpha(times[-1])

    def independent(
        sampler: str, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor
    ) -> Tensor:
        noise = {"noise_sampler": lambda sigma, sigma_next: torch.randn_like(x)}
        return step(sampler, {**options, **noise}, sde, score, x, times)

    def whole(
        sampler: str, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int
    ) -> Tensor:
        """A sampler that places its own steps between the ends."""
        ends = level(sde, torch.tensor([sde.eps, sde.T], dtype=torch.float64)).tolist()
        walk = getattr(sampling, f"sample_{sampler}")
        placed = {} if "rtol" in options else {"n": steps}
        with seeded(seed):
            start = x / sde.alpha(torch.tensor(sde.T, dtype=torch.float64))
            x = walk(model(sde, score), start, *ends, disable=True, **placed, **options)
        return x * sde.alpha(torch.tensor(sde.eps, dtype=torch.float64))

    samplers: dict[str, tuple[str, dict[str, Any]]] = {}
    found: list[Contestant] = []
    if kind == "ode":
        samplers |= {name: (name, {}) for name in ("euler", "heun", "dpm_2", "dpmpp_2m")}
        samplers |= {f"lms {order}": ("lms", {"order": order}) for order in (2, 3, 4)}
        samplers |= {f"{name} eta=0": (name, {"eta": 0.0}) for name in ("dpmpp_2s_ancestral", "dpmpp_3m_sde")}
        samplers |= {"dpmpp_2m_sde heun eta=0": ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"})}
        found = [Contestant("k-diffusion dpm_fast", "its own", partial(whole, "dpm_fast", {}))]
        for order in (2, 3):
            for tolerance in TOLERANCES:
                how = partial(whole, "dpm_adaptive", {"order": order, "rtol": tolerance, "atol": 0.156 * tolerance})
                found.append(Contestant(f"k-diffusion dpm_adaptive {order}", f"tolerance {tolerance:.2g}", how, True))
    else:
        samplers |= {name: (name, {}) for name in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral")}
        trees = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
        fair: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in trees} | {
            "dpmpp_2m_sde heun": ("dpmpp_2m_sde", {"solver_type": "heun"})
        }
        found = [c for name, how in fair.items() for c in gridded(f"k-diffusion {name}", partial(independent, *how))]
        samplers |= {f"{name} tree": (name, {}) for name in trees}
        samplers |= {f"{name} eta=0.5": (name, {"eta": 0.5}) for name in ("euler_ancestral", "dpmpp_2s_ancestral")}
        samplers |= {f"{name} churn": (name, {"s_churn": 40.0}) for name in ("euler", "heun")}
    return found + [c for name, how in samplers.items() for c in gridded(f"k-diffusion {name}", partial(step, *how))]


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
