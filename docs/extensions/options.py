"""Sphinx extension: directives that generate the reference of the options and the errata.

``.. choices:: sampler`` describes the choices of a group and their options, ``.. command:: train`` the options of a
command, ``.. metrics::`` the metrics, and ``.. errata::`` the misprints of the paper. They write reStructuredText, as
the docstrings do.
"""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from sdegen.cli.page import LAUNCHER, about, commented, comments
from sdegen.config.compose import CONF
from sdegen.core import schema
from sdegen.core.meanings import WORDS
from sdegen.reports.errata import errata

COMPUTED = {"${hydra:runtime.choices.dataset}": "name of the data set"}
"""Words for default values that are computed from other options."""
NOT_OPTIONS = ("defaults", "hydra", "_target_")


class Choices(SphinxDirective):
    """The choices of a group with their meanings, and the options of their classes."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Returns the nodes of the group."""
        folder = CONF / self.arguments[0]
        files = sorted(folder.rglob("*.yaml") if self.arguments[0] == "experiment" else folder.glob("*.yaml"))
        for file in files:
            self.env.note_dependency(str(file))
        rows = [[f"``{file.relative_to(folder).with_suffix('')}``", description(file)] for file in files]
        text = table(["choice", "meaning"], rows, "20 80")
        targets: dict[str, dict[str, Any]] = {}
        for file in files:
            node = yaml.safe_load(file.read_text())
            # Launchers are no classes of sdegen, and the comments of their files explain the options.
            if self.arguments[0] == LAUNCHER:
                found = [
                    [f"``{name}``", literal(value), escaped(meaning)]
                    for name, (value, meaning) in commented(file).items()
                ]
                text += f"\n**Options of** ``{file.stem}``\n\n"
                text += table(["option", "default", "meaning"], found, "25 20 55")
            # Experiments and sweeps only change options of other groups.
            elif node and "_target_" in node:
                targets.setdefault(node["_target_"], {})[file.stem] = node
        for target, nodes_of_choices in targets.items():
            cls = pkgutil.resolve_name(target)
            choices = ", ".join(f"``{name}``" for name in nodes_of_choices)
            found = [
                [f"``{option.name}``", escaped(option.kind), default(option, nodes_of_choices), option.meaning]
                for option in schema.options(cls).values()
            ]
            if found:
                text += f"\n**Options of** {choices} (:class:`~{target}`)\n\n"
                text += table(["option", "type", "default", "meaning"], found, "15 15 15 55")
        return self.parse_text_to_nodes(text)


class Command(SphinxDirective):
    """The options of a command, without those of its groups."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Returns the table of the options."""
        file = CONF / f"{self.arguments[0]}.yaml"
        self.env.note_dependency(str(file))
        values = yaml.safe_load(file.read_text())
        rows = [
            [f"``{name}``", literal(values[name]), escaped(meaning)]
            for name, meaning in comments(file).items()
            if name in values and name not in NOT_OPTIONS
        ]
        return self.parse_text_to_nodes(table(["option", "default", "meaning"], rows, "18 22 60"))


class Errata(SphinxDirective):
    """The table of the paper's errata."""

    def run(self) -> list[nodes.Node]:
        """Returns the table."""
        rows = [
            [str(row.number), *map(with_formulas, row[1:4]), *("" if x is None else f"{x:.4g}" for x in row[5:])]
            for row in errata()
        ]
        heads = ["", "where", "printed", "correct", "as printed", "corrected", "measured"]
        return self.parse_text_to_nodes(table(heads, rows, "5 20 30 30 5 5 5"))


class Metrics(SphinxDirective):
    """The table of the metrics in words."""

    def run(self) -> list[nodes.Node]:
        """Returns the table."""
        rows = [
            [f"``{name}``", escaped(word.text), escaped(word.unit), word.good, escaped(word.floor or "none")]
            for name, word in WORDS.items()
        ]
        heads = ["metric", "what it is", "unit", "good", "floor"]
        return self.parse_text_to_nodes(table(heads, rows, "15 40 15 10 20"))


def description(file: Path) -> str:
    """Returns the comment that opens a YAML file, with its commands as literal text."""
    text, commands = about(file)
    return " ".join([*map(escaped, text.splitlines()), *(f"``{command}``" for command in commands)])


def default(option: schema.Option, nodes_of_choices: dict[str, dict[str, Any]]) -> str:
    """Returns the value of an option in the files of the choices; if the values differ, each with its choices."""
    own = {choice: literal(node.get(option.name, option.default)) for choice, node in nodes_of_choices.items()}
    if len(set(own.values())) == 1:
        return next(iter(own.values()))
    return "; ".join(
        f"{value} ({', '.join(choice for choice in own if own[choice] == value)})"
        for value in dict.fromkeys(own.values())
    )


def literal(value: object) -> str:
    """Returns a value in YAML, as literal text, or the word ``required``."""
    if value is schema.REQUIRED or value == "???":
        return "required"
    if isinstance(value, str) and value in COMPUTED:
        return COMPUTED[value]
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return f"``{text}``" if text.strip("'") else "empty"


def escaped(text: str) -> str:
    """Escapes the characters that reStructuredText would read as markup."""
    return re.sub(r"([*`|\\]|_\b)", r"\\\1", text)


def with_formulas(text: str) -> str:
    """Returns text with TeX between dollar signs as reStructuredText."""
    parts = text.split("$")
    return "".join(f":math:`{part}`\\ " if i % 2 else escaped(part) for i, part in enumerate(parts))


def table(heads: list[str], rows: list[list[str]], widths: str) -> str:
    """Returns a table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [heads, *rows]:
        lines += [f"   {'* -' if i == 0 else '  -'} {sentence(cell)}" for i, cell in enumerate(row)]
    return "\n".join([*lines, ""])


def sentence(cell: str) -> str:
    """Escapes the start of a cell that would make it an enumerated list, such as ``(10) is`` or ``b. The``."""
    return re.sub(r"^(?=\(?\w+[.)] )", r"\\", cell)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("choices", Choices)
    app.add_directive("command", Command)
    app.add_directive("errata", Errata)
    app.add_directive("metrics", Metrics)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
