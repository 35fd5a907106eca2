"""The parametrizations: for the function each one names, all give the one exact score."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sdegen.networks import MLP, Network
from sdegen.objective import Implicit, Prepared
from sdegen.score import Data, Karras, Noise, Parametrization, Raw, Residual, ScoreModel, Velocity
from sdegen.sde import DoubleWell, LinearSDE

MEAN, VARIANCE, SIGMA_DATA = 0.7, 0.3, 0.8


class Function(Network):
    """A network that is a given function of what it is fed."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.function(x, t)


def posterior_mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] for x0 ~ N(MEAN, VARIANCE), by Gaussian conjugacy."""
    precision = 1 / VARIANCE + alpha**2 / sigma**2
    return (MEAN / VARIANCE + alpha * x / sigma**2) / precision


@pytest.mark.parametrize(
    "parametrization",
    [Raw(), Residual(), Noise(), Data(), Velocity(), Karras(SIGMA_DATA)],
    ids=lambda p: type(p).__name__,
)
@pytest.mark.parametrize("shape", [(2,), (1, 3, 3)])
@pytest.mark.parametrize("batched", [True, False])
def test_parametrizations_agree_on_the_score(
    parametrization: Parametrization, sde: LinearSDE, shape: tuple[int, ...], batched: bool
) -> None:
    t = torch.tensor([0.01, 0.1, 0.5, 1.0] if batched else 0.3, dtype=torch.float64)
    alpha, sigma = (c.reshape(-1, *[1] * len(shape)) if batched else c for c in (sde.alpha(t), sde.sigma(t)))
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = posterior_mean(x, alpha, sigma)
    z = (x - alpha * x0) / sigma
    score = -(x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)
    # EDM, table 1: D(y; s) = c_skip y + c_out F(c_in y; ln(s)/4) with y = x/α and s = σ/α.
    s = sigma / alpha
    skip, out = SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2), s * SIGMA_DATA / (s**2 + SIGMA_DATA**2).sqrt()
    target = {
        Raw: score,
        Residual: score + x / sde.prior_std**2,
        Noise: z,
        Data: x0,
        Velocity: alpha * z - sigma * x0,
        Karras: (x0 - skip * x / alpha) / out,
    }[type(parametrization)]
    fed = []
    network = Function(lambda x, t: fed.append((x, t)) or target)
    torch.testing.assert_close(ScoreModel(network, parametrization, sde)(x, t), score, rtol=1e-8, atol=1e-8)
    if isinstance(parametrization, Karras):
        c_in = 1 / (s**2 + SIGMA_DATA**2).sqrt()
        torch.testing.assert_close(fed[0][0], c_in * x / alpha)
        torch.testing.assert_close(fed[0][1], 0.25 * (sde.sigma(t) / sde.alpha(t)).log())


def test_karras_with_a_silent_network_is_exact_for_gaussian_data(sde: LinearSDE) -> None:
    x, t = torch.randn(5, 2, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    silent = ScoreModel(Function(lambda x, t: torch.zeros_like(x)), Karras(SIGMA_DATA), sde)
    variance = sde.alpha(t) ** 2 * SIGMA_DATA**2 + sde.sigma(t) ** 2
    torch.testing.assert_close(silent(x, t), -x / variance[:, None])


def test_residual_of_a_silent_network_is_the_score_of_the_prior_and_can_be_differentiated() -> None:
    """V = (x² − 1)²: the score −4x³ + 4x, and in the implicit loss its divergence −12x² + 4."""
    x, t = torch.linspace(-2, 2, 12, dtype=torch.float64).view(6, 2), torch.full((6,), 0.3, dtype=torch.float64)
    silent = ScoreModel(Function(lambda x, t: 0 * x), Residual(), DoubleWell(wells=1.0, barrier=1.0))
    with torch.no_grad():
        torch.testing.assert_close(silent(x, t), 4 * x - 4 * x**3)
    expected = ((4 * x - 4 * x**3) ** 2 + 2 * (4 - 12 * x**2)).sum(1)
    torch.testing.assert_close(Implicit().loss(silent, Prepared(x, t)), expected)


@pytest.mark.parametrize("embedding", ["concat", "fourier"])
@pytest.mark.parametrize("shape", [(2,), (3, 2, 2)])
def test_network_treats_rows_apart_and_one_time_as_many(embedding: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = MLP(shape, (16, 16), "silu", embedding).double()  # type: ignore[arg-type]
    x, t = torch.randn(6, *shape, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(network(x, t), alone)
    torch.testing.assert_close(network(x, t[0]), network(x, t[0].expand(6)))
    assert not torch.isclose(network(x, t), network(x, t + 0.1), rtol=1e-6).any()


def test_paper_network_has_the_paper_size() -> None:
    """(2 + 1) → 128 → 128 → 2, with biases."""
    assert sum(p.numel() for p in MLP((2,), (128, 128)).parameters()) == 4 * 128 + 129 * 128 + 129 * 2
