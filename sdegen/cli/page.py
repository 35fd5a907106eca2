"""The help of a command: an overview, and tables of the options of the chosen parts."""

from __future__ import annotations

import functools
import itertools
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sdegen.config.compose import CONF, primary
from sdegen.core.errors import UserError
from sdegen.core.meanings import WORDS, described

if TYPE_CHECKING:
    from sdegen.cli.composition import Composition

PARTIAL = ("network", "sweep")
"""Groups with choices that only some commands accept. The YAML file of a choice has an example of each such command."""
LIKE = {"calibrate": "train"}
"""Commands whose choices are those of another command."""
LAUNCHER = "hydra/launcher"
"""Group of the launchers, whose classes are not ours: the comments of the YAML files explain their options."""
OWN = "run"
"""Choice for the node that the run of ``run=`` stores."""


def overview(name: str, program: str) -> str:
    """Returns the text of ``--help``: examples, groups and options of the command."""
    source = CONF / f"{name}.yaml"
    text, commands = about(source)
    examples = [command.replace(f"sdegen {name}", program, 1) for command in commands]
    options, groups = primary(name)
    meanings = comments(source)
    lines = [text, "", *examples, "", "Groups (group=choice):", *_groups(name, groups)]
    own = [f"{f'{key}={_written(value)}':20}  {meanings[key]}" for key, value in options.items() if key != "hydra"]
    lines += ["", "Options:", *own] if own else []
    return "\n".join([*lines, "", "--cfg job shows the value of every option."])


def options(composition: Composition) -> str:
    """Returns tables of the options of the chosen parts, with name, default, type and meaning; or of the metrics."""
    from omegaconf import OmegaConf

    from sdegen.config.options import NODES

    if "metrics" in composition.arguments.values():
        return metrics()
    if isinstance(launcher := composition.arguments.values().get(LAUNCHER), str):
        return _launcher(launcher)
    config = composition.compose()
    content: Any = OmegaConf.to_container(config)
    folders = [Path(folder) for folder in (composition.arguments.flags.config_dir, CONF) if folder]
    sources = {
        group.replace("/", "."): path
        for group, choice in config.hydra.runtime.choices.items()
        for path in [folder / group / f"{choice}.yaml" for folder in folders]
        if path.is_file()
    }
    named = dict.fromkeys(re.split("[./]", key)[0] for key in composition.arguments.values())
    groups = [group for group in named if group in NODES] or [group for group in NODES if group in content]
    tables = ["\n".join(_table(group, content[group], sources)) for group in groups if content.get(group)]
    return "\n\n".join(filter(None, tables))


def _launcher(choice: str) -> str:
    """Returns a table of the options of a launcher."""
    path = CONF / LAUNCHER / f"{choice}.yaml"
    if not path.is_file():
        raise UserError(f"{LAUNCHER}={choice}: has no help here: hydra.cc explains it")
    lines = about(path)[0].splitlines()
    for name, (value, meaning) in commented(path).items():
        lines.append(f"  {LAUNCHER.replace('/', '.')}.{name}={_written(value)}")
        lines += textwrap.wrap(meaning, 116, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def commented(path: Path) -> dict[str, tuple[Any, str]]:
    """Returns the value and the comment of each option of a YAML file that has a comment, by the path of the option."""
    content = yaml.safe_load(path.read_text())
    found = {name: meaning for name, meaning in comments(path).items() if meaning and name != "_target_"}
    values = {name: functools.reduce(lambda node, key: node[key], name.split("."), content) for name in found}
    return {name: (values[name], meaning) for name, meaning in found.items()}


def metrics() -> str:
    """Returns the meaning of each metric: what it compares, its unit, which values are good, and its floor."""
    lines = [
        "Metrics of samples and evaluations (metrics.json). A value divided by its floor is a ratio: 1 is as good as"
    ]
    lines += ["real data.", ""]
    for name in WORDS:
        lines += textwrap.wrap(described(name), 120, initial_indent=f"{name:17}", subsequent_indent=" " * 17)
    return "\n".join(lines)


def about(path: Path) -> tuple[str, list[str]]:
    """Returns the text and the example commands of the comment at the beginning of a YAML file."""
    opening = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    lines = [line.removeprefix("#") for line in opening if not line.startswith("# @")]
    text = [line.strip() for line in lines if not line.startswith("   ")]
    return "\n".join(text), [line.strip() for line in lines if line.startswith("   ")]


def comments(path: Path) -> dict[str, str]:
    """Returns the comment above each option of a YAML file, as one line, by the path of the option, such as ``a.b``."""
    found: dict[str, str] = {}
    above: list[str] = []
    parents: list[str] = []
    for line in path.read_text().splitlines():
        if key := re.match(r"( *)(\w+):", line):
            parents = [*parents[: len(key[1]) // 2], key[2]]
            found[".".join(parents)] = " ".join(above)
        above = [*above, line.strip().removeprefix("#").strip()] if line.lstrip().startswith("#") else []
    return found


def _groups(name: str, defaults: Mapping[str, str | None]) -> list[str]:
    """Returns one line for each group and sub-group, with the choices."""
    lines = []
    for group, default in defaults.items():
        nested = group in ("experiment", "sweep")
        inner = [] if nested else sorted(path for path in (CONF / group).iterdir() if path.is_dir())
        for folder in (CONF / group, *inner):
            files = sorted(folder.rglob("*.yaml") if nested else folder.glob("*.yaml"))
            if group in PARTIAL:
                files = [path for path in files if f"sdegen {LIKE.get(name, name)} " in path.read_text()]
            choices = [OWN] * (default == OWN) + [str(path.relative_to(folder).with_suffix("")) for path in files]
            lines.append(f"{folder.relative_to(CONF)}: {', '.join(choices)}")
    return lines


def _table(group: str, node: Mapping[str, Any], sources: Mapping[str, Path]) -> list[str]:
    """Returns lines about the options of a node and its inner nodes, with texts of docstrings or of YAML comments."""
    from sdegen.core import schema
    from sdegen.core.docstrings import without_markup

    if "_target_" not in node:
        return []
    try:
        cls = schema.resolve(node["_target_"], schema.ANYTHING)
    except ValueError as error:
        raise UserError(f"{group}: {error}") from None
    described = schema.options(cls)
    summary = without_markup((cls.__doc__ or "").partition("\n\n")[0])
    notes = comments(sources[group]) if group in sources else {}
    lines = [f"{group}: {' '.join(summary.split())}"]
    inner = {key: value for key, value in node.items() if isinstance(value, Mapping)}
    for key in [key for key in node if key in described and key not in inner]:
        meaning = " ".join(without_markup(described[key].meaning or notes.get(key, "")).split())
        lines.append(f"  {group}.{key}={_written(node[key])}  ({described[key].kind})")
        lines += textwrap.wrap(meaning, 116, initial_indent="      ", subsequent_indent="      ")
    return lines + [line for key, value in inner.items() for line in _table(f"{group}.{key}", value, sources)]


def _written(value: object) -> str:
    """Returns a value as a user writes it; an ellipsis if it has no default or is computed from other options."""
    if isinstance(value, str) and value.startswith(("???", "${")):
        return "…"
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
