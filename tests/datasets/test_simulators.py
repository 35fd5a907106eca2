"""The exact posteriors of simulators agree with draws of the prior that are weighted by the likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets import LinearGaussian, ObservedMixture, Simulator, TwoMoons

Likelihood = Callable[[Tensor, Tensor], Tensor]


def gaussian(mean: Callable[[Tensor], Tensor], noise: float) -> Likelihood:
    return lambda theta, y: (-(y - mean(theta)).square().sum(1) / (2 * noise**2)).exp()


def crescent(theta: Tensor, y: Tensor) -> Tensor:
    """Returns the density of the noise of two moons, which is uniform in the angle and normal in the radius."""
    total, difference = theta[:, 0] + theta[:, 1], theta[:, 1] - theta[:, 0]
    x, height = y[0] + total.abs() / math.sqrt(2) - 0.25, y[1] - difference / math.sqrt(2)
    radius = (x**2 + height**2).sqrt()
    return (x > 0) * (-((radius - 0.1) ** 2) / (2 * 0.01**2)).exp() / radius


SIMULATORS: dict[str, tuple[Simulator, Likelihood]] = {
    "linear-Gaussian": (
        LinearGaussian(0, 2, 0.5),
        gaussian(lambda x: x @ torch.tensor([[1.0, 2.0], [2.0, 4.0]]).double().cos() / 2**0.5, 0.5),
    ),
    "linear": (ObservedMixture(0, "linear", 0.4), gaussian(lambda x: x[:, :1] + x[:, 1:] / 2, 0.4)),
    "quadratic": (ObservedMixture(0, "quadratic", 0.6), gaussian(lambda x: x[:, :1] ** 2 + x[:, 1:] ** 2, 0.6)),
    "two moons": (TwoMoons(0), crescent),
}


def functions(x: Tensor) -> Tensor:
    """Returns functions of points ``(N, 2)`` whose means differ between distributions."""
    angles = x @ torch.tensor([[1.0, 0.0, 2.0, 3.0, 5.0], [0.0, 1.0, 2.0, -3.0, 7.0]]).double()
    return torch.cat([x, x.square(), x.prod(1, keepdim=True), angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("name", SIMULATORS)
@pytest.mark.parametrize("number", range(3))
def test_exact_posterior_is_the_prior_weighted_by_the_likelihood(name: str, number: int) -> None:
    simulator, likelihood = SIMULATORS[name]
    y = simulator.pairs(3, generator("cpu", 1, "observed"))[1][number]
    prior = simulator.pairs(500_000, generator("cpu", 2, "prior"))[0]
    weight = likelihood(prior, y)
    weight = weight / weight.sum()
    known = functions(prior)
    mean = weight @ known
    error = (weight.square() @ (known - mean).square()).sqrt()
    exact = simulator.posterior(y, 20_000, generator("cpu", 3, "exact"))
    assert exact is not None
    own = functions(exact)
    off = (own.mean(0) - mean) / (error.square() + own.var(0) / len(own)).sqrt()
    assert 1 / float(weight.square().sum()) > 300
    assert float(off.abs().max()) < 4.5


def test_an_observation_that_the_prior_does_not_allow_has_no_exact_draws() -> None:
    data = TwoMoons(0, 20)
    impossible = torch.tensor([5.0, 5.0], dtype=torch.float64)
    assert data.posterior(impossible, 10, generator("cpu", 0, "p")) is None and data.given(impossible) is None


class Unseeded(Simulator):
    """A simulator whose random numbers do not come from ``source``."""

    def pairs(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        theta = torch.rand(n, 2)
        return theta, theta.sum(1)


def test_a_simulator_whose_numbers_no_seed_fixes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Unseeded.pairs .*: take all random numbers from source, as in torch.randn"):
        Unseeded(0, 50)
