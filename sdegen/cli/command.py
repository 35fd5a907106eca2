"""Commands with a configuration: Hydra composes the jobs, all jobs are checked, and then a launcher runs the jobs."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sdegen.cli import guard, page
from sdegen.cli.launchers import Launcher
from sdegen.config.compose import Config, plain
from sdegen.core import processes
from sdegen.core.errors import Stopped, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sdegen.cli.arguments import Arguments
    from sdegen.cli.composition import Composition, Plan
    from sdegen.cli.trials import Trial

log = logging.getLogger("sdegen")

HYDRAS = "multirun.yaml"
"""File that Hydra writes into the folder of each sweep."""


class Job(NamedTuple):
    """Facts about a job, which the task gets in addition to the configuration.

    Args:
        folder: folder that Hydra made for the job.
        swept: True for a job of a sweep.
        command: command line that runs this job.
        trial: trial of a search over options, to which the job reports; None for other jobs.
    """

    folder: Path
    swept: bool
    command: str
    trial: Trial | None = None


class Command(NamedTuple):
    """A command with a configuration.

    Args:
        name: name of the command and of its primary configuration, ``conf/<name>.yaml``.
        check: function that raises UserError for a configuration that cannot work; it is called for every job before
            the first job starts.
        task: function that does the work of a job and returns its result, in the types of JSON.
        stored: groups with the choice ``run``, which is the node that the run of ``run=`` stores.
        begin: function that is called with the jobs before the first job starts.
        finish: function that is called at the end with the results of the successful jobs, in order, even after
            failures or an interruption. Its return value is the exit status if no job failed.
    """

    name: str
    check: Callable[[Config], object]
    task: Callable[[Config, Job], object]
    stored: tuple[str, ...] = ()
    begin: Callable[[Plan], object] = lambda plan: None
    finish: Callable[[list[Any]], int] = lambda results: 0

    def run(self, program: str, given: Sequence[str]) -> None:
        """Run the command.

        Args:
            program: beginning of the command line, before the arguments, such as ``sdegen train``.
            given: arguments of the command.

        Raises:
            UserError: the user has made a mistake.
        """
        if set(given) and set(given) <= {"-h", "--help"}:
            print(page.overview(self.name, program))
            return
        with guard.imports():
            # Import late, so that plain help does not wait for Hydra.
            from sdegen.cli import arguments

            read = arguments.read(given)
            composition = self.composition(read)
        if read.flags.help:
            print(page.options(composition))
        elif read.asks_hydra:
            composition.show()
        else:
            self._run_jobs(composition, program, given)

    def composition(self, arguments: Arguments) -> Composition:
        """Returns the composition of the command, in which the run of ``run=`` provides the choice ``run``."""
        from sdegen.cli.composition import Composition

        if self.stored:
            from sdegen.cli import stored

            stored.offer(self.stored, arguments, required=not (arguments.asks_hydra or arguments.flags.help))
        return Composition(self.name, arguments)

    def plan(self, composition: Composition) -> Plan:
        """Returns the jobs of the command; raises UserError if one of them cannot work."""
        plan = composition.plan()
        for _, config in plan.jobs:
            self.check(config)
        return plan

    def _run_jobs(self, composition: Composition, program: str, given: Sequence[str]) -> None:
        with guard.imports():
            plan, added = self.plan(composition), composition.arguments.flags.config_dir
        hydra = plan.config.hydra
        launcher = Launcher(hydra.runtime.choices["hydra/launcher"], str(hydra.launcher.get("_target_")))
        launcher.check()
        if plan.sweep is not None:
            plan.sweep.mkdir(parents=True, exist_ok=True)
            # The overrides of a job do not include this flag, which the command of the job needs.
            program += f" --config-dir={shlex.quote(added)}" if added else ""
            self.begin(plan)
        # Write the results into the sweep's folder, because all machines that run jobs share this folder. Make the path
        # absolute, because a job may have another working folder.
        with tempfile.TemporaryDirectory(prefix=".jobs-", dir=plan.sweep) as folder:
            results = Path(folder).resolve()
            own: dict[str, Any] = {
                "task": self.task,
                "program": program,
                "given": given,
                "results": results,
                "home": Path.cwd(),
            }
            try:
                with launcher.reported(results.parent):
                    composition.launch(plan, partial(_run_job, **own))
            finally:
                outcomes = [json.loads(path.read_text()) for path in sorted(results.glob("[!.]*"))]
                if plan.search is None:
                    status = self.finish([outcome["result"] for outcome in outcomes if "result" in outcome])
                else:
                    status = 0
                    for line in plan.search.conclude(results.parent):
                        log.info(line)
        if plan.sweep is not None and {path.name for path in plan.sweep.iterdir()} == {HYDRAS}:
            # The jobs write elsewhere, such as into the folder of the run that they sample.
            shutil.rmtree(plan.sweep)
        if failures := sum("result" not in outcome for outcome in outcomes):
            jobs = len(plan.jobs) if plan.search is None else len(outcomes)
            if failures < jobs:
                print(f"{failures} of {jobs} jobs failed", file=sys.stderr)
            raise SystemExit(2)
        if status:
            raise SystemExit(status)


def _run_job(
    config: DictConfig,
    task: Callable[[Config, Job], object],
    program: str,
    given: Sequence[str],
    results: Path,
    home: Path,
) -> None:
    """Run a job in the process that a launcher chose, and write a file with the result, or ``{}`` after a failure.

    ``home`` is the working folder of the command, to which the paths in a configuration are relative.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from sdegen.cli.arguments import EXECUTION
    from sdegen.runs import files

    own = HydraConfig.get()
    if not processes.present().intact:
        # The job that lost the other processes has printed the reason.
        files.write_json(results / f"{own.job.num:09}", {})
        return
    swept = own.mode == RunMode.MULTIRUN
    number = own.job.num if swept else 0
    prefix = f"job {number}: " if swept else ""
    # Record a command for this job only: the command of the sweep would run all jobs.
    line = [one for one in own.overrides.task if not one.startswith(EXECUTION)] if swept else given
    command = f"{program} {shlex.join(line)}"
    with guard.messages(prefix):
        if swept:
            log.info(" ".join(own.overrides.task))
        try:
            with guard.user_errors():
                os.chdir(home)
                job = Job(Path(own.runtime.output_dir), swept, command, _trial(own, results.parent))
                outcome = {"result": task(plain(config), job)}
        except Stopped as stop:
            again = "repeat the command to continue the sweep" if swept else stop.again
            raise Stopped(f"{prefix}{stop.what}", stop.number, again) from None
        except Exception as error:
            expected = isinstance(error, UserError)
            if not (swept or expected):
                raise
            # Do not raise: the other jobs of the sweep continue, and Hydra would report only the first failure.
            print(guard.shortened(f"{prefix}{error if expected else repr(error)}"), file=sys.stderr, flush=True)
            outcome = {}
            if swept and not processes.present().intact:
                lost = "the other processes have ended, and no other job begins: repeat the command to continue"
                print(lost, file=sys.stderr, flush=True)
    # The folder is gone if the command no longer waits for the job.
    if results.is_dir():
        files.write_json(results / f"{number:09}", outcome)


def _trial(own: Any, sweep: Path) -> Trial | None:  # noqa: ANN401 - Hydra's node
    """Returns the trial of a job, or None if the command is no search over options."""
    from hydra.types import RunMode

    if own.mode != RunMode.MULTIRUN or "objective" not in own.sweeper:
        return None
    from sdegen.cli.trials import Trial

    return Trial(sweep, own.job.num, own.sweeper.objective, own.sweeper.pruner)
