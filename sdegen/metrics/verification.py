"""Checks of SDEs and samplers against exact answers, for ``sdegen verify`` and the tests.

The data are Gaussian or a mixture of Gaussians, so that every marginal is known.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.randomness import SampleNoise, generator, randn_like
from sdegen.core.tensors import expand
from sdegen.samplers import Predictor, Sampler, Samples, StepSampler, fitting
from sdegen.samplers.grids import along
from sdegen.sde.base import SDE, LinearSDE, Score, derivative
from sdegen.sde.mixture import GaussianMixture, Marginals

MEAN, VARIANCE = 0.7, 0.3
"""Mean and variance of the Gaussian data, in one dimension."""
STEPS, MOST_STEPS = 64, 2048
"""Smallest and largest number of steps from which the order of a scheme is measured. It is measured up to four times
this number. If the order does not show, more steps are tried, up to the largest number in all."""
FINE = 0.5
"""Longest step, in the log noise-to-signal ratio, at the noise level of the data from which the order is measured."""
CHANGE = 0.1
"""Largest change of log(σ/α) in a step of a corrector alone, which needs about one relaxation time for each change by
1. With longer steps, it lags behind, which is an error of the number of steps, and not of the sampler."""
COUNT = 20_000
"""Number of samples in a statistical check."""
ORDER = "converges at its declared order"
MOMENTS = ("mean of a mixture", "standard deviation of a mixture", "weights of its modes")


class Proof(NamedTuple):
    """Result of a check.

    Attributes:
        claim: statement that is checked.
        measured: measured value.
        allowed: bound on the measured value.
        holds: True or False; None if the claim does not apply.
    """

    claim: str
    measured: str
    allowed: str
    holds: bool | None


def verify(sde: SDE, sampler: Sampler) -> list[Proof]:
    """Checks all claims about an SDE and a sampler that works with it. Steps are fitted to the mixture, if asked."""
    linear, predictor = sde.linear, sampler.predictor
    if sampler.grid == "fitted" and linear is not None:
        sampler = fitted(linear, sampler)
    checks = [check(sde, sampler) for check in (invariance, repetition, evaluations, shapes)]
    if linear is None:
        unknown = [Proof(claim, "the marginals are not known", "", None) for claim in (ORDER, *MOMENTS)]
        return [simulated(sde), prior(sde), *unknown, *checks]
    process = [kernel(linear), inverse(linear), prior(linear), gap(linear)]
    return [*process, order(linear, predictor), *moments(linear, sampler), *checks]


def fitted(sde: LinearSDE, sampler: Sampler) -> StepSampler:
    """Returns the sampler with steps that are fitted to the mixture."""
    assert isinstance(sampler, StepSampler)
    like = torch.empty(fitting.number(sampler.predictor, (2,), sampler.steps), 2, dtype=torch.float64)
    x = sde.sample_prior(like, randn_like(generator("cpu", 0, "fit")))
    score = Marginals(mixture(), sde)
    return sampler.fitted(fitting.fit(sampler.predictor, sde, score, x, sampler.steps, lambda count: None))


def kernel(sde: LinearSDE) -> Proof:
    """Checks α' = a α and (σ²)' = 2 a σ² + g², where a x is the drift. Also checks that α = 1 and σ = 0 at t = 0."""
    t = torch.linspace(sde.eps, sde.T, 1001, dtype=torch.float64)[1:-1]
    rate, variance = sde.rate(t), sde.sigma(t) ** 2
    slopes = derivative(sde.alpha, t), derivative(lambda t: sde.sigma(t) ** 2, t)
    expected = rate * sde.alpha(t), 2 * rate * variance + sde.diffusion(t) ** 2
    error = max(float(((a - b).abs() / (1 + b.abs())).max()) for a, b in zip(slopes, expected, strict=True))
    zero = torch.zeros((), dtype=torch.float64)
    error = max(error, abs(float(sde.alpha(zero)) - 1), float(sde.sigma(zero)) ** 2)
    return Proof("kernel solves the moment equations of (f, g)", f"{error:.1e}", "<= 1e-9", error <= 1e-9)


def inverse(sde: LinearSDE) -> Proof:
    """Checks that ``time`` is the inverse of ``log_nsr``. Time grids and importance sampling need both functions."""
    t = torch.linspace(sde.eps, sde.T, 1001, dtype=torch.float64)
    error = float((sde.time(sde.log_nsr(t)) / t - 1).abs().max())
    return Proof("time inverts the log noise-to-signal ratio", f"{error:.1e}", "<= 1e-6", error <= 1e-6)


def simulated(sde: SDE) -> Proof:
    """Checks the mean and standard deviation of :meth:`SDE.perturb` against Euler–Maruyama paths of (f, g)."""
    source = randn_like(generator("cpu", 0, "proof"))
    steps, t = 1000, 0.5 * sde.T
    x = torch.full((COUNT, 1), MEAN, dtype=torch.float64)
    drawn = sde.perturb(x, torch.full((COUNT,), t, dtype=torch.float64), source)
    for i in range(steps):
        now, h = torch.tensor(i * t / steps, dtype=torch.float64), t / steps
        x = x + h * sde.drift(x, now) + math.sqrt(h) * sde.diffusion(now) * source(x)
    worst = max(abs(float(a - b)) for a, b in ((drawn.mean(), x.mean()), (drawn.std(), x.std())))
    allowed = 6 * float(x.std()) / math.sqrt(COUNT) + 0.01
    claim = "perturb has the distribution of simulated paths"
    return Proof(claim, f"{worst:.3f}", f"<= {allowed:.3f}", worst <= allowed)


def prior(sde: SDE) -> Proof:
    """Checks that the density of the prior is normalised, and that draws have the same standard deviation."""
    draws = sde.sample_prior(torch.empty(COUNT, 1, dtype=torch.float64), randn_like(generator("cpu", 0, "proof")))
    reach = 12 * float(draws.std())
    x = torch.linspace(-reach, reach, 200_001, dtype=torch.float64)
    density = sde.log_prior(x[:, None]).exp()
    mass, second = (float(torch.trapezoid(f, x)) for f in (density, density * x**2))
    error = max(abs(mass - 1), abs(float(draws.square().mean()) / second - 1) - 6 * math.sqrt(2 / COUNT))
    return Proof("prior is normalised and its draws follow it", f"{error:.1e}", "<= 1e-4", error <= 1e-4)


def gap(sde: LinearSDE) -> Proof:
    """Checks that the prior is close to p_T of the mixture, so that samples can start from the prior."""
    law = mixture()
    square = law.weights @ (law.means.square().sum(1) + law.covariances.diagonal(dim1=1, dim2=2).sum(1))
    nats = sde.prior_gap(float(square), 2)
    return Proof("prior is close to p_T of a mixture, in nats", f"{nats:.1e}", "<= 0.1", nats <= 0.1)


def gaussian(sde: LinearSDE) -> Score:
    """Returns the exact score of the Gaussian data; the entries of a vector or an image are independent."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        return (alpha * MEAN - x) / (alpha**2 * VARIANCE + sigma**2)

    return score


def marginal(sde: LinearSDE, t: float) -> tuple[float, float]:
    """Returns the mean and the variance of x(t) for the Gaussian data."""
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(time)), float(sde.sigma(time))
    return alpha * MEAN, alpha**2 * VARIANCE + sigma**2


def output(sampler: Sampler, sde: LinearSDE) -> tuple[float, float]:
    """Returns the exact mean and variance of the output of a sampler that starts from p_T, for the Gaussian data.

    Every step is affine in the initial state and in the noise, so a unit impulse in one of these inputs gives the
    coefficient of this input.

    Args:
        sampler: a sampler whose steps are affine in the score.
        sde: the forward process.
    """
    mean, variance = marginal(sde, sde.T)
    draws = 0

    def counted(like: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return torch.zeros_like(like)

    sampler(sde, gaussian(sde), torch.zeros(1, 1, dtype=torch.float64), noise=counted)
    x = torch.full((draws + 2, 1), mean, dtype=torch.float64)
    x[1] += math.sqrt(variance)
    calls = iter(range(draws))

    def impulse(like: Tensor) -> Tensor:
        z = torch.zeros_like(like)
        z[2 + next(calls)] = 1
        return z

    out = sampler(sde, gaussian(sde), x, noise=impulse).x.flatten()
    return float(out[0]), float((out[1:] - out[0]).square().sum())


def error(sde: LinearSDE, predictor: Predictor, steps: int) -> float:
    """Returns the error of the mean plus the error of the standard deviation at eps, for the Gaussian data."""
    mean, variance = output(StepSampler(predictor, steps=steps, grid=predictor.grid), sde)
    expected = marginal(sde, sde.eps)
    return abs(mean - expected[0]) + abs(math.sqrt(variance) - math.sqrt(expected[1]))


def order(sde: LinearSDE, predictor: Predictor | None) -> Proof:
    """Checks the declared order of convergence on the declared grid, from :data:`STEPS` steps or more."""
    if predictor is None:
        return Proof(ORDER, "the sampler has no predictor, so there is no order to measure", "", None)
    if not sde.smooth:
        return Proof(ORDER, "f and g are not smooth in t", "", None)
    first = enough_steps(sde, predictor)
    if first is None:
        return Proof(ORDER, f"grid={predictor.grid} needs more than {MOST_STEPS} steps along this path", "", None)
    while True:
        errors = [error(sde, predictor, steps) for steps in (first, 2 * first, 4 * first)]
        # Errors below 1e-10 are rounding errors.
        found = math.log2(errors[-2] / errors[-1]) if errors[-1] > 1e-10 else math.inf
        holds = found >= predictor.order - 0.2 and errors[-1] < min(0.1, errors[0])
        # The errors of the start and of the later steps can cancel, which hides the order of both. Shorter steps show
        # it, unless their errors are close to rounding errors. A scheme of a lower order fails for all step lengths.
        if holds or 4 * first >= MOST_STEPS or errors[-1] < 1e-8:
            break
        first *= 2
    allowed = f">= {predictor.order} - 0.2, grid={predictor.grid}{f', {first} steps' * (first > STEPS)}"
    return Proof(ORDER, f"{found:.2f}", allowed, holds)


def enough_steps(sde: LinearSDE, predictor: Predictor) -> int | None:
    """Returns the number of steps from which the order shows on the grid of a scheme; None if the number is too large.

    Where the noise is as large as the spread of the data, the posterior mean changes fast. An order shows only once
    the step at this noise level is short. On a uniform grid along EDM's path to σ = 80, 64 steps do not even separate
    this noise level from 0.
    """
    steps = STEPS
    while steps <= MOST_STEPS:
        u = sde.log_nsr(along(predictor.grid, sde, steps))
        step = int((u > math.log(VARIANCE)).sum())
        if float(u[step - 1] - u[step]) <= FINE:
            return steps
        steps *= 2
    return None


def mixture() -> GaussianMixture:
    """Returns a mixture in the plane of three components with different weights and shapes."""
    weights = torch.tensor([0.5, 0.3, 0.2])
    means = torch.tensor([[-0.8, 0.5], [1.0, 0.6], [0.5, -2.15]])
    covariances = torch.tensor(
        [[[0.10, 0.06], [0.06, 0.08]], [[0.05, 0.0], [0.0, 0.20]], [[0.04, -0.02], [-0.02, 0.03]]]
    )
    return GaussianMixture(weights, means, covariances)


def moments(sde: LinearSDE, sampler: Sampler) -> list[Proof]:
    """Checks the mean, the standard deviation and the mode weights of samples of a mixture.

    A corrector alone is checked with at least so many steps that the noise changes little from one to the next.
    """
    law, steps = mixture(), ""
    if isinstance(sampler, StepSampler) and sampler.predictor is None and not isinstance(sampler.grid, tuple):
        reach = 0.5 * float(sde.log_nsr(torch.tensor([sde.eps, sde.T], dtype=torch.float64)).diff())
        if (enough := math.ceil(reach / CHANGE)) > sampler.steps:
            sampler, steps = copy.copy(sampler), f", {enough} steps"
            sampler.steps = enough
    samples = _drawn(sde, Marginals(law, sde), sampler, 0, COUNT, (2,))
    exact = law.sample(200_000, generator("cpu", 0, "exact"))
    proofs = []
    pairs = (
        (samples.x.mean(0), law.weights @ law.means, exact.std(0)),
        (samples.x.std(0), exact.std(0), exact.std(0)),
        (shares(law, samples.x), shares(law, exact), torch.tensor(0.5)),
    )
    for claim, (value, expected, spread) in zip(MOMENTS, pairs, strict=True):
        off = float((value - expected).abs().max())
        # Allow five standard errors for the finite number of samples, and 2 % for the error of the steps.
        allowed = float((5 / math.sqrt(COUNT) + 0.02) * spread.max())
        proofs.append(Proof(claim, f"{off:.3f}", f"<= {allowed:.3f}{steps}", off <= allowed))
    return proofs


def shares(law: GaussianMixture, x: Tensor) -> Tensor:
    """Returns, for each component, the share of the points for which this component is the most probable one."""
    return torch.bincount(law.component(x), minlength=len(law.weights)).double() / len(x)


def run(sde: SDE, sampler: Sampler, start: int, stop: int, shape: tuple[int, ...] = (2,)) -> Tensor:
    """Draws the samples ``start`` to ``stop - 1`` of seed 0 with the score of :func:`common`."""
    return _drawn(sde, common(sde), sampler, start, stop, shape).x


def _drawn(sde: SDE, score: Score, sampler: Sampler, start: int, stop: int, shape: tuple[int, ...]) -> Samples:
    noise, like = SampleNoise(0, start, stop, shape), torch.empty(stop - start, *shape, dtype=torch.float64)
    return sampler(sde, score, sde.sample_prior(like, noise), noise=noise)


def common(sde: SDE) -> Score:
    """Returns the score of the Gaussian data if it is known, else the score of the prior, with which x stays finite."""
    return gaussian(sde.linear) if sde.linear is not None else lambda x, t: sde.prior_score(x)


def invariance(sde: SDE, sampler: Sampler) -> Proof:
    """Checks that a sample is the same in batches of 1, 7 and 70."""
    whole = run(sde, sampler, 0, 70)
    parts = [run(sde, sampler, 0, 1), run(sde, sampler, 60, 67)]
    off = max(
        float((part - whole[rows]).abs().max()) for part, rows in zip(parts, (slice(1), slice(60, 67)), strict=True)
    )
    claim = "a sample does not depend on its batch"
    if sampler.couples:
        return Proof(claim, f"{off:.1e}", "the samples of a batch depend on each other", None)
    return Proof(claim, f"{off:.1e}", "<= 1e-9", off <= 1e-9)


def repetition(sde: SDE, sampler: Sampler) -> Proof:
    """Checks that a second call of a sampler gives the same samples."""
    same = torch.equal(run(sde, sampler, 0, 9), run(sde, sampler, 0, 9))
    return Proof("a second call gives the same samples", "the same" if same else "different", "the same", same)


def evaluations(sde: SDE, sampler: Sampler) -> Proof:
    """Checks the reported number of evaluations against a count, and against the number that the settings imply."""
    asked = 0

    def score(x: Tensor, t: Tensor) -> Tensor:
        nonlocal asked
        asked += len(x)
        return common(sde)(x, t)

    reported = _drawn(sde, score, sampler, 0, 8, (2,)).nfe
    holds = reported == asked / 8 and sampler.evaluations in (None, reported)
    wanted = "as counted" if sampler.evaluations is None else f"= {sampler.evaluations}"
    return Proof("evaluations of the score", f"{reported:g}", wanted, holds)


def shapes(sde: SDE, sampler: Sampler) -> Proof:
    """Checks that an image with one channel is treated as the vector of its pixels."""
    image, vector = (run(sde, sampler, 0, 5, shape).flatten(1) for shape in ((1, 2, 3), (6,)))
    off = float((image - vector).abs().max())
    return Proof("images are treated as vectors", f"{off:.1e}", "<= 1e-9", off <= 1e-9)
