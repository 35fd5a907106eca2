"""Figures in the network's units: paths of a process on top of the density, and the field of a score."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from sdegen.core.randomness import RandnLike, generator, randn_like
from sdegen.core.tensors import expand
from sdegen.datasets import Dataset
from sdegen.figures.columns import name
from sdegen.figures.points import fresh, heat
from sdegen.figures.style import DATA, DENSITY, SAMPLES, number, styled, subplots
from sdegen.samplers import RK4, EulerMaruyama, Predictor, Samples, StepSampler
from sdegen.samplers.grids import Grid
from sdegen.sde.base import SDE, Score
from sdegen.sde.mixture import Marginals
from sdegen.sde.mixture import marginals as exact_marginals

SIGNED = LinearSegmentedColormap.from_list("signed", [DATA, "white", SAMPLES])
RISING, DENSE = (LinearSegmentedColormap.from_list("rising", ["white", colour]) for colour in (SAMPLES, DATA))
VISITED = 1e-3
"""Share of the maximum of p_t below which the field is grey, since few paths go through such points."""
GREY = f"grey: $p_t$ below {number(VISITED)} of its maximum"
OUTLINE = [patheffects.Stroke(linewidth=0.9, foreground="0.2"), patheffects.Normal()]
DENSITY_LABEL = "density over its\nmaximum at t"
KEPT = 151
"""Number of states of a path that are drawn."""
PANELS, ARROWS, PIXELS = 4, 16, 40
"""Number of times at which a field in the plane is drawn, and numbers of arrows and of pixels along each side."""

Paths = tuple[np.ndarray, np.ndarray]
"""Times ``(F,)`` from the start to the end of B paths, and the states ``(F, B)`` at these times."""


@styled
def process(dataset: Dataset, sde: SDE, score: Score, *, seed: int = 0, count: int = 12, steps: int = 1000) -> Figure:
    """Draws paths from data on the line to noise and back, on top of the density p_t: figure 1 of the paper.

    Euler–Maruyama solves the forward and the reverse SDE, and RK4 solves the flow with the same number of evaluations
    of the score. The reverse SDE and the flow start from the same noise. Initial values are evenly spaced quantiles.

    Args:
        dataset: data on the line.
        sde: the forward process.
        score: score of the reverse SDE and the flow, exact or learned; on the CPU.
        seed: seed of the paths.
        count: number of paths in each panel.
        steps: number of steps of the SDEs.
    """
    noise = randn_like(generator("cpu", seed, "process"))
    data = _spread_evenly(dataset.units.encode(fresh(dataset, 50 * count)), count)
    prior = _spread_evenly(sde.sample_prior(torch.empty(50 * count, 1, dtype=torch.float64), noise), count)
    paths = {
        "forward SDE": _forward(sde, data, noise, steps),
        "reverse SDE": _on_line(backward(sde, score, prior, noise, EulerMaruyama(), steps)),
        "flow ODE": _on_line(backward(sde, score, prior, noise, RK4(), max(steps // 4, 1))),
    }
    # The view has room for the paths of a poor score, but not for diverging paths.
    reach = [float(np.nanmax(np.abs(states))) for _, states in paths.values()]
    limit = 1.02 * min(max(reach), 3 * reach[0])
    x, t = torch.linspace(-limit, limit, 300).double(), torch.linspace(sde.eps, sde.T, 200, dtype=torch.float64)
    density = heat(dataset, sde, t, x)
    figure, panels = subplots(7.4, 2.6, 1, 3, sharey=True)
    for axes, (title, (times, states)) in zip(panels, paths.items(), strict=True):
        image = _image(axes, density, t, x, cmap=DENSITY, vmin=0, vmax=1)
        axes.plot(times, states, color="white", linewidth=0.5, path_effects=OUTLINE)
        axes.set_xticks([sde.eps, 0.5 * sde.T, sde.T], ["ε", f"{0.5 * sde.T:.2g}", "1" if sde.T == 1 else "T"])
        # The time axis has the direction of the process: t decreases from left to right in the reverse panels.
        ends = "data to noise" if title.startswith("forward") else "noise to data"
        axes.set(title=title, xlabel=f"time t, from {ends}", xlim=times[[0, -1]], ylim=(-limit, limit))
    panels[0].set_ylabel(name(dataset, 0, at_t=True))
    figure.colorbar(image, ax=panels, label=DENSITY_LABEL, pad=0.02)
    return figure


@styled
def score_field(dataset: Dataset, sde: SDE, score: Score, *, learned: bool = True) -> Figure | None:
    r"""Draws the field of a score, and the error of the score if the exact score is known: figure 2 of the paper.

    Returns None for images and for data with more than two coordinates.

    The field is drawn as :math:`\sigma_t s`, which is of order one at every t, or as :math:`g(t) s` if the SDE has no
    closed-form kernel and thus no :math:`\sigma_t`. It is grey where p_t is below :data:`VISITED` times its maximum.

    Args:
        dataset: the data.
        sde: the forward process.
        score: the score, on the CPU.
        learned: True for the score of a network; False for an exact score, which is drawn alone.
    """
    if dataset.units.shape not in ((1,), (2,)):
        return None
    exact = exact_marginals(dataset.encoded_law, sde)
    with torch.no_grad():
        field = _field_on_line if dataset.units.shape == (1,) else _field_in_plane
        return field(dataset, sde, score, exact if learned else None, "learned" if learned else "exact")


def _field_on_line(dataset: Dataset, sde: SDE, score: Score, exact: Marginals | None, kind: str) -> Figure:
    t = torch.linspace(sde.eps, sde.T, 200, dtype=torch.float64)
    limit = max(float(_draws(dataset, sde, time).abs().max()) for time in (t[0], t[-1]))
    x = torch.linspace(-limit, limit, 200, dtype=torch.float64)
    points, times = x.repeat_interleave(len(t))[:, None], t.repeat(len(x))
    density = heat(dataset, sde, t, x)
    scores = {kind: score} | ({} if exact is None else {"exact": exact})
    fields = {of: _scaled(sde, s, points, times).reshape(len(x), len(t)).numpy() for of, s in scores.items()}
    if exact is not None:
        fields[f"{kind} − exact"] = fields[kind] - fields["exact"]
    last, truest, visited = list(fields)[-1], list(scores)[-1], density > VISITED
    figure, (panels,) = subplots(1.5 + 2.1 * len(fields), 2.6, 1, len(fields), sharey=True, squeeze=False)
    for axes, (title, values) in zip(panels, fields.items(), strict=True):
        # Both scores have the colour scale of the exact score. The difference of the scores has its own scale.
        top = _top(fields[title if title == last else truest][visited])
        image = _image(axes, values, t, x, cmap=SIGNED, vmin=-top, vmax=top)
        axes.contourf(t.numpy(), x.numpy(), density, [-1, VISITED], colors="0.85")
        axes.set(title=title, xlabel="time t", xlim=(sde.eps, sde.T), ylim=(-limit, limit))
        if axes in panels[-2:]:
            what = "score" if title in (kind, "exact") else "error"
            figure.colorbar(image, ax=axes, label=f"{_unit(sde)} · {what}", extend="both")
    panels[0].set_ylabel(name(dataset, 0, at_t=True))
    figure.suptitle(GREY, fontsize=9)
    return figure


def _field_in_plane(dataset: Dataset, sde: SDE, score: Score, exact: Marginals | None, kind: str) -> Figure:
    law = exact_marginals(dataset.encoded_law, sde)
    figure, panels = subplots(2.1 * PANELS + (0.9 if law else 0.1), 2.7, 1, PANELS)
    images, felt = [], []
    for axes, t in zip(panels, _times(sde), strict=True):
        draws = _draws(dataset, sde, t)
        limit = float(draws.abs().quantile(0.999)) * 1.1
        if law is None:
            axes.scatter(*draws.T.numpy(), s=1, color="0.75", linewidths=0)
        else:
            line, pixels = torch.linspace(-limit, limit, PIXELS), _grid(limit, PIXELS)
            log_p = law.log_prob(pixels, t).reshape(PIXELS, PIXELS).T
            values = density = (log_p - log_p.max()).exp().numpy()
            if exact is not None:
                error = _scaled(sde, score, pixels, t) - _scaled(sde, exact, pixels, t)
                values = error.norm(dim=1).reshape(PIXELS, PIXELS).T.numpy()
                axes.contourf(line.numpy(), line.numpy(), density, [-1, VISITED], colors="0.85")
            images.append(_image(axes, values, line, line, cmap=DENSE if exact is None else RISING))
            felt.append(values[density > VISITED])
        _arrows(axes, sde, score, draws, limit, t)
        axes.set(
            title=f"t = {number(float(t))}",
            xlabel=name(dataset, 0, at_t=True),
            xlim=(-limit, limit),
            ylim=(-limit, limit),
        )
        axes.set_aspect("equal")
        axes.locator_params(nbins=4)
    panels[0].set_ylabel(name(dataset, 1, at_t=True))
    for image in images:
        image.set_clim(0, 1 if exact is None else _top(np.concatenate(felt)))
    if images:
        label, extend = (DENSITY_LABEL, "neither") if exact is None else (f"{_unit(sde)} · error", "max")
        figure.colorbar(images[0], ax=panels, label=label, extend=extend, pad=0.02, shrink=0.75)
    below = f"; {GREY}" if exact else "" if law else "; points: x(t) of the forward process"
    figure.suptitle(f"arrows: {kind} score{below}", fontsize=9)
    return figure


def _arrows(axes: Axes, sde: SDE, score: Score, draws: Tensor, limit: float, t: Tensor) -> None:
    """Draws the score as arrows. The longest has the 99 % quantile over random x(t), and spans a cell of the grid."""
    points = _grid(limit * (1 - 1 / ARROWS), ARROWS)
    arrows = _scaled(sde, score, points, t)
    longest = float(_scaled(sde, score, draws, t).norm(dim=1).quantile(0.99))
    arrows *= (longest / arrows.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    scale = longest * ARROWS / (2 * limit)
    axes.quiver(*points.T.numpy(), *arrows.T.numpy(), scale=scale, scale_units="x", width=0.005, color="0.25")


def _forward(sde: SDE, x: Tensor, noise: RandnLike, steps: int) -> Paths:
    """Returns paths of the forward SDE from eps to T, by Euler–Maruyama."""
    times = torch.linspace(sde.eps, sde.T, steps + 1, dtype=torch.float64)
    kept = torch.linspace(0, steps, KEPT).round().long().unique()
    states = [x := sde.perturb(x, times[0].expand(len(x)), noise)]
    for t, h in zip(times[:-1], times.diff(), strict=True):
        x = x + h * sde.drift(x, t) + h.sqrt() * sde.diffusion(t) * noise(x)
        states.append(x)
    return times[kept].numpy(), torch.stack(states)[kept, :, 0].numpy()


def backward(
    sde: SDE, score: Score, x: Tensor, noise: RandnLike, predictor: Predictor, steps: int, grid: Grid = "uniform"
) -> Samples:
    """Returns samples whose paths start at ``x`` ``(B, d)`` at T."""
    sampler = StepSampler(predictor, steps=steps, grid=grid)
    with torch.no_grad():
        return sampler(sde, lambda x, t: score(x, t).to(x), x, noise=noise, frames=KEPT)


def _on_line(samples: Samples) -> Paths:
    return samples.times.numpy(), samples.path[:, :, 0].numpy()


def _spread_evenly(draws: Tensor, count: int) -> Tensor:
    """Returns evenly spaced quantiles ``(count, 1)`` of the points ``draws`` ``(n, 1)``."""
    ranks = (torch.arange(count) + 0.5) * len(draws) / count
    return draws.sort(dim=0).values[ranks.long()]


def _draws(dataset: Dataset, sde: SDE, t: Tensor) -> Tensor:
    clean = dataset.units.encode(fresh(dataset, 1000))
    return sde.perturb(clean, t.expand(len(clean)), randn_like(generator("cpu", 0, "field")))


def _times(sde: SDE) -> Tensor:
    """Returns times from σ/α = 10 to 0.1, evenly spaced in log(σ/α), or in log t if there is no σ."""
    share = torch.linspace(0, 1, PANELS, dtype=torch.float64)
    ends = torch.tensor([sde.T, sde.eps], dtype=torch.float64)
    if sde.linear is None:
        high, low = ends.log()
        return torch.lerp(high, low.clamp(min=-4), share).exp()
    high, low = sde.linear.log_nsr(ends)
    return sde.linear.time(torch.lerp(high.clamp(max=4.6), low.clamp(min=-4.6), share))


def _scaled(sde: SDE, score: Score, x: Tensor, t: Tensor) -> Tensor:
    """Returns σ_t s(x, t), or g(t) s(x, t) if there is no σ_t, as ``(B, d)`` in the dtype of ``x``."""
    weight = sde.diffusion(t) if sde.linear is None else sde.linear.sigma(t)
    return expand(weight, x) * score(x, t).to(x)


def _top(values: np.ndarray) -> float:
    """Returns the end of the colour scale, a quantile: with the maximum, almost all of the picture would be white."""
    return max(float(np.quantile(np.abs(values), 0.98)), 1e-12)


def _unit(sde: SDE) -> str:
    return "g(t)" if sde.linear is None else "$\\sigma_t$"


def _grid(limit: float, side: int) -> Tensor:
    """Returns the points of a square grid, ``(side², 2)``; the first coordinate changes slowest."""
    # float32 is precise enough for a figure, and faster: the exact score of a curve is a sum of thousands of terms.
    line = torch.linspace(-limit, limit, side)
    return torch.cartesian_prod(line, line)


def _image(axes: Axes, values: np.ndarray, t: Tensor, x: Tensor, **style: Any) -> Any:  # noqa: ANN401
    """Draws values ``(N, K)`` in cells centred at ``t`` ``(K,)`` (horizontal) and ``x`` ``(N,)`` (vertical)."""
    ends = [(float(line[0]), float(line[-1]), 0.5 * float(line[1] - line[0])) for line in (t, x)]
    (left, right), (low, high) = ((first - half, last + half) for first, last, half in ends)
    extent = (left, right, low, high)
    return axes.imshow(values, extent=extent, origin="lower", aspect="auto", interpolation="bilinear", **style)
