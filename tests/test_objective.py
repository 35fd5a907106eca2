"""Denoising score matching against the exact score matching it stands for (the theorem of section 2.2)."""

from __future__ import annotations

import pytest
import torch
from conftest import standard_error
from torch import Tensor

from sdegen.mixture import GaussianMixture, Marginals
from sdegen.objective import Denoising
from sdegen.rng import randn_like
from sdegen.sde import LinearSDE


def draws(law: GaussianMixture, sde: LinearSDE, time: float, n: int = 200_000) -> tuple[Tensor, Tensor]:
    return law.sample(n, torch.Generator().manual_seed(1)), torch.full((n,), time, dtype=torch.float64)


@pytest.mark.parametrize("time", [0.05, 0.4])
def test_denoising_differs_from_score_matching_by_a_constant(
    sde: LinearSDE, line: GaussianMixture, time: float
) -> None:
    """E‖s − ∇log p_{t|0}‖² − E‖s − ∇log p_t‖² is the same for every score s."""
    exact = Marginals(line, sde)
    x0, t = draws(line, sde, time)
    rows = Denoising().prepare(sde, x0, t, randn_like(torch.Generator().manual_seed(2)))

    def gap(score) -> Tensor:  # noqa: ANN001
        matching = (score(rows.x, t) - exact(rows.x, t)).square().sum(1)
        return Denoising().loss(score, rows) - matching

    difference = gap(exact) - gap(lambda x, t: torch.sin(x) - 0.5)
    assert float(difference.mean()) == pytest.approx(0, abs=4.5 * standard_error(difference))


def test_denoising_is_stationary_at_the_exact_score(sde: LinearSDE, line: GaussianMixture) -> None:
    """The slope of the loss when the score is scaled or shifted, exact by central differences of a parabola."""
    exact = Marginals(line, sde)
    x0, t = draws(line, sde, 0.2)
    rows = Denoising().prepare(sde, x0, t, randn_like(torch.Generator().manual_seed(2)))
    for scale, shift in ((0.5, 0.0), (0.0, 0.5)):
        up, down = (
            Denoising().loss(lambda x, t, sign=sign: (1 + sign * scale) * exact(x, t) + sign * shift, rows)
            for sign in (1, -1)
        )
        slope = up - down
        assert float(slope.mean()) == pytest.approx(0, abs=4.5 * standard_error(slope))
        assert float(slope.abs().mean()) > 10 * standard_error(slope)


def test_loss_is_that_of_the_kernel_score(sde: LinearSDE) -> None:
    """The stable form equals ‖s − ∇ₓ log N(x_t; α x_0, σ²)‖², the gradient taken by autodiff."""
    source = torch.Generator().manual_seed(0)
    x0 = torch.randn(6, 3, generator=source, dtype=torch.float64)
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    rows = Denoising().prepare(sde, x0, t, randn_like(source))
    x = rows.x.clone().requires_grad_()
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    log_kernel = torch.distributions.Normal(alpha * x0, sigma).log_prob(x).sum()
    (target,) = torch.autograd.grad(log_kernel, x)
    expected = (rows.x.cos() - target).square().sum(1)
    torch.testing.assert_close(Denoising().loss(lambda x, t: x.cos(), rows), expected)


def test_loss_keeps_its_digits_at_the_smallest_times(sde: LinearSDE) -> None:
    """In float32 at ε, the loss of a nearly right score agrees with float64."""
    source = torch.Generator().manual_seed(0)
    x0 = torch.randn(100, 2, generator=source, dtype=torch.float64)
    t = torch.full((100,), sde.eps, dtype=torch.float64)
    noise = torch.randn(100, 2, generator=source, dtype=torch.float64)
    losses = []
    for dtype in (torch.float32, torch.float64):
        rows = Denoising().prepare(sde, x0.to(dtype), t.to(dtype), lambda like, dtype=dtype: noise.to(dtype))
        guess = 0.9 * noise.to(dtype) / rows.sigma[:, None]
        losses.append(Denoising().loss(lambda x, t, guess=guess: -guess, rows).double())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
