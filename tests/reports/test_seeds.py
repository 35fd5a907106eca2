"""Means over seeds: NumPy gives the means and deviations, and SciPy's t-test decides about ties."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind

from sdegen.config.compose import composed
from sdegen.core.meanings import HIGH, LOW, NEAR
from sdegen.reports import comparison, frontier, seeds
from sdegen.reports.collection import FinishedRun, collect
from sdegen.runs import session

SMALL = ("dataset=smile", "network.hidden=[4]", "trainer.steps=4", "figures=false", "count=20", "sampler.steps=2")
COUNTS = (2, 3, 5, 20)


def run(seed: int, value: float, command: str = "", name: str = "smile", **options: str) -> FinishedRun:
    given = {"name": name, "dataset": "smile", "seed": str(seed), **options}
    return FinishedRun(Path(str(seed)), name, given, {"sliced_w1": {"value": value}}, {"command": command})


def settings(offset: float, direction: float = 1.0) -> list[np.ndarray]:
    """Returns values of four settings with different numbers of seeds, means and deviations."""
    random = np.random.default_rng(3)
    return [direction * (1 + offset * i + random.normal(0, 0.1 + 0.1 * i, n)) for i, n in enumerate(COUNTS)]


@pytest.mark.parametrize("offset", [0.0, 0.05, 0.1, 0.2, 0.5, 2.0])
@pytest.mark.parametrize("direction", [LOW, HIGH])
def test_a_tie_is_a_tie_by_welchs_test(offset: float, direction: str) -> None:
    samples = settings(offset, 1.0 if direction == LOW else -1.0)
    found = seeds.ranks([list(map(float, own)) for own in samples], direction)
    means = [np.mean(own) for own in samples]
    best = int(np.argmin(means) if direction == LOW else np.argmax(means))
    for i, (one, own) in enumerate(zip(found, samples, strict=True)):
        assert one.mean == pytest.approx(np.mean(own)) and one.deviation == pytest.approx(np.std(own, ddof=1))
        assert one.n == len(own)
        tied = ttest_ind(own, samples[best], equal_var=False).pvalue >= 0.05
        assert one.rank == ("best" if i == best else "tie" if tied else "")


def test_both_answers_of_the_rule_occur() -> None:
    ranks = [[one.rank for one in seeds.ranks([list(own) for own in settings(offset)], LOW)] for offset in (0.1, 2.0)]
    assert "tie" in ranks[0] and "" in ranks[1]


def test_a_single_run_has_no_deviation_and_no_tie() -> None:
    one, other = seeds.ranks([[1.0], [1.01, 1.03]], LOW)
    assert (one.deviation, one.rank, str(one)) == (None, "best", "1")
    assert other.rank == "" and str(other) == "1.02 ± 0.014"


def test_equal_means_without_deviation_are_both_best() -> None:
    assert [one.rank for one in seeds.ranks([[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]], LOW)] == ["best", "best", ""]


def test_no_value_is_best_where_no_direction_is_good() -> None:
    assert [one.rank for one in seeds.ranks([[1.0, 2.0], [3.0, 4.0]], NEAR)] == ["", ""]


def test_only_runs_of_one_name_are_compared() -> None:
    """The digits have smaller values than every smile, and are best among the digits only."""
    smiles = [run(seed, 1.0 + 0.1 * seed + (sde == "ve"), sde=sde) for sde in ("vp", "ve") for seed in (0, 1)]
    digits = [run(seed, 0.1 + 0.01 * seed, name="digits", sde="vp") for seed in (0, 1, 2)]
    found = seeds.groups([*smiles, *digits], ["sde"])
    assert [(group.kind[0], group.choice, len(group.runs)) for group in found] == [
        *(("smile", ("vp",), 2), ("smile", ("ve",), 2), ("digits", ("vp",), 3))
    ]
    ranks = [None if one is None else one.rank for one in seeds.estimates(found, "sliced_w1")]
    assert ranks == ["best", "", ""]


def test_options_computed_from_the_data_of_a_seed_do_not_divide_the_seeds() -> None:
    """Each seed occurs once, so only the commands say that nobody chose sigma_max, and that somebody chose the rate."""
    line = "sdegen train sde=ve seed={} optimizer.lr={}"
    rates = ("0.1", "0.1", "0.2")
    given = [{"sde.sigma_max": f"7.{seed}", "optimizer.lr": rates[seed]} for seed in range(3)]
    runs = [run(seed, 1.0, line.format(seed, rates[seed]), **own) for seed, own in enumerate(given)]
    keys = comparison.varied(runs)
    assert "sde.sigma_max" not in keys and "optimizer.lr" in keys
    assert [len(group.runs) for group in seeds.groups(runs, keys)] == [2, 1]
    line = "sdegen train sde=ve seed={0} sde.sigma_max=7.{0}"
    chosen = [one._replace(provenance={"command": line.format(i)}) for i, one in enumerate(runs)]
    assert "sde.sigma_max" in comparison.varied(chosen)


def test_samples_of_several_seeds_are_one_row_of_a_table_and_one_point_of_the_figure(tmp_path: Path) -> None:
    """The table in the file has all samples, with their seeds."""
    values = {("heun", 10): [0.5, 0.7, 0.9], ("ddim", 10): [0.2, 0.3, 0.25], ("ddim", 20): [0.1]}
    jobs = [
        frontier.SamplingJob(
            {"seed": seed, "count": 5}, name, steps, steps * (2 if name == "heun" else 1), 1.0, {"w1": metric(value)}
        )
        for (name, steps), own in values.items()
        for seed, value in enumerate(own)
    ]
    labels = frontier.label(jobs)
    assert labels == [job.name for job in jobs]
    _, *rows = frontier.summary(jobs, labels)
    assert [row.split() for row in rows] == [
        ["heun", "steps=10", "n=3", "0.7", "±", "0.2"],
        ["ddim", "steps=10", "n=3", "0.25", "±", "0.05"],
        ["ddim", "steps=20", "n=1", "0.1", "best"],
    ]
    frontier.table(jobs, labels, tmp_path / "frontier.csv")
    with (tmp_path / "frontier.csv").open() as file:
        found = [(row["sampler"], int(row["seed"]), float(row["w1"])) for row in csv.DictReader(file)]
    assert found == [(name, i, value) for (name, _), own in values.items() for i, value in enumerate(own)]
    lines = {str(one.get_label()): one for one in frontier.draw(jobs, labels).axes[0].containers}
    for name, x, y in (("heun", [20], [0.7]), ("ddim", [10, 20], [0.25, 0.1])):
        line = lines[name][0]
        assert list(line.get_xdata()) == x and list(line.get_ydata()) == pytest.approx(y)


def metric(value: float) -> dict[str, float]:
    return {"value": value, "floor": 0.01}


def test_a_run_that_was_resumed_to_more_steps_is_not_averaged_with_the_others(tmp_path: Path) -> None:
    """Four runs by one command: two seeds are resumed to 8 steps, one of them was killed before and resumed at once."""
    for seed in range(4):
        session.train(composed("train", (*SMALL, f"seed={seed}")), tmp_path / str(seed), command=f"train seed={seed}")
    (tmp_path / "1" / "metrics.json").unlink()
    session.resume(tmp_path / "1", {}, command="train resume=1")
    for seed in (2, 3):
        session.resume(tmp_path / str(seed), {"trainer.steps": 8}, command=f"train resume={seed} trainer.steps=8")
    runs, left_out = collect(tmp_path)
    assert not left_out and [run.cost["steps"] for run in runs] == [4, 4, 8, 8]
    keys = comparison.varied(runs)
    found = seeds.groups(runs, keys)
    assert [[run.folder.name for run in group.runs] for group in found] == [["0", "1"], ["2", "3"]]
    assert [group.written(keys) for group in found] == [
        "trainer.steps=4, resumed at=–",
        "trainer.steps=8, resumed at=4",
    ]
    # A run that took all steps at once is another setting: the schedule of its learning rate was longer.
    session.train(composed("train", (*SMALL, "trainer.steps=8", "seed=4")), tmp_path / "4", command="train seed=4")
    runs, _ = collect(tmp_path)
    assert [len(group.runs) for group in seeds.groups(runs, comparison.varied(runs))] == [2, 2, 1]
