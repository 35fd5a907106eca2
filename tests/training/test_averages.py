"""Averages of power form are integrals over the path of the weights, and combinations of them are the closest ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import beta

from sdegen.config import assembly
from sdegen.config.compose import composed
from sdegen.training.averages import apart, combination

SMALL = ("dataset=smile", "network.hidden=[8]", "trainer.batch_size=16", "trainer.precision=float64")
STORED = [(step, width) for step in (3, 10, 20, 30, 37) for width in (0.05, 0.12)]
LAST = 40


def exponent(width: float) -> float:
    """Returns the exponent of the profile whose relative standard deviation SciPy finds to be ``width``."""
    return float(brentq(lambda gamma: beta(gamma + 1, 1).std() - width, 0, 1000, xtol=1e-13))


def integral(width: float, step: int, at: np.ndarray) -> np.ndarray:
    """Returns the share of an average that steps up to the times ``at`` have."""
    return beta(exponent(width) + 1, 1, scale=step).cdf(at)


@pytest.mark.parametrize("widths", ["0.05,0.10", "0.02,0.288"])
def test_an_average_is_the_integral_of_its_profile_over_the_path_of_the_weights(widths: str) -> None:
    training = assembly.build(composed("train", [*SMALL, f"trainer.widths=[{widths}]"])).training()
    path = []
    for chunks in training.stream.steps(0, 25):
        training.advance(chunks)
        path.append(training.vector.detach().clone())
        for width, average in training.tracked.items():
            density = beta(exponent(width) + 1, 1, scale=len(path))
            shares = np.diff(density.cdf(np.arange(len(path) + 1))).tolist()
            expected = sum(share * weights for share, weights in zip(shares, path, strict=True))
            torch.testing.assert_close(average.vector, expected, rtol=1e-8, atol=1e-10)


def test_tracked_averages_change_nothing_else() -> None:
    alone, beside = (
        assembly.build(composed("train", [*SMALL, *options])).training()
        for options in ((), ("trainer.widths=[0.05,0.1]",))
    )
    for training in (alone, beside):
        for chunks in training.stream.steps(0, 20):
            training.advance(chunks)
    assert torch.equal(alone.vector, beside.vector)
    assert torch.equal(alone.average_vector, beside.average_vector)


@pytest.mark.parametrize("width", [0.03, 0.07, 0.2, 0.288])
def test_no_combination_of_averages_with_the_sum_one_is_closer(width: float) -> None:
    """The oracle integrates on a fine grid, and solves for all coefficients but the last, which makes the sum 1."""
    at = LAST * np.exp(-(np.arange(400_000) + 0.5) / 400_000 * 30)
    integrals = np.stack([integral(own, step, at) for step, own in STORED], axis=1)
    target = integral(width, LAST, at)
    found = np.linalg.lstsq(integrals[:, :-1] - integrals[:, -1:], target - integrals[:, -1], rcond=None)[0]
    expected = np.append(found, 1 - found.sum())
    coefficients, error = combination(STORED, LAST, width)
    np.testing.assert_allclose(coefficients, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())
    assert error == pytest.approx(math.sqrt(30 * ((integrals @ coefficients - target) ** 2).mean()), rel=1e-3)
    assert sum(coefficients) == pytest.approx(1, abs=1e-12)
    both = integral(0.05, LAST, at) - integral(0.12, LAST, at)
    assert apart(0.12, 0.05) == pytest.approx(math.sqrt(30 * (both**2).mean()), rel=1e-3)


def test_coefficients_do_not_depend_on_the_unit_of_the_steps() -> None:
    """For long trainings, powers of the steps would overflow."""
    many = [(step * 10**8, width) for step, width in STORED]
    for width in (0.005, 0.1):
        coefficients, error = combination(STORED, LAST, width)
        others, same = combination(many, LAST * 10**8, width)
        assert error == pytest.approx(same, rel=1e-6)
        np.testing.assert_allclose(coefficients, others, rtol=1e-6, atol=1e-9)


def test_a_stored_average_is_its_own_combination() -> None:
    coefficients, error = combination([*STORED, (LAST, 0.1)], LAST, 0.1)
    np.testing.assert_allclose(coefficients, [0] * len(STORED) + [1], atol=1e-6)
    assert error < 1e-6
