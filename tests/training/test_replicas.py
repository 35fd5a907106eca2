"""Networks that are trained together have the same results and folders as networks that are trained alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refused, run

from sdegen import load
from sdegen.config import assembly, components
from sdegen.config.compose import composed
from sdegen.config.options import Faults
from sdegen.reports.collection import collect
from sdegen.runs import checkpoint, session
from sdegen.training.loop import Training

SMALL = (
    "optimizer.decay=constant",
    "dataset=smile",
    "dataset.size=52",
    "network.hidden=[8,5]",
    "trainer.batch_size=16",
    "trainer.precision=float64",
    "trainer.preview_every=0",
    "figures=false",
    "trainer.log_every=5",
    "trainer.device=cpu",
    "optimizer.lr=1e-2",
    "sampler.steps=2",
    "count=20",
)


def config(*overrides: str) -> dict[str, Any]:
    return composed("train", [*SMALL, *overrides])


def trained(training: Training) -> tuple[Training, list[list[dict[str, float]]]]:
    told: list[list[dict[str, float]]] = []
    training.run(lambda step, values: told.append(values), lambda: None, lambda: None)
    return training, told


OPTIONS = [
    (),
    ("optimizer.decay=cosine", "parametrization=karras", "network.activation=silu", "trainer.clip=0.5"),
    ("dataset=gaussian_mixture", "parametrization=gaussian", "network.time_embedding=fourier"),
    ("times.draws=5", "times.chunk=2", "weighting=uniform"),
    ("times=importance", "weighting=likelihood", "network.hidden=[30]", "network.time_embedding=fourier"),
    ("dataset=gaussian_mixture", "sde=subvp", "trainer.clip=null"),
    ("dataset=moons", "network.label_dropout=0.3"),
    ("times=importance", "times.draws=5", "times.chunk=2", "weighting=uncertainty"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_replica_follows_its_single_run(options: tuple[str, ...]) -> None:
    """After fifty steps in float64, weights, averages, moments and all logged values agree."""
    many = assembly.replicated(config("trainer.steps=50", "seed=7", "trainer.replicas=3", *options))
    together, told = trained(components.together(many))
    rows, averages = together.vector.detach().view(3, -1), together.average_vector.view(3, -1)
    for replica in range(3):
        parts = assembly.build(config("trainer.steps=50", f"seed={7 + replica}", *options))
        alone, by_itself = trained(parts.training())
        torch.testing.assert_close(rows[replica], alone.vector.detach(), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(averages[replica], alone.average_vector, rtol=1e-9, atol=1e-11)
        own, other = together.state(replica), alone.optimizer.state_dict()
        assert own["param_groups"] == other["param_groups"]
        torch.testing.assert_close(own["state"], other["state"], rtol=1e-9, atol=1e-14)
        for values, (expected,) in zip(told, by_itself, strict=True):
            assert values[replica].keys() == expected.keys()
            names = [name for name in expected if name != "train/steps_per_second"]
            np.testing.assert_allclose([values[replica][n] for n in names], [expected[n] for n in names], rtol=1e-9)


def test_replicas_leave_the_folders_of_single_runs(tmp_path: Path) -> None:
    session.train(config("trainer.steps=30", "trainer.replicas=2"), tmp_path / "run")
    entries, left_out = collect(tmp_path / "run")
    assert not left_out
    assert [entry.options["seed"] for entry in entries] == ["0", "1"]
    first, other = (dict(entry.options) for entry in entries)
    assert {**other, "seed": "0"} == first
    for seed, entry in enumerate(entries):
        single = session.train(config("trainer.steps=30", f"seed={seed}"), tmp_path / f"{seed}")
        mine = load(entry.folder, precision="float64")
        torch.testing.assert_close(
            mine.model.state_dict(), load(single.folder, precision="float64").model.state_dict(), rtol=1e-9, atol=1e-11
        )
        alone = json.loads((single.folder / "metrics.json").read_text())
        assert entry.metrics.keys() == alone.keys()
        for name, expected in alone.items():
            assert entry.metrics[name]["value"] == pytest.approx(expected["value"], rel=1e-6)


def test_replicas_resume_together_as_if_they_had_never_stopped(tmp_path: Path) -> None:
    whole = config("trainer.steps=60", "trainer.replicas=2", "trainer.checkpoint_every=25")
    session.train(whole, tmp_path / "whole")
    session.train({**whole, "trainer": {**whole["trainer"], "steps": 37}}, tmp_path / "run")
    session.resume(tmp_path / "run", {"trainer.steps": 60})
    for own in ("", "replicas/seed-1"):
        a, b = (checkpoint.load(checkpoint.find(tmp_path / name / own)) for name in ("whole", "run"))
        torch.testing.assert_close(a.weights, b.weights, rtol=0, atol=0)
        torch.testing.assert_close(a.ema, b.ema, rtol=0, atol=0)
        torch.testing.assert_close(a.optimizer, b.optimizer, rtol=0, atol=0)


def test_a_replica_resumes_alone(tmp_path: Path) -> None:
    session.train(config("trainer.steps=20", "trainer.replicas=2"), tmp_path / "run")
    gone_on = session.resume(tmp_path / "run" / "replicas" / "seed-1", {"trainer.steps": 40})
    single = session.train(config("trainer.steps=40", "seed=1"), tmp_path / "single")
    a, b = (load(run.folder, precision="float64").model.state_dict() for run in (gone_on, single))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_what_cannot_be_trained_together_leaves_no_folder(tmp_path: Path) -> None:
    options = ("experiment=smile", "sde=ve", "trainer.replicas=2")
    refused(run("train", *options, cwd=tmp_path), tmp_path, "set numbers, for example sde.sigma_max=")
    assert not list(tmp_path.iterdir())


REFUSED = {
    ("trainer.gradient=autograd",): "use trainer.gradient=auto",
    (
        "objective=sliced",
        "network.activation=silu",
    ): "needs objective=denoising: train the seeds one by one, with -m seed=",
    ("trainer.precision=bfloat16",): "other than bfloat16: train the seeds one by one",
    ("sde=ve",): "options of sde with the value auto differ between the seeds: set numbers, for example sde.sigma_max=",
    ("trainer.replicas=0",): "replicas=0 must lie between 1 and 1024",
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_be_trained_together_is_refused_with_the_reason(options: tuple[str, ...]) -> None:
    with pytest.raises(Faults, match="trainer.replicas=") as caught:
        assembly.replicated(config("trainer.replicas=2", *options))
    assert REFUSED[options] in str(caught.value)
    assert "\n" not in str(caught.value)
