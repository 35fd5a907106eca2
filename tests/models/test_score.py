"""Each parametrization gives the exact score if the network returns the quantity that the parametrization expects."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdegen.config import assembly
from sdegen.config.compose import composed
from sdegen.models import Data, Gaussian, Karras, Noise, Parametrization, Raw, Residual, ScoreModel, Velocity
from sdegen.models.moments import Moments, Regression, Rotation
from sdegen.networks import MLP, Network, Numbers
from sdegen.runs.sampling import draw
from sdegen.sde import VE, VP, DoubleWell, LinearSDE
from sdegen.sde.mixture import GaussianMixture
from sdegen.training.objective import Implicit, Prepared

MEAN, VARIANCE, SIGMA_DATA = 0.7, 0.3, 0.8


class Function(Network):
    """Network that is a given function of x and t."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.function(x, t)


def posterior_mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Returns E[x0 | x] for x0 ~ N(MEAN, VARIANCE), by Gaussian conjugacy."""
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
    t = torch.tensor([0.01, 0.1, 0.5, sde.T] if batched else 0.3, dtype=torch.float64)
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


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]


@pytest.mark.parametrize("variances", [[3.0, 0.5, 0.01, 0.0], [2.0, 2.0, 2.0, 2.0]])
def test_gaussian_with_a_silent_network_is_exact_for_gaussian_data(sde: LinearSDE, variances: list[float]) -> None:
    """The oracle is a mixture of one component, with a singular and with an isotropic covariance."""
    axes, spread = rotation(4), torch.tensor(variances, dtype=torch.float64)
    mean = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    law = GaussianMixture(torch.ones(1), mean[None], (axes * spread @ axes.mT)[None])
    x, t = torch.randn(6, 4, dtype=torch.float64), torch.linspace(sde.eps, sde.T, 6, dtype=torch.float64)
    silent = ScoreModel(Function(lambda x, t: 0 * x), Gaussian(Moments(mean, axes, spread)), sde)
    exact = law.score(x, sde.alpha(t), sde.sigma(t))
    torch.testing.assert_close(silent(x, t), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(silent(x, t[3]), law.score(x, sde.alpha(t[3]), sde.sigma(t[3])))


class Silent(Network):
    """Network with the output 0 that takes two numbers, and a class before them if ``classes`` is given."""

    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        self.condition = Numbers(2, 0.1, classes, 0.1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return 0 * x


@pytest.fixture(scope="module")
def joint() -> tuple[Gaussian, GaussianMixture, Callable[[Tensor], GaussianMixture]]:
    """Parametrization of points x and numbers c, and the exact distributions of x and of x given c.

    The 200 points have exactly the mean and covariance of a Gaussian of (x, c). The oracle of x given c comes from the
    blocks of the inverse covariance.
    """
    source = torch.Generator().manual_seed(3)
    z = torch.randn(200, 5, generator=source, dtype=torch.float64)
    z = torch.linalg.qr(z - z.mean(0))[0] * 200**0.5
    root = torch.randn(5, 5, generator=source, dtype=torch.float64)
    mean = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    both = z @ root.T + mean
    x, c, covariance, weight = both[:, :3], both[:, 3:], root @ root.T, torch.ones(1)
    precision = torch.linalg.inv(covariance)
    left = torch.linalg.inv(precision[:3, :3])

    def given(c: Tensor) -> GaussianMixture:
        return GaussianMixture(weight, (mean[:3] - left @ precision[:3, 3:] @ (c - mean[3:]))[None], left[None])

    own = Gaussian(Moments.of(x)._replace(regression=Regression.of(x, c)))
    return own, GaussianMixture(weight, mean[None, :3], covariance[None, :3, :3]), given


def test_gaussian_with_a_silent_network_is_exact_given_numbers(joint: tuple, sde: LinearSDE) -> None:
    """Rows with hidden numbers, and a score without a condition, have the Gaussian of x."""
    parametrization, whole, given = joint
    model = ScoreModel(Silent(), parametrization, sde)
    x, t = torch.randn(4, 3, dtype=torch.float64), torch.linspace(0.01, sde.T, 4, dtype=torch.float64)
    c = torch.randn(4, 2, dtype=torch.float64)
    c[2] = math.nan
    exact = torch.cat(
        [
            (whole if row.isnan().any() else given(row)).score(x[i : i + 1], sde.alpha(t[i]), sde.sigma(t[i]))
            for i, row in enumerate(c)
        ]
    )
    torch.testing.assert_close(model.given(c)(x, t), exact)
    torch.testing.assert_close(model.given(c).of(torch.tensor([3, 0]))(x[[3, 0]], t[[3, 0]]), exact[[3, 0]])
    labelled = ScoreModel(Silent(classes=4), parametrization, sde)
    torch.testing.assert_close(labelled.given(torch.cat([t.new_full((4, 1), 2), c], 1))(x, t), exact)
    torch.testing.assert_close(model.given(c[0])(x, t[1]), given(c[0]).score(x, sde.alpha(t[1]), sde.sigma(t[1])))
    for unknown in (model, model.given(None), model.given(c[2])):
        torch.testing.assert_close(unknown(x, t[1]), whole.score(x, sde.alpha(t[1]), sde.sigma(t[1])))


def test_gaussian_given_numbers_is_exact_along_another_path(joint: tuple) -> None:
    parametrization, _, given = joint
    other, c = VE(sigma_max=5.0), torch.tensor([0.3, -2.0], dtype=torch.float64)
    x, t = torch.randn(4, 3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    moved = ScoreModel(Silent(), parametrization, VP()).along(other).given(c)
    torch.testing.assert_close(moved(x, t), given(c).score(x, other.alpha(t), other.sigma(t)))


def test_a_regression_on_numbers_of_which_some_are_redundant_or_too_many() -> None:
    """A constant number and a copy of another one change neither the mean given c nor the residuals."""
    source = torch.Generator().manual_seed(0)
    x, c = (torch.randn(100, k, generator=source, dtype=torch.float64) for k in (3, 2))
    alone, padded = Regression.of(x, c), torch.cat([c, torch.ones(100, 1), c[:, :1]], 1)
    redundant = Regression.of(x, padded)
    assert alone is not None and redundant is not None
    torch.testing.assert_close(padded @ redundant.slope.mT + redundant.rest.mean, c @ alone.slope.mT + alone.rest.mean)
    torch.testing.assert_close(redundant.rest.variances, alone.rest.variances)
    assert Regression.of(x, padded.repeat(1, 2)) is None
    exact = Regression.of(c @ torch.ones(2, 3).double(), c)
    assert exact is not None and float(exact.rest.variances.max()) < 1e-25


def test_moments_are_those_of_what_the_network_is_trained_on(tmp_path: Path) -> None:
    """A dequantised column is uniform over its cell, even if its values never change."""
    values = np.stack([np.arange(4000) % 9, np.full(4000, 3)], 1).astype(float)
    np.save(tmp_path / "x.npy", values)
    options = ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "dataset.levels=9", "dataset.dequantize=true"]
    (parts,) = assembly.replicated(composed("train", options))
    scale, moments = parts.dataset.units.affine.scale, parts.moments
    covariance = (moments.axes * moments.variances @ moments.axes.mT) * scale[:, None] * scale
    assert float(covariance[1, 1]) == pytest.approx(1 / 12, rel=0.1)
    assert float(covariance[0, 0]) == pytest.approx(80 / 12 + 1 / 12, rel=0.1)


def test_gaussian_gives_the_score_of_what_it_leaves_to_the_network(sde: LinearSDE) -> None:
    r"""For any F, D = D₀ + U c_out Uᵀ F with c_out = σ√Λ/√(α²Λ + σ²). The input of the network has unit mean square."""
    axes, spread = rotation(3), torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)
    mean, fed = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64), []
    output = torch.randn(5, 3, dtype=torch.float64)
    model = ScoreModel(Function(lambda x, t: fed.append((x, t)) or output), Gaussian(Moments(mean, axes, spread)), sde)
    x, t = torch.randn(5, 3, dtype=torch.float64), torch.linspace(0.01, sde.T, 5, dtype=torch.float64)
    score = model(x, t)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    v = alpha**2 * spread + sigma**2
    guess = mean + (alpha * spread / v * ((x - alpha * mean) @ axes)) @ axes.mT
    denoised = guess + (sigma * (spread / v).sqrt() * output) @ axes.mT
    torch.testing.assert_close((x + sigma**2 * score) / alpha, denoised)
    law = GaussianMixture(torch.ones(1), mean[None], (axes * spread @ axes.mT)[None])
    noisy = alpha[2] * law.sample(20_000, torch.Generator().manual_seed(0)) + sigma[2] * torch.randn(20_000, 3)
    seen = model.parametrization.terms(sde, noisy.double(), t[2]).x
    assert float(seen.square().mean()) == pytest.approx(1, rel=0.05)
    assert float(seen[:, 2].abs().max()) == 0


def test_variances_along_axes_that_few_points_have_chosen_are_those_of_the_law() -> None:
    """The 60 points in 100 dimensions have no variance in 41 directions, and too much along their first axes."""
    x = torch.randn(60, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = Moments.of(x)
    assert moments.axes is not None
    torch.testing.assert_close(moments.axes.mT @ moments.axes, torch.eye(100, dtype=torch.float64))
    own = (x @ moments.axes).var(0).sort().values
    assert float(moments.variances[:30].mean()) < 2.5 and float(moments.variances[-30:].mean()) > 0.2
    assert float(moments.variances.mean()) == pytest.approx(1, abs=0.1) and float(own[-1]) > 2.5
    # If the data lie on a plane, the variances off the plane stay 0.
    flat = Moments.of(x[:, :3] @ torch.randn(3, 100, generator=torch.Generator().manual_seed(1)).double())
    assert flat.axes is not None and flat.axes.shape == (100, 3)
    assert float(flat.variances[:3].min()) > 1 and float(flat.variances[3:].max()) == 0
    still = Moments.of(torch.ones(50, 8))
    assert still.axes is not None and still.axes.shape == (8, 0)


@pytest.mark.parametrize(("d", "k"), [(30, 4), (9, 2), (12, 0), (5, 1)])
def test_a_rotation_begins_with_the_axes_it_was_made_of(d: int, k: int) -> None:
    """The rotation is orthogonal and agrees with its dense matrix, even if rows of the axes are zero."""
    axes = torch.linalg.qr(torch.randn(d, k, generator=torch.Generator().manual_seed(k), dtype=torch.float64))[0]
    aligned = torch.eye(d, k, dtype=torch.float64)
    shifted = torch.roll(axes, 3, 0)
    for columns in (axes, aligned, -aligned, shifted, torch.roll(aligned, k, 0)):
        rotation = Rotation.of(columns)
        dense = rotation.back(torch.eye(d, dtype=torch.float64)).mT
        torch.testing.assert_close(dense.mT @ dense, torch.eye(d, dtype=torch.float64))
        torch.testing.assert_close(dense[:, :k], columns)
        x = torch.randn(7, d, dtype=torch.float64)
        torch.testing.assert_close(rotation.along(x), x @ dense)
        torch.testing.assert_close(rotation.back(rotation.along(x)), x)


def test_axes_that_are_left_out_change_nothing(sde: LinearSDE) -> None:
    """Two of ten dimensions vary. The axes of these two and all axes give the same score for the same output."""
    axes, spread = rotation(10), torch.zeros(10, dtype=torch.float64)
    spread[:2] = torch.tensor([3.0, 0.4])
    mean = torch.arange(10, dtype=torch.float64)
    whole, kept = (Gaussian(Moments(mean, part, spread)) for part in (axes, axes[:, :2]))
    output = torch.randn(6, 10, dtype=torch.float64)
    output[:, 2:] = 0
    x, t = torch.randn(6, 10, dtype=torch.float64), torch.linspace(0.01, 1, 6, dtype=torch.float64)
    models = [ScoreModel(Function(lambda x, t: output), one, sde) for one in (whole, kept)]
    torch.testing.assert_close(models[0](x, t), models[1](x, t))
    torch.testing.assert_close(*(one.terms(sde, x, t).x for one in (whole, kept)))


def test_samples_of_data_on_a_plane_are_on_it_whatever_the_network_has_learned(tmp_path: Path) -> None:
    """The parametrization is the default. A network of width 8 could not even represent the noise of 40 dimensions."""
    source = np.random.default_rng(0)
    basis = np.linalg.qr(source.normal(size=(40, 3)))[0]
    np.save(tmp_path / "plane.npy", source.uniform(-1, 1, (500, 3)) @ basis.T + 5)
    options = (f"dataset.path={tmp_path / 'plane.npy'}", "network.hidden=[8]", "trainer.steps=20", "trainer.threads=1")
    (parts,) = assembly.replicated(composed("train", ["dataset=file", *options]))
    training = parts.training()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    x = draw(parts.sde, training.averages[0], parts.sampler, parts.dataset.units, 200).x
    off = parts.dataset.units.decode(x) - 5
    off = off - off @ torch.from_numpy(basis @ basis.T)
    assert float(off.square().sum(1).mean()) < 1e-3


def test_residual_of_a_silent_network_is_the_score_of_the_prior_and_can_be_differentiated() -> None:
    """For V = (x² − 1)², the score is −4x³ + 4x, and its divergence in the implicit loss is −12x² + 4."""
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
    """The layers are (2 + 1) → 128 → 128 → 2, with biases."""
    assert sum(p.numel() for p in MLP((2,), (128, 128), "relu", "concat").parameters()) == 4 * 128 + 129 * 128 + 129 * 2
