"""Fitted steps: they are closer to the exact end points of the flow, from starts that the fit has not seen."""

from __future__ import annotations

import pytest
import torch
from conftest import SDES
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.randomness import generator, randn_like
from sdegen.metrics import verification
from sdegen.samplers import Adams, Dopri5, DPMSolver, Predictor, StepSampler, StochasticAdams
from sdegen.samplers.exponential import Exponential
from sdegen.samplers.fitting import Fit, fit, number
from sdegen.samplers.walks import finer, merged, walk
from sdegen.sde import VP, LinearSDE
from sdegen.sde.base import Score
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.sde.scores import Counted


def starts(sde: LinearSDE, seed: int, rows: int = 768, d: int = 2) -> Tensor:
    return sde.sample_prior(torch.zeros(rows, d, dtype=torch.float64), randn_like(generator("cpu", seed, "test")))


def fitted(predictor: Predictor, sde: LinearSDE, score: Score, steps: int, d: int = 2) -> Fit:
    with torch.no_grad():
        return fit(predictor, sde, score, starts(sde, 0, d=d), steps, lambda count: None)


def error(sampler: StepSampler | Dopri5, sde: LinearSDE, score: Score, x: Tensor, exact: Tensor) -> float:
    return float((sampler(sde, score, x, noise=torch.zeros_like).x - exact).norm(dim=1).mean())


def name(predictor: Predictor) -> str:
    return type(predictor).__name__


@pytest.mark.parametrize("predictor", [Adams(), Adams(4), Adams(6, spread=0.3), DPMSolver(1), DPMSolver(3)], ids=name)
def test_a_plan_without_corrections_is_the_same_scheme(predictor: Exponential) -> None:
    sde, x = VP(), starts(VP(), 1)
    score = Marginals(verification.mixture(), sde)
    whole = StepSampler(predictor, steps=12, grid="logistic")
    alone = walk(merged(predictor.plan(sde, whole.times(sde))), score, x).x
    torch.testing.assert_close(alone, whole(sde, score, x, noise=torch.zeros_like).x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("key", "steps"), [("vp", 5), ("vp", 10), ("ve", 10), ("cosine", 5)])
def test_the_error_from_unseen_starts_is_below_that_of_the_logistic_grid(key: str, steps: int) -> None:
    """The exact end points are those of another solver, with a tolerance of 1e-9."""
    sde, plain = SDES[key], StepSampler(Adams(), steps=steps, grid="logistic")
    score, x = Marginals(verification.mixture(), sde), starts(sde, 7)
    found = fitted(Adams(), sde, score, steps)
    exact = Dopri5(1e-9, 1e-9)(sde, score, x, noise=torch.zeros_like).x
    sampler = StepSampler(Adams(), steps=steps, grid="fitted").fitted(found)
    assert sampler.evaluations == steps
    assert error(sampler, sde, score, x, exact) < 0.8 * error(plain, sde, score, x, exact)
    assert steps > 5 or found == fitted(Adams(), sde, score, steps)


def test_a_fit_to_images_is_closer_with_few_evaluations_of_the_score() -> None:
    """The images are draws of a mixture in 16 dimensions; each start has at most 400 evaluations for 10 steps."""
    sde, source, shape = VP(eps=2e-3), generator("cpu", 3, "test images"), (1, 4, 4)
    axes = torch.randn(5, 16, 3, generator=source, dtype=torch.float64)
    flat = torch.randn(5, 16, generator=source, dtype=torch.float64)
    law = GaussianMixture(torch.ones(5), flat, 0.1 * axes @ axes.mT + 0.01 * torch.eye(16, dtype=torch.float64))
    exact = Marginals(law, sde)
    score = Counted(lambda x, t: exact(x.flatten(1), t).reshape(x.shape))
    like = torch.zeros(number(Adams(), shape, 10), *shape, dtype=torch.float64)
    with torch.no_grad():
        x = sde.sample_prior(like, randn_like(generator("cpu", 0, "test")))
        found = fit(Adams(), sde, score, x, 10, lambda count: None)
    assert score.rows <= 400 * len(x)
    fresh, plain = starts(sde, 7, d=16), StepSampler(Adams(), steps=10, grid="logistic")
    ends = Dopri5(1e-8, 1e-8)(sde, exact, fresh, noise=torch.zeros_like).x
    sampler = StepSampler(Adams(), steps=10, grid="fitted").fitted(found)
    assert error(sampler, sde, exact, fresh, ends) < 0.5 * error(plain, sde, exact, fresh, ends)


@pytest.mark.parametrize("side", [8, 28, 64, 256, 1024])
@pytest.mark.parametrize("steps", [5, 10, 50])
def test_the_paths_of_a_fit_to_images_fit_into_memory(side: int, steps: int) -> None:
    """The states take at most 1 GiB in float32, unless six starts take more."""
    shape, predictor = (3, side, side), Adams()
    count = number(predictor, shape, steps)
    assert 6 <= count <= 48
    assert count % 3 == 0
    assert count == 6 or 4 * count * (finer(steps, shape) + 1) * 3 * side**2 <= 2**30


def test_two_fitted_steps_solve_the_flow_of_a_gaussian_exactly() -> None:
    """The state at each time is a multiple of the start, with a factor that weights can express."""
    sde = VP()
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 3), 0.09 * torch.eye(3)[None])
    score, x = Marginals(law, sde), starts(sde, 7, d=3)
    one = torch.tensor([sde.T, sde.eps], dtype=torch.float64)
    v = (0.09 * sde.alpha(one) ** 2 + sde.sigma(one) ** 2).sqrt()
    sampler = StepSampler(Adams(), steps=2, grid="fitted").fitted(fitted(Adams(), sde, score, 2, d=3))
    assert error(sampler, sde, score, x, x * (v[1] / v[0])) < 1e-4
    assert error(StepSampler(Adams(), steps=2, grid="logistic"), sde, score, x, x * (v[1] / v[0])) > 1e-2


def test_a_fit_that_does_not_win_leaves_the_logistic_grid() -> None:
    """For data of the spread that the scheme solves exactly, no fit can have a smaller error."""
    sde = VP()
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    predictor = Adams(spread=1.0)
    found = fitted(predictor, sde, Marginals(law, sde), 6)
    x = starts(sde, 7)
    ends = [
        sampler(sde, Marginals(law, sde), x, noise=torch.zeros_like).x
        for sampler in (
            StepSampler(predictor, steps=6, grid="fitted").fitted(found),
            StepSampler(predictor, steps=6, grid="logistic"),
        )
    ]
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


def test_a_score_that_is_not_finite_is_refused_in_one_line() -> None:
    def broken(x: Tensor, t: Tensor) -> Tensor:
        return -x if float(t) > 0.3 else x * float("nan")

    with pytest.raises(UserError, match=r"^sampler.grid=fitted: the score is not finite, near t=0.29") as refused:
        fitted(Adams(), VP(), broken, 5)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["times", "weights"])
def test_a_damaged_fit_is_not_read(key: str) -> None:
    found = Fit((1.0, 0.5, 1e-5), 0.1, 0.2, ((1.0,), (1.0, 0.5)))
    assert Fit.of(found._asdict()) == found
    for value in ([], [1.0], [[1.0], [float("nan")]], [[1.0]], None, "x", [1.0, 2.0]):
        with pytest.raises((ValueError, TypeError, KeyError)):
            Fit.of({**found._asdict(), key: value if key == "times" or value else [[], []]})


@pytest.mark.parametrize("predictor", [StochasticAdams(), StochasticAdams(1, eta=0.6)], ids=name)
def test_fitted_steps_with_noise_have_moments_closer_to_those_of_the_data(predictor: StochasticAdams) -> None:
    """The moments of the samples are exact, from unit impulses in the start and in the noise."""
    sde = VP()
    x = sde.sample_prior(torch.zeros(4000, 1, dtype=torch.float64), randn_like(generator("cpu", 0, "test")))
    found = fit(predictor, sde, verification.gaussian(sde), x, 6, lambda count: None)
    mean, variance = verification.marginal(sde, sde.eps)
    errors = []
    for sampler in (
        StepSampler(predictor, steps=6, grid="fitted").fitted(found),
        StepSampler(predictor, steps=6, grid="logistic"),
    ):
        own = verification.output(sampler, sde)
        errors.append(abs(own[0] - mean) + abs(own[1] ** 0.5 - variance**0.5))
    assert errors[0] < 0.5 * errors[1]


def test_steps_fitted_to_the_mixture_of_the_proofs_pass_them() -> None:
    proofs = verification.verify(VP(), StepSampler(Adams(), steps=8, grid="fitted"))
    assert [proof.claim for proof in proofs if proof.holds is False] == []
    assert any(
        proof.holds is False for proof in verification.verify(VP(), StepSampler(Adams(), steps=3, grid="uniform"))
    )
