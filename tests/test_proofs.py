"""The proofs themselves: each fails where its claim does not hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdegen import proofs
from sdegen.samplers import RK45, Adams, DPMSolver, EulerMaruyama, StepSampler
from sdegen.samplers.base import Sampler, Walk
from sdegen.sde import VP
from sdegen.sde.nonlinear import DoubleWell


class WrongKernel(VP):
    """The paper's misprint: α = e^{-B}."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t))


class WrongPrior(VP):
    def log_prior(self, x: Tensor) -> Tensor:
        return super().log_prior(x) + 0.1


class HalfNoise(EulerMaruyama):
    order = 2


class Neighbours(Sampler):
    """Adds the mean of the batch, remembers its calls, and evaluates the score once more than it says."""

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
    assert proofs.kernel(VP()).holds
    assert not proofs.kernel(WrongKernel()).holds
    assert proofs.prior(VP()).holds
    assert not proofs.prior(WrongPrior()).holds


def test_order_declared_too_high_fails() -> None:
    assert proofs.order(VP(), EulerMaruyama()).holds
    assert not proofs.order(VP(), HalfNoise()).holds
    assert proofs.order(VP(), None).holds is None


def test_sampler_that_couples_remembers_and_miscounts_fails() -> None:
    for proof in (proofs.invariance, proofs.repetition, proofs.evaluations):
        assert not proof(VP(), Neighbours()).holds
    assert proofs.invariance(VP(), RK45()).holds is None


def test_too_few_steps_fail_the_moments_and_enough_pass() -> None:
    few, enough = (proofs.moments(VP(), StepSampler(DPMSolver(1), steps=n, grid="logistic")) for n in (3, 100))
    assert not all(proof.holds for proof in few)
    assert all(proof.holds for proof in enough)


def test_process_without_a_kernel_is_held_against_its_own_paths() -> None:
    class Shifted(DoubleWell):
        def perturb(self, x0, t, randn_like) -> Tensor:  # noqa: ANN001
            return super().perturb(x0, t, randn_like) + 0.2

    assert proofs.simulated(DoubleWell()).holds
    assert not proofs.simulated(Shifted()).holds


@pytest.mark.parametrize("sde", [VP(), DoubleWell()], ids=["linear", "nonlinear"])
def test_all_claims_hold_for_what_is_sound(sde: VP | DoubleWell) -> None:
    sampler = StepSampler(Adams(), steps=20, grid="logistic") if sde.linear else StepSampler(EulerMaruyama(), steps=500)
    with torch.no_grad():
        found = proofs.verify(sde, sampler)
    assert len(found) >= 5
    assert all(proof.holds for proof in found), found
