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
        ("tasks.smile.options=[a=[1]]", "cannot be read as options of suite step"),
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
    with pytest.raises(UserError, match=r"^memory.of_steps\(''\): TypeError: .* missing 1 required .*'steps'$"):
        base.process("memory.of_steps('')")


def measured(folder: Path, suite: str, *changes: str, limit: float = 1200) -> dict[tuple[str, str, str | float], float]:
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
def test_a_training_is_not_called_flat_before_its_loss_on_fresh_points_is(tmp_path: Path) -> None:
    """With one noise for each of 20 held-out points, most of the fall is still to come when the run is called flat."""
    found = measured(tmp_path, "learning", "sets=[columns]", "points=[100]", "steps=2000")
    shares = {line.partition(":")[0]: share for (_, line, _), share in found.items()}
    assert shares["several"] < 0.1 < 0.5 < shares["one noise"]


@pytest.mark.slow
def test_calibrated_recipe_has_the_suggestions_of_calibrate(tmp_path: Path) -> None:
    """The suggestions change the result of few steps; options that the line sets already are the start."""
    options = ("options=[trainer.steps=2,trainer.threads=1,optimizer.lr=1.0]", "seeds=1", "count=50")
    found = measured(tmp_path, "recipes", "sets=[smile_noisy]", "recipes=[default,calibrated]", *options)
    error = "error of the score"
    assert found[error, "calibrated", "smile_noisy"] < found[error, "default", "smile_noisy"]


@pytest.mark.slow
def test_classes_are_compared_with_networks_without_classes(tmp_path: Path) -> None:
    """After few steps, scores with a class are still far off: they start from the covariance of all classes."""
    options = ("options=[trainer.steps=200]", "classes=[2]", "steps=2", "rounds=1", "seeds=1")
    found = measured(tmp_path, "classes", *options)
    panel = "error of the score of networks, 2 classes"
    names = {("with classes", "p(x)"), ("with classes", "p(x | y)"), ("without classes", "p(x)")}
    assert {key[1:] for key in found if key[0] == panel} == names
    assert all(0 < found[panel, *name] < 1 for name in names)


@pytest.mark.slow
def test_faults_of_drawn_shapes_are_farther_off_than_real_ones(tmp_path: Path) -> None:
    found = measured(tmp_path, "unlabelled", "sets=[shapes]", "draws=1")
    kernel = {fault: found["shapes, value divided by floor", "kernel", fault] for fault in ("real", "noise", "blur")}
    assert kernel["real"] < 2 < 10 < min(kernel["noise"], kernel["blur"])


@pytest.mark.slow
def test_held_out_losses_take_a_share_and_large_tables_a_time(tmp_path: Path) -> None:
    options = "[dataset=moons,trainer.steps=400,trainer.preview_every=0]"
    found = measured(tmp_path, "held_out", f"tasks.points={options}", f"tasks.images={options}", "rounds=1")
    assert 0 < found["share of held-out losses in the time of a training", "", "points"] < 0.5
    found = measured(tmp_path, "tables", "points=2000", "rounds=1")
    for name in ("decimal points", "decimal commas", "Parquet"):
        ratio = found["CPU time to read", "", name] / found["CPU time to read", "", "pandas.read_csv"]
        assert found["time divided by that of pandas.read_csv", "", name] == pytest.approx(ratio)


@pytest.mark.slow
def test_averages_of_any_width_are_compared_with_tracked_ones(tmp_path: Path) -> None:
    training = "[dataset=gaussian_mixture,'network.hidden=[8]',trainer.threads=1]"
    recipe = "recipe=[dataset=gaussian_mixture,'network.hidden=[8]',trainer.steps=200,trainer.threads=1]"
    tasks = (f"tasks.points.options={training}", f"tasks.U-Net.options={training}", "tasks.points.steps=2")
    found = measured(tmp_path, "averages", *tasks, recipe, "rounds=1", "widths=[0.05,0.07]", "seeds=1")
    panel = "relative distance from a tracked average against width"
    assert found[panel, "constant", 0.05] < 1e-6 < found[panel, "constant", 0.07] < 0.05
    assert found["relative time of a step", "", "points"] > 0


@pytest.mark.slow
def test_trainings_on_the_disk_are_compared_with_those_in_memory(tmp_path: Path) -> None:
    found = measured(tmp_path, "disk", "size=0.02", "steps=1", "drawn=20", "rounds=1")
    for quantity, speed in (("training", "images trained on"), ("drawing", "images drawn")):
        for name in ("by blocks", "by rows"):
            ratio = found[speed, "", name] / found[speed, "", "in memory"]
            assert found[f"speed of {quantity}, memory = 1", "", name] == pytest.approx(ratio)


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
    small = "[dataset=digits,network=unet,network.channels=8,trainer.batch_size=16]"
    found = measured(tmp_path, "memory", "rounds=1", "steps=1", "chunks=[10,3000]", "tasks.mixture=paper/grid/smile",
                     "options=['']", *(f"unets.{name}={small}" for name in ("narrow", "wide")))  # fmt: skip
    panel = "memory above torch against draws in a chunk"
    assert all(found[panel, task, 3000] > found[panel, task, 10] + 50 for task in ("mixture", "smile"))
    assert found["forecast over measured peak, from 1/1 of a step", "wide", "none"] == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_start_up_begins_a_run_in_each_round(tmp_path: Path) -> None:
    """The suite times the first step of a run, its folder, the help, wrong options, and the sampling of a run."""
    found = measured(tmp_path, "start_up", "rounds=2", "samplers=[adams,ddim]", "steps=5")
    asked = ("help", "wrong name", "wrong choice", "wrong type", "wrong range")
    rows = {("time divided by the time of Hydra alone", "", at) for at in asked}
    for kind in ("time", "CPU time"):
        rows.add((f"{kind} divided by the {kind} of import torch", "", "to the run's folder"))
        rows.add((f"wait, {kind}", "", "second sampling, beside start and sampler"))
        for samplers in ("2 samplers", "2 samplers, 5 steps each"):
            rows.add((f"{kind} divided by the {kind} of one sampler", "", samplers))
    assert rows <= found.keys()
    assert min(found.values()) > 0


@pytest.mark.slow
def test_scaling_has_a_point_for_each_size(tmp_path: Path) -> None:
    sizes = {"dimensions": 3, "points": 100, "batches": 4, "grid": 2, "replicas": 2, "jobs": 2}
    changes = [f"{name}=[{size}]" for name, size in sizes.items()]
    found = measured(tmp_path, "scaling", "seconds=0.001", "threads=[1]", *changes)
    assert sorted(at for _, _, at in found) == sorted(sizes.values())


@pytest.mark.slow
def test_time_to_quality_follows_every_contestant(tmp_path: Path) -> None:
    """One second is too short to learn the score, but the error stays below 3. The test starts 24 processes."""
    found = measured(tmp_path, "time_to_quality", "seconds=1")
    curves = {(panel, line) for panel, line, _ in found if panel.startswith("error of the score")}
    assert len(curves) == 8
    assert all(0.01 < found[key] < 3 for key in found if key[:2] in curves)
