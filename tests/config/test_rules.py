"""Choices that do not suit the process: the message names the option and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from sdegen.config.assembly import build
from sdegen.config.compose import Config, composed
from sdegen.config.options import Faults
from sdegen.config.rules import check_process
from sdegen.core import schema
from sdegen.sde import SDE, VP, LinearSDE
from sdegen.sde.base import most_special

NEEDS = "needs a closed-form kernel and sde=double_well has none: use"
SAMPLERS = [
    (["sampler=adams"], f"sampler=adams {NEEDS} sampler=euler_maruyama, stochastic_heun or dopri5"),
    (["sampler=twisted"], f"sampler=twisted {NEEDS} sampler=euler_maruyama, stochastic_heun or dopri5"),
    (
        ["sampler=euler_maruyama", "sampler/corrector=hmc"],
        f"sampler/corrector=hmc {NEEDS} sampler/corrector=none",
    ),
    (["sampler=euler_maruyama", "sampler.grid=karras"], f"sampler=euler_maruyama {NEEDS} sampler.grid=uniform"),
    (["sampler=dopri5", "sampler.denoise=true"], f"sampler=dopri5 {NEEDS} sampler.denoise=false"),
    (["sampler=euler_maruyama"], None),
    (["sampler=stochastic_heun"], None),
    (["sampler=dopri5"], None),
    (["sampler=euler_maruyama", "sampler.grid=quadratic"], None),
]


def refusal(config: Config, parts: dict[str, Any]) -> str:
    try:
        check_process(config, parts, ())
    except Faults as faults:
        return str(faults)
    return ""


@pytest.mark.parametrize(("options", "line"), SAMPLERS, ids=lambda case: " ".join(case) if type(case) is list else "")
def test_the_option_of_a_sampler_that_needs_a_kernel_is_named_with_its_remedy(
    options: list[str], line: str | None
) -> None:
    config = composed("train", ["sde=double_well", *options])
    sampler = schema.construct(config["sampler"])
    assert refusal(config, {"sampler": sampler}) == (line or "")
    assert refusal({**config, "sde": composed("train", ["sde=ve"])["sde"]}, {"sampler": sampler}) == ""


@pytest.mark.parametrize(
    ("options", "fixes"),
    [
        (["experiment=regressor"], ["network=regressor_mlp", "sde=vp"]),
        (["experiment=regressor", "network=mlp"], ["network=regressor_mlp and sde=vp"]),
        (["experiment=digits_classifier"], ["network=classifier_conv", "network=classifier_mlp"]),
    ],
    ids=lambda case: case[0],
)
def test_a_network_that_needs_a_kernel_is_refused_with_a_remedy_of_its_own_kind(
    options: list[str], fixes: list[str]
) -> None:
    with pytest.raises(Faults) as caught:
        build(composed("train", ["sde=double_well", *options]))
    lines = [line for line in str(caught.value).splitlines() if "network=" in line]
    assert len(lines) == 1
    # Only scores have a parametrization.
    assert ("parametrization=" in str(caught.value)) == ("network=mlp" in options)
    assert all(fix in lines[0] for fix in fixes)
    if "sde=vp" not in lines[0]:
        build(composed("train", ["sde=double_well", *options, fixes[-1]]))


class ForVP:
    process = VP


def test_a_part_may_ask_for_any_type_of_process() -> None:
    for sde, line in (
        ("vp", ""),
        ("ve", "times=importance works with the SDE VP only, not with sde=ve: use times=stratified"),
    ):
        config = composed("train", [f"sde={sde}", "times=importance"])
        assert refusal(config, {"times": ForVP}) == line


def test_the_most_special_process_suits_all_parts() -> None:
    assert most_special(SDE, LinearSDE, SDE) is LinearSDE
    assert most_special(VP, LinearSDE) is VP
    assert most_special(SDE, SDE) is SDE
