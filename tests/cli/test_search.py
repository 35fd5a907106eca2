"""Searches with Optuna: a study agrees with the files of its runs, goes on where it stopped, and prunes a prefix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SHORT, Result, begin, fresh, refused, run

from sdegen.config.compose import composed
from sdegen.core.errors import Pruned
from sdegen.reports import page, report
from sdegen.runs import checkpoint, session

pytest.importorskip("optuna")

RATES = "optimizer.lr=tag(log,interval(1e-6,1e-1))"
SEARCH = ("-m", "hydra/sweeper=optuna", "dataset=moons", *SHORT, "trainer.steps=40", "hydra.sweep.dir=outputs/s")


def search(*arguments: str, cwd: Path) -> Result:
    return run("train", *SEARCH, *arguments, cwd=cwd)


def trials(cwd: Path) -> dict[int, dict[str, Any]]:
    """Returns the trials that the search wrote, by number."""
    found = json.loads((cwd / "outputs" / "s" / "trials.json").read_text())["trials"]
    return {row["trial"]: row for row in found}


def loss(folder: Path) -> float:
    return json.loads((folder / "provenance.json").read_text())["learning"]["held_out_loss"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Returns the folder and the output of a search in one piece. TPE uses earlier results from trial 10 on."""
    cwd = tmp_path_factory.mktemp("search")
    result = search(RATES, "network.hidden=[4],[8]", "hydra.sweeper.n_trials=11", cwd=cwd)
    assert (result.returncode, result.stderr) == (0, "")
    return cwd, result


def test_the_best_value_is_the_least_of_the_runs(whole: tuple[Path, Result]) -> None:
    """The values of the trials are those in the files of the runs, and the command is that of the best run."""
    cwd, result = whole
    found = trials(cwd)
    assert sorted(found) == list(range(11))
    finished = {number: row for number, row in found.items() if row["state"] == "finished"}
    assert len(finished) >= 5
    values = {number: loss(cwd / "outputs" / "s" / f"{number}-moons") for number in finished}
    assert {number: row["held_out_loss"] for number, row in finished.items()} == values
    best = min(values, key=values.__getitem__)
    assert next(iter(found)) == best and list(found)[: len(values)] == sorted(values, key=values.__getitem__)
    folder = cwd / "outputs" / "s" / f"{best}-moons"
    command = json.loads((folder / "provenance.json").read_text())["command"]
    assert f"best: trial {best}, held_out_loss {values[best]:.5g}, in outputs/s/{best}-moons" in result.stdout
    assert f"train it again with: {command}\n" in result.stdout and "hydra" not in command
    rates = [float(row["optimizer.lr"]) for row in found.values()]
    assert 1e-6 <= min(rates) < 1e-4 < max(rates) <= 1e-1
    assert {row["network.hidden"] for row in found.values()} == {"[4]", "[8]"}


def test_a_search_that_was_killed_has_the_trials_of_one_in_one_piece(
    whole: tuple[Path, Result], tmp_path: Path
) -> None:
    """It is killed in its fifth trial, which resumes. Then it is extended, and goes on with the next number."""
    options = (RATES, "network.hidden=[4],[8]")
    with (tmp_path / "out").open("w+") as out:
        process = begin(
            "train", *SEARCH, *options, "hydra.sweeper.n_trials=6", cwd=tmp_path, out=out.fileno(), err=out.fileno()
        )
        while "job 4: training" not in (tmp_path / "out").read_text():
            process.join(0.05)
            assert process.is_alive(), (tmp_path / "out").read_text()
        process.kill()
        process.join()
    assert not (tmp_path / "outputs" / "s" / "trials.json").exists()
    for number in (6, 11):
        result = search(*options, f"hydra.sweeper.n_trials={number}", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert sorted(trials(tmp_path)) == list(range(number))
    assert trials(tmp_path) == trials(whole[0])
    again = search(*options, "hydra.sweeper.n_trials=11", cwd=tmp_path)
    assert "job" not in again.stdout and trials(tmp_path) == trials(whole[0])


def test_a_run_that_is_ended_early_is_a_prefix_of_the_whole_run(tmp_path: Path) -> None:
    """Its checkpoint has the weights of the whole run at this step, and the resumed run has the same last weights."""
    config = composed(
        "train", ["dataset=moons", *SHORT, "trainer.steps=40", "trainer.checkpoint_every=20", "trainer.keep=3"]
    )
    seen: list[tuple[int, float | None]] = []

    def watch(step: int, held_out: float | None) -> bool:
        seen.append((step, held_out))
        return step == 20

    with pytest.raises(Pruned, match=r"pruned, saved at step 20; continue with sdegen train resume="):
        session.train(config, tmp_path / "pruned", watch=watch)
    assert [step for step, _ in seen] == list(range(0, 21, 2))
    session.train(config, tmp_path / "whole")
    assert not (tmp_path / "pruned" / "metrics.json").exists()

    def weights(name: str, step: int) -> dict[str, torch.Tensor]:
        return checkpoint.load(checkpoint.find(tmp_path / name, step)).weights

    def equal(step: int) -> bool:
        one, other = weights("pruned", step), weights("whole", step)
        return all(torch.equal(one[key], other[key]) for key in other)

    assert equal(20)
    session.resume(tmp_path / "pruned", {})
    assert equal(40)


def test_a_run_far_behind_the_others_is_pruned_and_listed(tmp_path: Path) -> None:
    """With rates of 1e-12 nothing is learned. The report lists the pruned runs and shows the trials."""
    result = search("optimizer.lr=1e-12,0.03", "hydra.sweeper.n_trials=9", "trainer.steps=100", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    found = trials(tmp_path)
    pruned = [number for number, row in found.items() if row["state"] == "pruned"]
    assert pruned and all(found[number]["optimizer.lr"] == "1e-12" for number in pruned)
    for number in pruned:
        folder = tmp_path / "outputs" / "s" / f"{number}-moons"
        step = found[number]["last step"]
        assert step < 100 and f"job {number}: pruned, saved at step {step}; continue with" in result.stdout
        assert checkpoint.newest(folder)[0].step == step
    root = tmp_path / "outputs" / "s"
    _, runs, left_out = report.write(root)
    assert {folder.name for folder, why in left_out if why.startswith("pruned, saved")} == {
        f"{n}-moons" for n in pruned
    }
    table = page.trials_table(root)
    assert table is not None and [row[0] for row in table[0].rows] == list(found)


@pytest.mark.slow
def test_every_launcher_runs_the_trials(tmp_path: Path) -> None:
    line = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=3")
    result = fresh("train", *SEARCH, RATES, *line, "trainer.replicas=2", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    for number, row in trials(tmp_path).items():
        folder = tmp_path / "outputs" / "s" / f"{number}-moons"
        seeds = [loss(folder), loss(folder / "replicas" / "seed-1")]
        assert row["held_out_loss"] == pytest.approx(sum(seeds) / 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (RATES, "hydra.sweeper.objective=sliced_w2"),
            ("hydra.sweeper.objective=sliced_w2: ", "did you mean sliced_w1?"),
        ),
        ((RATES, "hydra.sweeper.n_trials=0"), ("hydra.sweeper.n_trials=0 must be at least 1",)),
        ((RATES, "hydra.sweeper.pruner=x"), ("hydra.sweeper.pruner: must be one of median, halving or null, not 'x'",)),
        ((RATES, "forecast=true"), ("forecast=true: ", "forecast a single run")),
        (("optimizer.lr=0.1",), ("no option has several values: give some, as in 'optimizer.lr=",)),
        (("optimizer.lr=interval(-1,1)",), ("optimizer.lr=-1 must be above 0",)),
        (("optimizer.lr=interval(1,0.1)",), ("optimizer.lr=interval(1,0.1): cannot be searched: ",)),
        (("sde=vp,ve",), ("sde changes what the loss is: set hydra.sweeper.objective=sliced_w1 and", "pruner=null")),
        (("network.hiden=[4],[8]",), ("network.hiden", "did you mean")),
    ],
)
def test_a_mistake_is_one_line_before_the_first_trial(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(search(*arguments, cwd=tmp_path), tmp_path, *words)


def test_another_search_leaves_the_study_alone(whole: tuple[Path, Result]) -> None:
    before = (whole[0] / "outputs" / "s" / "trials.json").read_bytes()
    result = search(RATES, "network.hidden=[4],[8]", "hydra.sweeper.objective=energy", cwd=whole[0])
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("outputs/s: holds a search over other options or for another objective: choose")
    assert (whole[0] / "outputs" / "s" / "trials.json").read_bytes() == before
