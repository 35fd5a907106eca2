"""Likelihoods agree with exact densities and closed-form flows, and densities integrate to one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import plane, standard_error
from scipy.spatial import geometric_slerp
from scipy.stats import kstest
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.randomness import RandnLike
from sdegen.datasets import Affine
from sdegen.flow.divergence import Exact, Hutchinson, by_probes
from sdegen.flow.likelihood import Flow, arc, bits_per_dim, dequantized
from sdegen.flow.solvers import DormandPrince, ODESolver, SciPyRK45
from sdegen.sde import VE, VP, LinearSDE, SubVP
from sdegen.sde.base import SDE, Score
from sdegen.sde.mixture import GaussianMixture, Marginals

TIGHT = DormandPrince(1e-8, 1e-8, 10_000)
LOOSE = DormandPrince(1e-5, 1e-5, 10_000)


def same(shape: tuple[int, ...]) -> Affine:
    """Returns units in which the coordinates of the user and of the network are equal."""
    return Affine(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))


def flow(sde: SDE, score: Score, units: Affine, solver: ODESolver = TIGHT, batch_size: int = 1000) -> Flow:
    return Flow(sde, score, units, solver, batch_size=batch_size, dtype=torch.float64)


def standardised(law: GaussianMixture) -> Affine:
    mean = (law.weights[:, None] * law.means).sum(0)
    centred = law.means - mean
    second = law.covariances + centred[:, :, None] * centred[:, None, :]
    return Affine(mean, (law.weights[:, None, None] * second).sum(0).diagonal().sqrt())


class Correlated:
    """A Gaussian with a full covariance C, with its exact score and the matrix of its flow.

    With :math:`S_t = \\alpha_t^2 C + \\sigma_t^2 I`, the flow's map is :math:`S_T^{1/2} S_\\varepsilon^{-1/2}`.
    """

    def __init__(self, sde: LinearSDE, covariance: Tensor) -> None:
        self.sde = sde
        self.variances, self.axes = torch.linalg.eigh(covariance)

    def spread(self, t: Tensor) -> Tensor:
        alpha, sigma = self.sde.alpha(t)[..., None], self.sde.sigma(t)[..., None]
        return alpha**2 * self.variances + sigma**2

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return -((x.flatten(1) @ self.axes) / self.spread(t) @ self.axes.T).reshape(x.shape)

    def log_map(self) -> Tensor:
        ends = [self.spread(torch.tensor(t, dtype=torch.float64)) for t in (self.sde.eps, self.sde.T)]
        return self.axes @ torch.diag(0.5 * (ends[1] / ends[0]).log()) @ self.axes.T


def covariance(d: int) -> Tensor:
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64) / math.sqrt(d)
    return root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("solver", [TIGHT, SciPyRK45(1e-8, 1e-8)], ids=["dopri5", "rk45"])
@pytest.mark.parametrize("shape", [(4,), (1, 2, 2)], ids=["vectors", "images"])
def test_density_of_a_gaussian_is_the_prior_pulled_back(sde: LinearSDE, shape: tuple, solver: ODESolver) -> None:
    """The density is log p(x) = log prior(Mx) + log det M, with the matrix M of the flow."""
    score = Correlated(sde, covariance(4))
    x = normal(6, *shape)
    got = flow(sde, score, same(shape), solver).log_prob(x, Exact())
    latent = x.flatten(1) @ torch.matrix_exp(score.log_map())
    log_prior = (
        torch.distributions.Normal(0.0, torch.tensor(sde.prior_std, dtype=torch.float64)).log_prob(latent).sum(1)
    )
    torch.testing.assert_close(got.latent.flatten(1), latent, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got.log_p, log_prior + score.log_map().trace(), rtol=0, atol=1e-6)
    assert got.standard_error is None


@pytest.mark.parametrize(
    ("sde", "bound"), [(VP(), 3e-5), (SubVP(), 6e-5), (VE(sigma_max=500.0), 6e-5)], ids=["vp", "subvp", "ve"]
)
def test_density_of_a_mixture_is_exact_in_the_users_units(sde: LinearSDE, bound: float) -> None:
    """Points lie around (100, −7) in unequal units. The error comes from the tolerance and the prior."""
    law = plane().affine(torch.tensor([-50.0, 0.7]), torch.tensor([0.5, 0.1]))
    units = standardised(law)
    assert float(units.shift[0]) > 90
    x = law.sample(400, torch.Generator().manual_seed(0))
    inner = Marginals(law.affine(units.shift, units.scale), sde)
    got = flow(sde, inner, units, LOOSE).log_prob(x, Exact())
    # At eps the distribution is blurred by noise with the standard deviation σ, in the units of the network.
    alpha, sigma = (f(torch.tensor(sde.eps, dtype=torch.float64)) for f in (sde.alpha, sde.sigma))
    blurred = GaussianMixture(
        law.weights,
        units.shift + alpha * (law.means - units.shift),
        alpha**2 * law.covariances + torch.diag((sigma * units.scale) ** 2),
    )
    assert float((got.log_p - blurred.log_prob(x)).abs().mean()) / 2 < bound
    assert float((got.log_p - law.log_prob(x)).abs().mean()) / 2 < 1e-4


class Periodic(SDE):
    """A particle in a periodic potential, dx = (sin 2x − x / 2) dt + dw. It has no kernel in closed form."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(2 * x) - 0.5 * x

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def perturb(self, x0: Tensor, t: Tensor, randn_like: RandnLike) -> Tensor:
        raise AssertionError("a likelihood needs no kernel")

    def sample_prior(self, x: Tensor, randn_like: RandnLike) -> Tensor:
        return randn_like(x)

    def log_prior(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1)


def wavy(x: Tensor, t: Tensor) -> Tensor:
    """Returns a score that is not a gradient: each coordinate depends on the others."""
    return torch.sin(x.roll(1, dims=1) + t.reshape(-1, 1)) + 0.5 * torch.cos(1.5 * x) - 0.3 * x


@pytest.mark.parametrize("sde", [Periodic(), VP(beta_max=4.0)], ids=["periodic", "vp"])
@pytest.mark.parametrize("d", [1, 2])
def test_density_integrates_to_one_for_any_score_and_any_sde(sde: SDE, d: int) -> None:
    """The trapezoid rule is spectrally accurate for smooth functions that decay. The units are 3 and 0.5."""
    n = 401 if d == 1 else 141
    scale = torch.tensor([3.0, 0.5], dtype=torch.float64)[:d]
    axes = [torch.linspace(-10, 10, n, dtype=torch.float64) * s for s in scale]
    x = torch.cartesian_prod(*axes).reshape(-1, d)
    solver = DormandPrince(1e-6, 1e-6, 10_000)
    log_p = flow(sde, wavy, Affine(torch.zeros(d).double(), scale), solver, 20_000).log_prob(x, Exact()).log_p
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    assert float(log_p.exp().sum()) * cell == pytest.approx(1, abs=1e-4)


def test_probes_are_fixed_along_a_trajectory(sde: LinearSDE) -> None:
    """For Gaussian data in the plane, the error of an estimate has one of two values, which differ in sign.

    The estimate is v·log(M)·v for one v = (±1, ±1). A probe that is drawn anew, or taken from another row after some
    rows have arrived, would give a value in between.
    """
    score = Correlated(sde, covariance(2))
    x = normal(40, 2) * torch.logspace(-1, 1, 40, dtype=torch.float64)[:, None]
    mapped = flow(sde, score, same((2,)))
    off = mapped.log_prob(x, Hutchinson(1)).log_p - mapped.log_prob(x, Exact()).log_p
    expected = 2 * float(score.log_map()[0, 1])
    assert abs(expected) > 0.1
    torch.testing.assert_close(off.abs(), torch.full((40,), abs(expected)).double(), rtol=0, atol=1e-6)
    assert 8 < int((off > 0).sum()) < 32


def test_estimate_is_unbiased_and_its_variance_is_hutchinsons() -> None:
    sde = VP()
    score = Correlated(sde, covariance(6))
    x = normal(1, 6).expand(3000, 6)
    mapped = flow(sde, score, same((6,)), LOOSE, 3000)
    off = mapped.log_prob(x, Hutchinson(1)).log_p - mapped.log_prob(x[:1], Exact()).log_p
    log_map = score.log_map()
    variance = 2 * float(log_map.square().sum() - log_map.diagonal().square().sum())
    assert abs(float(off.mean())) < 4 * standard_error(off)
    assert float(off.square().mean()) == pytest.approx(variance, rel=0.1)


def test_standard_error_is_true_and_falls_with_the_probes() -> None:
    """For each number of probes, the mean squared error equals the mean of the squared standard errors."""
    root = normal(3, 8, 8, seed=1) / 3
    law = GaussianMixture(torch.ones(3), 1.5 * normal(3, 8, seed=2), root @ root.transpose(1, 2))
    units = standardised(law)
    x = law.sample(600, torch.Generator().manual_seed(3))
    mapped = flow(VP(), Marginals(law.affine(units.shift, units.scale), VP()), units, LOOSE)
    exact = mapped.log_prob(x, Exact()).log_p
    sizes = []
    for probes in (2, 8):
        got = mapped.log_prob(x, Hutchinson(probes))
        assert got.standard_error is not None
        off = got.log_p - exact
        assert float(off.square().mean() / got.standard_error.square().mean()) == pytest.approx(1, abs=0.2)
        sizes.append(float(off.square().mean()))
    assert sizes[0] / sizes[1] == pytest.approx(4, rel=0.25)
    # With 8 probes, the error has Student's t distribution with 7 degrees of freedom: 95 % are within
    # 2.365 standard errors.
    assert float((off.abs() < 2.365 * got.standard_error).double().mean()) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(2)], ids=["exact", "hutchinson"])
def test_point_does_not_depend_on_its_batch(sde: LinearSDE, divergence: Exact | Hutchinson) -> None:
    law = plane()
    units = standardised(law)
    x = law.sample(20, torch.Generator().manual_seed(0))
    score = Marginals(law.affine(units.shift, units.scale), sde)
    whole, parts = (flow(sde, score, units, LOOSE, b).log_prob(x, divergence, seed=4) for b in (20, 13))
    torch.testing.assert_close(parts.log_p, whole.log_p, rtol=0, atol=1e-9)
    torch.testing.assert_close(parts.latent, whole.latent, rtol=0, atol=1e-9)
    assert parts.nfe == pytest.approx(whole.nfe)
    if whole.standard_error is not None:
        torch.testing.assert_close(parts.standard_error, whole.standard_error, rtol=0, atol=1e-9)
        other = flow(sde, score, units, LOOSE).log_prob(x, divergence, seed=5)
        assert float((other.log_p - whole.log_p).abs().max()) > 0.01


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_copies_of_a_coordinate_have_its_density_to_the_same_tolerance_at_the_same_cost(tolerance: float) -> None:
    """One point is the mean of the data, which the flow does not move: only the density of this point has an error."""
    sde, std, solver = VP(), 0.3, DormandPrince(tolerance, tolerance, 10_000)
    ends = torch.tensor([sde.eps, sde.T], dtype=torch.float64)
    low, high = (sde.alpha(ends) ** 2 * std**2 + sde.sigma(ends) ** 2).sqrt().tolist()
    x = torch.tensor([0.0, 0.2, -0.9], dtype=torch.float64)[:, None]
    exact = -0.5 * (x.squeeze(1) * high / low) ** 2 - 0.5 * math.log(2 * math.pi) + math.log(high / low)
    costs = []
    for d in (1, 20):
        score = Correlated(sde, std**2 * torch.eye(d, dtype=torch.float64))
        got = flow(sde, score, same((d,)), solver).log_prob(x.expand(3, d), Exact())
        assert float((got.log_p / d - exact).abs().max()) < 10 * tolerance
        costs.append(got.nfe)
    assert costs[0] == costs[1]


def test_score_is_asked_between_eps_and_T_and_counted(sde: LinearSDE) -> None:  # noqa: N802 - T is its name
    times: list[Tensor] = []
    score = Correlated(sde, covariance(2))

    def watched(x: Tensor, t: Tensor) -> Tensor:
        times.append(t.expand(len(x)))
        return score(x, t)

    got = flow(sde, watched, same((2,))).log_prob(normal(5, 2), Exact())
    asked = torch.cat(times)
    assert float(asked.min()) == sde.eps
    assert float(asked.max()) == sde.T
    assert got.nfe == len(asked) / 5


def test_float32_is_nearly_float64(sde: LinearSDE) -> None:
    law = plane()
    units = standardised(law)
    x = law.sample(200, torch.Generator().manual_seed(0))
    score = Marginals(law.affine(units.shift, units.scale), sde)
    got = [Flow(sde, score, units, LOOSE, dtype=dtype).log_prob(x, Exact()) for dtype in (torch.float32, torch.float64)]
    torch.testing.assert_close(got[0].log_p, got[1].log_p, rtol=0, atol=1e-3)


def uniform_score(sde: LinearSDE, half: float) -> Score:
    """Returns the exact score of data that are uniform on [−half, half] in each coordinate."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (f(t).reshape(-1, 1) for f in (sde.alpha, sde.sigma))
        up, down = (x + alpha * half) / sigma, (x - alpha * half) / sigma
        # The density is symmetric, so take the difference in the tail in which it does not cancel.
        left = torch.where(x > 0, torch.special.ndtr(-down) - torch.special.ndtr(-up), 0)
        mass = torch.where(x > 0, left, torch.special.ndtr(up) - torch.special.ndtr(down))
        density = (torch.exp(-0.5 * up**2) - torch.exp(-0.5 * down**2)) / math.sqrt(2 * math.pi)
        return density / (mass.clamp(min=1e-300) * sigma)

    return score


def test_uniform_data_of_17_levels_have_log2_17_bits() -> None:
    """Dequantised values are uniform on [−½, 16½), so each dimension costs log2 17 = 4.087 bits."""
    sde, half = VP(), math.sqrt(3)
    units = Affine(torch.full((2,), 8.0).double(), torch.full((2,), 17 / math.sqrt(12)).double())
    x = torch.cartesian_prod(torch.arange(17), torch.arange(17)).double()
    values = dequantized(x, seed=0)
    assert torch.equal(values.round(), x)
    log_p = (
        flow(sde, uniform_score(sde, half), units, DormandPrince(1e-6, 1e-6, 10_000)).log_prob(values, Exact()).log_p
    )
    bits = bits_per_dim(-log_p, 2)
    # The noise at eps blurs the edges. This costs the median point less than 0.001 bits, and points near an edge more.
    assert float(bits.median()) == pytest.approx(math.log2(17), abs=1e-3)
    assert float(bits.mean()) == pytest.approx(math.log2(17), abs=5e-3)


def test_dequantisation_is_uniform_and_of_the_point_alone() -> None:
    x = torch.arange(4000).reshape(2000, 2).double() % 5
    u = dequantized(x, seed=1) - x
    assert kstest((u + 0.5).flatten().numpy(), "uniform").pvalue > 0.01
    assert abs(float(np.corrcoef(u.T.numpy())[0, 1])) < 0.1
    torch.testing.assert_close(dequantized(x[:5], seed=1) - x[:5], u[:5], rtol=0, atol=0)
    assert not torch.equal(dequantized(x, seed=2) - x, u)


def test_latent_of_a_point_on_the_line_is_its_quantile(line: GaussianMixture) -> None:
    sde = VP()
    x = torch.linspace(-4, 5, 13, dtype=torch.float64)[:, None]
    law = line.affine(torch.tensor(0.0), torch.tensor(3.1))
    units = Affine(torch.zeros(1).double(), torch.full((1,), 3.1).double())
    mapped = flow(sde, Marginals(law, sde), units, DormandPrince(1e-10, 1e-10, 10_000))
    spread = (line.covariances + (3.1 * sde.sigma(torch.tensor(sde.eps, dtype=torch.float64))) ** 2).sqrt()
    cdf = (line.weights * torch.special.ndtr((x - line.means.T) / spread)).sum(1)
    latent = mapped.encode(x)
    torch.testing.assert_close(torch.special.ndtr(latent[:, 0]), cdf, rtol=0, atol=1e-4)
    torch.testing.assert_close(mapped.decode(latent), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(2,), (1, 2, 2)], ids=["vectors", "images"])
def test_decoding_undoes_encoding_in_any_batch(sde: LinearSDE, shape: tuple[int, ...]) -> None:
    score = Correlated(sde, covariance(math.prod(shape)))
    units = Affine(torch.full(shape, 100.0).double(), torch.full(shape, 5.0).double())
    x = 100 + 5 * normal(5, *shape)
    mapped = flow(sde, score, units, TIGHT, batch_size=3)
    latent = mapped.encode(x)
    torch.testing.assert_close(mapped.decode(latent), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(mapped.log_prob(x, Exact()).latent, latent, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("d", [2, 3, 50])
def test_arc_is_scipys(d: int) -> None:
    a, b = (v / v.norm() for v in normal(2, d))
    expected = torch.from_numpy(geometric_slerp(a.numpy(), b.numpy(), np.linspace(0, 1, 7)))
    torch.testing.assert_close(arc(3 * a, 3 * b, 7), 3 * expected)


def test_arc_on_one_line_is_straight() -> None:
    a, b = torch.tensor([-2.0]), torch.tensor([4.0])
    torch.testing.assert_close(arc(a, b, 4).flatten(), torch.tensor([-2.0, 0.0, 2.0, 4.0]))
    torch.testing.assert_close(arc(b, b, 3), b.expand(3, 1))
    torch.testing.assert_close(arc(torch.zeros(2), torch.ones(2), 3)[1], torch.full((2,), 0.5))


def test_interpolation_stays_where_the_data_are() -> None:
    """In 64 dimensions, the middle of a straight line has half the variance of Gaussian data.

    The arc keeps the variance.
    """
    sde, d = VP(), 64
    units = Affine(torch.full((d,), -20.0).double(), torch.full((d,), 3.0).double())
    x = units.decode(normal(2, d))
    mapped = flow(sde, lambda x, t: -x, units)
    path = mapped.interpolate(x[0], x[1], 5)
    torch.testing.assert_close(path[[0, -1]], x, rtol=0, atol=1e-5)
    lengths = units.encode(path).norm(dim=1)
    assert float(lengths.min()) > 0.98 * float(lengths[[0, -1]].min())
    assert float(units.encode(x.mean(0, keepdim=True)).norm()) < 0.8 * float(lengths[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: by_probes(3, 2), "probes=3 cost more than the exact divergence in 2 dimensions: use probes=0"),
        (lambda: by_probes(-1, 2), "probes=-1 must be at least 0"),
        (lambda: arc(torch.ones(2), torch.ones(2), 1), "n=1 must be at least 2"),
        (lambda: flow(VP(), wavy, same((2,))).log_prob(normal(5, 2), Hutchinson(3)), "probes=3 cost more"),
        (lambda: flow(VP(), wavy, same((2,))).encode(normal(2)), r"shape \(2,\) are not a batch \(N, 2\)"),
        (lambda: flow(VP(), wavy, same((2,))).decode(normal(4, 1)), r"shape \(4, 1\) are not a batch \(N, 2\)"),
        (lambda: flow(VP(), wavy, same((2,))).log_prob(normal(0, 2), Exact()), "are not a batch"),
        (lambda: flow(VP(), lambda x, t: x * torch.nan, same((2,))).log_prob(normal(3, 2), Exact()), "dopri5 cannot"),
    ],
    ids=["probes", "negative", "one point", "hutchinson", "no batch", "wrong width", "nothing", "nan"],
)
def test_mistakes_are_told(call: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


def test_no_probe_is_refused() -> None:
    with pytest.raises(ValueError, match="probes=0 must be at least 1"):
        Hutchinson(0)
