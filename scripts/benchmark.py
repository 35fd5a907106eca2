"""Measure the speed and the quality of sdegen: ``python scripts/benchmark.py step rounds=15``.

Suites, whose options are in conf/benchmark.yaml::

    time_to_quality   error of the score against seconds of training, on the paper's grid of times and on continuous t
    step              time of a complete training step, divided by the time of a bare PyTorch loop
    sampling          time of samplers, divided by the time of the network calls; time of our adaptive solver
                      at the accuracy of SciPy's solver
    memory            peak memory of the paper's grid of times, and of U-Nets beside the forecast
    start_up          time until the help or an error message is printed, divided by the time that Hydra alone takes;
                      time until the run's folder exists, divided by that of import torch; time until the first
                      step; a second sampling beside the sampler; several samplers, divided by one
    scaling           cost of a step against dimensions, data points, batch size, grid, threads, replicas and jobs
    quality           metrics of experiments over several seeds, with floors and the values of the training set
    recipes           default and former recipe for points, and that of sdegen calibrate, on ten data sets: distances
                      divided by their floors, and errors of the score
    classes           cost of classes in a training step, and errors of the scores with a class and without one
    unlabelled        measures of images without labels, divided by their floors, for noise, blur and a missing class
    averages          averages of the weights of any width: distance from tracked ones, cost, and error of the score
    held_out          share of the time of a training that held-out losses take
    disk              speed of a training on images on the disk, from a cold page cache, divided by that in memory
    tables            CPU seconds to read a large table, beside pandas
    guidance          agreement, recall and distance of guided digits against the scale: at all times, on an interval
                      of t, and with a weaker network
    simulators        posteriors learned from 10,000 simulations: sliced W1 and C2ST against exact draws, calibration
    processes         speed of several processes beside one, and the cost of the tree in which gradients are added
    flow_map          distance of the end points of flow maps from the exact ones, on the mixtures of the contest
    likelihood        errors of log-likelihoods with the exact score, and the accuracy of the standard errors

Contestants are measured in turn; medians and quartiles are printed and written to outputs/benchmark.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from sdegen.cli.guard import fail, guard
from sdegen.core.errors import UserError

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "scripts" / "benchmarks"
SUITES = sorted(path.stem for path in (BENCHMARKS / "suites").glob("[!_]*.py") if path.stem != "base")

sys.path.insert(0, str(BENCHMARKS))


def measure(suite: str, changes: list[str], folder: Path) -> None:
    """Run a suite with the changed options, print the table, and write the results and the figure."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    own = OmegaConf.select(OmegaConf.load(ROOT / "conf" / "benchmark.yaml"), suite)
    OmegaConf.set_struct(own, True)
    before: Any = OmegaConf.to_container(own)
    try:
        options: Any = OmegaConf.to_container(OmegaConf.merge(own, OmegaConf.from_dotlist(changes)))
    except (OmegaConfBaseException, ValueError, YAMLError):
        raise UserError(
            f"{' '.join(changes)}: cannot be read as options of suite {suite}: write option=value; the options are "
            f"{', '.join(before)}"
        ) from None
    if found := [fault for key, value in before.items() if (fault := misfit(key, options[key], value))]:
        raise UserError("\n".join(found))
    from suites import base

    from sdegen import figures
    from sdegen.runs import files
    from sdegen.runs.machine import provenance

    module = importlib.import_module(f"suites.{suite}")
    rows = module.measure(**options)
    if not rows:
        raise UserError(f"{' '.join(changes)}: nothing to measure: give each list at least one entry")
    print(base.table(rows))
    machine = {key: value for key, value in provenance("").items() if key != "command"}
    files.write_json(
        folder / "results.json", {"suite": suite, "options": options, "rows": [r._asdict() for r in rows], **machine}
    )
    figures.save(getattr(module, "draw", base.draw)(rows), folder / "figure.png")
    print(f"written to {folder}")


def misfit(key: str, value: object, before: object) -> str:
    """Returns one line that says why ``value`` cannot replace ``before`` in the option ``key``; empty if it can."""
    if isinstance(before, int | float):
        kinds, word = ((int,), "whole number") if isinstance(before, int) else ((int, float), "number")
        fits = type(value) in kinds and 0 < value < float("inf")  # type: ignore[operator]
        return "" if fits else f"{key}: must be a {word} above 0, not {value!r}"
    if isinstance(before, list) and isinstance(value, list):
        return next(filter(None, (misfit(key, each, before[0]) for each in value)), "")
    if isinstance(before, dict) and isinstance(value, dict):
        return next(filter(None, (misfit(f"{key}.{name}", value[name], old) for name, old in before.items())), "")
    word = {"dict": "a mapping of options", "list": "a list", "str": "a string"}[type(before).__name__]
    return "" if isinstance(value, type(before)) else f"{key}: must be {word}, not {value!r}"


def main() -> None:
    """Run the suite that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES, metavar="suite", help=f"suite to run: {', '.join(SUITES)}")
    parser.add_argument("options", nargs="*", help="options of the suite, such as rounds=15")
    parser.add_argument("--folder", type=Path, help="folder for the results; outputs/benchmark/<suite> by default")
    parser.error = lambda message: fail(f"{message}: see --help")  # type: ignore[method-assign]
    arguments = parser.parse_args()
    folder = arguments.folder or Path("outputs/benchmark") / arguments.suite
    guard(lambda: measure(arguments.suite, arguments.options, folder))


if __name__ == "__main__":
    main()
