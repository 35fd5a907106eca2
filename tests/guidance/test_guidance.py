"""Guidance by a class and by a linear measurement agrees with exact conditionals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import plane
from torch import Tensor

from sdegen.core.randomness import SampleNoise, generator
from sdegen.datasets import Affine
from sdegen.guidance.classes import ClassifierFree, ClassifierGuidance, Guidance
from sdegen.guidance.gaussian import Isotropic, Moments
from sdegen.guidance.measurement import Blur, Grey, Inpaint, Linear, Measurement, SuperResolution, known_entries
from sdegen.guidance.posterior import Method, Posterior, Replacement
from sdegen.models import Raw, ScoreModel
from sdegen.models.classifier import ClassifierModel
from sdegen.networks import Network
from sdegen.networks.oracle import Oracle
from sdegen.runs.sampling import cut, draw
from sdegen.samplers import Dopri5, EulerMaruyama, StepSampler, Twisted
from sdegen.samplers.steps import effective, resampled
from sdegen.sde import VE, VP, LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals

TIMES = [1e-5, 0.1, 0.4, 1.0]


class Components(Network):
    """Network with the exact log-probabilities of the components of a mixture at a noisy point, up to a constant."""

    predicts = "class"

    def __init__(self, law: GaussianMixture, sde: LinearSDE) -> None:
        super().__init__()
        self.law, self.sde = law, sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (part.expand(len(x))[:, None] for part in (self.sde.alpha(t), self.sde.sigma(t)))
        identity = torch.eye(x.shape[1], dtype=x.dtype)
        rows = [
            math.log(float(w))
            + torch.distributions.MultivariateNormal(
                alpha * mean, alpha[:, :, None] ** 2 * cov + sigma[:, :, None] ** 2 * identity
            ).log_prob(x)
            for w, mean, cov in zip(self.law.weights, self.law.means, self.law.covariances, strict=True)
        ]
        return torch.stack(rows, dim=1)


class Both:
    """Exact score of a mixture or of one component, with the interface of a conditional network."""

    def __init__(self, law: GaussianMixture, sde: LinearSDE) -> None:
        self.law, self.sde = law, sde

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return Marginals(self.law, self.sde)(x, t)

    def given(self, y: Tensor) -> Marginals:
        return Marginals(self.law if y == -1 else component(self.law, int(y)), self.sde)


def component(law: GaussianMixture, k: int) -> GaussianMixture:
    one = slice(k, k + 1)
    return GaussianMixture(law.weights[one], law.means[one], law.covariances[one])


def points(n: int, d: int) -> Tensor:
    return 1.5 * torch.randn(n, d, generator=generator("cpu", 0, "points"), dtype=torch.float64)


def classes(sde: LinearSDE, scale: float = 1.0) -> list[Guidance]:
    model = ClassifierModel(Components(plane(), sde), sde)
    return [ClassifierGuidance(model, 1, scale), ClassifierFree(1, scale)]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("t", TIMES)
def test_guided_by_the_posterior_of_a_class_is_the_score_of_the_class(sde: LinearSDE, which: int, t: float) -> None:
    x, time = points(50, 2), torch.tensor(t, dtype=torch.float64)
    guided = classes(sde)[which](sde, Both(plane(), sde))(x, time)
    torch.testing.assert_close(guided, Marginals(component(plane(), 1), sde)(x, time), rtol=1e-7, atol=1e-7)


def test_scale_goes_beyond_the_class_in_both_ways_alike() -> None:
    """If network and classifier have the same classes, both kinds of guidance add γ times the same vector."""
    x, time, sde = points(50, 2), torch.tensor(0.3, dtype=torch.float64), VP()
    whole, own = (Marginals(law, sde)(x, time) for law in (plane(), component(plane(), 1)))
    for guidance in classes(sde, 2.5):
        guided = guidance(sde, Both(plane(), sde))(x, time)
        torch.testing.assert_close(guided, whole + 2.5 * (own - whole))


@pytest.mark.parametrize("sampler", [Dopri5(), StepSampler(EulerMaruyama(), steps=500)], ids=["flow", "sde"])
def test_guided_samples_have_the_law_of_the_class(sampler) -> None:  # noqa: ANN001
    sde, n = VP(), 3000
    guidance = classes(sde)[0]
    noise = SampleNoise(0, 0, n, (2,))
    prior = guidance.start(sde, sde.sample_prior(torch.empty(n, 2, dtype=torch.float64), noise))
    x = sampler(sde, guidance(sde, Both(plane(), sde)), prior, noise=noise).x
    law = component(plane(), 1)
    error = law.covariances[0].diagonal().sqrt() / math.sqrt(n)
    assert bool(((x.mean(0) - law.means[0]).abs() < 4.5 * error + 0.01).all())
    torch.testing.assert_close(x.T.cov(), law.covariances[0], atol=0.06, rtol=0.08)


def measurements() -> list[tuple[str, Measurement, tuple[int, ...]]]:
    colour = (3, 6, 8)
    return [
        ("inpaint", Inpaint(colour, "left"), colour),
        ("checkerboard", Inpaint((1, 5, 4), "checkerboard"), (1, 5, 4)),
        ("vector", Inpaint((6,), "left"), (6,)),
        ("signal", Inpaint((3, 8), "centre"), (3, 8)),
        ("super_resolution", SuperResolution(colour, 2), colour),
        ("grey", Grey(colour), colour),
        ("blur", Blur(colour, 1.3), colour),
    ]


MEASUREMENTS = pytest.mark.parametrize(
    ("measurement", "shape"), [m[1:] for m in measurements()], ids=[m[0] for m in measurements()]
)


@MEASUREMENTS
def test_adjoint_and_gain_are_those_of_the_map(measurement: Measurement, shape: tuple[int, ...]) -> None:
    """The adjoint fulfils ⟨A x, y⟩ = ⟨x, Aᵀ y⟩. If there is a gain c, then A Aᵀ y = c y."""
    x = torch.randn(4, *shape, generator=generator("cpu", 0, "x"), dtype=torch.float64)
    y = torch.randn(measurement(x).shape, generator=generator("cpu", 0, "y"), dtype=torch.float64)
    left, right = (measurement(x) * y).flatten(1).sum(1), (x * measurement.adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right)
    if measurement.gain is not None:
        torch.testing.assert_close(measurement(measurement.adjoint(y)), measurement.gain * y)
    else:
        assert not torch.allclose(measurement(measurement.adjoint(y)), y * (y * measurement.adjoint(y)).mean())


@pytest.mark.parametrize(("factor", "gain"), [(3.0, 9.0), (None, None)], ids=["orthogonal", "not"])
def test_matrix_knows_whether_its_rows_are_orthogonal(factor: float | None, gain: float | None, tmp_path: Path) -> None:
    matrix = torch.randn(3, 6, generator=generator("cpu", 0, "matrix"), dtype=torch.float64)
    if factor is not None:
        matrix = factor * torch.linalg.qr(matrix.T)[0].T
    np.save(tmp_path / "a.npy", matrix.numpy())
    measurement = Linear((2, 3), str(tmp_path / "a.npy"))
    assert measurement.gain == (None if gain is None else pytest.approx(gain))
    x = torch.randn(4, 2, 3, generator=generator("cpu", 0, "x"), dtype=torch.float64)
    y = torch.einsum("mhw,bhw->bm", matrix.reshape(3, 2, 3), x)
    torch.testing.assert_close(measurement(x), y)
    torch.testing.assert_close((measurement.adjoint(y) * x).sum((1, 2)), y.square().sum(1))


def test_measurements_are_what_they_are_called() -> None:
    """The oracle computes single pixels without tensor operations."""
    x = torch.randn(2, 3, 4, 6, generator=generator("cpu", 0, "x"), dtype=torch.float64)
    small, grey, blurred = SuperResolution((3, 4, 6), 2)(x), Grey((3, 4, 6))(x), Blur((3, 4, 6), 0.8)(x)
    for i in range(2):
        for j in range(3):
            block = x[1, 2, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            assert float(small[1, 2, i, j]) == pytest.approx(float(block.sum()) / 4)
    assert float(grey[0, 0, 1, 2]) == pytest.approx(float(x[0, 0, 1, 2] + x[0, 1, 1, 2] + x[0, 2, 1, 2]) / 3)
    weights = np.array([[math.exp(-((i - 1) ** 2 + (j - 2) ** 2) / (2 * 0.8**2)) for j in range(6)] for i in range(4)])
    assert float(blurred[0, 1, 1, 2]) == pytest.approx(float((weights * x[0, 1].numpy()).sum() / weights.sum()))
    known = Inpaint((3, 4, 6), "top").picture(Inpaint((3, 4, 6), "top")(x[:1]))
    assert torch.equal(known[:, :2], x[0, :, :2])
    assert bool(known[:, 2:].isnan().all())


@pytest.mark.parametrize(
    ("mask", "steps"),
    [
        ("left", {0, 1, 2, 3}),
        ("right", {4, 5, 6, 7}),
        ("centre", {2, 3, 4, 5}),
        ("frame", {0, 1, 6, 7}),
        ("checkerboard", {0, 2, 4, 6}),
    ],
)
def test_masks_of_signals_are_steps_of_all_channels(mask: str, steps: set[int], tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.isin(np.arange(8), list(steps)))
    for one in (mask, str(tmp_path / "own.npy")):
        known = known_entries(one, (4, 8))
        assert known.shape == (4, 8)
        assert all(set(channel.nonzero().flatten().tolist()) == steps for channel in known)


def gaussian(d: int) -> GaussianMixture:
    root = torch.randn(d, d, generator=generator("cpu", 0, "root"), dtype=torch.float64) / math.sqrt(d)
    mean = torch.randn(1, d, generator=generator("cpu", 0, "mean"), dtype=torch.float64)
    return GaussianMixture(torch.ones(1), mean, (root @ root.T + 0.05 * torch.eye(d))[None])


def conditioned(law: GaussianMixture, a: Tensor, y: Tensor, noise: float) -> GaussianMixture:
    """Returns the posterior of a mixture given A x + noise = y, by Kalman's formula and Bayes' rule for the weights."""
    weights, means, covariances = [], [], []
    for w, mean, cov in zip(law.weights, law.means, law.covariances, strict=True):
        total = a @ cov @ a.T + noise**2 * torch.eye(len(a), dtype=a.dtype)
        gain = cov @ a.T @ total.inverse()
        weights.append(w.log() + torch.distributions.MultivariateNormal(a @ mean, total).log_prob(y))
        means.append(mean + gain @ (y - a @ mean))
        covariances.append(cov - gain @ a @ cov)
    found = torch.stack(weights).softmax(0)
    return GaussianMixture(found, torch.stack(means), torch.stack([0.5 * (c + c.T) for c in covariances]))


def linear(tmp_path, a: Tensor) -> Linear:  # noqa: ANN001
    np.save(tmp_path / "a.npy", a.numpy())
    return Linear((a.shape[1],), str(tmp_path / "a.npy"))


@pytest.mark.parametrize("t", TIMES)
def test_moments_are_exact_for_gaussian_data(sde: LinearSDE, t: float, tmp_path) -> None:  # noqa: ANN001
    law, a = gaussian(5), torch.randn(2, 5, generator=generator("cpu", 0, "a"), dtype=torch.float64)
    y, x, time = (
        torch.tensor([[0.7, -1.1]], dtype=torch.float64),
        points(20, 5),
        torch.tensor(min(t, sde.T), dtype=torch.float64),
    )
    guidance = Posterior(y, linear(tmp_path, a), Moments(iterations=8), noise=0.3)
    guided = guidance(sde, Marginals(law, sde))(x, time)
    exact = Marginals(conditioned(law, a, y[0], 0.3), sde)(x, time)
    torch.testing.assert_close(guided, exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


@pytest.mark.parametrize("t", TIMES)
def test_isotropic_is_exact_for_data_that_are(sde: LinearSDE, t: float, tmp_path) -> None:  # noqa: ANN001
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 5), 0.49 * torch.eye(5)[None])
    a = torch.randn(2, 5, generator=generator("cpu", 0, "a"), dtype=torch.float64)
    y, x, time = (
        torch.tensor([[0.7, -1.1]], dtype=torch.float64),
        points(20, 5),
        torch.tensor(min(t, sde.T), dtype=torch.float64),
    )
    guidance = Posterior(y, linear(tmp_path, a), Isotropic(spread=0.7), noise=0.3)
    guided = guidance(sde, Marginals(law, sde))(x, time)
    exact = Marginals(conditioned(law, a, y[0], 0.3), sde)(x, time)
    torch.testing.assert_close(guided, exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


@pytest.mark.parametrize("sde", [VP(), VE(sigma_max=20.0)], ids=["vp", "ve"])
def test_replacement_begins_and_ends_in_the_law_of_the_measured_coordinates(sde: LinearSDE) -> None:
    """At T the measured coordinate has the moments of the kernel given y.

    At eps it is y with the noise of the measurement.

    The coordinates of the data are independent, so the other coordinate keeps its own distribution.
    """
    n, y = 20_000, torch.tensor([[0.8]], dtype=torch.float64)
    law = GaussianMixture(torch.ones(1), torch.tensor([[0.0, 0.5]]), torch.diag(torch.tensor([1.0, 0.25]))[None])
    guidance = Posterior(y, Inpaint((2,), "left"), Replacement(), noise=0.1)
    noise = SampleNoise(0, 0, n, (2,))
    start = guidance.start(sde, sde.sample_prior(torch.empty(n, 2, dtype=torch.float64), noise))
    end = torch.tensor(sde.T, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(end)), float(sde.sigma(end))
    std = math.hypot(0.1 * alpha, sigma)
    assert float(start[:, 0].mean()) == pytest.approx(0.8 * alpha, abs=4.5 * std / math.sqrt(n))
    assert float(start[:, 0].std()) == pytest.approx(std, rel=0.03)
    x = StepSampler(EulerMaruyama(), steps=500)(sde, guidance(sde, Marginals(law, sde)), start, noise=noise).x
    assert float(x[:, 0].mean()) == pytest.approx(0.8, abs=0.02)
    assert float(x[:, 0].std()) == pytest.approx(0.1, abs=0.02)
    assert float(x[:, 1].mean()) == pytest.approx(0.5, abs=0.03)
    assert float(x[:, 1].std()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("method", [Moments(), Isotropic(), Replacement()], ids=["moments", "isotropic", "replacement"])
def test_every_row_is_guided_by_itself(method: Method) -> None:
    """A row has the same score among other rows, each at its own time, as it has alone."""
    sde, x = VP(), points(16, 2)
    guided = Posterior(torch.tensor([[0.4]], dtype=torch.float64), Inpaint((2,), "left"), method, noise=0.1)(
        sde, Marginals(plane(), sde)
    )
    t = torch.linspace(0.05, 0.95, 16, dtype=torch.float64)
    together = guided(x, t)
    for i in (0, 7, 15):
        torch.testing.assert_close(guided(x[i : i + 1], t[i]), together[i : i + 1], rtol=1e-9, atol=1e-9)


NOISE, AT, SEEN = 0.2, [[1.0, 0.0]], [[0.6]]


def two_modes() -> tuple[GaussianMixture, Posterior, GaussianMixture]:
    """Returns a mixture, a measurement that leaves two modes whose weights guidance misses, and the exact posterior."""
    law = GaussianMixture(
        torch.tensor([0.35, 0.65]),
        torch.tensor([[1.2, 1.0], [-0.6, -1.0]]),
        torch.tensor([[0.02, 0.1], [0.6, 0.02]]).diag_embed(),
    )
    a, y = torch.tensor(AT, dtype=torch.float64), torch.tensor(SEEN, dtype=torch.float64)
    exact = conditioned(law, a, y[0], NOISE)
    assert 0.2 < float(exact.weights[0]) < 0.8
    return law, Posterior(y, Inpaint((2,), "left"), Isotropic(), noise=NOISE), exact


def test_particles_correct_what_a_guidance_gets_wrong() -> None:
    """Particles find the weights of the two modes. Guidance without particles gives wrong weights."""
    sde, n = VP(), 6000
    law, guidance, exact = two_modes()
    off = []
    for sampler in (StepSampler(EulerMaruyama(), steps=300), Twisted(60)):
        source = SampleNoise(0, 0, n, (2,))
        prior = sde.sample_prior(torch.empty(n, 2, dtype=torch.float64), source)
        x = sampler(sde, guidance(sde, Marginals(law, sde)), prior, noise=source).x
        off.append(abs(float((x[:, 1] > 0).double().mean()) - float(exact.weights[0])))
    assert off[0] > 0.1
    assert off[1] < 0.03
    upper = x[x[:, 1] > 0]
    torch.testing.assert_close(upper.mean(0), exact.means[0], atol=0.05, rtol=0)
    torch.testing.assert_close(upper.T.cov(), exact.covariances[0], atol=0.03, rtol=0)


def test_last_particle_has_the_law_of_the_others_where_one_is_more_than_a_batch() -> None:
    """There are 41 samples, and a batch holds 40. A batch with only one sample would often give the wrong mode."""
    law, guidance, exact = two_modes()
    model, units = ScoreModel(Oracle(law, VP()), Raw(), VP()), Affine(torch.zeros(2).double(), torch.ones(2).double())
    options: dict[str, Any] = {"batch_size": 40, "dtype": torch.float64, "guidance": guidance}
    last = [draw(VP(), model, Twisted(10), units, 41, seed=seed, **options).x[-1, 1] > 0 for seed in range(40)]
    weight = float(exact.weights[0])
    assert abs(sum(map(float, last)) / 40 - weight) < 3.5 * math.sqrt(weight * (1 - weight) / 40)


def test_few_particles_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the smallest batch. Without guidance, samples are independent and there is no warning."""
    law, guidance, _ = two_modes()
    model, units = ScoreModel(Oracle(law, VP()), Raw(), VP()), Affine(torch.zeros(2).double(), torch.ones(2).double())
    for guided in (None, guidance):
        draw(VP(), model, Twisted(2), units, 33, batch_size=16, guidance=guided)
    assert [record.getMessage() for record in caplog.records] == [
        "batches of 11 particles are small: the weights of modes are off by about 0.3: raise count and batch_size "
        "together, to 1000 or more"
    ]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (9, 4), (1001, 1000), (12, 4), (3, 7)])
@pytest.mark.parametrize("even", [False, True])
def test_batches_are_as_few_as_can_be_and_each_sample_is_in_one(count: int, batch_size: int, even: bool) -> None:
    spans = cut(5, count, batch_size, even=even)
    assert [i for span in spans for i in span] == list(range(5, 5 + count))
    sizes = [len(span) for span in spans]
    assert max(sizes) <= batch_size and (len(spans) - 1) * batch_size < count
    assert max(sizes) - min(sizes) <= 1 if even else set(sizes[:-1]) <= {batch_size}


def test_resampling_meets_each_particle_as_often_as_its_share() -> None:
    weight = torch.randn(50, generator=generator("cpu", 0, "weights"), dtype=torch.float64)
    for first in (-1.0, 0.2, 2.0):
        counts = torch.bincount(resampled(weight, torch.full((50, 2), first)), minlength=50)
        assert float((counts - 50 * weight.softmax(0)).abs().max()) < 1
        assert int(counts.sum()) == 50
    assert effective(torch.zeros(50)) == pytest.approx(50)
    assert effective(torch.tensor([0.0, 0.0, -100.0])) == pytest.approx(2)


def test_exact_conditionals_of_mixtures_are_those_of_weighted_draws() -> None:
    """The oracle agrees with draws from the mixture, weighted by the likelihood of the measurement."""
    a, y = torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    law, x = conditioned(plane(), a, y, 0.4), plane().sample(400_000, generator("cpu", 0, "draws"))
    own = plane().given(a, y, 0.4)
    for part in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(own, part), getattr(law, part))
    weight = (-0.5 * ((y - x @ a.T) / 0.4).square()).exp().squeeze(1)
    for moment in (lambda x: x, lambda x: x**2, lambda x: (2 * x).sin()):
        expected = (weight[:, None] * moment(x)).sum(0) / weight.sum()
        drawn = moment(law.sample(400_000, generator("cpu", 1, "draws"))).mean(0)
        torch.testing.assert_close(drawn, expected, atol=0.012, rtol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: ClassifierFree(None), "needs a class or a condition: give label=3.*or condition="),
        (lambda p: Inpaint((1, 8, 8), "middle"), "mask=middle is unknown: choose one of left"),
        (
            lambda p: Inpaint((2, 8), "top"),
            r"mask=top leaves no entry known of a point of the shape \(2, 8\): use mask=left, right or checkerboard",
        ),
        (lambda p: SuperResolution((2, 8)), "needs images, not points of the shape .2, 8.: use guidance=linear"),
        (
            lambda p: Inpaint((1, 8, 8), p("mask.npy", np.ones((4, 4)))),
            r"must be zeros and ones of the shape \(1, 8, 8\)",
        ),
        (lambda p: Inpaint((1, 8, 8), p("mask.npy", np.ones((8, 8)))), "leaves no entry unknown"),
        (lambda p: SuperResolution((1, 8, 8), 3), "factor=3 must be at least 2 and divide 8 and 8"),
        (lambda p: Grey((1, 8, 8)), "needs colours"),
        (lambda p: Blur((2,), 1.0), "use guidance=linear"),
        (lambda p: Linear((2,), p("a.npy", np.ones((3, 5)))), "must have 2 columns"),
        (lambda p: Linear((2,), "nowhere.npy"), "not a readable .npy file"),
        (
            lambda p: Posterior(torch.zeros(1, 1), Inpaint((2,), "left"), Moments(), noise=0.0),
            "noise=0 must be above 0",
        ),
        (lambda p: Posterior(torch.zeros(1, 1), Blur((1, 4, 4)), Replacement()), "use guidance/method=moments"),
    ],
)
def test_what_cannot_guide_is_told_with_the_fix(make, words: str, tmp_path) -> None:  # noqa: ANN001
    def saved(name: str, array: np.ndarray) -> str:
        np.save(tmp_path / name, array)
        return str(tmp_path / name)

    with pytest.raises(ValueError, match=words):
        make(saved)


@pytest.mark.parametrize(("share", "guided"), [(0.9, False), (0.1, True)], ids=["far from", "close to"])
def test_a_score_without_a_covariance_does_not_make_a_long_step(share: float, guided: bool) -> None:
    """The score −k x has V = (1 − σ² k) σ² / α² I, here a negative share of R I: (R + V) v = b would give a long v."""
    sde, t, noise = VP(), torch.full((4,), 0.3).double(), 0.4
    alpha, variance = float(sde.alpha(t[0])), float(sde.sigma(t[0])) ** 2
    k = (1 + share * noise**2 * alpha**2 / variance) / variance
    x, y = points(4, 2), torch.tensor([[0.5]]).double()
    found = Posterior(y, Inpaint((2,), "left"), Moments(), noise)(sde, lambda x, t: -k * x)(x, t) + k * x
    mean = (1 - variance * k) / alpha
    exact = mean * (0.5 - mean * x[:, 0]) / ((1 - share) * noise**2)
    torch.testing.assert_close(found[:, 0], exact if guided else torch.zeros(4).double(), rtol=1e-9, atol=1e-9)
