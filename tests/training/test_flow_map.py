"""Flow maps distilled from a teacher: exact targets, an accurate map, resumption, and mistakes in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import plane
from torch import Tensor

from sdegen.config import assembly
from sdegen.config.compose import Config, composed
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator, randn_like
from sdegen.datasets.fingerprint import fingerprint
from sdegen.models import Raw, ScoreModel
from sdegen.networks import Oracle
from sdegen.runs import session
from sdegen.runs.run import load
from sdegen.runs.teachers import replicated
from sdegen.samplers import Dopri5, FlowMap
from sdegen.sde import VP
from sdegen.sde.mixture import Marginals
from sdegen.training import FlowMap as Objective
from sdegen.training.teacher import Teacher

SHORT = ("trainer.threads=1", "trainer.preview_every=0", "figures=false", "count=50", "trainer.batch_size=32")
TEACHER = ("dataset=moons", "network.hidden=[16]", *SHORT, "trainer.steps=20", "sampler.steps=5")
MAP = ("experiment=flow_map", "network.hidden=[16]", *SHORT)


def test_targets_are_exact_states_of_the_flow_of_the_teacher() -> None:
    law, sde = plane(), VP()
    exact, like = Marginals(law, sde), torch.zeros(400, 2, dtype=torch.float64)
    t = torch.lerp(*torch.tensor([sde.eps, sde.T]).double(), torch.linspace(0, 1, 400, dtype=torch.float64))
    rows = Objective(law, steps=40).prepare(sde, like, t, randn_like(generator("cpu", 0)))
    assert bool((rows.end < rows.t).all())
    assert bool((rows.t >= t).logical_or(rows.t == rows.t.min()).all())
    own = rows.gain > 0
    torch.testing.assert_close(rows.score[own], exact(rows.x, rows.t)[own])
    # Shards of two and four parts train the score at equally many rows.
    assert [int(own[s::4].sum()) for s in range(4)] == [25, 25, 25, 25]
    for i in range(0, 400, 29):
        part = sde.within(sde)
        part.T, part.eps = float(rows.t[i]), float(rows.end[i])
        end = Dopri5(1e-9, 1e-9)(part, exact, rows.x[i : i + 1], noise=torch.zeros_like).x
        assert float((end - rows.target[i]).norm()) < 2e-3


def test_a_trained_map_has_the_end_points_of_the_exact_flow_and_composes() -> None:
    options = ["dataset.means=[[-1.5],[1.5]]", "network.hidden=[64,64]", "trainer.steps=1500", "trainer.threads=1"]
    options += ["trainer.batch_size=256"]
    (parts,) = replicated(composed("train", ["experiment=flow_map", *options]))
    training = parts.training()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    own, sde, law = training.averages[0].eval(), parts.sde, parts.dataset.encoded_law
    assert law is not None
    x, noise = torch.randn(1000, 1, generator=generator("cpu", 5)), torch.zeros_like
    exact = Dopri5(1e-10, 1e-10)(sde, Marginals(law, sde), x.double(), noise=noise).x
    with torch.no_grad():
        for steps in (1, 2, 4):
            found = FlowMap(steps)(sde, own, x, noise=noise)
            assert found.nfe == steps
            assert float((found.x - exact).norm(dim=1).mean()) < 0.03
        t = torch.tensor(0.1)
        score = Marginals(law, sde)(exact * sde.alpha(t) + sde.sigma(t), t)
        error = own((exact * sde.alpha(t) + sde.sigma(t)).float(), t) - score
    assert float(error.norm() / score.norm()) < 0.1


def exact_teacher(config: Config) -> Teacher:
    """The exact score of labelled data, as the teacher of a map that is given the class."""
    (parts,) = replicated(config)
    model = ScoreModel(Oracle(parts.dataset.encoded_law, parts.sde), Raw(), parts.sde)
    units = parts.dataset.units
    return Teacher("run", 1, "", model, fingerprint(parts.dataset, exact=False), parts.config["sde"], units)


def test_a_map_of_a_teacher_with_classes_is_the_flow_of_each_class() -> None:
    options = ["network.hidden=[32,32]", "trainer.steps=600", "trainer.threads=1", "dataset.means=[[-1.5],[1.5]]"]
    config = composed("train", ["experiment=flow_map", *options])
    teacher = exact_teacher(config)
    config["objective"]["run"] = "run"
    config["network"]["label_dropout"] = 0.0
    (parts,) = assembly.replicated(config, load=lambda folder, kind: teacher)
    training = parts.training()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    own, sde, law = training.averages[0].eval(), parts.sde, parts.dataset.encoded_law
    assert law is not None
    x, noise = torch.randn(1000, 1, generator=generator("cpu", 5)), torch.zeros_like
    y = torch.arange(1000) % 2
    start, end = (torch.tensor(t, dtype=torch.float64) for t in (sde.T, sde.eps))
    mean, variance = law.means[y], law.covariances[y].reshape(-1, 1)
    # Each class is a Gaussian, whose flow keeps the distance from the mean in standard deviations.
    before, after = ((sde.alpha(t) ** 2 * variance + sde.sigma(t) ** 2).sqrt() for t in (start, end))
    exact = sde.alpha(end) * mean + after * (x - sde.alpha(start) * mean) / before
    with torch.no_grad():
        for steps in (1, 2):
            found = FlowMap(steps)(sde, own.given(y), x, noise=noise).x
            assert float((found - exact).norm(dim=1).mean()) < 0.05
        only = FlowMap(1)(sde, own.given(torch.tensor(1)), x, noise=noise).x
        t = torch.tensor(0.1)
        alpha, variance = sde.alpha(t), sde.alpha(t) ** 2 * variance + sde.sigma(t) ** 2
        noisy = alpha * mean + variance.sqrt() * x
        error = own.given(y)(noisy.float(), t) + x / variance.sqrt()
    assert float((only - exact)[y == 1].norm(dim=1).mean()) < 0.05
    held_out = parts.held_out().loss(own)
    assert held_out is not None
    assert held_out < 0.1
    assert float((variance.sqrt() * error).square().mean().sqrt()) < 0.1


def train(folder: Path, *options: str) -> Path:
    session.train(composed("train", options), folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("teacher") / "run", *TEACHER)


@pytest.fixture(scope="module")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = (*MAP, "dataset=moons", f"objective.run={teacher}", "trainer.steps=6")
    return train(tmp_path_factory.mktemp("student") / "run", *options)


def test_a_map_takes_the_class_that_its_teacher_takes(tmp_path: Path) -> None:
    taught = train(tmp_path / "taught", *TEACHER, "network.label_dropout=0.1")
    options = [*MAP, "dataset=moons", f"objective.run={taught}", "trainer.steps=4"]
    run = load(train(tmp_path / "own", *options, "network.label_dropout=0"))
    first, second = (run.sample(5, label=label) for label in (0, 1))
    assert first.shape == (5, 2)
    assert not torch.equal(torch.as_tensor(first), torch.as_tensor(second))
    with pytest.raises(UserError, match=r"gives the network what its teacher takes: set network.label_dropout=0.1 and"):
        replicated(composed("train", options))
    without = train(tmp_path / "without", *TEACHER, "network.label_dropout=0")
    hiding = [*MAP, "dataset=moons", f"objective.run={without}", "network.label_dropout=0.1"]
    with pytest.raises(UserError, match=r"gives the network what its teacher takes: set network.label_dropout=0 and"):
        replicated(composed("train", hiding))


def weights(folder: Path) -> Tensor:
    return torch.cat([p.flatten() for p in load(folder).model.parameters()])


def test_a_resumed_map_is_bit_identical_and_keeps_its_teacher(student: Path, teacher: Path, tmp_path: Path) -> None:
    config = composed("train", [*MAP, "dataset=moons", f"objective.run={teacher}", "trainer.steps=6"])
    short = {
        **config,
        "trainer": {**config["trainer"], "steps": 3},
        "optimizer": {**config["optimizer"], "decay": "constant"},
    }
    whole = {**config, "optimizer": short["optimizer"]}
    session.train(whole, tmp_path / "whole")
    session.train(short, tmp_path / "short")
    kept = load(tmp_path / "short").config["objective"]
    assert kept.items() >= {"run": str(teacher), "checkpoint": 20, "steps": 24}.items()
    session.resume(tmp_path / "short", {"trainer.steps": 6})
    assert torch.equal(weights(tmp_path / "short"), weights(tmp_path / "whole"))


def test_a_map_is_resumed_only_with_the_weights_of_its_teacher(teacher: Path, tmp_path: Path) -> None:
    first, moved, short = tmp_path / "first", tmp_path / "moved", tmp_path / "short"
    shutil.copytree(teacher, first)
    train(short, *MAP, "dataset=moons", f"objective.run={first}", "trainer.steps=2", "optimizer.decay=constant")
    # Another training of the teacher, in the same folder and to the same step.
    first.rename(moved)
    train(first, *TEACHER, "optimizer.lr=0.1")
    with pytest.raises(UserError) as error:
        session.resume(short, {"trainer.steps": 4})
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"objective.run={first}: the weights of step 20 have changed since the training of the map")
    session.resume(short, {"trainer.steps": 4, "objective.run": str(moved)})


def test_a_map_is_sampled_in_one_evaluation_and_by_every_other_sampler(student: Path) -> None:
    run = load(student)
    assert run.sample(7).shape == (7, 2)
    for steps in (1, 2, 4):
        assert run.using("flow_map", steps=steps).generate(7).nfe == steps
    assert run.using("adams", steps=5).generate(7).nfe == 5
    torch.testing.assert_close(run.sample(7, batch_size=3), run.sample(7), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["dataset=moons"], "objective.run=null: the exact score of these data is not known: give the folder"),
        (["dataset=circles", "objective.run={teacher}"], "objective.run={teacher}: was trained on other data: use the"),
        (["dataset=moons", "seed=1", "objective.run={teacher}"], "was trained on other data: use the seed and the opt"),
        (["dataset=moons", "sde.beta_max=15", "objective.run={teacher}"], "was trained with another SDE: use the"),
        (["parametrization=noise"], "parametrization=noise does not have: use parametrization=gaussian or karras"),
        (["network.times=1"], "network.times=1: objective=flow_map trains a network of two times: use network.times="),
        (["network.label_dropout=0.1"], "gives the network what its teacher takes: set network.label_dropout=null and"),
        (["objective=denoising", "network.times=2"], "network.times=2: objective=denoising trains no flow map: use"),
        (
            ["objective=denoising"],
            "sampler=flow_map follows a flow map, and the model has none: use objective=flow_map",
        ),
        (["objective.steps=2"], "objective.steps=2 must be at least 4"),
        (["objective.run=nowhere"], "objective.run: nowhere: no such folder"),
    ],
)
def test_a_mistake_in_the_training_of_a_map_is_one_line(options: list[str], words: str, teacher: Path) -> None:
    given = [option.format(teacher=teacher) for option in options]
    with pytest.raises(UserError) as error:
        replicated(composed("train", [*MAP, *given]))
    (line,) = str(error.value).splitlines()
    assert words.format(teacher=teacher) in line


def test_a_mistake_in_the_sampling_of_a_map_is_one_line(student: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sampler=flow_map follows a flow map, and the model has none: use another"):
        load(teacher).using("flow_map")
    np.save(tmp_path / "matrix.npy", np.eye(2))
    guided = {"observed": [[0.0, 0.0]], "measurement": {"path": str(tmp_path / "matrix.npy")}}
    with pytest.raises(UserError, match="guidance=linear steers a score, and sampler=flow_map follows a map"):
        load(student).guided("linear", **guided)
