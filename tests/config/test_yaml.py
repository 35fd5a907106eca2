"""Each YAML file has a comment, names all options of its class, composes, builds and runs."""

from __future__ import annotations

import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imsave
from omegaconf import OmegaConf

from sdegen.config import assembly, options
from sdegen.config.compose import CONF, composed
from sdegen.config.options import Faults
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.datasets.idx import FASHION_MNIST
from sdegen.metrics import features, images
from sdegen.runs import session
from sdegen.runs.run import load
from sdegen.samplers import StepSampler

NODES = sorted(path for group in options.GROUPS for path in (CONF / group).rglob("*.yaml"))
EXPERIMENTS = sorted(str(path.relative_to(CONF / "experiment"))[:-5] for path in (CONF / "experiment").rglob("*.yaml"))
ALL = sorted(CONF.rglob("*.yaml"))
WITH = {
    "objective=sliced": ["network.activation=silu"],
    "objective=implicit": ["network.activation=silu"],
    "sampler/predictor=none": ["sampler/corrector=langevin"],
    "sde=double_well": [
        "objective=sliced",
        "network.activation=silu",
        "parametrization=residual",
        "weighting=uniform",
        "times=stratified",
    ],
    "sde=table": ["sde.path=x.csv"],
    "dataset=file": ["dataset.path=x.csv"],
    "dataset=folder": ["dataset.path=x"],
    "dataset=fashion_mnist": ["dataset.size=100"],
    "network=scorenet": ["dataset=digits"],
    "network=unet": ["dataset=digits"],
    "network=classifier_mlp": ["dataset=digits", "objective=classification", "weighting=uniform"],
    "network=classifier_conv": ["dataset=digits", "objective=classification", "weighting=uniform"],
    "network=regressor_mlp": ["dataset=linear_gaussian", "objective=regression", "weighting=uniform"],
    "network=regressor_conv": ["dataset=file", "dataset.path=x.npz", "objective=regression", "weighting=uniform"],
    "objective=regression": ["dataset=linear_gaussian", "network=regressor_mlp", "weighting=uniform"],
    "sampler=flow_map": ["objective=flow_map"],
    "objective=classification": ["dataset=digits", "network=classifier_mlp", "weighting=uniform"],
}
"""Options that a choice requires."""
NARROW = {"channels": 8, "multipliers": [1, 1], "blocks": 1}
"""Options that make a U-Net small."""
DEFAULTS = {"defaults", "_target_"}


def choice(path: Path) -> tuple[str, str]:
    relative = path.relative_to(CONF)
    return str(relative.parent), relative.stem


def name(path: Path) -> str:
    return str(path.relative_to(CONF))


@pytest.mark.parametrize("path", ALL, ids=name)
def test_yaml_opens_with_what_it_is_and_the_command_that_runs_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    comment = [line for line in lines[:12] if line.startswith("#") and "@package" not in line]
    assert lines[0].startswith("#")
    assert any("sdegen " in line for line in comment)


@pytest.mark.parametrize("path", sorted((CONF / "guidance").rglob("*.yaml")), ids=name)
def test_guidance_names_every_option_of_its_class(path: Path) -> None:
    node = OmegaConf.to_container(OmegaConf.load(path))
    if path.stem == "none":
        return
    parameters = inspect.signature(schema.resolve(node["_target_"], ())).parameters
    inner = {key for default in node.get("defaults", []) if default != "_self_" for key in default}
    assert set(node) - DEFAULTS | inner == {key for key in parameters if key not in schema.SUPPLIED}
    assert all(
        (path.parent / key / f"{value}.yaml").exists()
        for d in node.get("defaults", [])[:-1]
        for key, value in d.items()
    )


@pytest.mark.parametrize("path", sorted((CONF / "guidance").glob("*.yaml")), ids=name)
def test_guidance_is_named_as_the_command_line_takes_it(path: Path) -> None:
    node = OmegaConf.to_container(OmegaConf.load(path))
    defaults = [default for default in node.pop("defaults", []) if default != "_self_"]
    inner = {key: value for default in defaults for key, value in default.items()}
    node |= {key: OmegaConf.to_container(OmegaConf.load(path.parent / key / f"{inner[key]}.yaml")) for key in inner}
    if path.stem != "none":
        assert options.choice(node) == path.stem
    if path.stem == "operator":
        assert options.choice({**node, "measurement": {"_target_": "energy.Energy"}}) == "operator"


@pytest.mark.parametrize("path", NODES, ids=name)
def test_every_choice_names_all_options_of_its_class_and_builds(path: Path, tmp_path: Path) -> None:
    group, option = choice(path)
    overrides = [f"{group}={option}", *WITH.get(f"{group}={option}", [])]
    if option == "file":
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(10, 2)))
        overrides.append(f"dataset.path={tmp_path / 'x.npy'}")
    if option == "regressor_conv":
        draws = np.random.default_rng(0)
        np.savez(tmp_path / "x.npz", x=draws.normal(size=(10, 1, 8, 8)), c=draws.normal(size=(10, 2)))
        overrides.append(f"dataset.path={tmp_path / 'x.npz'}")
    if option == "table":
        np.savetxt(
            tmp_path / "x.csv", [[0.1, 1, 0.1], [0.5, 1, 1], [1, 0, 1]], "%g", ",", header="t,alpha,sigma", comments=""
        )
        overrides.append(f"sde.path={tmp_path / 'x.csv'}")
    if option == "folder":
        for i in range(4):
            imsave(tmp_path / f"{i}.png", np.random.default_rng(i).random((8, 8, 3)))
        overrides.append(f"dataset.path={tmp_path}")
    config = composed("train", overrides)
    if group in options.GROUPS:
        parameters = inspect.signature(schema.resolve(config[group]["_target_"], ())).parameters
        assert set(config[group]) - {"_target_"} == {key for key in parameters if key not in schema.SUPPLIED}
    if option == "fashion_mnist" and not Path(FASHION_MNIST).exists():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    if group == "logger" and option != "none":
        pytest.importorskip(option)
    built = assembly.build(config)
    parts = {**built._asdict(), "network": built.model.network}
    if built.objective.predicts == "score":
        parts["parametrization"] = built.model.parametrization
    if group in options.GROUPS:
        assert isinstance(parts[group], options.GROUPS[group])


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_job_of_a_sweep_builds(path: Path) -> None:
    node = OmegaConf.load(path)
    assert node.hydra.mode == "MULTIRUN"
    params = {key: str(value).split(",") for key, value in node.hydra.sweeper.params.items() if key != "seed"}
    # Of a list of numbers, try only the first and the last.
    ends = [values[:: max(len(values) - 1, 1)] if values[-1][0].isdigit() else values for values in params.values()]
    jobs = list(itertools.product(*ends))
    assert len(jobs) > 1
    for values in jobs:
        assembly.build(composed("train", [f"{key}={value}" for key, value in zip(params, values, strict=True)]))


PAPER = [name for name in EXPERIMENTS if name.startswith("paper/")]
"""Experiments of the paper. They run only in slow tests, because the golden test trains each of them."""

ALIKE = ("ddpm", "smld", "smile_noisy")
"""Experiments that have the same kinds of figures as ``experiment=smile``."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in PAPER else n for n in EXPERIMENTS])
def test_every_experiment_runs_two_steps_and_samples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = name not in ALIKE
    short = ["trainer.steps=2", "trainer.preview_every=0", "trainer.threads=1", f"figures={draws}"]
    if name == "fashion_mnist":
        if not Path(FASHION_MNIST).exists():
            pytest.skip("the package dataset-fashion-mnist is not installed")
        short += ["dataset.size=200"]
    config = composed("train", [f"experiment={name}", *short])
    pictures = "dataset" in config and "standardize" not in config["dataset"]
    if pictures:
        narrow = NARROW if "patch" in config["network"] else {"channels": [8]}
        config["network"] |= {key: value for key, value in narrow.items() if key in config["network"]}
        config["sampler"] = composed("train", ["sampler=ddim"])["sampler"]
        config["count"] = 20
        monkeypatch.setattr(features, "EPOCHS", (1, 1))
        monkeypatch.setattr(images, "REFERENCE", 300)
    if "steps" in config["sampler"]:
        config["sampler"]["steps"] = 2
    run = session.train(config, tmp_path / "run")
    assert run.step == (0 if run.model.network.exact else 2)
    assert config["name"] == name.replace("/", "_")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    wanted = {"config.yaml", "provenance.json", "train.log", "checkpoints", "metrics.json"}
    predicts = run.model.network.predicts
    assert wanted | ({"samples"} if predicts == "score" else set()) <= left
    stored = OmegaConf.to_container(OmegaConf.load(tmp_path / "run" / "config.yaml"))
    assert stored == run.config
    figures = {path.name for path in (tmp_path / "run").glob("figures/*")}
    field = {"process.png"} if run.units.shape == (1,) else {"trajectories.png"}
    # A score that needs a condition is drawn along the paths only, each of which has its own condition.
    field = field - {"process.png"} if run.conditions is not None else {"score_field.png", *field}
    taken = run.model.network.condition
    classes = {"classes.png"} if taken is not None and taken.labelled else set()
    expected = {"generation.png", *classes} if pictures else {"marginals.png", *field}
    expected |= {"samples.png", "generation.gif"}
    own = {"score": expected, "class": {"accuracy.png"}, "condition": {"nll.png"}}[predicts]
    assert figures == (own if draws else set())


@pytest.mark.parametrize("path", [path for path in NODES if path.parent.name in ("sde", "network")], ids=name)
def test_a_choice_is_shown_under_the_name_that_the_command_line_takes(path: Path) -> None:
    group, name = choice(path)
    given = ["sde.path=schedule.csv"] if name == "table" else []
    shown = dict(options.flat_options(composed("train", ["dataset=gaussian_mixture", f"{group}={name}", *given])))
    assert (shown[group], shown["dataset"]) == (name, "gaussian_mixture")
    assert shown["sampler"] in {path.stem for path in (CONF / "sampler").glob("*.yaml")}


def test_experiment_values_win_over_the_groups_and_lose_to_the_command_line() -> None:
    assert composed("train", ["experiment=smile"])["trainer"]["batch_size"] == 200
    assert composed("train", ["experiment=smile", "trainer.batch_size=7"])["trainer"]["batch_size"] == 7
    assert composed("train", ["experiment=smile", "sde=ve"])["sde"]["_target_"].endswith("VE")


@pytest.mark.parametrize(
    ("experiment_name", "expected"),
    [
        ("paper/gaussian_mixture", {"hidden": [128], "epochs": 300, "sampler": "StepSampler", "size": 5000}),
        ("paper/smile", {"hidden": [128, 128], "epochs": 7000, "sampler": "RK45", "size": 400}),
        ("paper/smile_noisy", {"hidden": [128, 128], "epochs": 7000, "sampler": "RK45", "size": 400}),
    ],
)
def test_paper_experiments_are_the_papers(experiment_name: str, expected: dict) -> None:
    config = composed("train", [f"experiment={experiment_name}"])
    assert config["network"]["hidden"] == expected["hidden"]
    assert config["network"]["activation"] == "relu"
    assert config["network"]["time_embedding"] == "concat"
    assert config["optimizer"]["lr"] == 1e-4
    assert config["trainer"]["epochs"] == expected["epochs"]
    assert config["trainer"]["batch_size"] == 64
    assert config["sde"]["_target_"].endswith("VP")
    assert config["sampler"]["_target_"].endswith(expected["sampler"])
    assert config["dataset"]["size"] == expected["size"]
    assert config["dataset"]["standardize"] is False


def test_the_help_of_resume_names_the_options_that_resume_takes() -> None:
    comment = (
        (CONF / "train.yaml").read_text().partition("\nresume:")[0].rpartition(": null")[2].rpartition("to resume.")[2]
    )
    assert all(option in comment for option in session.RESUMABLE)


def test_largest_distance_is_stored_as_a_number() -> None:
    built = assembly.build(composed("train", ["experiment=smile", "sde=ve"]))
    x = built.dataset.units.encode(built.dataset.x)
    assert built.config["sde"]["sigma_max"] == pytest.approx(float((x[:, None] - x[None]).norm(dim=2).max()))


def test_oracle_needs_no_training_and_samples_at_once(tmp_path: Path) -> None:
    config = composed("train", ["dataset=gaussian_mixture", "network=oracle", "sampler=dopri5", "figures=false"])
    run = session.train(config, tmp_path / "run")
    assert run.step == 0
    x = run.sample(500)
    assert 0.4 < float((x > 0).double().mean()) < 0.6
    assert float((x.abs() - 3).abs().mean()) < 1.0


def test_what_needs_a_closed_form_kernel_is_refused_with_the_fix() -> None:
    """One message lists all conflicts. Each fix removes a line, and the last fix removes the last line."""
    needs = "needs a closed-form kernel and sde=double_well has none: use"
    expected = [
        f"network=oracle {needs} network=mlp",
        f"parametrization=karras {needs} parametrization=residual or parametrization=raw",
        f"objective=denoising {needs} objective=sliced or objective=implicit",
        f"weighting=variance {needs} weighting=likelihood or weighting=uniform",
        f"times=importance {needs} times=stratified",
    ]
    wrong = ["network=oracle", "parametrization=karras", "weighting=variance", "times=importance"]
    fixes = [line.rpartition(" ")[2] for line in expected]
    for taken in range(len(expected)):
        config = composed("train", ["dataset=gaussian_mixture", "sde=double_well", *wrong, *fixes[:taken]])
        with pytest.raises(Faults) as faults:
            assembly.build(config)
        assert [line for line in str(faults.value).splitlines() if needs in line] == expected[taken:]
    assembly.build(composed("train", ["sde=double_well", *wrong, *fixes, "network.activation=silu"]))


@pytest.mark.parametrize("parametrization", ["noise", "data", "velocity"])
def test_every_parametrization_of_the_noise_is_refused_without_a_kernel(parametrization: str) -> None:
    config = composed("train", ["experiment=double_well", f"parametrization={parametrization}"])
    with pytest.raises(Faults, match=f"^parametrization={parametrization} needs a closed-form kernel"):
        assembly.build(config)


@pytest.mark.parametrize("objective", ["implicit", "sliced"])
def test_derivatives_of_a_relu_network_are_refused(objective: str) -> None:
    with pytest.raises(Faults) as faults:
        assembly.build(composed("train", ["dataset=smile", f"objective={objective}", "network.activation=relu"]))
    (line,) = str(faults.value).splitlines()
    assert line.startswith(f"objective={objective} differentiates the network twice")
    assert line.endswith("use network.activation=silu")
    assembly.build(composed("train", ["dataset=smile", f"objective={objective}", "network.activation=silu"]))


@pytest.mark.parametrize("objective", ["implicit", "sliced"])
def test_derivatives_of_attention_are_refused(objective: str) -> None:
    """Torch has no second derivative of attention."""
    with pytest.raises(Faults, match="^objective=.* differentiates the network twice.*use network=scorenet$"):
        assembly.build(composed("train", ["dataset=digits", "network=unet", f"objective={objective}"]))
    assembly.build(composed("train", ["dataset=digits", "network=scorenet", f"objective={objective}"]))


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_network_that_the_memory_cannot_hold_is_refused(replicas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training needs five copies of the weights, at 4 bytes for each number.

    The network has 2 + 32 inputs (a point and features of t), one hidden layer of 100 units, and 2 outputs.
    """
    config = composed("train", ["experiment=smile", "network.hidden=[100]", f"trainer.replicas={replicas}"])
    needed = replicas * 5 * 4 * (34 * 100 + 100 + 100 * 2 + 2)
    monkeypatch.setattr(assembly, "memory", lambda: needed)
    assembly.build(config)
    monkeypatch.setattr(assembly, "memory", lambda: needed - 1)
    with pytest.raises(UserError, match="^network: asks for more weights than this process can train"):
        assembly.build(config)


def test_the_exact_score_is_refused_for_a_run_of_a_nonlinear_sde(tmp_path: Path) -> None:
    short = ["trainer.steps=2", "trainer.preview_every=0", "figures=false", "sampler.steps=2", "dataset.size=100"]
    session.train(composed("train", ["experiment=double_well", *short]), tmp_path / "run")
    oracle = composed("train", ["network=oracle"])["network"]
    with pytest.raises(Faults, match="^network=oracle needs a closed-form kernel and sde=double_well has none"):
        load(tmp_path / "run", nodes={"network": oracle})


def test_all_faults_of_a_configuration_are_told_at_once() -> None:
    config = composed("train", ["experiment=smile"])
    config["sde"]["beta_max"] = "many"
    config["trainer"]["batch_sise"] = 3
    config["seed"] = None
    with pytest.raises(Faults) as faults:
        assembly.build(config)
    lines = str(faults.value).splitlines()
    assert len(lines) == 3
    config = composed("train", ["sde.eps=2", "sampler.steps=0", "optimizer.lr=-1", "dataset.size=5"])
    with pytest.raises(Faults) as faults:
        assembly.build(config)
    assert [line.split(" ")[0] for line in sorted(str(faults.value).splitlines())] == [
        "dataset.size=5",
        "optimizer.lr=-1",
        "sampler.steps=0",
        "sde.eps=2",
    ]


@pytest.mark.parametrize("levels", [30, 1000])
def test_steps_left_to_auto_walk_the_levels_of_the_chain(levels: int) -> None:
    built = assembly.build(composed("train", ["experiment=ddpm", f"sde.levels={levels}"]))
    assert isinstance(built.sampler, StepSampler)
    expected = torch.arange(levels, 0, -1, dtype=torch.float64) / levels
    torch.testing.assert_close(built.sampler.times(built.sde), expected, rtol=0, atol=1e-12)
    assert built.config["sampler"]["steps"] == levels - 1
    wide = assembly.build(composed("train", ["experiment=smld", f"sde.levels={levels:.1e}"]))
    assert len(wide.sampler.times(wide.sde)) == levels  # type: ignore[union-attr]
    with pytest.raises(Faults, match="sampler.steps=auto needs the levels of a chain such as sde=ddpm"):
        assembly.build(composed("train", ["experiment=smile", "sampler.steps=auto"]))
