"""A class that uses Hydra to compose and run the jobs of a command, and to answer the flags of Hydra."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from sdegen.cli import mistakes
from sdegen.cli.arguments import EXECUTION, Arguments, parsed
from sdegen.cli.search import Search, chosen
from sdegen.config.compose import CONF, VERSION_BASE, Config, plain, primary
from sdegen.core.errors import UserError


class Plan(NamedTuple):
    """The jobs of a command.

    Args:
        config: configuration of the only job or of the sweep, including the node ``hydra``.
        jobs: overrides and plain configuration of each job.
        sweep: folder of the sweep; None for a single job.
        search: search over options, whose first bounds and choices are the jobs; None for all other commands.
        folders: folder of each job of a sweep; empty for a single job and for a search.
    """

    config: DictConfig
    jobs: list[tuple[list[str], Config]]
    sweep: Path | None
    search: Search | None = None
    folders: Sequence[Path] = ()


class Composition:
    """Composition of the jobs of a command from the YAML files of the package and of ``--config-dir``.

    Args:
        name: name of the primary configuration, ``conf/<name>.yaml``.
        arguments: arguments of the command.
    """

    def __init__(self, name: str, arguments: Arguments) -> None:
        self.name = name
        self.arguments = arguments
        GlobalHydra.instance().clear()
        version.setbase(VERSION_BASE)
        path = create_config_search_path(str(CONF))
        if folder := arguments.flags.config_dir:
            path.prepend("--config-dir", f"file://{Path(folder).resolve()}", SearchPathQuery(provider="schema"))
        self.hydra = Hydra.create_main_hydra2(name, path)

    def compose(self) -> DictConfig:
        """Returns the configuration of the only job, or the configuration that the jobs of a sweep share.

        Raises:
            UserError: the configuration cannot be composed.
        """
        with self._explained():
            return self._composed(self.arguments.overrides)

    def plan(self) -> Plan:
        """Returns the jobs that the arguments ask for.

        Raises:
            UserError: a configuration cannot be composed.
        """
        overrides = self.arguments.overrides
        with self._explained():
            config = self._composed(overrides)
            many = [override for override in parsed(overrides) if override.is_sweep_override()]
            if config.hydra.mode == RunMode.MULTIRUN or self.arguments.flags.multirun:
                search = self._search(config)
                jobs, subfolders = self._jobs(config, many, search)
                sweep = self._folder(config, search)
                return Plan(config, jobs, sweep, search, [] if search else [sweep / one for one in subfolders])
            if many:
                raise UserError(
                    f"{many[0].input_line}: several values: write a list as [1,2], or add -m to the command "
                    "for one job with each value"
                )
            return Plan(config, [(overrides, self._complete(config))], None)

    def launch(self, plan: Plan, task: Callable[[DictConfig], object]) -> None:
        """Run the jobs of a plan: a single job in this process, the jobs of a sweep with Hydra's launcher."""
        if plan.sweep is not None:
            mode = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir='{plan.sweep}'"]
            config = self._composed([*self.arguments.overrides, *mode])
            context = HydraContext(self.hydra.config_loader, Callbacks(config))
            if plan.search is None:
                self._sweep(config, context, task)
            else:
                launcher = Plugins.instance().instantiate_launcher(
                    hydra_context=context, task_function=task, config=config
                )
                plan.search.run(plan.sweep, lambda jobs, first: launcher.launch(jobs, initial_job_idx=first))
            return
        with read_write(plan.config.hydra):
            plan.config.hydra.mode = RunMode.RUN
        context = HydraContext(self.hydra.config_loader, Callbacks(plan.config))
        # This property raises the exception of the job.
        _ = run_job(task, plan.config, "hydra.run.dir", None, context).return_value

    def _sweep(self, config: DictConfig, context: HydraContext, task: Callable[[DictConfig], object]) -> None:
        """Run the jobs of a sweep as Hydra does, but compose none of them a third time to check it: the plan has."""
        sweeper = Plugins.instance().instantiate_sweeper(config=config, hydra_context=context, task_function=task)
        sweeper.validate_batch_is_legal = lambda batch: None  # type: ignore[method-assign]
        context.callbacks.on_multirun_start(config=config, config_name=self.name)
        sweeper.sweep(arguments=list(config.hydra.overrides.task))
        context.callbacks.on_multirun_end(config=config, config_name=self.name)

    def show(self) -> None:
        """Print the information that Hydra's flags ask for, such as ``--cfg job``."""
        flags, overrides = self.arguments
        if flags.shell_completion:
            self.hydra.shell_completion(self.name, overrides)
            return
        # Compose first, because Hydra's functions below would report a mistake in several lines.
        self.compose()
        if flags.hydra_help:
            self.hydra.hydra_help(self.name, get_args_parser(), flags)
        elif flags.cfg:
            self.hydra.show_cfg(self.name, overrides, flags.cfg, flags.package, flags.resolve)
        else:
            self.hydra.show_info(flags.info, self.name, overrides)

    def known(self) -> list[str]:
        """Returns the name of every group, and the path of every option of the chosen parts."""
        # Read the groups from the folders: Hydra's own list copies all files for each group.
        folders = [Path(folder) for folder in (CONF, self.arguments.flags.config_dir) if folder]
        groups = sorted({str(path.relative_to(base)) for base in folders for path in base.rglob("*") if path.is_dir()})
        chosen = [f"{key}={value}" for key, value in self.arguments.values().items() if key in groups]
        try:
            config = self._composed(chosen)
        except (HydraException, OmegaConfBaseException, UserError):
            config = self._composed([])
        return [*groups, *(path for path in paths(OmegaConf.to_container(config)) if not path.startswith("hydra"))]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(mistakes.explain(error, self.known, self.name)) from None

    def _composed(self, overrides: Sequence[str], mode: RunMode = RunMode.MULTIRUN) -> DictConfig:
        self._check_choices(overrides)
        with warnings.catch_warnings():
            # Hydra only warns if a folder does not exist, so turn this warning into an error.
            warnings.filterwarnings("error", "provider=hydra.searchpath")
            try:
                config = self.hydra.compose_config(self.name, list(overrides), mode, validate_sweep_overrides=False)
            except UserWarning as warning:
                raise UserError(f"hydra.searchpath: {warning}: give a folder that exists") from None
            except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
                # Hydra checks its own options less strictly than the options of a program.
                own = [line for line in overrides if line.lstrip("+~").startswith("hydra")]
                if not own:
                    raise
                raise UserError(
                    f"{' '.join(own)}: Hydra cannot use this: {' '.join(str(error).split())}: change the value"
                ) from None
        # Interpolations such as ${hydra:runtime.choices.dataset} read this global configuration.
        HydraConfig.instance().set_config(config)
        return config

    def _check_choices(self, overrides: Sequence[str]) -> None:
        """Raises UserError if the value that an override gives to a group is not a choice of the group."""
        for override in parsed(overrides):
            group, value = override.key_or_group, override.value()
            named = isinstance(value, str | dict) or (override.is_delete() and value is None)
            # A name with a dot is an option of a group, not a group.
            if named or override.is_sweep_override() or "." in group:
                continue
            if choices := self.hydra.config_loader.get_group_options(group):
                listed = ", ".join(sorted(choices))
                raise UserError(f"{override.input_line}: {group} is a group: choose one of {listed}")

    def _search(self, config: DictConfig) -> Search | None:
        """Returns the search over options that a configuration asks for; None if it has another sweeper."""
        node = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        found = chosen({str(key): value for key, value in node.items()}) if isinstance(node, dict) else None
        if found is not None and self.name != "train":
            raise UserError(f"hydra/sweeper=optuna: searches trainings only: leave it out of sdegen {self.name}")
        return found

    def _jobs(
        self, sweep: DictConfig, many: Sequence[Override], search: Search | None
    ) -> tuple[list[tuple[list[str], Config]], list[str]]:
        """Returns the overrides and the configuration of each job of a sweep, and the jobs' folders in its folder."""
        for plugin in ("sweeper", "launcher") if search is None else ("launcher",):
            target = OmegaConf.select(sweep.hydra, f"{plugin}._target_")
            if target not in Plugins.instance().class_name_to_class:
                raise UserError(f"hydra.{plugin}._target_={target}: not a {plugin} of Hydra; use hydra/{plugin}=…")
        if search is None and (endless := [override for override in many if override.is_interval_sweep()]):
            line, key = endless[0].input_line, endless[0].key_or_group
            raise UserError(
                f"{line}: an interval has no list of values: write the values, as in {key}=1,2, or search the interval "
                f"with hydra/sweeper=optuna"
            )
        overrides = self.arguments.overrides
        given = {override.key_or_group for override in parsed(overrides)}
        params = sweep.hydra.sweeper.params or {}
        lines = [*(f"{key}={value}" for key, value in params.items() if key not in given), *overrides]
        # Give the loader to the parser: for glob(*), the parser needs the choices of a group.
        swept = OverridesParser.create(self.hydra.config_loader).parse_overrides(lines)
        if search is None:
            jobs = BasicSweeper.split_arguments(swept, None)[0]
        else:
            jobs = search.over(swept)
        plans, subfolders = [], []
        for number, job in enumerate(jobs):
            config = self._composed(job, RunMode.RUN)
            plans.append((list(job), self._complete(config)))
            # As the launchers of Hydra do.
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.job.num = number
            subfolders.append(str(OmegaConf.select(config, "hydra.sweep.subdir")))
        return plans, subfolders

    def _complete(self, config: DictConfig) -> Config:
        """Returns the plain configuration of a job; raises UserError if an option of the command was deleted."""
        options, groups = primary(self.name)
        for key in (*options, *(group for group, choice in groups.items() if choice)):
            if key not in config:
                raise UserError(f"{key} is missing: leave out ~{key}")
        return plain(config)

    def _folder(self, config: DictConfig, search: Search | None) -> Path:
        """Returns the folder of a sweep. It depends on the overrides only, so that a repeated sweep finds its jobs."""
        overrides = self.arguments.overrides
        if any(override.startswith("hydra.sweep.dir=") for override in overrides):
            return Path(config.hydra.sweep.dir)
        own = [override for override in overrides if not override.startswith(EXECUTION)]
        named = [override.removeprefix("sweep=") for override in overrides if override.startswith("sweep=")]
        digest = hashlib.sha256("\n".join(own).encode()).hexdigest()[:10]
        kind = [] if search is None else ["search"]
        return Path("outputs") / "-".join([*named, *kind, *([digest] if own else [])])


def paths(node: object, prefix: str = "") -> list[str]:
    """Returns the path of each option in a nested configuration, such as ``sampler.steps``."""
    inner = node.items() if isinstance(node, dict) else ()
    below = [path for key, value in inner for path in paths(value, f"{prefix}.{key}" if prefix else str(key))]
    return [prefix, *below] if prefix else below
