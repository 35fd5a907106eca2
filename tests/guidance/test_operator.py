"""Guidance by operators, by counts and by several results agrees with exact posteriors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from test_guidance import conditioned, gaussian, linear, points
from torch import Tensor

import sdegen
from sdegen.core.errors import UserError
from sdegen.core.randomness import SampleNoise, generator
from sdegen.datasets import Affine, Units
from sdegen.datasets.units import restored
from sdegen.guidance import (
    Gaussian,
    Inpaint,
    Isotropic,
    Linear,
    Moments,
    Noise,
    Operator,
    Poisson,
    Posterior,
    Replacement,
)
from sdegen.guidance.operator import Decoded, Repeated, Together
from sdegen.guidance.posterior import Method
from sdegen.samplers import StepSampler, StochasticAdams, Twisted
from sdegen.sde import VE, VP, LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals

A = torch.randn(2, 5, generator=generator("cpu", 0, "a"), dtype=torch.float64)
ON_THE_LINE = GaussianMixture(torch.tensor([0.6, 0.4]), torch.tensor([[-0.8], [1.1]]), torch.tensor([0.2, 0.1]))


class Matrix(Operator):
    """Product with the matrix A, as a user writes it."""

    def __call__(self, x: Tensor) -> Tensor:
        return x @ A.to(x).T


class Square(Operator):
    def __call__(self, x: Tensor) -> Tensor:
        return x.square()


class Rate(Operator):
    """Expected counts, which grow with x."""

    def __call__(self, x: Tensor) -> Tensor:
        return 30 + 10 * x


class Rough(Operator):
    """Operator that is wrong in one of several ways.

    Args:
        fault: name of the fault.
    """

    def __init__(self, fault: str = "") -> None:
        self.fault, self.calls = fault, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        faulty: dict[str, Callable[[], Tensor]] = {
            "numpy": lambda: torch.from_numpy(np.sin(x.numpy())),
            "detach": lambda: x.sin().detach(),
            "shape": lambda: x[:, :1].expand(-1, self.calls),
            "whole": lambda: x.sum(),
            "noise": lambda: x + self.calls,
            "batch": lambda: x - x.mean(0),
            "complex": lambda: torch.complex(x, x),
            "broken": lambda: x @ torch.ones(7, 7),
            "negative": lambda: (-x.square()).log(),
        }
        return faulty[self.fault]()


@pytest.mark.parametrize("method", [Moments(iterations=8), Isotropic(spread=0.7)], ids=["moments", "isotropic"])
@pytest.mark.parametrize("sde", [VP(), VE(sigma_max=20.0)], ids=["vp", "ve"])
def test_linear_operator_guides_as_its_matrix(sde: LinearSDE, method: Method, tmp_path: Path) -> None:
    y, x, t = torch.tensor([[0.7, -1.1]]).double(), points(20, 5), torch.linspace(0.01, 0.9, 20).double()
    score = Marginals(gaussian(5), sde)
    of_matrix, of_operator = (Posterior(y, h, method, 0.3)(sde, score)(x, t) for h in (linear(tmp_path, A), Matrix()))
    torch.testing.assert_close(of_operator, of_matrix, rtol=1e-9, atol=1e-9)


def test_operator_works_in_the_units_of_the_data() -> None:
    """Data of mean 100 and scales 1 to 9: y and its noise are those of H applied to the data themselves."""
    shift, scale = torch.full((5,), 100.0).double(), torch.arange(1.0, 10.0, 2.0).double()
    law = gaussian(5).affine(-shift / scale, 1 / scale)
    truth = law.sample(1, generator("cpu", 0, "truth"))
    y = truth @ A.T
    exact = conditioned(law, A, y[0], 2.0).affine(shift, scale)
    x, sde, t = points(20, 5), VP(), torch.tensor(0.4, dtype=torch.float64)
    measurement = Decoded(Matrix(), Affine(shift, scale), torch.float64)
    guided = Posterior(y, measurement, Moments(iterations=8), 2.0)(sde, Marginals(gaussian(5), sde))(x, t)
    torch.testing.assert_close(guided, Marginals(exact, sde)(x, t), rtol=1e-6, atol=1e-6)


def quantile_units() -> Units:
    """Units of a column with values above 709, whose exponential overflows, and of a column of logarithms."""
    scores = torch.linspace(-2, 2, 5).double().expand(2, 5).contiguous()
    knots = torch.tensor([[900.0, 950.0, 1000.0, 1010.0, 1300.0], [-1.0, 0.5, 1.0, 1.1, 2.0]]).double()
    slopes = torch.tensor([[0.02, 0.02, 0.1, 0.05, 0.01], [1.0, 1.5, 4.0, 3.0, 1.0]]).double()
    state = {"knots": knots, "scores": scores, "slopes": slopes, "logarithm": torch.tensor([False, True])}
    return restored(state)


@pytest.mark.parametrize("units", [Affine(torch.full((2,), 3.0).double(), torch.ones(2).double()), quantile_units()])
def test_products_of_the_jacobian_are_finite_differences(units: Units) -> None:
    x, h = points(6, 2), 1e-5
    v, u = torch.randn(2, 6, 2, generator=generator("cpu", 0, "vectors"), dtype=torch.float64)

    class Curved(Operator):
        def __call__(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0] * x[:, 1].log1p(), x[:, 1].sin()], dim=1)

    measurement = Decoded(Curved(), units, torch.float64)
    value, forward, adjoint = measurement.linearised(x)
    expected = (measurement(x + h * v) - measurement(x - h * v)) / (2 * h)
    torch.testing.assert_close(value, Curved()(units.decode(x)))
    torch.testing.assert_close(forward(v), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((adjoint(u) * v).sum(1), (u * expected).sum(1), rtol=1e-5, atol=1e-5)


def shown(x: Tensor, weights: Tensor) -> Tensor:
    """Returns mean, standard deviation and share above 0 of weighted points on the line."""
    mean = (weights * x).sum()
    return torch.stack([mean, (weights * (x - mean) ** 2).sum().sqrt(), weights[x > 0].sum()])


@pytest.mark.parametrize("method", [Moments(), Isotropic()], ids=["moments", "isotropic"])
@pytest.mark.parametrize(
    ("operator", "noise", "y"),
    [(Rate(), Poisson(), 28.0), (Square(), Gaussian(0.3), 0.8)],
    ids=["counts", "square"],
)
def test_particles_have_the_posterior_of_counts_and_of_a_square(
    operator: Operator, noise: Noise, y: float, method: Method
) -> None:
    """The oracle integrates the prior times the likelihood on a fine grid. Without particles, the weights are wrong."""
    line = torch.linspace(-2.9, 4, 4001, dtype=torch.float64)
    mean = operator(line)
    seen = torch.distributions.Poisson(mean) if isinstance(noise, Poisson) else torch.distributions.Normal(mean, 0.3)
    likelihood = seen.log_prob(torch.tensor(y, dtype=torch.float64))
    exact = shown(line, (ON_THE_LINE.log_prob(line[:, None]) + likelihood).softmax(0))
    n, sde, off = 3000, VP(), []
    guided = Posterior(torch.tensor([[y]]).double(), operator, method, noise)(sde, Marginals(ON_THE_LINE, sde))
    for sampler in (Twisted(60), StepSampler(StochasticAdams(), None, 60, "logistic")):
        source = SampleNoise(0, 0, n, (1,))
        x = sampler(sde, guided, sde.sample_prior(torch.empty(n, 1).double(), source), noise=source).x[:, 0]
        off.append((shown(x, torch.full((n,), 1 / n).double()) - exact).abs())
    assert bool((off[0] < torch.tensor([0.08, 0.03, 0.035])).all()), off
    if isinstance(noise, Poisson):
        assert float(off[1][0]) > 0.04


def test_counts_pull_with_the_gradient_of_their_likelihood_at_the_end() -> None:
    sde, y, x = VP(), torch.tensor([[25.0]]).double(), 0.4 * points(20, 1)
    t = torch.tensor(sde.eps, dtype=torch.float64)
    guided = Posterior(y, Rate(), Moments(), Poisson())(sde, Marginals(ON_THE_LINE, sde))(x, t)
    pull = guided - Marginals(ON_THE_LINE, sde)(x, t)
    point = x.clone().requires_grad_()
    torch.distributions.Poisson(30 + 10 * point).log_prob(y).sum().backward()
    torch.testing.assert_close(pull, point.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variance", [0.0, 1e-7, 3.0, 400.0])
def test_uncertain_counts_are_negative_binomial(variance: float) -> None:
    """SciPy has the distribution; its limit is the Poisson distribution. Differences leave the constant out."""
    counts, mean = torch.arange(0.0, 60.0).double(), 20.0
    rows = torch.tensor([[mean], [25.0]]).double()
    found = torch.stack(
        [Poisson().log_likelihood(y.reshape(1, 1), rows, torch.full((2, 1, 1), variance).double()) for y in counts]
    )
    for i, m in enumerate((mean, 25.0)):
        shape = m**2 / variance if variance else math.inf
        law = stats.nbinom(shape, shape / (shape + m)) if shape < 1e6 else stats.poisson(m)
        expected = torch.from_numpy(law.logpmf(counts.numpy()))
        drop = torch.lgamma(counts + 1)
        torch.testing.assert_close(found[:, i] - drop, expected, rtol=1e-6, atol=1e-6)


def test_likelihood_of_connected_numbers_is_the_normal_density() -> None:
    root = torch.randn(4, 3, 3, generator=generator("cpu", 0, "root"), dtype=torch.float64)
    spread, (y, *means) = root @ root.mT, points(5, 3)
    found = Gaussian(0.4).log_likelihood(y[None], torch.stack(means), spread)
    total = spread + 0.16 * torch.eye(3)
    expected = torch.distributions.MultivariateNormal(torch.stack(means), total).log_prob(y)
    torch.testing.assert_close(found - 1.5 * math.log(2 * math.pi), expected)


def test_several_results_are_one_measurement_and_no_sum_of_guidances() -> None:
    """Three results of A x have the posterior of the stacked matrix. The sum of three single guidances does not."""
    law, sde, x, t = gaussian(5), VP(), points(20, 5), torch.tensor(0.4, dtype=torch.float64)
    results = torch.tensor([[[0.7, -1.1], [0.2, -0.9], [0.5, -1.6]]]).double()
    exact = Marginals(conditioned(law, A.repeat(3, 1), results.flatten(), 0.3), sde)(x, t)
    score, method = Marginals(law, sde), Moments(iterations=8)
    guided = Posterior(results, Repeated(Matrix(), 3), method, 0.3)(sde, score)(x, t)
    torch.testing.assert_close(guided, exact, rtol=1e-6, atol=1e-6)
    own = score(x, t)
    summed = own + sum(Posterior(y[None], Matrix(), method, 0.3)(sde, score)(x, t) - own for y in results[0])
    assert float((summed - exact).norm()) > 0.3 * float((exact - own).norm())


@pytest.mark.parametrize("t", [1e-3, 0.4, 0.9])
def test_different_measurements_have_the_posterior_of_all_of_them(t: float, tmp_path: Path) -> None:
    """An operator with two numbers, two entries of x, and two results of a sum, each kind with its own noise."""
    law, sde, x, time = gaussian(5), VP(), points(20, 5), torch.tensor(t, dtype=torch.float64)
    np.save(tmp_path / "sum.npy", np.ones((1, 5)))
    np.save(tmp_path / "mask.npy", np.array([1, 0, 0, 0, 1]))
    total = Repeated(Linear((5,), str(tmp_path / "sum.npy")), 2)
    parts, stds = [Matrix(), Inpaint((5,), str(tmp_path / "mask.npy")), total], [0.3, 0.1, 0.8]
    y = [torch.tensor(own).double()[None] for own in ([0.7, -1.1], [0.4, 0.2], [[1.0], [1.7]])]
    rows = [A, torch.eye(5).double()[[0, 4]], torch.ones(2, 5).double()]
    white = torch.cat([own / std for own, std in zip(rows, stds, strict=True)])
    seen = torch.cat([own.flatten() / std for own, std in zip(y, stds, strict=True)])
    exact = Marginals(conditioned(law, white, seen, 1.0), sde)(x, time)
    together = Together(parts, stds)
    guidance = Posterior(together.joined(y), together, Moments(iterations=12), 1.0)
    torch.testing.assert_close(guidance(sde, Marginals(law, sde))(x, time), exact, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sdegen.Run:
    """Makes a run with the exact score of a mixture near 100, which is standardised for the network."""
    data = ("dataset=gaussian_mixture", "dataset.means=[[98,0],[102,1]]", "dataset.standardize=true")
    folder = tmp_path_factory.mktemp("operator")
    trained = sdegen.train(*data, "network=oracle", "figures=false", "count=20", folder=folder / "run")
    return sdegen.load(trained.folder, trust=["test_operator"], device="cpu", precision="float64")


class First(Operator):
    """Square of the distance of the first column to 90."""

    def __call__(self, x: Tensor) -> Tensor:
        return (x[:, 0] - 90).square()


FIRST = {"_target_": "test_operator.First"}


def test_run_is_guided_in_its_own_units(run: sdegen.Run) -> None:
    """y = (x - 90)² = 144 is x = 102, the second component; three results of 64 are x = 98, the first component."""
    for observed, mode in (([144.0], 102), ([[63.0], [64.0], [65.0]], 98)):
        node = {"_target_": "test_operator.First"}
        guided = run.guided("operator", measurement=node, observed=observed, noise=1.0)
        x = guided.sample(200, sampler="stochastic_adams", steps=50)
        assert float((x[:, 0] - mode).abs().max()) < 0.3
    several = run.guided("inpaint", measurement={"mask": "left"}, observed=[[97.5], [98.0], [98.5]], noise=0.02)
    assert float((several.sample(200, sampler="stochastic_adams", steps=50)[:, 0] - 98).abs().max()) < 0.3


def test_run_is_guided_by_a_list_of_measurements(run: sdegen.Run) -> None:
    """The first column alone leaves the second one free. Each noise and result belongs to its own measurement."""
    nodes = [{"_target_": "test_operator.First"}, {"_target_": "test_operator.Sum"}]
    guided = run.guided("several", measurement=nodes, noise=[1.0, 0.05], observed=[[144.0], [103.5]])
    x = guided.sample(200, sampler="stochastic_adams", steps=50)
    assert float((x[:, 0] - 102).abs().max()) < 0.3
    assert float((x.sum(1) - 103.5).abs().max()) < 0.25
    seen = run.guided("several", measurement=nodes, noise=[1.0, 0.05]).guidance.problem.y  # type: ignore[union-attr]
    assert seen.shape == (1, 2)


class Sum(Operator):
    def __call__(self, x: Tensor) -> Tensor:
        return x.sum(1)


def test_counts_and_measured_points_come_from_the_data(run: sdegen.Run) -> None:
    node = {"_target_": "test_operator.First"}
    guided = run.guided("operator", measurement=node, noise="poisson")
    problem = guided.guidance.problem  # type: ignore[union-attr]
    assert float(problem.y) == round(float(problem.y)) > 30


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"measurement": {"_target_": "test_operator.Absent"}}, "has no class Absent"),
        ({}, "guidance.measurement: Operator is abstract: define __call__ in this class, or name a subclass"),
        ({"measurement": {"_target_": "test_operator.Rough", "fault": "numpy"}}, "Rough is not twice differentiable"),
        ({"measurement": {"_target_": "test_operator.Rough", "fault": "detach"}}, "use torch operations, without det"),
        ({"measurement": {"_target_": "test_operator.Rough", "fault": "shape"}}, "return the same shape each time"),
        ({"measurement": {"_target_": "test_operator.Rough", "fault": "whole"}}, "must return real numbers for each"),
        ({"measurement": {"_target_": "test_operator.Rough", "fault": "complex"}}, "must return real numbers for each"),
        ({"measurement": {"_target_": "test_operator.Rough", "fault": "noise"}}, "leave the noise to guidance.noise"),
        ({"measurement": {"_target_": "test_operator.Rough", "fault": "batch"}}, "treat each row of x by itself"),
        ({"measurement": {"_target_": "test_operator.Rough", "fault": "broken"}}, "Rough fails for points of the"),
        ({"measurement": {"_target_": "test_operator.Rough", "fault": "negative"}}, "infinity: define guidance.measur"),
        ({"measurement": {"_target_": "test_operator.First"}, "observed": [math.nan]}, "infinity: give finite numbers"),
        ({"measurement": {"_target_": "test_operator.First"}, "noise": 0.0}, "guidance.noise=0 must be above 0"),
        ({"measurement": {"_target_": "test_operator.First"}, "method": "replacement"}, "use guidance/method=moments"),
        (
            {"measurement": {"_target_": "test_operator.First"}, "observed": [-3.0], "noise": "poisson"},
            "observed: has a measurement of -3, and poisson noise needs at least 0: use guidance/noise=gaussian",
        ),
        (
            {"measurement": {"_target_": "test_operator.First"}, "observed": [1.0, 2.0]},
            r"observed: has the shape \(2,\): give an array of shape \(1,\), or an array of several of these",
        ),
    ],
)
def test_operators_that_cannot_guide_are_one_line(run: sdegen.Run, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        run.guided("operator", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "guidance.measurement: is a list of 0: give two or more nodes, or another guidance$"),
        ({"measurement": [FIRST]}, "guidance.measurement: is a list of 1: give two or more nodes"),
        ({"measurement": [FIRST, {"_target_": "test_operator.Absent"}]}, r"measurement\[1\]: .* has no class Absent"),
        ({"measurement": [FIRST, {**FIRST, "power": 2}]}, r"guidance.measurement\[1\].power: no such option of First"),
        ({"measurement": [FIRST, FIRST], "noise": [0.1] * 3}, "guidance.noise: is a list of 3: give 2, one for each"),
        ({"measurement": [FIRST, FIRST], "observed": [[1.0]]}, "observed: is a list of 1: give 2, one for each guidan"),
        ({"measurement": [FIRST, FIRST], "path": "y.npy"}, "guidance.path=y.npy: must be a list of 2 files"),
        (
            {"measurement": [FIRST, FIRST], "observed": [[1.0], [1.0, 2.0]]},
            r"observed\[1\]: has the shape \(2,\): give",
        ),
        ({"measurement": [FIRST, FIRST], "noise": [0.1, 0.0]}, "guidance.noise=0 must be above 0"),
    ],
)
def test_wrong_lists_of_measurements_are_one_line(run: sdegen.Run, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        run.guided("several", **options)
    assert "\n" not in str(error.value)


def test_two_conditionals_are_not_summed(run: sdegen.Run) -> None:
    guided = run.guided("inpaint", measurement={"mask": "left"}, observed=[98.0])
    with pytest.raises(UserError, match="call guided"):
        guided.guided("inpaint", measurement={"mask": "right"}, observed=[1.0])


def test_replacement_has_no_counts() -> None:
    with pytest.raises(ValueError, match="^method needs Gaussian noise and a measurement"):
        Posterior(torch.ones(1, 1), Rate(), Replacement(), Poisson())
