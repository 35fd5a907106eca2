"""The command line: Hydra, with mistakes met before anything is made and told in one line each.

The only module that imports Hydra. It composes the configuration once to check it, and then lets ``hydra.main``
take over, so that all that Hydra's users know (multirun, launchers, ``--cfg job``, shell completion) works.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import sys
import tempfile
import unicodedata
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdegen.cli import mistakes
from sdegen.cli.jobs import Results, messages
from sdegen.config.compose import CONF, VERSION_BASE, Config, plain
from sdegen.core.errors import Stopped, UserError

NODES = ("sampler", "network")
"""The groups in which a loaded run's own node stands as the choice ``run``."""
OPTIONAL = ("experiment", "sweep", "guidance")
"""The groups of which nothing is chosen but by name: ``experiment=null`` takes back what stands before it."""
UNSEEN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that no argument can hold: each message about it is to be one line."""

OUTSIDE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)
"""What an operating system refuses for reasons that are not this program's."""

log = logging.getLogger("sdegen")


def run(
    name: str,
    check: Callable[[Config], object],
    task: Callable[[Config, Path], object],
    nodes: Callable[[], Mapping[str, Any]] | None = None,
    after: Callable[[list[Any]], int] = lambda found: 0,
) -> None:
    """Run a task under Hydra, on the arguments of this process; a launcher may run it in others.

    Args:
        name: of the primary configuration, ``conf/<name>.yaml``.
        check: raises UserError where a configuration cannot work; called for every job before the first starts.
        task: does the work, given a configuration and the folder that Hydra made for it, and returns what it found, in
            the types of JSON.
        nodes: gives nodes by their group, which the configuration finds as the choice ``run`` of the group.
        after: called once, in this process, with what the jobs that ended well have found, in their order, also where
            others failed or the command was interrupted; returns the exit status of a command without failures.
    """
    arguments = _arguments()
    # Hydra would print its own lines on an error and leave; so it raises, and they become one line here.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def job_main(config: DictConfig, results: Results) -> None:
        number = HydraConfig.get().job.num if swept() else 0
        job = f"job {number}: " if swept() else ""
        with messages(job):
            if job:
                log.info(" ".join(HydraConfig.get().overrides.task))
            try:
                found = task(plain(config), Path(HydraConfig.get().runtime.output_dir))
            except Exception as error:
                # Reported here: Hydra would add lines of its own, and of a sweep report the first failure alone. The
                # other jobs of a sweep go on even after a fault of the program.
                mistake = error if isinstance(error, UserError) else mistakes.short_of_memory(error)
                if not (job or mistake):
                    raise
                print(mistakes.told(f"{job}{mistake or repr(error)}"), file=sys.stderr, flush=True)
                results.failed(number)
            else:
                results.done(number, found)

    def whole() -> None:
        asked = _asks_hydra(arguments)
        if nodes is not None:
            # Help is given without a run, too.
            for group, node in (nodes() if "run" in options() or not asked else dict.fromkeys(NODES, {})).items():
                store(group, node)
        jobs: list[tuple[list[str], Config]] = []
        sweep: Path | None = None
        if not asked:
            jobs = _jobs(name, arguments)
            for _, config in jobs:
                check(config)
            sweep = _sweep_folder(name, arguments)
            if sweep is not None and not any(map(_names_sweep, arguments.overrides)):
                sys.argv.append(f"hydra.sweep.dir={sweep}")
        with _results(sweep) as results:
            decorator = hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name=name)
            try:
                decorator(lambda config: job_main(config, results))()
            except BrokenExecutor:
                raise UserError(
                    "the process of a job was killed, for want of memory perhaps: run fewer at once by "
                    "hydra.launcher.n_jobs="
                ) from None
            finally:
                status, count = after(results.found()), results.failures()
        if count:
            if count < len(jobs):
                print(f"{count} of {len(jobs)} jobs failed", file=sys.stderr)
            raise SystemExit(2)
        if status:
            raise SystemExit(status)

    guard(whole, name)


@contextlib.contextmanager
def _results(sweep: Path | None) -> Iterator[Results]:
    """The results of the jobs of a command, gone when it has ended.

    They lie in the folder of a sweep, which all machines share that its jobs run on; a single job runs here.
    """
    if sweep is not None:
        sweep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".jobs-", dir=sweep) as folder:
        # A job may have another working folder.
        yield Results(Path(folder).resolve())


def swept() -> bool:
    """Whether the job that runs is one of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def configurations(name: str) -> tuple[list[tuple[list[str], Config]], Path | None]:
    """The jobs that the arguments of this process start, without Hydra.

    Returns:
        The overrides and the configuration of each, and the folder of the sweep, None where it is none.
    """
    arguments = _arguments()
    jobs = _jobs(name, arguments)
    return jobs, _sweep_folder(name, arguments)


def guard(work: Callable[[], object], name: str) -> None:
    """Do some work, its messages on the terminal; a mistake of the user's becomes one line and an exit status."""
    try:
        with messages():
            work()
    except UserError as error:
        fail(mistakes.told(str(error)))
    except (HydraException, OmegaConfBaseException) as error:
        fail(mistakes.told(explain(error, name)))
    except (MemoryError, RuntimeError) as error:
        if mistake := mistakes.short_of_memory(error):
            fail(mistakes.told(str(mistake)))
        raise
    except Stopped as stop:
        fail(str(stop), 128 + stop.number)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        # The reader has seen enough (| head); what Python flushes on its way out must not complain, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        fail(mistakes.told(f"{error.filename or 'a file'}: {error.strerror}"))


def own_nodes(groups: Sequence[str] = NODES) -> Config:
    """Nodes of the run that ``run=`` names, so that a command line can change them: read before Hydra composes.

    They come from a file that may be a stranger's, so nothing but checked nodes goes to Hydra.
    """
    from sdegen.config.checks import check
    from sdegen.config.options import SAMPLE
    from sdegen.config.trust import plain as checked
    from sdegen.core.schema import option_faults
    from sdegen.runs import checkpoint

    given = options()
    if found := option_faults({key: given[key] for key in ("run", "checkpoint") if key in given}, SAMPLE):
        raise UserError("\n".join(found))
    if "run" not in given:
        swept = any(argument.startswith("run=") for argument in sys.argv[1:])
        raise UserError(
            "run= cannot be swept: give one run, and the others in commands of their own"
            if swept
            else "run= is missing: name the folder of a run, as in run=outputs/smile/latest"
        )
    step = given.get("checkpoint")
    which: Any = step if isinstance(step, str) else "last" if step is None else int(step)
    config = checked(checkpoint.read(Path(given["run"]), which).config)
    return check({group: config[group] for group in groups}, groups, {}, names(given.get("trust")))


def store(group: str, node: Mapping[str, Any]) -> None:
    """Make a node the choice ``run`` of a group; the nodes inside it become choices of the sub-groups.

    The node must have been checked: its keys are then options of its class. That none of them can reach Hydra's
    defaults list, from where any class could be built, is made sure of here again.
    """
    if not all(re.fullmatch(r"\w+", str(key)) for key in node) or "defaults" in node:
        raise UserError(
            f"{group}: the checkpoint's configuration is refused: it has the options {sorted(map(str, node))}"
        )
    inner = {key: value for key, value in node.items() if isinstance(value, Mapping) and "_target_" in value}
    for key, value in inner.items():
        store(f"{group}/{key}", value)
    # What the node leaves out and could have is its sub-group's choice "none", so that another can be made.
    absent = [key for key, value in node.items() if value is None and (CONF / group / key / "none.yaml").exists()]
    own = {key: value for key, value in node.items() if key not in inner and key not in absent}
    defaults = [*({key: "run"} for key in inner), *({key: "none"} for key in absent), "_self_"]
    ConfigStore.instance().store(name="run", group=group, node={**own, "defaults": defaults})


def fail(message: str, code: int = 2) -> NoReturn:
    """Leave with a message on standard error."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def options() -> dict[str, Any]:
    """The ``key=value`` arguments of this process, as Hydra's grammar reads them; sweeps are left out."""
    parser = OverridesParser.create()
    given = (quoted(argument, parser) for argument in sys.argv[1:] if not argument.startswith("-") and "=" in argument)
    try:
        parsed = parser.parse_overrides(list(given))
    except OverrideParseException as error:
        fail(mistakes.told(mistakes.unreadable(error.override)))
    return {o.key_or_group: o.value() for o in parsed if not o.is_sweep_override()}


def names(value: object) -> list[str]:
    """The names of ``trust=``: a list, one name, or nothing."""
    return [] if value is None else [str(name) for name in (value if isinstance(value, list) else [value])]


def quoted(argument: str, parser: OverridesParser) -> str:
    """An override whose value Hydra's grammar cannot read (a path with brackets, say), with the value as a text."""
    if any(unicodedata.category(character) in UNSEEN for character in argument.replace("\t", " ")):
        fail(mistakes.told(f"{argument!r}: holds a line break or another character that cannot be seen: leave it out"))
    key, equals, value = argument.partition("=")
    if argument.startswith("-") or not equals:
        return argument
    if not key:
        fail(mistakes.told(f"{argument}: has no option before the ="))
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    for form in (argument, f"{key}='{escaped}'"):
        try:
            parser.parse_override(form)
        except HydraException:
            continue
        return form
    return argument


def complete(name: str, config: DictConfig) -> Config:
    """A composed configuration as plain data; UserError where an option of ``conf/<name>.yaml`` was taken out."""
    primary = OmegaConf.load(CONF / f"{name}.yaml")
    groups = [key for default in primary.defaults if default != "_self_" for key, value in default.items() if value]
    for key in (*primary, *groups):
        if key not in config and key != "defaults" and not str(key).startswith("override "):
            raise UserError(f"{key}: is missing: leave out ~{key}")
    return plain(config)


def explain(error: Exception, name: str) -> str:
    """One line that names the option and says the fix, for what Hydra raised."""
    if isinstance(error, OverrideParseException):
        return mistakes.unreadable(error.override)
    return mistakes.plainly(str(error), str(error.__cause__ or ""), lambda: _known(name))


def _arguments() -> Namespace:
    """The arguments of this process as Hydra reads them; a flag it does not have is told in one line."""
    overrides = OverridesParser.create()
    given: list[str] = []
    for argument in sys.argv[1:]:
        group, _, value = argument.partition("=")
        if group in OPTIONAL and value == "null":
            given = [other for other in given if not other.startswith(f"{group}=")]
        else:
            given.append(quoted(argument, overrides))
    sys.argv[1:] = given
    parser = get_args_parser()
    # Or --experiment would be --experimental-rerun.
    parser.allow_abbrev = False
    parser.error = lambda message: fail(mistakes.told(f"{message}: see --help"))  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args()
    # Hydra reads them again, and wants the overrides side by side.
    flags = sys.argv[1:]
    for override in arguments.overrides:
        flags.remove(override)
    sys.argv[1:] = [*flags, *arguments.overrides]
    if arguments.config_name or arguments.config_path:
        parser.error("--config-name and --config-path are a script's own, and --config-dir adds a folder")
    if arguments.config_dir and not Path(arguments.config_dir).is_dir():
        parser.error(f"--config-dir={arguments.config_dir}: no such folder")
    if arguments.resolve and not arguments.cfg:
        parser.error("--resolve goes with --cfg job")
    if arguments.multirun and _asks_hydra(arguments):
        parser.error("--multirun runs jobs, and --cfg and --info only tell")
    return arguments


def _known(name: str) -> list[str]:
    """Every option of the configuration that the valid arguments compose, by its full path."""
    groups = [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]
    arguments = get_args_parser().parse_args([])
    chosen = [f"{key}={value}" for key, value in options().items() if key in groups]
    try:
        config = _compose(name, arguments, chosen)
    except (HydraException, OmegaConfBaseException):
        config = _compose(name, arguments, [])
    return groups + [key for key in _paths(OmegaConf.to_container(config)) if not key.startswith("hydra")]


def _paths(node: object, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return [prefix]
    inner = [path for key, value in node.items() for path in _paths(value, f"{prefix}.{key}" if prefix else str(key))]
    return [prefix, *inner] if prefix else inner


def _asks_hydra(arguments: Namespace) -> bool:
    """Whether the arguments ask Hydra for information, not for a run."""
    asked = (arguments.help, arguments.hydra_help, arguments.info, arguments.cfg, arguments.shell_completion)
    return any(value not in (None, False) for value in asked)


def _jobs(name: str, arguments: Namespace) -> list[tuple[list[str], Config]]:
    """The overrides of each job that the arguments start, and what they compose, plain."""
    with hydra.initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        # glob(*) asks it for the choices of a group.
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    parsed = parser.parse_overrides(arguments.overrides)
    many = [override for override in parsed if override.is_sweep_override()]
    single = [override.input_line for override in parsed if not override.is_sweep_override()]
    base = _compose(name, arguments, [line for line in single if line is not None])
    if base.hydra.mode != RunMode.MULTIRUN and not arguments.multirun:
        if many:
            raise UserError(f"{many[0].input_line}: several values; add -m to run a job for each")
        return [(arguments.overrides, complete(name, base))]
    for plugin in ("sweeper", "launcher"):
        target = OmegaConf.select(base.hydra, f"{plugin}._target_")
        if target not in Plugins.instance().class_name_to_class:
            raise UserError(f"hydra.{plugin}._target_={target}: is none of Hydra's: choose one by hydra/{plugin}=")
    for override in many:
        if override.is_interval_sweep():
            raise UserError(
                f"{override.input_line}: has no end of values: name them, as in {override.key_or_group}=1,2"
            )
    given = {override.key_or_group for override in parsed}
    swept = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items() if key not in given]
    batches = BasicSweeper.split_arguments(parser.parse_overrides([*swept, *arguments.overrides]), None)
    return [(list(job), complete(name, _compose(name, arguments, list(job)))) for job in batches[0]]


def _compose(name: str, arguments: Namespace, overrides: list[str]) -> DictConfig:
    """The configuration of one job, Hydra's own part included."""
    GlobalHydra.instance().clear()
    for line in overrides:
        _check_group(line, arguments)
    if arguments.config_dir:
        overrides = [f"hydra.searchpath=['file://{Path(arguments.config_dir).resolve()}']", *overrides]
    with hydra.initialize_config_dir(str(CONF), version_base=VERSION_BASE), warnings.catch_warnings():
        # Hydra only warns of a folder that is not there.
        warnings.filterwarnings("error", "provider=hydra.searchpath")
        try:
            config = hydra.compose(name, overrides=overrides, return_hydra_config=True)
        except UserWarning as warning:
            raise UserError(f"hydra.searchpath: {warning}") from None
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            # Hydra checks the options of its own less than a program's.
            own = [line for line in overrides if line.lstrip("+~").startswith("hydra")]
            if not own:
                raise
            raise UserError(f"{' '.join(own)}: Hydra cannot take this: {' '.join(str(error).split())}") from None
    OmegaConf.set_readonly(config.hydra, None)
    HydraConfig.instance().set_config(config)
    return config


def _check_group(line: str, arguments: Namespace) -> None:
    """UserError where an override gives a group what is no name of a choice."""
    override = OverridesParser.create().parse_override(line)
    group = override.key_or_group
    folders = [folder for folder in (CONF, arguments.config_dir) if folder and Path(folder, group).is_dir()]
    if not (folders or group.partition("/")[0] == "hydra") or override.is_sweep_override():
        return
    if not (isinstance(override.value(), str | dict) or (override.is_delete() and override.value() is None)):
        available = sorted({path.stem for folder in folders for path in Path(folder, group).glob("*.yaml")})
        raise UserError(f"{line}: {group} is a group: choose one of {', '.join(available) or 'its options'}")


def _names_sweep(override: str) -> bool:
    return override.startswith("hydra.sweep.dir=")


def _sweep_folder(name: str, arguments: Namespace) -> Path | None:
    """The folder of the sweep that is asked for; None where a single run is.

    It is named by the sweep's overrides, so that the same sweep meets the same folder.
    """
    asked = arguments.overrides
    if not (arguments.multirun or any(override.startswith("sweep=") for override in asked)):
        return None
    if own := [override for override in asked if _names_sweep(override)]:
        return Path(_compose(name, arguments, own).hydra.sweep.dir)
    # Which jobs run at once, and where, is no part of what they are.
    own = [override for override in asked if not override.startswith(("sweep=", "hydra", "forecast="))]
    named = [override.removeprefix("sweep=") for override in asked if override.startswith("sweep=")]
    digest = hashlib.sha256("\n".join(own).encode()).hexdigest()[:10]
    return Path("outputs") / "-".join([*named, *([digest] if own else [])])
