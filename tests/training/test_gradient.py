"""The hand-written gradient equals the gradient of autograd, and is chosen only where it applies."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdegen import load
from sdegen.config import assembly
from sdegen.config.compose import composed
from sdegen.config.options import Faults
from sdegen.models import Noise
from sdegen.runs import session
from sdegen.training.gradient import Autograd
from sdegen.training.loop import Training
from sdegen.training.perceptron import Perceptron, obstacle

PLAIN = (
    "trainer.batch_size=16",
    "trainer.precision=float64",
    "trainer.preview_every=0",
    "figures=false",
    "optimizer.lr=1e-2",
)
SMALL = ("dataset=smile", "dataset.size=52", "network.hidden=[8,5]", *PLAIN)
PARAMETRIZATIONS = ("raw", "residual", "noise", "data", "velocity", "karras", "gaussian")


def training(gradient: str, *overrides: str) -> Training:
    return assembly.build(composed("train", [*overrides, f"trainer.gradient={gradient}"])).training()


def agree(*overrides: str, base: tuple[str, ...] = SMALL) -> None:
    """Asserts that weights, averages and losses are equal under both gradients at every step, with short batches."""
    config = composed("train", [*base, "trainer.steps=30", *overrides])
    pair = [
        assembly.build({**config, "trainer": {**config["trainer"], "gradient": gradient}}).training()
        for gradient in ("written", "autograd")
    ]
    assert [type(one.gradient) for one in pair] == [Perceptron, Autograd]
    told: list[list[dict[str, float]]] = [[], []]
    for one, log in zip(pair, told, strict=True):
        one.trainer.log_every = 1
        one.run(lambda step, values, log=log: log.append(values[0]), lambda: None, lambda: None)  # type: ignore[misc]
    for a, b in zip(*told, strict=True):
        assert a.keys() == b.keys()
        names = [name for name in a if name != "train/steps_per_second"]
        np.testing.assert_allclose([a[name] for name in names], [b[name] for name in names], rtol=1e-9)
    for field in ("vector", "average_vector"):
        torch.testing.assert_close(getattr(pair[0], field), getattr(pair[1], field), rtol=1e-9, atol=1e-11)


NETWORKS = list(itertools.product(("relu", "silu", "tanh"), ("concat", "fourier")))


# The parametrization and the layers are factors of the gradient, so a few combinations of them are enough.
@pytest.mark.parametrize(
    ("parametrization", "activation", "embedding"),
    [
        *((name, *NETWORKS[i % len(NETWORKS)]) for i, name in enumerate(PARAMETRIZATIONS)),
        *(("karras", *network) for network in NETWORKS),
    ],
)
def test_it_equals_autograd(parametrization: str, activation: str, embedding: str) -> None:
    network = (f"network.activation={activation}", f"network.time_embedding={embedding}")
    agree(f"parametrization={parametrization}", *network)


# λ is a factor of each row for every process, so a few combinations are enough.
@pytest.mark.parametrize(
    ("sde", "weighting"),
    [
        ("vp", "variance"),
        ("vp", "uniform"),
        ("vp", "likelihood"),
        ("subvp", "variance"),
        ("ve", "uniform"),
        ("ddpm", "likelihood"),
        ("smld", "variance"),
        ("vp", "uncertainty"),
    ],
)
def test_it_equals_autograd_under_every_process_and_weight(sde: str, weighting: str) -> None:
    agree(f"sde={sde}", f"weighting={weighting}", "parametrization=karras", "network.activation=silu")


@pytest.mark.parametrize(
    "times",
    [
        ("times=importance", "times.draws=3"),
        ("times=stratified", "times.draws=5", "times.chunk=2"),
        ("times=grid", "times.points=6", "times.simulations=2", "times.chunk=7"),
    ],
)
def test_it_equals_autograd_for_many_draws_in_chunks(times: tuple[str, ...]) -> None:
    agree(*times)


def test_it_equals_autograd_for_one_layer_and_for_images(tmp_path: Path) -> None:
    agree("network.hidden=[7]")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 1, 5, 4)))
    agree("dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "network.hidden=[30,20]", base=PLAIN)


@pytest.mark.parametrize(
    "options",
    [
        ("dataset=checkerboard", "dataset.size=52", "network.label_dropout=0.3"),
        ("dataset=moons", "dataset.size=52", "network.label_dropout=0.0", "network.time_embedding=concat"),
        ("dataset=gaussian_mixture", "dataset.size=52", "network.label_dropout=0.5", "times.draws=5", "times.chunk=2"),
        ("dataset=linear_gaussian", "dataset.dimensions=3", "dataset.size=84", "network.condition_dropout=0.4"),
    ],
    ids=lambda options: options[0],
)
def test_it_equals_autograd_with_conditions(options: tuple[str, ...]) -> None:
    agree(*options, "network.hidden=[8,5]", base=PLAIN)


def test_too_many_classes_use_autograd() -> None:
    means = [[float(i)] for i in range(200)]
    many = (f"dataset.means={means}", f"dataset.variances={[0.1] * 200}", f"dataset.weights={[0.1] * 200}")
    options = ("dataset=gaussian_mixture", *many, "network.label_dropout=0.1", *PLAIN)
    assert training("auto", *options).gradient.name == "autograd"
    with pytest.raises(Faults, match="^trainer.gradient=written needs at most 128 classes, or network.label_dropout=n"):
        training("written", *options)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_parametrizations_declared_affine_are_affine(parametrization: str) -> None:
    """The score of a weighted mean of two outputs is the weighted mean of their scores.

    Along the axes, an entry of the score depends only on the same entry of the output.
    """
    model = assembly.build(composed("train", [*SMALL, f"parametrization={parametrization}"])).model
    generator = torch.Generator().manual_seed(0)
    x, a, b = torch.randn(3, 20, 2, generator=generator, dtype=torch.float64)
    t = torch.rand(20, generator=generator, dtype=torch.float64) * 0.99 + 0.01

    def score(output: torch.Tensor) -> torch.Tensor:
        return model.parametrization(lambda x, t: output, model.sde, x, t)  # type: ignore[union-attr]

    torch.testing.assert_close(score(0.3 * a + 0.7 * b), 0.3 * score(a) + 0.7 * score(b), rtol=1e-9, atol=1e-9)
    changed = b.clone()
    changed[:, 0] = 5
    along = model.parametrization.along  # type: ignore[union-attr]
    torch.testing.assert_close(along(score(changed))[:, 1], along(score(b))[:, 1])


class Bent(Noise):
    """Parametrization that a user wrote and that is not affine."""

    def __call__(self, network: Any, sde: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        return super().__call__(network, sde, x, t).tanh()


def test_trainings_that_it_does_not_support_use_autograd() -> None:
    others = (
        ("objective=sliced", "network.activation=silu"),
        ("dataset=digits", "network=scorenet"),
        ("trainer.precision=bfloat16",),
    )
    needs = ("objective=denoising", "network=mlp", "a trainer.precision other than bfloat16")
    for options, need in zip(others, needs, strict=True):
        assert training("auto", *PLAIN, *options).gradient.name == "autograd"
        with pytest.raises(Faults, match=f"^trainer.gradient=written needs {need}: use trainer"):
            assembly.build(composed("train", [*PLAIN, *options, "trainer.gradient=written"]))
    built = assembly.build(composed("train", PLAIN))
    built.model.parametrization = None  # type: ignore[union-attr, assignment]
    vars(built.model)["parametrization"] = Bent()
    assert obstacle(built.model, built.objective, bfloat16=False).startswith("a parametrization that is affine")


def test_choice_is_recorded_for_resumption(tmp_path: Path) -> None:
    config = composed("train", [*SMALL, "trainer.steps=4", "sampler.steps=2", "count=20"])
    assert config["trainer"]["gradient"] == "auto"
    session.train(config, tmp_path / "run")
    assert load(tmp_path / "run").config["trainer"]["gradient"] == "written"
