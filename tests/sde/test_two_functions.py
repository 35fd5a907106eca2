"""Processes that are given only by α(t) and σ(t) agree with the closed forms of all derived functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdegen.metrics.verification import verify
from sdegen.samplers import Adams, Ancestral, EulerMaruyama, StepSampler
from sdegen.samplers.base import Sampler
from sdegen.sde import VE, VP, LinearSDE, SubVP

ANGLE = 0.49 * math.pi


class Cosine(LinearSDE):
    """Cosine schedule that is given only by its kernel."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(ANGLE * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(ANGLE * t)


class Bare(LinearSDE):
    """Process that is given only by the kernel of another process."""

    def __init__(self, sde: LinearSDE) -> None:
        super().__init__(sde.eps)
        self.known = sde

    def alpha(self, t: Tensor) -> Tensor:
        return self.known.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.known.sigma(t)


TIMES = torch.cat([torch.logspace(-5, -1, 40, dtype=torch.float64), torch.linspace(0.1, 1, 40, dtype=torch.float64)])


def test_cosine_has_the_rate_the_diffusion_and_the_clock_of_its_closed_forms() -> None:
    sde, tangent = Cosine(), torch.tan(ANGLE * TIMES)
    torch.testing.assert_close(sde.rate(TIMES), -ANGLE * tangent, rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.diffusion(TIMES), (2 * ANGLE * tangent).sqrt(), rtol=1e-12, atol=0)
    u = torch.linspace(-20, 6, 60, dtype=torch.float64)
    torch.testing.assert_close(sde.time(u), torch.atan((0.5 * u).exp()) / ANGLE, rtol=1e-10, atol=0)
    assert sde.prior_std == pytest.approx(math.sin(ANGLE), rel=1e-12)


@pytest.mark.parametrize("known", [VE(), VP(), SubVP()], ids=["ve", "vp", "subvp"])
def test_a_kernel_alone_gives_what_a_class_knows_in_closed_form(known: LinearSDE) -> None:
    bare = Bare(known)
    # In float32, sigma loses digits at small times. The derivatives are computed in float64, and must not lose them.
    for times, rtol in ((TIMES, 1e-9), (TIMES.float(), 1e-4)):
        for name in ("rate", "diffusion"):
            found, expected = getattr(bare, name)(times), getattr(known, name)(times)
            torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-12)
    u = known.log_nsr(TIMES)
    torch.testing.assert_close(bare.time(u), known.time(u), rtol=1e-9, atol=0)
    x = torch.ones(len(TIMES), 3, dtype=torch.float64)
    torch.testing.assert_close(bare.drift(x, TIMES), known.drift(x, TIMES), rtol=1e-9, atol=1e-12)


def test_derivatives_need_no_graph_and_work_for_a_single_time() -> None:
    with torch.no_grad():
        row = torch.stack([Cosine().diffusion(t) for t in TIMES])
        torch.testing.assert_close(row, Cosine().diffusion(TIMES), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "sampler",
    [
        StepSampler(Adams(), steps=20, grid="logistic"),
        StepSampler(Ancestral(), steps=100, grid="log_snr"),
        StepSampler(EulerMaruyama(), steps=300),
    ],
    ids=["adams", "ancestral", "euler_maruyama"],
)
def test_all_claims_hold_for_a_process_of_two_functions(sampler: Sampler) -> None:
    with torch.no_grad():
        found = verify(Cosine(), sampler)
    assert not any(proof.holds is False for proof in found), found
