"""Random numbers are a function of the key of their generator."""

from __future__ import annotations

import torch

from sdegen.core.randomness import SampleNoise, derive, generator


def draws(noise: SampleNoise, n: int) -> torch.Tensor:
    like = torch.empty(0)
    return torch.stack([noise(like) for _ in range(n)])


def test_rows_do_not_depend_on_the_range_they_are_drawn_in() -> None:
    whole = draws(SampleNoise(3, 0, 200, (2,)), 40)
    for start, stop in ((0, 1), (5, 9), (60, 70), (64, 128), (199, 200)):
        assert torch.equal(draws(SampleNoise(3, start, stop, (2,)), 40), whole[:, start:stop])


def test_all_numbers_are_different_and_standard_normal() -> None:
    x = torch.cat([draws(SampleNoise(seed, 0, 640, (3,)), 50).flatten() for seed in range(3)]).double()
    assert len(x.unique()) > 0.97 * len(x)
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert abs(float((x**power).mean()) - moment) < 0.06
    by_block = draws(SampleNoise(0, 0, 6400, (1,)), 20).flatten(0, 1).view(20, 100, 64).transpose(1, 2).flatten(0, 1)
    correlation = by_block.T.double().corrcoef() - torch.eye(100)
    assert float(correlation.abs().max()) < 0.16


def test_precision_changes_the_digits_not_the_sample() -> None:
    single, double = SampleNoise(0, 0, 8, (2,)), SampleNoise(0, 0, 8, (2,))
    assert torch.equal(single(torch.empty(0)).double(), double(torch.empty(0, dtype=torch.float64)))


def test_every_part_of_a_key_counts() -> None:
    keys = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a", 1, 0), (0, "a1"), (-1, "a", 1)]
    seeds = {derive(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    first = [float(torch.rand((), generator=generator("cpu", *key))) for key in keys]
    assert len(set(first)) == len(keys)
