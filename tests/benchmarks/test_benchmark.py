"""The benchmark: ratios within a round, quartiles, and whole suites that run from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import refused, run

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

from suites import base  # noqa: E402

from sdegen.core.errors import UserError  # noqa: E402


def test_ratios_are_within_a_round_so_that_a_slow_machine_does_not_move_them() -> None:
    """The last round takes ten times as long as the first one, but the ratio within each round stays the same."""
    now = 0.0

    def speeds() -> Iterator[float]:
        speed = 1.0
        while True:
            yield speed
            yield speed
            speed *= 1.6

    speed = speeds()

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds * next(speed)

    taken = base.interleaved({"bare": lambda: work(1.0), "ours": lambda: work(0.25)}, 6, lambda: now)
    assert taken["bare"][-1] > 9 * taken["bare"][0]
    assert len(taken["bare"]) == 6
    assert base.over(taken, "bare") == {"ours": pytest.approx([0.25] * 6)}


def test_rows_have_medians_and_quartiles() -> None:
    assert base.row("p", "l", 1, [5, 1, 4, 2, 3, 7, 6, 8], "s")[3:] == (4.5, 3, 6, "s")
    assert base.row("p", "l", 1, [2.0], "s")[3:] == (2, 2, 2, "s")


def test_a_suite_runs_from_the_command_line(tmp_path: Path) -> None:
    """The error is below 1e-3 with the exact divergence and above it with one probe.

    The table prints the stored median.
    """
    result = run("benchmark", "likelihood", "points=20", "--folder", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["options"] == {"points": 20, "tolerance": 1e-5}
    (exact,) = (r for r in found["rows"] if (r["line"], r["at"]) == ("2 dimensions", "exact divergence"))
    (probe,) = (r for r in found["rows"] if (r["line"], r["at"]) == ("2 dimensions", "one probe"))
    assert exact["median"] < 1e-3 < probe["median"]
    assert f"{exact['median']:>10.4g}" in result.stdout
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("tasks.smile.steps=x", "tasks.smile.steps: must be a whole number above 0, not 'x'"),
        ("tasks.smile.options=[3]", "tasks.smile.options: must be a string, not 3"),
        ("tasks.smile=3", "tasks.smile: must be a mapping of options, not 3"),
        ("rond=3", "options of suite step: write option=value; the options are tasks, rounds"),
        ("3", "options"),
        ("rounds=x", "rounds: must be a whole number above 0, not 'x'"),
        ("rounds=0", "rounds: must be a whole number above 0, not 0"),
        ("rounds=2.5", "rounds: must be a whole number above 0, not 2.5"),
        ("tasks=3", "tasks: must be a mapping of options, not 3"),
    ],
)
def test_a_wrong_option_is_one_line(change: str, words: str, tmp_path: Path) -> None:
    refused(run("benchmark", "step", change, cwd=tmp_path), tmp_path, words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("quality", "experiments=[]"), "experiments=[]: nothing to measure"),
        (("quality", "experiments=[nope]"), "experiment=nope: no such choice; choose from"),
        (("sampling", "evaluations=1"), "evaluations=1 must be at least 4, the evaluations of one step"),
    ],
    ids=["empty", "unknown", "too few"],
)
def test_what_cannot_be_measured_is_one_line(line: tuple[str, ...], words: str, tmp_path: Path) -> None:
    refused(run("benchmark", *line, cwd=tmp_path), tmp_path, words)


def test_a_process_that_fails_is_reported_by_its_last_line() -> None:
    with pytest.raises(UserError, match=r"^memory.of_steps\(''\): TypeError: .* missing 2 required .*'steps'$"):
        base.process("memory.of_steps('')")


def measured(folder: Path, suite: str, *changes: str, limit: float = 300) -> dict[tuple[str, str, str | float], float]:
    """Runs a suite, checks its table and its figure, and returns the medians by panel, line and position."""
    result = run("benchmark", suite, *changes, "--folder", str(folder), cwd=folder, limit=limit)
    assert (result.returncode, result.stderr) == (0, "")
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert result.stdout.endswith(base.table([base.Row(**row) for row in rows]) + f"\nwritten to {folder}\n")
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    return {(row["panel"], row["line"], row["at"]): row["median"] for row in rows}


def test_step_measures_every_task_beside_its_bare_loop(tmp_path: Path) -> None:
    tasks = ("mixture", "smile", "recipe", "ScoreNet", "U-Net")
    found = measured(tmp_path, "step", "rounds=1", *(f"tasks.{task}.steps=1" for task in tasks))
    for task in tasks:
        ratio = found["time of a step", "ours", task] / found["time of a step", "bare", task]
        assert found["time of a step divided by time of a bare step", "", task] == pytest.approx(ratio)


def test_quality_has_the_exact_score_without_error(tmp_path: Path) -> None:
    found = measured(tmp_path, "quality", "experiments=[paper/process]", "seeds=1")
    assert found["metrics of paper/process", "value", "score_error"] < 1e-5


@pytest.mark.slow
def test_recipes_have_each_set_and_what_a_plane_shows(tmp_path: Path) -> None:
    """After two training steps, samples of the recipe ``default`` lie near the plane of the data.

    Samples of the recipe ``before`` lie far from it.
    """
    options = ("options=[trainer.steps=2,trainer.threads=1,sampler.steps=200]", "seeds=1", "count=50", "points=400")
    found = measured(tmp_path, "recipes", "sets=[moons,plane]", *options)
    assert {at for _, _, at in found} == {"moons", "plane"}
    off = "share of the variance off the plane"
    assert found[off, "default", "plane"] < 0.05 < 0.5 < found[off, "before", "plane"]


@pytest.mark.slow
def test_guidance_counts_the_evaluations_of_each_curve(tmp_path: Path) -> None:
    """Beyond scale 1, the class and the weaker network double the evaluations; a classifier does not."""
    training = "options=[trainer.epochs=null,trainer.steps=4,trainer.threads=1,trainer.preview_every=0,count=2]"
    conditional = "trained.conditional=[experiment=digits_conditional,trainer.checkpoint_every=2,figures=false]"
    auto = "curves.auto.options=[guidance=auto,guidance.checkpoint=2]"
    options = (f"folder={tmp_path / 'runs'}", "count=2", "steps=2", "scales=[1.0,2.0]")
    found = measured(tmp_path, "guidance", training, conditional, auto, *options)
    cost = {(line, at): value for (panel, line, at), value in found.items() if panel.startswith("evaluations")}
    assert all(cost[line, 1.0] == 2 for line in ("classifier_free", "auto", "classifier"))
    assert [cost[line, 2.0] for line in ("classifier_free", "auto", "classifier")] == [4, 4, 2]
    assert 2 <= cost["classifier_free_interval", 2.0] <= 4


@pytest.mark.slow
def test_sampling_measures_the_error_of_both_solvers(tmp_path: Path) -> None:
    """A smaller tolerance brings the end points of ``solve_ivp`` closer to the exact end points."""
    trained = "trained=[experiment=smile,trainer.steps=1,trainer.preview_every=0,count=2]"
    options = (trained, "rounds=1", "evaluations=4", "count=20", "tolerances=[1e-2,1e-4]")
    found = measured(tmp_path, "sampling", *options)
    loose, tight = (at for panel, line, at in found if panel.startswith("time against mean") and line == "solve_ivp")
    assert float(tight) < float(loose)


@pytest.mark.slow
def test_memory_grows_with_the_chunk(tmp_path: Path) -> None:
    found = measured(tmp_path, "memory", "rounds=1", "steps=1", "chunks=[10,3000]", "tasks.mixture=paper/grid/smile")
    panel = "memory above torch against draws in a chunk"
    assert all(found[panel, task, 3000] > found[panel, task, 10] + 50 for task in ("mixture", "smile"))


@pytest.mark.slow
def test_start_up_begins_a_run_in_each_round(tmp_path: Path) -> None:
    """The suite times the first step of a run, its folder, the help, wrong options, and the sampling of a run."""
    found = measured(tmp_path, "start_up", "rounds=2", "samplers=[adams,ddim]")
    assert found["wait", "", "first step, after torch"] > 0
    assert found["time divided by the time of import torch", "", "to the run's folder"] > 1
    assert 0 < found["wait", "", "second sampling, beside start and sampler"] < 60
    assert found["time divided by the time of one sampler", "", "2 samplers"] < 2
    ratios = {
        at: value for (panel, _, at), value in found.items() if panel == "time divided by the time of Hydra alone"
    }
    assert set(ratios) == {"help", "wrong name", "wrong choice", "wrong type", "wrong range"}


@pytest.mark.slow
def test_scaling_has_a_point_for_each_size(tmp_path: Path) -> None:
    sizes = {"dimensions": 3, "points": 100, "batches": 4, "grid": 2, "replicas": 2, "jobs": 2}
    changes = [f"{name}=[{size}]" for name, size in sizes.items()]
    found = measured(tmp_path, "scaling", "seconds=0.001", "threads=[1]", *changes)
    assert sorted(at for _, _, at in found) == sorted(sizes.values())


@pytest.mark.slow
def test_time_to_quality_follows_every_contestant(tmp_path: Path) -> None:
    """One second is too short to learn the score, but the error stays below 3. The test starts 24 processes."""
    found = measured(tmp_path, "time_to_quality", "seconds=1", limit=1200)
    curves = {(panel, line) for panel, line, _ in found if panel.startswith("error of the score")}
    assert len(curves) == 8
    assert all(0.01 < found[key] < 3 for key in found if key[:2] in curves)
