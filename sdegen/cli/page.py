"""The help of a command: a page about it, and a table of the options of what is chosen."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sdegen.config.compose import CONF
from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from sdegen.cli.composition import Composition

PARTIAL = ("network", "sweep")
"""Groups of which a command takes only some choices: those whose YAML has an example of the command."""
OWN = "run"
"""The choice that is the node of the run that ``run=`` names."""


def overview(name: str, program: str) -> str:
    """Returns the page of ``--help``: examples, the groups and the options that matter for the command."""
    source = CONF / f"{name}.yaml"
    content = yaml.safe_load(source.read_text())
    text, commands = about(source)
    examples = [command.replace(f"sdegen {name}", program, 1) for command in commands]
    meanings = comments(source)
    written = {key: _written(value) for key, value in content.items() if key not in ("defaults", "hydra")}
    options = [f"{f'{key}={value}':20}  {meanings[key]}" for key, value in written.items()]
    groups = _groups(name, content["defaults"])
    lines = [text, "", *examples, "", "Groups (group=choice):", *groups, "", "Options:", *options]
    return "\n".join([*lines, "", "--cfg job shows the value of every option."])


def options(composition: Composition) -> str:
    """Returns the options of the parts that the arguments choose: name, default, type and meaning."""
    from omegaconf import OmegaConf

    from sdegen.config.options import NODES

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
    tables = [_table(group, content[group], sources) for group in groups if content.get(group)]
    return "\n\n".join(table for table in tables if table)


def about(path: Path) -> tuple[str, list[str]]:
    """Returns the comment that opens a YAML file, and the commands in it."""
    opening = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    lines = [line.removeprefix("#") for line in opening if not line.startswith("# @")]
    text = [line.strip() for line in lines if not line.startswith("   ")]
    return "\n".join(text), [line.strip() for line in lines if line.startswith("   ")]


def comments(path: Path) -> dict[str, str]:
    """Returns the comment above each option of a YAML file, in one line."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in path.read_text().splitlines():
        if key := re.match(r"(\w+):", line):
            found[key[1]] = " ".join(above)
        above = [*above, line.removeprefix("#").strip()] if line.startswith("#") else []
    return found


def _groups(name: str, defaults: Sequence[object]) -> list[str]:
    lines = []
    for group, default in _chosen(defaults).items():
        folders = [CONF / group, *sorted(path for path in (CONF / group).iterdir() if path.is_dir())]
        nested = group in ("experiment", "sweep")
        for folder in folders[:1] if nested else folders:
            files = sorted(folder.rglob("*.yaml") if nested else folder.glob("*.yaml"))
            if group in PARTIAL:
                files = [path for path in files if f"sdegen {name} " in path.read_text()]
            choices = [OWN] * (default == OWN) + [str(path.relative_to(folder).with_suffix("")) for path in files]
            lines.append(f"{folder.relative_to(CONF)}: {', '.join(choices)}")
    return lines


def _chosen(defaults: Sequence[object]) -> dict[str, str]:
    """Returns the groups of a primary configuration with their default choices."""
    pairs = [pair for default in defaults if isinstance(default, dict) for pair in default.items()]
    return {group: choice for group, choice in pairs if not group.startswith("override ")}


def _table(group: str, node: Mapping[str, Any], sources: Mapping[str, Path]) -> str:
    """Returns the options of a node and of its inner nodes, with meanings from the class's docstring or the YAML."""
    from sdegen.core import schema
    from sdegen.core.docstrings import without_markup

    if "_target_" not in node:
        return ""
    try:
        cls = schema.resolve(node["_target_"], schema.ANYTHING)
    except ValueError as error:
        raise UserError(f"{group}: {error}") from None
    described = schema.options(cls)
    summary = without_markup((cls.__doc__ or "").partition("\n\n")[0])
    notes = comments(sources[group]) if group in sources else {}
    blocks = [f"{group}: {' '.join(summary.split())}"]
    for key, value in node.items():
        if key in described and not isinstance(value, Mapping):
            meaning = " ".join(without_markup(described[key].meaning or notes.get(key, "")).split())
            blocks.append(f"  {group}.{key}={_written(value)}  ({described[key].kind})")
            blocks += textwrap.wrap(meaning, 116, initial_indent="      ", subsequent_indent="      ")
    inner = [_table(f"{group}.{key}", value, sources) for key, value in node.items() if isinstance(value, Mapping)]
    return "\n".join([*blocks, *(table for table in inner if table)])


def _written(value: object) -> str:
    """Returns a value as it is typed; an ellipsis for one that must be given or is computed from others."""
    if isinstance(value, str) and value.startswith(("???", "${")):
        return "…"
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
