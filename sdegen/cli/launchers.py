"""Launchers, which run the jobs of a sweep: messages about missing packages and about jobs that were lost."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import NamedTuple

from sdegen.core.errors import Stopped, UserError

log = logging.getLogger("sdegen")

EXTRAS = {"hydra_joblib_launcher": "parallel", "hydra_submitit_launcher": "submitit", "hydra_ray_launcher": "ray"}
"""Extra of sdegen that installs the module of a launcher."""
SAME_NAME = r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
"""Beginning of Hydra's warning that a launcher's package checks the types of the options in our YAML file."""

# The processes of jobs load this module before Hydra composes the configuration of the job.
warnings.filterwarnings("ignore", SAME_NAME)


@contextlib.contextmanager
def typed() -> Iterator[None]:
    """Lets the launcher's package check the types of the options, without Hydra's warning about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SAME_NAME)
        yield


class Launcher(NamedTuple):
    """The launcher that a command has chosen.

    Attributes:
        choice: name of its YAML file, which may be the user's own.
        target: name of its class.
    """

    choice: str
    target: str

    def missing(self) -> str:
        """Returns the message for a launcher whose package is not installed; empty for an unknown class."""
        module = self.target.removeprefix("hydra_plugins.").partition(".")[0]
        if module not in EXTRAS:
            return ""
        package = module.replace("_", "-")
        extra = EXTRAS[module]
        return (
            f'hydra/launcher={self.choice}: needs the package {package}: pip install "sdegen[{extra}]", or, in a '
            f'checkout, pip install -c requirements.lock -e ".[{extra}]"'
        )

    def check(self) -> None:
        """Raises UserError if the launcher cannot start jobs on this machine."""
        if self.target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
            raise UserError(
                f"hydra/launcher={self.choice}: this machine has no srun: run the command on a machine of the cluster "
                "that submits jobs, or use hydra/launcher=submitit_local"
            )

    @contextlib.contextmanager
    def reported(self, sweep: Path) -> Iterator[None]:
        """Returns a context for the jobs, which raises UserError, with one line, for failures of the launcher.

        Args:
            sweep: folder of the sweep.
        """
        sweep = sweep.relative_to(Path.cwd()) if sweep.is_relative_to(Path.cwd()) else sweep
        if "hydra_submitit_launcher" in self.target:
            log.info(f"the command waits for its jobs; sdegen status {sweep} shows them")
        try:
            yield
        except (Stopped, UserError):
            raise
        except KeyboardInterrupt:
            if not self.target.endswith(".SlurmLauncher"):
                raise
            again = f"sdegen status {sweep} shows them, scancel cancels them"
            raise Stopped("the command no longer waits, its jobs go on", signal.SIGINT, again) from None
        except Exception as error:
            if not self.missing():
                raise
            raise UserError(f"hydra/launcher={self.choice}: {_explained(error, sweep)}") from error


def _explained(error: Exception, sweep: Path) -> str:
    """Returns a message of one line for an exception of a launcher."""
    if isinstance(error, BrokenExecutor):
        return "a job was killed, perhaps because memory ran out: run fewer jobs at once with hydra.launcher.n_jobs=…"
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    package = type(error).__module__.partition(".")[0]
    # The text of submitit about a job goes on with the path of a file; other texts are those of sbatch.
    if package == "ray" or (package == "submitit" and text.startswith("Job ")):
        text = text.partition(" with path ")[0]
        again = "repeat the command to do what is missing"
        return f"a job was killed or lost: {text}: sdegen status {sweep} shows the jobs; {again}"
    return f"could not start the jobs: {text}: change the options hydra.launcher.…"
