"""Time grids: lists of times."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
import torch

from sdegen.config.compose import composed
from sdegen.config.construction import construct
from sdegen.config.options import Faults
from sdegen.config.rules import check_times
from sdegen.core.randomness import SampleNoise
from sdegen.metrics.verification import gaussian
from sdegen.samplers import Adams, DPMSolver, FlowMap, Heun, Sampler, StepSampler, StochasticAdams
from sdegen.samplers.grids import GRIDS, Named
from sdegen.sde import VE, VP, Cosine, LinearSDE

SAMPLERS: tuple[Callable[..., Sampler], ...] = (partial(StepSampler, DPMSolver(1), None), FlowMap)
"""Samplers on a grid, as functions of the number of steps and the grid."""


@pytest.mark.parametrize("grid", [name for name in GRIDS if name != "fitted"])
@pytest.mark.parametrize("sde", [VP(), VE(), Cosine()], ids=lambda sde: type(sde).__name__)
def test_the_times_of_a_named_grid_as_a_list_give_the_same_samples(sde: LinearSDE, grid: Named) -> None:
    for predictor in (Adams(), Heun(), StochasticAdams()):
        named = StepSampler(predictor, steps=9, grid=grid)
        listed = StepSampler(predictor, steps="auto", grid=tuple(named.times(sde).tolist()))
        noise = SampleNoise(0, 0, 5, (2,)), SampleNoise(0, 0, 5, (2,))
        x = torch.linspace(-2, 2, 10, dtype=torch.float64).reshape(5, 2)
        ends = [one(sde, gaussian(sde), x, noise=z).x for one, z in zip((named, listed), noise, strict=True)]
        assert torch.equal(*ends)
        assert listed.steps == listed.evaluations == 9 or predictor.evaluations == 2


def test_the_number_of_steps_follows_from_the_list_unless_the_user_gives_it() -> None:
    grid = "sampler.grid=[1.0,0.6,0.2,1e-5]"
    assert construct(composed("train", ["sampler=adams", grid]), "sampler", ()).steps == 3
    assert construct(composed("train", ["sampler=adams", grid, "sampler.steps=3"]), "sampler", ()).steps == 3
    with pytest.raises(Faults, match=r"^sampler.steps=4 does not fit grid=\[1,0.6,0.2,1e-05\], whose 4 times make 3"):
        construct(composed("train", ["sampler=adams", grid, "sampler.steps=4"]), "sampler", ())


@pytest.mark.parametrize(("steps", "message"), [("auto", "steps=auto needs the levels of"), (0, "steps=0 must be at")])
def test_samplers_refuse_steps_that_are_no_number_in_the_same_words(steps: int | Literal["auto"], message: str) -> None:
    for make in SAMPLERS:
        with pytest.raises(ValueError, match=f"^{message}"):
            make(steps, "logistic")


@pytest.mark.parametrize("make", SAMPLERS, ids=["steps", "map"])
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((1.0, 0.2, 0.3, 1e-5), "grid=[1,0.2,0.3,1e-05] must fall, and 0.3 follows 0.2: list the times from T down to"),
        ((1.0, 0.2, 0.2, 1e-5), "grid=[1,0.2,0.2,1e-05] must fall, and 0.2 follows 0.2"),
        ((1.0, float("nan"), 1e-5), "grid=[1,nan,1e-05] must fall, and nan follows 1"),
        ((1.0,), "grid has 1 times and needs at least 2"),
        ((1.5, 1.0, 1e-5), "sampler.grid=[1.5,1,1e-05] must begin at T=1, not at 1.5: change this time"),
        ((1.0, 0.5, 1e-3), "sampler.grid=[1,0.5,0.001] must end at sde.eps=1e-05, not at 0.001: change this time"),
        ((1.0, 0.5, 0.0), "sampler.grid=[1,0.5,0] must end at sde.eps=1e-05, not at 0"),
    ],
)
def test_a_list_that_does_not_fall_from_t_to_eps_is_refused_in_one_line(
    make: Callable[..., Sampler], times: tuple[float, ...], message: str
) -> None:
    with pytest.raises((ValueError, Faults)) as refused:
        check_times(make("auto", times), VP())
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
