"""Each proof of ``verify`` fails if the claim does not hold."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from sdegen.metrics import verification
from sdegen.samplers import RK45, Adams, Ancestral, DPMSolver, EulerMaruyama, StepSampler
from sdegen.samplers.base import Sampler, Step, Walk
from sdegen.samplers.predictors import EulerStep
from sdegen.sde import EDM, VE, VP
from sdegen.sde.nonlinear import DoubleWell


class WrongKernel(VP):
    """VP with the misprint of the paper, α = e^{-B}."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.beta.integral(t))


class WrongPrior(VP):
    def log_prior(self, x: Tensor) -> Tensor:
        return super().log_prior(x) + 0.1


class HalfNoise(EulerMaruyama):
    order = 2


class TooHigh(Ancestral):
    order = 2


class Blurred(VE):
    """VE with erratum 13: σ(t) in place of the root of σ²(t) - σ²(0)."""

    def sigma(self, t: Tensor) -> Tensor:
        return (super().sigma(t) ** 2 + self.sigma_min**2).sqrt()


class WrongClock(VP):
    def time(self, u: Tensor) -> Tensor:
        return super().time(u) ** 1.3


class Noisy(VP):
    def diffusion(self, t: Tensor) -> Tensor:
        return 1.1 * super().diffusion(t)


class WideDraws(VP):
    def sample_prior(self, x: Tensor, randn_like) -> Tensor:  # noqa: ANN001
        return 1.2 * super().sample_prior(x, randn_like)


class Frozen(EulerMaruyama):
    """Scheme that solves another equation, so that it converges to the wrong distribution."""

    def plan(self, sde, times) -> list[Step]:  # noqa: ANN001
        def frozen(step: EulerStep) -> Step:
            return lambda *arguments: (0.999 ** (step.h * 1000) * step(*arguments)[0], ())

        return [frozen(step) for step in super().plan(sde, times)]


class TwoDraws(EulerMaruyama):
    def plan(self, sde, times) -> list[Step]:  # noqa: ANN001
        def twice(step: EulerStep) -> Step:
            return lambda reverse, x, noise, memory: step(reverse, x, lambda x: (noise(x) + noise(x)) / 2**0.5, memory)

        return [twice(step) for step in super().plan(sde, times)]


class Late(Sampler):
    """Sampler that is wrong in batches of seven rows, and in rows of several entries."""

    def _integrate(self, sde, score, x, noise, frames) -> Walk:  # noqa: ANN001
        return Walk(x + noise(x)[:1].sum() * (len(x) == 7) + x.sum(-1, keepdim=True), x[None], torch.zeros(1))


class Altered(Sampler):
    """Sound sampler whose samples are changed by ``change``."""

    def __init__(self, change) -> None:  # noqa: ANN001
        super().__init__()
        self.change, self.sound = change, StepSampler(Adams(), steps=20, grid="logistic")

    def _integrate(self, sde, score, x, noise, frames) -> Walk:  # noqa: ANN001
        return Walk(self.change(self.sound(sde, score, x, noise=noise).x), x[None], torch.zeros(1))


class Neighbours(Sampler):
    """Sampler that adds the mean of the batch and the number of calls, and reports one evaluation too few."""

    evaluations = 1

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def _integrate(self, sde, score, x, noise, frames) -> Walk:  # noqa: ANN001
        self.calls += 1
        t = torch.tensor(sde.T, dtype=torch.float64)
        score(x, t), score(x, t)
        return Walk(x + x.mean() + self.calls, x[None], torch.zeros(1))


def test_wrong_kernel_and_wrong_prior_fail() -> None:
    assert verification.kernel(VP()).holds
    assert not verification.kernel(WrongKernel()).holds
    assert verification.prior(VP()).holds
    assert not verification.prior(WrongPrior()).holds
    assert not verification.prior(WideDraws()).holds
    assert not verification.kernel(Blurred()).holds
    assert not verification.kernel(Noisy()).holds
    assert verification.inverse(VE()).holds
    assert not verification.inverse(WrongClock()).holds


def test_order_declared_too_high_fails() -> None:
    assert verification.order(VP(), EulerMaruyama()).holds
    assert not verification.order(VP(), HalfNoise()).holds
    assert verification.order(VP(), None).holds is None
    assert not verification.order(VP(), Frozen()).holds
    assert verification.order(VP(), TwoDraws()).holds


def test_order_is_measured_where_steps_resolve_the_noise_level_of_the_data() -> None:
    """On a uniform grid to σ = 20, the first step of 64 is as long as the spread of the data."""
    assert verification.order(EDM(20.0), Ancestral()).holds
    assert not verification.order(EDM(20.0), TooHigh()).holds
    assert verification.order(EDM(1000.0), Ancestral()).holds is None


@pytest.mark.parametrize("sigma_max", [15.0, 20.0, 25.0])
def test_order_is_that_of_steps_at_which_no_two_errors_cancel(sigma_max: float) -> None:
    """The error of the start of 3M has another sign than that of its later steps: with 128 to 256 steps they cancel."""
    declared = DPMSolver(3)
    assert verification.order(EDM(sigma_max), declared).holds
    declared.order = 3
    assert not verification.order(EDM(sigma_max), declared).holds


@pytest.mark.parametrize(("errors", "holds"), [((0.05, 0.01, 0.05), False), ((0.01, 0.09, 0.04), False)])
def test_divergence_is_not_an_order(monkeypatch: pytest.MonkeyPatch, errors: tuple[float, ...], holds: bool) -> None:
    calls = itertools.cycle(errors)
    monkeypatch.setattr(verification, "error", lambda *_: next(calls))
    assert verification.order(VP(), EulerMaruyama()).holds == holds


def test_sampler_wrong_at_other_indices_or_across_entries_fails() -> None:
    assert not verification.invariance(VP(), Late()).holds
    assert not verification.shapes(VP(), Late()).holds


def test_wrong_width_and_wrong_weights_of_modes_fail() -> None:
    law = verification.mixture()
    center = law.means[law.weights.argmax()]
    narrow, moved = Altered(lambda x: 0.8 * x), Altered(lambda x: torch.where((x[:, :1] > 1.2), center, x))
    claims = {proof.claim: proof.holds for proof in verification.moments(VP(), narrow)}
    assert not claims["standard deviation of a mixture"]
    claims = {proof.claim: proof.holds for proof in verification.moments(VP(), moved)}
    assert not claims["weights of its modes"]


def test_sampler_that_couples_remembers_and_miscounts_fails() -> None:
    for proof in (verification.invariance, verification.repetition, verification.evaluations):
        assert not proof(VP(), Neighbours()).holds
    assert verification.invariance(VP(), RK45()).holds is None


def test_too_few_steps_fail_the_moments_and_enough_pass() -> None:
    few, enough = (verification.moments(VP(), StepSampler(DPMSolver(1), steps=n, grid="logistic")) for n in (3, 100))
    assert not all(proof.holds for proof in few)
    assert all(proof.holds for proof in enough)


def test_process_without_a_kernel_is_held_against_its_own_paths() -> None:
    class Shifted(DoubleWell):
        def perturb(self, x0, t, randn_like) -> Tensor:  # noqa: ANN001
            return super().perturb(x0, t, randn_like) + 0.2

    class Wide(DoubleWell):
        def perturb(self, x0, t, randn_like) -> Tensor:  # noqa: ANN001
            return 1.15 * super().perturb(x0, t, randn_like)

    assert verification.simulated(DoubleWell()).holds
    assert not verification.simulated(Shifted()).holds
    assert not verification.simulated(Wide()).holds


@pytest.mark.parametrize("sde", [VP(), DoubleWell()], ids=["linear", "nonlinear"])
def test_all_claims_hold_for_what_is_sound(sde: VP | DoubleWell) -> None:
    sampler = StepSampler(Adams(), steps=20, grid="logistic") if sde.linear else StepSampler(EulerMaruyama(), steps=500)
    with torch.no_grad():
        found = verification.verify(sde, sampler)
    assert len(found) >= 5
    assert not any(proof.holds is False for proof in found), found
    assert all(proof.holds for proof in found) == (sde.linear is not None)
