"""Schemes for one step of the reverse process."""

from __future__ import annotations

from torch import Tensor

from sdegen.rng import RandnLike
from sdegen.samplers.base import Predictor
from sdegen.sde.base import ReverseSDE
from sdegen.tensor import expand


class EulerMaruyama(Predictor):
    r"""Euler–Maruyama for the reverse SDE.

    .. math:: x_s = x_t - h \left[f(x_t, t) - g(t)^2 s_\theta(x_t, t)\right] + \sqrt h\, g(t)\, z, \qquad h = t - s

    Reference: Kloeden & Platen (1992), section 9.1.
    """

    eta = 1.0
    order = 1

    def step(
        self, reverse: ReverseSDE, x: Tensor, t: Tensor, s: Tensor, state: object, noise: RandnLike
    ) -> tuple[Tensor, object]:
        h = t - s
        mean = x - expand(h, x) * reverse.drift(x, t)
        return mean + expand(h.sqrt() * reverse.diffusion(t), x) * noise(x), state
