"""The hand-over to Hydra: it runs jobs through its launchers, and shows what its own flags ask for."""

from __future__ import annotations

from collections.abc import Callable

from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, read_write

from sdegen.cli.composition import Composition, Plan


def launch(composition: Composition, plan: Plan, task: Callable[[DictConfig], object]) -> None:
    """Run the jobs of a plan; a single one in this process, those of a sweep where the launcher chooses."""
    hydra, name = composition.hydra, composition.name
    if plan.sweep is not None:
        mode = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir='{plan.sweep}'"]
        hydra.multirun(name, task, [*composition.arguments.overrides, *mode])
        return
    with read_write(plan.config.hydra):
        plan.config.hydra.mode = RunMode.RUN
    context = HydraContext(hydra.config_loader, Callbacks(plan.config))
    # The property raises what the job raised.
    _ = run_job(task, plan.config, "hydra.run.dir", None, context).return_value


def show(composition: Composition) -> None:
    """Print what Hydra's flags ask for, such as ``--cfg job``."""
    hydra, name = composition.hydra, composition.name
    flags, overrides = composition.arguments
    if flags.shell_completion:
        hydra.shell_completion(name, overrides)
        return
    # Raises a mistake as one line, where Hydra would print several.
    composition.compose(overrides)
    if flags.hydra_help:
        hydra.hydra_help(name, get_args_parser(), flags)
    elif flags.cfg:
        hydra.show_cfg(name, overrides, flags.cfg, flags.package, flags.resolve)
    else:
        hydra.show_info(flags.info, name, overrides)
