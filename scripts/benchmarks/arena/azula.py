"""Samplers of azula, unchanged."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from torch import Tensor

from arena.grids import denoised, gridded
from arena.race import Contestant
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score


def contestants(kind: str) -> list[Contestant]:
    """Returns each sampler with every grid; the samplers get the noise schedule as a function of t."""
    denoise = importlib.import_module("azula.denoise")
    sample = importlib.import_module("azula.sample")

    class Exact(denoise.Denoiser):  # type: ignore[name-defined]
        def __init__(self, sde: LinearSDE, score: Score) -> None:
            super().__init__()
            self.sde, self.score = sde, score

        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.sde.alpha(t), self.sde.sigma(t)

        def forward(self, x: Tensor, t: Tensor) -> Any:  # noqa: ANN401
            return denoise.DiracPosterior(denoised(self.sde, self.score, x, t))

    def step(sampler: str, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
        on_grid = type(sampler, (getattr(sample, sampler),), {"timesteps": times})
        return on_grid(Exact(sde, score), silent=True, **options)(x)

    samplers: dict[str, tuple[str, dict[str, Any]]] = {}
    if kind == "ode":
        samplers |= {"DDIM": ("DDIMSampler", {}), "Heun": ("HeunSampler", {}), "REAB 1": ("REABSampler", {"order": 1})}
        # At order 1, all forms except REAB are DDIM.
        for form in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
            samplers |= {f"{form} {order}": (f"{form}Sampler", {"order": order}) for order in (2, 3, 4)}
    else:
        samplers |= {"DDPM": ("DDPMSampler", {})}
        samplers |= {f"DDIM eta={eta}": ("DDIMSampler", {"eta": eta}) for eta in (0.5, 1.0)}
        samplers |= {f"Ito eta={eta}": ("ItoSampler", {"eta": eta}) for eta in (0.5, 1.0)}
        samplers |= {f"PC delta={delta}": ("PCSampler", {"delta": delta}) for delta in (0.01, 0.1)}
    return [c for name, how in samplers.items() for c in gridded(f"azula {name}", partial(step, *how))]
