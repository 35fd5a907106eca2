r"""Samplers written from their papers: iPNDM, and azula's REAB with the correct standard deviation.

Both are Adams–Bashforth schemes for the flow in :math:`\hat x = x / \alpha` and :math:`\hat\sigma = \sigma / \alpha`,
where :math:`d\hat x = \hat\varepsilon\, d\hat\sigma` with the noise
:math:`\hat\varepsilon = -\sigma \nabla \log p_t(x) = (\hat x - D) / \hat\sigma`, and D is the mean of x(0) given x(t).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from arena.grids import denoised, gridded, level
from arena.race import Contestant
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score

ADAMS_BASHFORTH = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of the Adams–Bashforth schemes for equal steps. The newest derivative has the first weight."""


def contestants(kind: str) -> list[Contestant]:
    """Returns the samplers of the flow with every grid; an empty list for the reverse SDE."""
    if kind == "sde":
        return []
    found = []
    for order in (1, 2, 3, 4):
        found += gridded(f"iPNDM {order}", partial(ipndm, order))
        published = gridded(f"iPNDM {order}, as published", partial(ipndm, order))
        found += [contestant for contestant in published if contestant.setting == "Karras"]
    for order in (1, 2, 3, 4):
        found += gridded(f"REAB {order}, corrected", partial(reab, order))
    return found


def ipndm(
    order: int,
    sde: LinearSDE,
    score: Score,
    x: Tensor,
    times: Tensor,
    trace: list[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    r"""Draws samples with iPNDM; the states :math:`\hat x` and the noise before each step are appended to ``trace``.

    iPNDM uses the weights for equal steps on every grid, and lower orders in the first steps. It reaches the order
    ``order`` on grids with equal steps of :math:`\hat\sigma`, and order 2 on other smooth grids. Its authors use the
    grid that is uniform in :math:`\hat\sigma^{1/7}`.

    Reference: Zhang & Chen (2023), https://arxiv.org/abs/2204.13902, section 3.4, after Liu et al. (2022),
    https://arxiv.org/abs/2202.09778
    """
    sigma = level(sde, times)
    past: list[Tensor] = []
    x = x / sde.alpha(times[0])
    for i, t in enumerate(times[:-1]):
        past = [-sde.sigma(t) * score(sde.alpha(t) * x, t), *past][:order]
        if trace is not None:
            trace.append((x, past[0]))
        weights = ADAMS_BASHFORTH[len(past) - 1]
        x = x + (sigma[i + 1] - sigma[i]) * sum(w * noise for w, noise in zip(weights, past, strict=True))
    return sde.alpha(times[-1]) * x


def reab(order: int, sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    r"""Draws samples with the Rosenbrock-type exponential Adams–Bashforth scheme that azula derives.

    With :math:`u = \log\hat\sigma`, the flow of :math:`y = \hat x / \sqrt{1 + \hat\sigma^2}` is

    .. math:: dy = f\, \frac{e^u}{1 + e^{2u}}\, du, \qquad
              f = \sqrt{1 + \hat\sigma^2}\, \hat\varepsilon - \hat\sigma\, y.

    For standard normal data f is 0, so the scheme is exact. For other data, f is replaced by the polynomial through the
    last values of f. In azula 0.11.1 the increment of x is multiplied by
    :math:`\sqrt{\alpha_s^2 + \sigma_t^2}` instead of :math:`\sqrt{\alpha_s^2 + \sigma_s^2}`, which reduces the order to
    1.
    """
    u = level(sde, times).log()
    past: list[Tensor] = []
    y = x / (sde.alpha(times[0]) ** 2 + sde.sigma(times[0]) ** 2).sqrt()
    for i, t in enumerate(times[:-1]):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        spread = (alpha**2 + sigma**2).sqrt()
        # f = (x-hat (1 - a) - D) / b, with a = sigma^2 / (alpha^2 + sigma^2) and b = sqrt(a).
        mean = denoised(sde, score, spread * y, t)
        past = [*past, (alpha / spread * y - mean) * spread / sigma][-order:]
        y = y + sum(w * f for w, f in zip(weights(u[i + 1 - len(past) : i + 2]), past, strict=True))
    return (sde.alpha(times[-1]) ** 2 + sde.sigma(times[-1]) ** 2).sqrt() * y


def weights(u: Tensor) -> list[float]:
    """Returns the integrals over the last step of e^u / (1 + e^2u) times the Lagrange polynomials of the nodes."""
    *past, end = u.tolist()
    points, shares = leggauss(32)
    at = past[-1] + (end - past[-1]) * (1 + points) / 2
    density = (end - past[-1]) * shares / (4 * np.cosh(at))
    return [
        float(density @ np.prod([(at - other) / (node - other) for other in past if other != node] or [at**0], axis=0))
        for node in past
    ]
