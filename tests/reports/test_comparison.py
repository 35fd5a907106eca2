"""Comparison of runs: the figure shows the median over seeds against the swept option, and the floor."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from matplotlib.axes import Axes

from sdegen.reports import comparison
from sdegen.reports.collection import FinishedRun

SEEDS = (0, 1, 2)


def entry(options: dict[str, str], value: float, seconds: float = 1.0, name: str = "smile") -> FinishedRun:
    metrics = {"sliced_w1": {"value": value, "floor": 0.5, "train": 0.6}}
    cost = {"steps": 10, "seconds": seconds, "peak_memory_mib": 100 * seconds}
    return FinishedRun(Path(name), name, {"name": name, **options}, metrics, {"training": cost})


def grid(make: Callable[..., dict[str, str]], *values: tuple) -> dict[tuple, list[FinishedRun]]:
    """Returns three runs, with seeds and metrics of their own, for each combination of values."""
    random = np.random.default_rng(0)
    return {
        combination: [
            entry({**make(*combination), "seed": str(seed)}, float(random.uniform(1, 2)), float(random.uniform(1, 9)))
            for seed in SEEDS
        ]
        for combination in itertools.product(*values)
    }


def curves(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Returns the lines of a panel that have a label."""
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))  # type: ignore[arg-type]
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def values(entries: list[FinishedRun]) -> list[float]:
    return [one.metrics["sliced_w1"]["value"] for one in entries]


def test_line_over_a_number_runs_through_the_medians_of_the_seeds() -> None:
    """The values of the option are written as in YAML, in no particular order."""
    levels = ("1e3", "30", "100")
    # times.points follows from sde.levels, so it is not a second swept option.
    runs = grid(lambda n, loss: {"sde.levels": n, "loss": loss, "times.points": f"{n}.0"}, levels, ("a", "b"))
    entries = [one for seeds in runs.values() for one in seeds]
    # An option that is computed from the data of a seed is no swept option either.
    entries = [one._replace(options={"sde.sigma_max": f"7{one.options['seed']}"} | one.options) for one in entries]
    assert "sde.sigma_max" not in comparison.varied(entries)
    figure = comparison.figure(entries)
    assert figure is not None
    found = curves(figure.axes[0])
    order = sorted(levels, key=float)
    for loss in "ab":
        x, y = found[f"loss={loss}"]
        assert x == [30, 100, 1000]
        assert y == [median(values(runs[n, loss])) for n in order]
    drawn = sorted(y for line in figure.axes[0].lines if len(line.get_xdata()) == 3 for y in line.get_ydata())  # type: ignore[arg-type, union-attr]
    assert set(drawn) >= {value for seeds in runs.values() for value in values(seeds)}
    assert found["floor"][1] == [0.5, 0.5]


def test_choices_have_a_row_each_with_the_median_of_the_seeds() -> None:
    weightings = ("variance", "uniform")
    runs = grid(lambda weighting: {"weighting": weighting}, weightings)
    figure = comparison.figure([one for seeds in runs.values() for one in seeds])
    assert figure is not None
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"weighting={w}" for w in weightings]
    for row, weighting in enumerate(weightings):
        own = [line for line in axes.lines if line.get_marker() == "o" and list(line.get_ydata())[0] == row]  # type: ignore[arg-type]
        small, large = sorted(own, key=lambda line: line.get_markersize())
        assert list(small.get_xdata()) == values(runs[weighting,])  # type: ignore[arg-type]
        assert list(large.get_xdata()) == [median(values(runs[weighting,]))]  # type: ignore[arg-type]
    assert curves(axes)["floor"][0] == [0.5, 0.5]


@pytest.mark.parametrize(("key", "panels"), [("times", 3), ("weighting", 1)])
def test_what_times_cost_is_shown_beneath(key: str, panels: int) -> None:
    runs = grid(lambda choice: {key: choice}, ("a", "b"))
    figure = comparison.figure([one for seeds in runs.values() for one in seeds])
    assert figure is not None
    assert len(figure.axes) == panels
    for axes, quantity in zip(figure.axes[1:], ("seconds", "peak_memory_mib"), strict=False):
        large = [line for line in axes.lines if line.get_markersize() == 6 and len(line.get_xdata()) == 1]  # type: ignore[arg-type]
        expected = [median(one.cost[quantity] for one in seeds) for seeds in runs.values()]
        assert [float(line.get_xdata()[0]) for line in large] == expected  # type: ignore[index]


def test_runs_of_a_name_that_differ_in_nothing_but_the_seed_have_no_figure() -> None:
    seeds = [entry({"weighting": "variance", "seed": str(seed)}, 1.0) for seed in SEEDS]
    assert comparison.figure(seeds) is None
    other = entry({"weighting": "uniform", "seed": "0"}, 1.0, name="digits")
    assert comparison.figure([*seeds, other]) is None


def test_options_that_only_another_class_has_are_no_difference() -> None:
    """VE and VP have different options. The difference is listed once, as the option ``sde``."""
    vp = entry({"seed": "0", "sde": "vp", "sde.beta_max": "20", "sde.eps": "1"}, 1.0)
    ve = entry({"seed": "1", "sde": "ve", "sde.sigma_max": "2", "sde.eps": "2"}, 1.0)
    assert comparison.varied([vp, ve]) == ["seed", "sde", "sde.eps"]
    assert comparison.varied([vp, vp._replace(options={**vp.options, "sde.beta_max": "7"})]) == ["sde.beta_max"]


@pytest.mark.parametrize(("word", "shown"), [("", False), (" sde.eps=1", True)])
def test_defaults_of_a_choice_are_no_difference_unless_a_command_gives_them(word: str, shown: bool) -> None:
    options = {"vp": {"sde": "vp", "sde.eps": "1"}, "linear": {"sde": "linear", "sde.eps": "None"}}
    runs = [entry(own, 1.0) for own in options.values()]
    runs = [run._replace(provenance={"command": f"sdegen train sde={run.options['sde']}{word}"}) for run in runs]
    assert ("sde.eps" in comparison.varied(runs)) == shown
    # The choice of the class does not fix a value that differs among its runs.
    other = runs[0]._replace(options={**options["vp"], "sde.eps": "2"})
    assert "sde.eps" in comparison.varied([*runs, other])


def test_digest_of_a_teacher_is_a_difference_only_if_its_name_is_none() -> None:
    first = entry({"objective": "flow_map", "objective.run": "a", "objective.digest": "11"}, 1.0)
    again, other = (
        first._replace(options={**first.options, "objective.digest": "22", **changed})
        for changed in ({}, {"objective.run": "b"})
    )
    assert comparison.varied([first, again]) == ["objective.digest"]
    assert comparison.varied([first, other]) == ["objective.run"]
