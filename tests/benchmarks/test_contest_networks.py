"""The contest of samplers on trained networks: distances from the ends of the flow, and the quality of samples."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.core.randomness import generator
from sdegen.runs.trained import Trained
from sdegen.sde.base import LinearSDE, Score
from sdegen.sde.mixture import GaussianMixture


@pytest.fixture(scope="module")
def networks() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "scripts" / "benchmarks"))
        from arena import networks

        yield networks


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run whose network is the exact score of a mixture in the plane."""
    law = "dataset.means=[[-1,0.5],[1,0],[0,-2]]", "dataset.variances=[0.01,0.04,0.02]", "dataset.weights=[0.5,0.3,0.2]"
    few = "dataset.size=200", "sampler.steps=2", "count=20", "figures=false"
    folder = tmp_path_factory.mktemp("runs") / "exact"
    sdegen.train("dataset=gaussian_mixture", "network=oracle", *law, *few, folder=folder)
    return folder


def mixture_of(run: Trained) -> GaussianMixture:
    """Returns the mixture of a run in the network's units, with full covariances."""
    law = run.dataset.encoded_law
    assert law is not None
    return GaussianMixture(law.weights, law.means, torch.diag_embed(law.covariances))


def heun(sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """Draws samples with Heun's method for the flow, in equal steps of the square root of the time."""
    times = torch.linspace(sde.T**0.5, sde.eps**0.5, steps // 2 + 1, dtype=torch.float64) ** 2

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return -0.5 * sde.diffusion(t) ** 2 * (x + score(x, t))

    for t, s in zip(times[:-1], times[1:], strict=True):
        first = slope(x, t)
        x = x + (s - t) / 2 * (first + slope(x + (s - t) * first, s))
    return x


def test_the_exact_score_as_a_network_has_the_errors_of_its_mixture(networks: ModuleType, exact: Path) -> None:
    """The oracle is the score that the contest of mixtures computes, and its flow at tolerance 1e-10."""
    from arena import problem, race, targets

    run = networks.trained(str(exact))
    held = networks.problem(run, 40, 1e-9)
    score = targets.SideBySide([mixture_of(run)], run.sde)
    mixture = held._replace(score=score, distances=(problem.EndPoints(problem.flow(run.sde, score, held.x[0])),))
    sampler = race.Contestant("Heun", "", heun)
    for steps in (8, 32):
        own, other = (race.once(sampler, one, steps) for one in (held, mixture))
        # One standard deviation of an entry of the training data is not exactly 1.
        assert own.value * networks.deviation(run) == pytest.approx(other.value, rel=1e-5)
    assert own.value < 0.1


def test_the_quality_of_exact_draws_is_the_floor_and_noise_is_far_from_it(networks: ModuleType, exact: Path) -> None:
    run = networks.trained(str(exact))
    law, source = mixture_of(run), generator("cpu", 5, "test")
    good = networks.quality(run, law.sample(400, source))
    bad = networks.quality(run, 2 * torch.randn(400, 2, generator=source, dtype=torch.float64))
    assert set(good) == {"sliced_w1", "c2st"}
    for name, (floor, value) in good.items():
        assert value < floor * (1.5 if name == "c2st" else 3)
        assert bad[name][0] == floor
        assert bad[name][1] > 1.4 * value


def test_the_rows_of_a_network_have_a_heading_for_each_measure(networks: ModuleType, exact: Path) -> None:
    """All samplers of the package share a row, whose setting is the best of them; each measure has the same rows."""
    import contest

    arguments = argparse.Namespace(
        kind="networks", runs=[str(exact)], steps=[6], samples=50, search=10, only="ours", match=["heun", "ddim"]
    )
    rows = list(contest.headed(arguments))
    assert [heading.removeprefix(str(exact)) for heading, _ in rows] == [""] + 3 * [", sliced_w1"] + 3 * [", c2st"]
    assert [row["name"] for _, row in rows] == ["sdegen", *2 * ["floor", "exact", "sdegen"]]
    settings = {row["at"]["6"]["setting"] for _, row in rows} - {""}
    assert len(settings) == 1
    assert settings.pop().split(", ")[0] in ("heun", "ddim")
    assert contest.side("iPNDM, as published") == "iPNDM, as published"
