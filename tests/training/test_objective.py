"""Denoising, implicit and sliced score matching agree with exact score matching (the theorem of section 2.2)."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import plane, standard_error
from torch import Tensor

from sdegen.core.randomness import randn_like
from sdegen.networks import MLP
from sdegen.sde import LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.training.objective import Denoising, Implicit, Objective, Prepared, Probed, Sliced


def draws(law: GaussianMixture, sde: LinearSDE, time: float, n: int = 200_000) -> tuple[Tensor, Tensor]:
    return law.sample(n, torch.Generator().manual_seed(1)), torch.full((n,), time, dtype=torch.float64)


OBJECTIVES = [Denoising(), Implicit(), Sliced()]


def name(value: object) -> str:
    return type(value).__name__.lower()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
@pytest.mark.parametrize("time", [0.05, 0.4])
def test_loss_differs_from_score_matching_by_a_constant(
    sde: LinearSDE, objective: Objective, line: GaussianMixture, time: float
) -> None:
    """The difference E loss(s) − E‖s − ∇log p_t‖² is the same for every score s, although the losses are not."""
    exact = Marginals(line, sde)
    x0, t = draws(line, sde, time)
    rows = objective.prepare(sde, x0, t, randn_like(torch.Generator().manual_seed(2)))

    def gap(score) -> Tensor:  # noqa: ANN001
        matching = (score(rows.x, t) - exact(rows.x, t)).square().sum(1)
        return objective.loss(score, rows).detach() - matching

    difference = gap(exact) - gap(lambda x, t: torch.sin(x) - 0.5)
    assert float(difference.mean()) == pytest.approx(0, abs=4.5 * standard_error(difference))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_loss_is_stationary_at_the_exact_score(sde: LinearSDE, objective: Objective) -> None:
    """The loss has slope zero in the scale and the shift of the score.

    It is a parabola, so central differences are exact.
    """
    exact = Marginals(plane(), sde)
    x0, t = draws(plane(), sde, 0.2)
    rows = objective.prepare(sde, x0, t, randn_like(torch.Generator().manual_seed(2)))
    for scale, shift in ((0.5, 0.0), (0.0, 0.5)):
        up, down = (
            objective.loss(lambda x, t, sign=sign: (1 + sign * scale) * exact(x, t) + sign * shift, rows).detach()
            for sign in (1, -1)
        )
        slope = up - down
        assert float(slope.mean()) == pytest.approx(0, abs=4.5 * standard_error(slope))
        assert float(slope.abs().mean()) > 10 * standard_error(slope)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)], ids=["vectors", "images"])
def test_implicit_loss_of_a_polynomial_score(shape: tuple[int, ...]) -> None:
    """The divergence of s = Ax + x³ is tr A + 3‖x‖². The matrix A is not symmetric."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(5, *shape, generator=source, dtype=torch.float64)
    d = x[0].numel()
    matrix = torch.randn(d, d, generator=source, dtype=torch.float64)
    rows = Prepared(x, torch.full((5,), 0.3, dtype=torch.float64))
    loss = Implicit().loss(lambda x, t: (x.flatten(1) @ matrix.T + x.flatten(1) ** 3).view_as(x), rows)
    flat = x.flatten(1)
    expected = (flat @ matrix.T + flat**3).square().sum(1) + 2 * (matrix.trace() + 3 * flat.square().sum(1))
    torch.testing.assert_close(loss, expected)


def test_sliced_loss_and_its_gradient_are_implicit_in_the_mean_over_all_probes() -> None:
    """The mean over all 2³ probes of signs equals the implicit loss. A single probe gives another value."""
    source = torch.Generator().manual_seed(0)
    network = MLP((3,), (16,), activation="tanh").double()
    x = torch.randn(20, 3, generator=source, dtype=torch.float64)
    t = torch.rand(20, generator=source, dtype=torch.float64)

    def gradient(loss: Tensor) -> Tensor:
        parts = torch.autograd.grad(loss.sum(), list(network.parameters()), retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    implicit = Implicit().loss(network, Prepared(x, t))
    signs = [torch.tensor(s, dtype=torch.float64) for s in itertools.product((-1.0, 1.0), repeat=3)]
    sliced = [Sliced().loss(network, Probed(x, t, sign.expand(20, 3))) for sign in signs]
    torch.testing.assert_close(torch.stack(sliced).mean(0), implicit)
    torch.testing.assert_close(gradient(torch.stack(sliced).mean(0)), gradient(implicit))
    assert not torch.isclose(sliced[0], implicit).any()


def test_probe_is_a_fair_sign_that_knows_nothing_of_the_noise(sde: LinearSDE) -> None:
    n = 50_000
    x0, t = torch.zeros(n, 2, dtype=torch.float64), torch.full((n,), 0.5, dtype=torch.float64)
    rows = Sliced().prepare(sde, x0, t, randn_like(torch.Generator().manual_seed(0)))
    assert torch.equal(rows.probe.abs(), torch.ones_like(rows.probe))
    both = torch.cat([rows.x, rows.probe], dim=1)
    assert float(rows.probe.mean(0).abs().max()) < 4.5 / n**0.5
    assert float((torch.corrcoef(both.T) - torch.eye(4)).abs().max()) < 4.5 / n**0.5


def test_loss_is_the_distance_to_the_kernel_score(sde: LinearSDE) -> None:
    """The stable form of the loss equals ‖s − ∇ₓ log N(x_t; α x_0, σ²)‖², with the gradient by autograd."""
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
    """In float32 at ε, the loss of a nearly exact score agrees with the loss in float64."""
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
