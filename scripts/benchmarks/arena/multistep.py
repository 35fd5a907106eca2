r"""DPM-Solver++ and SDE-DPM-Solver++, written from their paper.

With :math:`\lambda = -\log(\sigma / \alpha)`, a step of :math:`h = \lambda_s - \lambda_t` replaces the mean D of x(0)
given x(t) by a polynomial in :math:`\lambda` through its last values. With the first values, or if the last steps have
a lower order, the polynomial has a smaller degree.

Reference: Lu et al. (2022), DPM-Solver++, https://arxiv.org/abs/2211.01095, sections 4 and 5
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from arena.grids import Stepper, denoised, level
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score


def dpm(order: int, final: int, sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    r"""Draws samples of the flow with DPM-Solver++ of order 1 (DDIM), 2 or 3.

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s \left[(1 - e^{-h}) D + c_1 D' + c_2 D'' \right]

    The differences D' and D'' estimate :math:`h \partial_\lambda D` and :math:`h^2 \partial_\lambda^2 D`. Order 2 has
    :math:`c_1 = (1 - e^{-h}) / 2`. Order 3 has the exact :math:`c_1 = (e^{-h} - 1 + h) / h` and
    :math:`c_2 = (1 - h + h^2 / 2 - e^{-h}) / h^2`.

    Args:
        order: largest order of a step.
        final: order of the last step; the one before has at most one more.
        sde: forward process.
        score: function ``(x, t) -> ∇ log p_t(x)``.
        x: draws of the prior, ``(B, d)``.
        times: times of the steps, ``(n + 1,)``, at which sigma is positive.
    """
    values: list[tuple[Tensor, Tensor]] = []
    u, steps = -level(sde, times).log(), len(times) - 1
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        values = [(u[i], denoised(sde, score, x, t)), *values][: min(order, final + steps - 1 - i)]
        h = u[i + 1] - u[i]
        first, second = derivatives(values, h)
        decay = torch.expm1(-h)
        change = -decay * values[0][1]
        if len(values) == 2:
            change = change - 0.5 * decay * first
        elif len(values) == 3:
            change = change + (decay + h) / h * first + (h * h / 2 - h - decay) / h**2 * second
        x = sde.sigma(s) / sde.sigma(t) * x + sde.alpha(s) * change
    return x


def derivatives(values: list[tuple[Tensor, Tensor]], h: Tensor) -> tuple[Tensor, Tensor]:
    """Returns h and h^2 times the derivatives of the polynomial through the values, newest first, at the newest."""
    zero = torch.zeros_like(values[0][1])
    if len(values) == 1:
        return zero, zero
    slope = (values[0][1] - values[1][1]) / (values[0][0] - values[1][0])
    if len(values) == 2:
        return h * slope, zero
    before = (values[1][1] - values[2][1]) / (values[1][0] - values[2][0])
    bend = (slope - before) / (values[0][0] - values[2][0])
    return h * (slope + (values[0][0] - values[1][0]) * bend), 2 * h * h * bend


def sde_dpm(order: int, final: int, sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    r"""Draws samples of the reverse SDE with SDE-DPM-Solver++ of order 1 (stochastic DDIM) or 2.

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-h} x_t + \alpha_s (1 - e^{-2h}) (D + \tfrac12 D')
                    + \sigma_s \sqrt{1 - e^{-2h}}\, z

    Arguments as for :func:`dpm`; z comes from the global generator.
    """
    values: list[tuple[Tensor, Tensor]] = []
    u, steps = -level(sde, times).log(), len(times) - 1
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        values = [(u[i], denoised(sde, score, x, t)), *values][: min(order, final + steps - 1 - i)]
        h = u[i + 1] - u[i]
        gain = -torch.expm1(-2 * h)
        mean = values[0][1] + 0.5 * derivatives(values, h)[0]
        x = sde.sigma(s) / sde.sigma(t) * (-h).exp() * x + sde.alpha(s) * gain * mean
        x = x + sde.sigma(s) * gain.sqrt() * torch.randn_like(x)
    return x


FLOW: dict[str, Stepper] = {
    "DDIM": partial(dpm, 1, 1),
    **{f"DPM++ {order}M": partial(dpm, order, order) for order in (2, 3)},
    **{f"DPM++ {order}M lower": partial(dpm, order, 1) for order in (2, 3)},
}
"""Solvers of the flow by name. With *lower*, the last steps have lower orders."""

REVERSE: dict[str, Stepper] = {
    "stochastic DDIM": partial(sde_dpm, 1, 1),
    "SDE-DPM++ 2M": partial(sde_dpm, 2, 2),
    "SDE-DPM++ 2M lower": partial(sde_dpm, 2, 1),
}
"""Solvers of the reverse SDE by name."""
