"""Nodes of a configuration are checked against the classes that they name."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from sdegen.config.compose import CONF
from sdegen.core import docstrings, schema
from sdegen.guidance import ClassifierGuidance, Measurement
from sdegen.networks import MLP, Network
from sdegen.samplers import Sampler, StepSampler
from sdegen.sde import SDE, VP
from sdegen.training.trainer import Trainer

VP_NODE = {"_target_": "sdegen.sde.VP"}
PERCEPTRON = {"_target_": "sdegen.networks.MLP"}
EM = {"_target_": "sdegen.samplers.EulerMaruyama"}
STEPS = {"_target_": "sdegen.samplers.StepSampler", "predictor": EM}


@pytest.mark.parametrize(
    ("node", "base", "line"),
    [
        ({**VP_NODE, "beta_max": "20"}, SDE, "x.beta_max: must be a number, not '20'"),
        ({**VP_NODE, "beta_max": True}, SDE, "x.beta_max: must be a number, not True"),
        ({**VP_NODE, "beta_max": None}, SDE, "x.beta_max: must be a number, not None"),
        ({**VP_NODE, "beta_max": float("nan")}, SDE, "x.beta_max: must be a number, not nan"),
        ({**VP_NODE, "beta_max": float("inf")}, SDE, "x.beta_max: must be a number, not inf"),
        ({**VP_NODE, "beta_mx": 20.0}, SDE, "x.beta_mx: no such option of VP; did you mean x.beta_max?"),
        ({**VP_NODE, "zzz": 1}, SDE, "x.zzz: no such option of VP; the options are beta_min, beta_max, eps"),
        ({**STEPS, "steps": 1.5}, Sampler, "x.steps: must be an integer or auto, not 1.5"),
        ({**STEPS, "steps": False}, Sampler, "x.steps: must be an integer or auto, not False"),
        ({**STEPS, "denoise": 1}, Sampler, "x.denoise: must be true or false, not 1"),
        (
            {**STEPS, "grid": "cubic"},
            Sampler,
            "x.grid: must be one of uniform, quadratic, log_snr, karras, logistic, fitted or a list, each entry a "
            "number, not 'cubic'",
        ),
        (
            {**STEPS, "grid": "karas"},
            Sampler,
            "x.grid: must be one of uniform, quadratic, log_snr, karras, logistic, fitted or a list, each entry a "
            "number, not 'karas': did you mean karras?",
        ),
        ({**STEPS, "corrector": EM}, Sampler, "x.corrector: EulerMaruyama is not a Corrector"),
        (
            {**STEPS, "predictor": {**EM, "a": 1}},
            Sampler,
            "x.predictor.a: no such option of EulerMaruyama",
        ),
        (
            {"_target_": "sdegen.networks.MLP", "hidden": [1, "a"]},
            Network,
            "x.hidden: must be a list, each entry an",
        ),
        (
            {"_target_": "sdegen.networks.MLP", "hidden": 128},
            Network,
            "x.hidden: must be a list, each entry an integer",
        ),
        ({"_target_": "sdegen.networks.MLP", "shape": [2]}, Network, "x.shape: no such option of MLP"),
        ({"_target_": "sdegen.guidance.Linear"}, Measurement, "x.path is missing: give Linear this option"),
        (VP_NODE, Sampler, "x: VP is not a Sampler"),
        ({}, SDE, "x: must be a node that names a SDE by _target_"),
        (None, SDE, "x: must be a node that names a SDE by _target_"),
        ({"_target_": 3}, SDE, "x: _target_=3 is not of the form"),
        ({"_target_": "sdegen.sde.linear.Nothing"}, SDE, "x: _target_=sdegen.sde.linear.Nothing: module"),
        (
            {"_target_": "sdegen.nowhere.VP"},
            SDE,
            "x: _target_=sdegen.nowhere.VP: module sdegen.nowhere cannot be imported",
        ),
    ],
)
def test_fault_is_one_line_with_the_path(node: Any, base: type, line: str) -> None:  # noqa: ANN401
    found = schema.faults(node, base, "x")
    assert len(found) == 1
    assert found[0].startswith(line)
    assert "\n" not in found[0]


def test_module_of_the_user_that_is_not_found_may_lack_its_folder() -> None:
    (line,) = schema.faults({"_target_": "absent_radon.Radon"}, Measurement, "x", ("absent_radon",))
    assert line.endswith("correct the name, or put its folder on PYTHONPATH")
    (line,) = schema.faults({"_target_": "sdegen.nowhere.VP"}, SDE, "x")
    assert line.endswith("correct the name")


def test_all_faults_are_found_at_once() -> None:
    node = {**STEPS, "steps": "a", "nstep": 1, "predictor": {**EM, "eta": 2}, "grid": 1}
    assert len(schema.faults(node, Sampler, "sampler")) == 4


def test_good_nodes_have_no_faults_and_build_what_they_say() -> None:
    node = {**STEPS, "steps": 1e2, "corrector": None}
    assert schema.faults(node, Sampler, "x") == []
    built = schema.construct(node)
    assert isinstance(built, StepSampler)
    assert built.steps == 100
    assert isinstance(built.steps, int)
    vp = schema.construct({**VP_NODE, "beta_max": 10})
    assert isinstance(vp, VP)
    network = schema.construct({**PERCEPTRON, "hidden": [4.0, 5]}, shape=(3,), law=None)
    assert isinstance(network, MLP)
    assert [p.shape[0] for p in network.parameters()][::2] == [4, 5, 3]
    trainer = schema.construct({"_target_": "sdegen.training.Trainer", "steps": None, "epochs": 5, "clip": 2})
    assert isinstance(trainer, Trainer)
    assert trainer.clip == 2.0


def test_nested_lists_keep_their_shape() -> None:
    node = {"_target_": "sdegen.datasets.Mixture", "means": [[0, 1], [2, 3]], "variances": [1, 2], "size": 10}
    assert schema.construct(node, seed=0).x.shape == (10, 2)
    assert schema.faults({**node, "means": [[0, "a"]]}, object, "x") != []


def test_only_the_package_itself_is_trusted() -> None:
    for name in ("sdegenevil.sde.VP", "sdegen_evil.VP", "xsdegen.VP"):
        with pytest.raises(ValueError, match="outside of sdegen"):
            schema.resolve(name, ())
    with pytest.raises(ValueError, match="outside of sdegen"):
        schema.resolve("minemore.VP", ("mine",))


@pytest.mark.parametrize("value", [1e300, 10**400, 2**63, float("-inf")])
def test_absurd_numbers_are_refused(value: float) -> None:
    assert schema.faults({**STEPS, "steps": value}, Sampler, "x")[0].startswith("x.steps: must be an integer")
    assert schema.faults({**VP_NODE, "beta_max": value}, SDE, "x")[0].startswith("x.beta_max: must be a number")


def test_names_with_line_breaks_stay_one_line() -> None:
    nodes = ({"_target_": "a\nb.c"}, {**VP_NODE, "a\nb": 1}, {"_target_": "sdegen.sde.linear.V\nP"})
    assert all("\n" not in line for node in nodes for line in schema.faults(node, SDE, "x"))


def test_a_bool_is_not_a_choice_of_a_literal() -> None:
    assert schema.faults({**PERCEPTRON, "activation": True}, Network, "x") != []


def test_plain_options_are_converted() -> None:
    types: dict[str, Any] = {"count": int, "trust": tuple[str, ...]}
    assert schema.option_faults({"count": 1e3, "trust": ["a"]}, types) == []
    assert repr(schema.convert(1e3, int)) == "1000"
    assert schema.convert(["a"], tuple[str, ...]) == ("a",)


class Base:
    """A class with documented arguments.

    Args:
        depth: the number of layers, of which
            the last is linear.
        width: units in a layer: :math:`\\sigma_d`, as in :class:`~sdegen.networks.MLP`.

    Raises:
        ValueError: never.
    """

    def __init__(self, depth: int, width: tuple[int, ...] | None = None) -> None:
        self.depth, self.width = depth, width


class Derived(Base):
    """A class that shares some arguments with its base.

    Args:
        seed: supplied by the program.
        mode: ``fast`` or ``exact``.
        width: see :class:`Base`; null here.
    """

    def __init__(
        self, seed: int, depth: int, mode: Literal["fast", "exact"] = "fast", width: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(depth, width)


def test_options_are_described_by_their_types_and_the_docstrings_of_the_class_and_its_bases() -> None:
    depth = schema.Option("depth", "an integer", schema.REQUIRED, "the number of layers, of which the last is linear.")
    meaning = "units in a layer: :math:`\\sigma_d`, as in :class:`~sdegen.networks.MLP`."
    width = schema.Option("width", "null or a list, each entry an integer", None, meaning)
    mode = schema.Option("mode", "one of fast, exact", "fast", "``fast`` or ``exact``.")
    assert schema.options(Base) == {"depth": depth, "width": width}
    inherited = width._replace(meaning=f"{meaning} Null here.")
    assert list(schema.options(Derived).values()) == [depth, mode, inherited]
    assert docstrings.without_markup(meaning) == "units in a layer: sigma_d, as in MLP."
    assert schema.options(ClassifierGuidance)["run"].kind == "the folder of a run"


TARGETS = sorted(
    {line.split(":", 1)[1].strip() for path in CONF.rglob("*.yaml") for line in path.read_text().splitlines()
     if line.lstrip().startswith("_target_: sdegen.")}
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_every_option_of_every_class_has_a_meaning(target: str) -> None:
    described = schema.options(schema.resolve(target, ()))
    assert [name for name, option in described.items() if not option.meaning or option.meaning.startswith("see ")] == []
