"""The commands of ``sdegen``: their checks before the first job, and their work in each job.

Slow modules are imported in the functions, so that help and error messages appear quickly.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdegen.cli.command import Command, Job
from sdegen.cli.guard import fail, imports
from sdegen.config.compose import CONF, Config
from sdegen.core import meeting, processes
from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from sdegen.cli.arguments import Arguments
    from sdegen.cli.composition import Plan
    from sdegen.runs.run import Run

log = logging.getLogger("sdegen")

SAMPLED = ("sampler", "network", "sde")
"""Groups of ``sdegen sample`` with the choice ``run``, the node that the run stores."""
EVALUATED = ("network", "sde")
"""Groups of ``sdegen evaluate`` with the choice ``run``, the node that the run stores."""
OUTCOMES = {True: "pass", False: "FAIL", None: "-"}
"""Printed text for each value of :attr:`sdegen.metrics.verification.Proof.holds`."""


def check_training(config: Config) -> None:
    """Raise UserError if a training with this configuration cannot work."""
    from sdegen.runs.teachers import replicated

    replicated(config)
    devices = config["devices"]
    if devices is not None and devices < 1:
        raise UserError(f"devices={devices}: must be at least 1: try devices=2")
    if devices is not None and not config["forecast"]:
        raise UserError(
            f"devices={devices}: only a forecast takes it: add forecast=true, or start the training with torchrun "
            f"--nproc-per-node={devices} -m sdegen train"
        )


def train(config: Config, job: Job) -> str:
    """Train in a job's folder; return the folder. In a sweep, resume an unfinished run, and skip a finished run."""
    from sdegen.core import schema
    from sdegen.core.errors import Pruned
    from sdegen.runs import ledger, session
    from sdegen.training.history import Diverged

    folder = job.folder.relative_to(Path.cwd()) if job.folder.is_relative_to(Path.cwd()) else job.folder

    watch = None if job.trial is None else job.trial.watch

    def start() -> None:
        session.train(config, folder, command=job.command, watch=watch)

    def resume() -> None:
        session.resume(folder, {}, schema.ANYTHING, job.command, watch)

    if not job.swept:
        new = True
        own, folder = folder, Path(meeting.first("folder", str(folder)))
        if count := meeting.restarts():
            saved = (folder / "checkpoints" / "last.pt").exists()
            again = "goes on from its last checkpoint" if saved else "has no checkpoint here and starts again"
            log.info(f"restart {count} by torchrun: the run in {folder} {again}")
            if own != folder:
                shutil.rmtree(own)
            if not (folder / "metrics.json").exists():
                ledger.go_on(folder, start, resume)
        else:
            start()
    elif job.trial is None:
        new = ledger.attempt(folder, config, start, resume)
    else:
        job.trial.note(folder, job.command)
        try:
            new = ledger.attempt(folder, config, start, resume)
        except (Pruned, Diverged) as end:
            # A rate at which the training diverges is an answer to the search, and not a fault.
            job.trial.prune()
            log.info(str(end))
            return str(folder)
        job.trial.complete(folder)
    log.info(f"results in {folder}" + ("" if new else ", from an earlier command"))
    return str(folder)


def announce(plan: Plan) -> None:
    """Write the names of the jobs of a sweep into its folder, for ``sdegen status``."""
    from sdegen.cli.arguments import EXECUTION
    from sdegen.runs import ledger

    found: dict[Path, dict[str, list[str]]] = {}
    for folder, (overrides, _) in zip(plan.folders, plan.jobs, strict=False):
        given = [override for override in overrides if not override.startswith(EXECUTION)]
        found.setdefault(folder.parent, {})[folder.name] = given
    for sweep, jobs in found.items():
        ledger.announce(sweep, jobs)


def compare_runs(folders: list[str]) -> int:
    """Log a table that compares the runs of one command; return the exit status."""
    if len(folders) > 1:
        from sdegen.reports import summary

        log.info("\n".join(summary.compared([Path(one) for one in folders])))
    return 0


def resume(arguments: Arguments, given: Sequence[str], command: str, **options: object) -> Run:
    """Resume the run that ``resume=`` names, in its own folder. The other arguments change options of the run.

    Args:
        arguments: arguments as Hydra reads them.
        given: same arguments, as the user wrote them.
        command: command line or Python call, which is recorded in ``provenance.json``.
        options: values of further options, by path.

    Raises:
        UserError: the run cannot be resumed with these arguments.
    """
    with imports():
        from sdegen.cli.arguments import names
        from sdegen.runs import session

    changes = arguments.values() | options
    foreign = [argument for argument in given if argument.lstrip("+").partition("=")[0] not in changes]
    folder, trust = Path(str(changes.pop("resume"))), names(changes.pop("trust", None))
    return session.resume(folder, {**dict.fromkeys(foreign), **changes}, trust, command)


def forecast(plan: Plan) -> None:
    """Print the expected cost of each job of a plan.

    For a single run, also print the memory of a step, and of the options that need less. For a sweep, write the costs
    to its folder for the report.
    """
    from sdegen.cli.arguments import EXECUTION
    from sdegen.runs import forecast, memory

    if plan.search is not None:
        raise UserError(
            "forecast=true: a search chooses its trials one after the other: forecast a single run, without -m and "
            "hydra/sweeper, and multiply its cost by hydra.sweeper.n_trials"
        )
    configs = [config for _, config in plan.jobs]
    if plan.sweep is not None and (devices := configs[0]["devices"]) is not None:
        raise UserError(f"devices={devices}: works for a single run: forecast one job of the sweep without -m")
    found = memory.plan(configs[0], configs[0]["devices"] or 1) if plan.sweep is None else None
    if found is not None and not found.options[0].fits:
        print(memory.table(found))
        return
    names = [" ".join(part for part in overrides if not part.startswith(EXECUTION)) for overrides, _ in plan.jobs]
    if processes.present().size > 1:
        log.warning("forecast=true: measures process 0 alone: devices=… shares a step out")
    with processes.alone():
        costs = list(zip(names, forecast.each(configs), strict=True))
    print(forecast.table(costs))
    if found is not None:
        print(f"\n{memory.table(found)}")
    if plan.sweep is not None:
        print(f"written to {forecast.write(plan.sweep, costs)}")


def run_train(program: str, given: Sequence[str]) -> None:
    """Train a run, resume a run or forecast the cost, depending on the arguments."""
    if any(argument.startswith(("resume=", "forecast=")) for argument in given):
        from sdegen.cli.arguments import read

        arguments = read(given)
        options = arguments.values()
        if options.get("resume") is not None:
            run = resume(arguments, given, f"{program} {shlex.join(given)}")
            log.info(f"results in {run.folder}")
            return
        if options.get("forecast"):
            command = CONFIGURED["train"]
            forecast(command.plan(command.composition(arguments)))
            return
    CONFIGURED["train"].run(program, given)


def sampled(config: Config) -> tuple[Run, Config]:
    """Returns the run to sample and the checked configuration; raises UserError if the run cannot be loaded with it."""
    from sdegen.cli import stored
    from sdegen.cli.arguments import names
    from sdegen.config.options import SAMPLE, check

    groups = (*SAMPLED, *(["guidance"] if config["guidance"] else []))
    config = check(config, groups, {**SAMPLE, "guidance": type(None)}, names(config["trust"]))
    return stored.loaded(config).sampled_by(config["sampler"]), config


def check_sampling(config: Config) -> None:
    """Raise UserError if sampling with this configuration, its guidance and its label cannot work."""
    from sdegen.runs.guiding import planned

    run, config = sampled(config)
    log.disabled = True
    try:
        planned(run, config["guidance"], config["label"], condition=config["condition"])
    finally:
        # The job itself logs the warnings.
        log.disabled = False


def sample(config: Config, job: Job) -> str:
    """Write samples; return the folder of the samples."""
    from sdegen.runs import results

    run, config = sampled(config)
    options = {
        key: config[key] for key in ("seed", "batch_size", "guidance", "label", "condition", "figures", "animate")
    }
    written = results.write(run, config["count"], **options)
    log.info(f"results in {written.folder}")
    return str(written.folder)


def compare(folders: list[str]) -> int:
    """Write and log a table that compares the samplers of one command, and draw it; return the exit status."""
    if len(folders) > 1:
        from sdegen.reports import frontier

        for folder, table in frontier.write([Path(one) for one in folders]):
            log.info("\n".join([*table, f"frontier in {folder}"]))
    return 0


def evaluated(config: Config) -> tuple[Any, list[str]]:
    """Returns the evaluation and the metrics of a configuration; raises UserError if a metric cannot be computed."""
    from sdegen.cli.arguments import names
    from sdegen.cli.stored import loaded
    from sdegen.config.options import EVALUATE, check
    from sdegen.runs.evaluation import Evaluation

    config = check(config, EVALUATED, EVALUATE, names(config["trust"]))
    options = {key: config[key] for key in ("points", "count", "seed", "batch_size", "probes", "rtol", "atol")}
    swept, asked = config["ema"] == "sweep", config["metrics"]
    evaluation = Evaluation(loaded({**config, "ema": None} if swept else config), **options)
    metrics = [asked] if isinstance(asked, str) else list(asked)
    if swept:
        if metrics != ["likelihood"]:
            raise UserError("ema=sweep: a sweep chooses its own measures: leave out metrics=")
        if config["weights"] != "ema":
            raise UserError(f"ema=sweep: a sweep measures averaged weights: leave out weights={config['weights']}")
        metrics = ["sweep"]
    if not metrics:
        raise UserError("metrics: is empty: try metrics=[likelihood,interpolation]")
    for metric in metrics:
        evaluation.check(metric)
    return evaluation, metrics


def run_evaluate(program: str, given: Sequence[str]) -> None:
    """Evaluate a run, unless the arguments name other data for the run."""
    if any(argument.startswith("dataset.path=") for argument in given):
        raise UserError("dataset.path: a run keeps the data that it was trained on: give new points as points=new.csv")
    CONFIGURED["evaluate"].run(program, given)


def evaluate(config: Config, job: Job) -> None:
    """Compute each metric and write the results."""
    evaluation, metrics = evaluated(config)
    for metric in metrics:
        log.info(f"results in {evaluation.write(metric).folder}")


def verified(config: Config) -> tuple[Any, Any]:
    """Returns the SDE and the sampler. ``auto`` options of the SDE are computed from the verification's mixture."""
    from sdegen.config.construction import construct, measured
    from sdegen.config.options import check
    from sdegen.config.rules import check_process, check_times
    from sdegen.core.randomness import generator
    from sdegen.core.schema import ANYTHING
    from sdegen.metrics import verification

    config = check(config, ("sde", "sampler"), {"json": bool}, ANYTHING)
    data = verification.mixture().sample(1000, generator("cpu", 0, "proof"))
    config["sde"] = measured(config["sde"], data, ANYTHING)
    sde, sampler = (construct(config, group, ANYTHING) for group in ("sde", "sampler"))
    if sampler.maps:
        raise UserError(
            "sampler=flow_map: its steps are those of a trained network, which have no order to verify: compare its "
            "samples with the data, with sdegen sample run=…"
        )
    check_process(config, {"sampler": sampler}, ANYTHING)
    check_times(sampler, sde)
    return sde, sampler


def described(config: Config, group: str) -> str:
    """Returns the choice of a group with its options, such as ``sde=ve (sigma_min=0.01, sigma_max=50.0)``."""
    from sdegen.config.options import flat_options

    (_, name), *values = flat_options({group: config[group]})
    given = ", ".join(f"{path.removeprefix(f'{group}.')}={value}" for path, value in values if value is not None)
    return f"{group}={name} ({given})" if given else f"{group}={name}"


def verify(config: Config, job: Job) -> bool:
    """Log the SDE, the sampler and the outcomes of all proofs; return True if a proof fails."""
    import torch

    from sdegen.metrics import verification

    torch.set_num_threads(1)
    with torch.no_grad():
        found = verification.verify(*verified(config))
    if config["json"]:
        log.info(json.dumps([proof._asdict() for proof in found], indent=2))
    else:
        width = max(len(proof.claim) for proof in found)
        log.info(", ".join(described(config, group) for group in ("sde", "sampler")))
        lines = (f"{OUTCOMES[p.holds]:4}  {p.claim:{width}}  {p.measured:>9}  {p.allowed}".rstrip() for p in found)
        log.info("\n".join(lines))
    return any(proof.holds is False for proof in found)


def calibrate(config: Config, job: Job) -> None:
    """Log advice on the options, and the command of a training that follows it."""
    from sdegen.runs import advice

    with processes.alone():
        found = advice.calibrate(config)
    line = advice.command(re.sub(r"calibrate\b", "train", job.command, count=1), config, found)
    heading = "with all of it:" if advice.changes(config, found) else "nothing to change:"
    log.info("\n".join([*found.data, "", advice.table(config, found), "", heading, f"  {line}"]))


def report(program: str, given: Sequence[str]) -> None:
    """Write a page about the runs in a folder. Print the path of the page, and the skipped runs with the reasons."""
    parser = argparse.ArgumentParser(prog=program, description="Write report.html, a page that needs no other file.")
    parser.add_argument("folder", type=Path, help="a folder with runs in it, at any depth, such as outputs/paper")
    parser.error = lambda message: fail(f"{message}: see --help")  # type: ignore[method-assign]
    folder = parser.parse_args(given).folder
    from sdegen.reports import report

    page, runs, left_out = report.write(folder)
    for path, why in left_out:
        print(f"left out {path}: {why}")
    print(f"{len(runs)} run{'s' * (len(runs) != 1)} in {page}")


def status(program: str, given: Sequence[str]) -> None:
    """Print the states of the jobs and runs in folders."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Show which jobs of sweeps, and which runs, are done, running, waiting, stopped or failed.",
    )
    parser.add_argument(
        "folder", type=Path, nargs="*", default=[Path("outputs")], help="folders with runs in them; outputs by default"
    )
    parser.error = lambda message: fail(f"{message}: see --help")  # type: ignore[method-assign]
    folders = parser.parse_args(given).folder
    from sdegen.reports import status

    print("\n\n".join(status.table(status.status(folder)) for folder in folders))


def benchmark(program: str, given: Sequence[str]) -> None:
    """Run a benchmark, if the package is installed from a checkout."""
    script = CONF.parent / "scripts" / "benchmark.py"
    if not script.exists():
        raise UserError("benchmarks exist only in a checkout of sdegen: clone it and run python scripts/benchmark.py")
    sys.argv = [str(script), *given]
    runpy.run_path(str(script), run_name="__main__")


CONFIGURED = {
    "train": Command("train", check_training, train, begin=announce, finish=compare_runs),
    "sample": Command("sample", check_sampling, sample, SAMPLED, finish=compare),
    "evaluate": Command("evaluate", evaluated, evaluate, EVALUATED),
    "verify": Command("verify", verified, verify, finish=any),
    "calibrate": Command("calibrate", check_training, calibrate),
}
"""Commands that have a configuration. Hydra reads the arguments of these commands."""
RUN = {
    **{name: command.run for name, command in CONFIGURED.items()},
    **{"train": run_train, "evaluate": run_evaluate, "report": report, "status": status, "benchmark": benchmark},
}
"""Functions that run the commands. They take the beginning of the command line (``sdegen train``) and the arguments."""
