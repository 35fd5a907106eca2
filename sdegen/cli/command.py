"""A command with a configuration: Hydra composes its jobs, all are checked, and then a launcher runs them."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sdegen.cli import guard, page
from sdegen.cli.jobs import Results, messages
from sdegen.config.compose import Config, plain
from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sdegen.cli.composition import Composition

log = logging.getLogger("sdegen")


class Job(NamedTuple):
    """What a task knows about its job beside the configuration.

    Args:
        folder: the one that Hydra made for it.
        swept: True for a job of a sweep.
        command: the command line as it was typed.
    """

    folder: Path
    swept: bool
    command: str


class Command(NamedTuple):
    """A command with a configuration.

    Args:
        name: of the command and of its primary configuration, ``conf/<name>.yaml``.
        examples: five lines of arguments for its help, each with its meaning.
        choice: one whose options its help offers to show, such as ``dataset=file``.
        check: raises UserError for a configuration that cannot work; called for every job before the first starts.
        task: does the work of a job and returns its result, in the types of JSON.
        stored: groups in which the node of the run that ``run=`` names is the choice ``run``.
        finish: takes the results of the jobs that succeeded, in their order, also where others failed or the command
            was interrupted; returns the exit status of a command without failures.
    """

    name: str
    examples: Sequence[tuple[str, str]]
    choice: str
    check: Callable[[Config], object]
    task: Callable[[Config, Job], object]
    stored: tuple[str, ...] = ()
    finish: Callable[[list[Any]], int] = lambda found: 0


def main(command: Command, program: str, given: Sequence[str]) -> None:
    """Run a command.

    Args:
        command: the command.
        program: the command line up to its arguments, as it was typed.
        given: its arguments.
    """
    guard.guard(lambda: run(command, program, given))


def run(command: Command, program: str, given: Sequence[str]) -> None:
    """Run a command without the guard: mistakes raise UserError."""
    if set(given) and set(given) <= {"-h", "--help"}:
        print(page.overview(command.name, command.examples, command.choice, program))
        return
    # Late, so that plain help does not wait for Hydra.
    from sdegen.cli import arguments, stored
    from sdegen.cli.composition import Composition
    from sdegen.cli.launch import show

    read = arguments.read(given)
    asks = read.asks_hydra or read.flags.help
    if command.stored:
        stored.offer(command.stored, read, required=not asks)
    composition = Composition(command.name, read)
    if read.flags.help:
        print(page.options(composition))
    elif asks:
        show(composition)
    else:
        _run_jobs(command, composition, f"{program} {shlex.join(given)}")


def _run_jobs(command: Command, composition: Composition, typed: str) -> None:
    from sdegen.cli.launch import launch

    plan = composition.plan()
    for _, config in plan.jobs:
        command.check(config)
    with _results(plan.sweep) as results:
        task = partial(_run_job, command=command, typed=typed, swept=plan.sweep is not None, results=results)
        try:
            launch(composition, plan, task)
        except BrokenExecutor:
            raise UserError(
                "the process of a job was killed, perhaps for want of memory: run fewer at once by "
                "hydra.launcher.n_jobs="
            ) from None
        finally:
            status, failures = command.finish(results.found()), results.failures()
    if failures:
        if failures < len(plan.jobs):
            print(f"{failures} of {len(plan.jobs)} jobs failed", file=sys.stderr)
        raise SystemExit(2)
    if status:
        raise SystemExit(status)


def _run_job(config: DictConfig, command: Command, typed: str, swept: bool, results: Results) -> None:
    """Run one job, in the process that a launcher chose, and note its result."""
    from hydra.core.hydra_config import HydraConfig

    own = HydraConfig.get()
    number = own.job.num if swept else 0
    job = f"job {number}: " if swept else ""
    with messages(job):
        if swept:
            log.info(" ".join(own.overrides.task))
        try:
            found = command.task(plain(config), Job(Path(own.runtime.output_dir), swept, typed))
        except Exception as error:
            # The jobs of a sweep go on after a failure, and Hydra would report the first one only.
            mistake = error if isinstance(error, UserError) else guard.short_of_memory(error)
            if not (swept or mistake):
                raise
            print(guard.shortened(f"{job}{mistake or repr(error)}"), file=sys.stderr, flush=True)
            results.failed(number)
        else:
            results.done(number, found)


@contextlib.contextmanager
def _results(sweep: Path | None) -> Iterator[Results]:
    """The results of the jobs of a command, removed when it ends.

    They lie in the folder of the sweep, which all machines that run its jobs share; a single job runs here.
    """
    if sweep is not None:
        sweep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".jobs-", dir=sweep) as folder:
        # A job may have another working folder.
        yield Results(Path(folder).resolve())
