"""Texts about arguments, read from the docstrings of classes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping


def meanings(cls: type) -> dict[str, str]:
    """Returns the text about each argument that a class or one of its bases documents, as one line with markup.

    The entry of a class takes precedence over the entries of its bases. An entry ``see :class:`Base`; more.`` stands
    for the entry of the base, followed by the text after the semicolon.
    """
    found: dict[str, str] = {}
    inherited = {base.__name__: _entries(base) for base in cls.__mro__}
    for entries in inherited.values():
        for name, text in entries.items():
            found.setdefault(name, _followed(name, text, inherited))
    return found


def without_markup(text: str) -> str:
    r"""Returns a text with markup as plain text for a terminal. For example, :math:`\sigma_d` becomes ``sigma_d``."""
    text = re.sub(r"\\tfrac(\d)(\d)", r"\1/\2", text)
    text = re.sub(r":math:`([^`]*)`", lambda match: re.sub(r"\\,|\\bar|[\\{}]", "", match[1]), text)
    text = re.sub(r":\w+:`~?([\w.]+)`", lambda match: match[1].rpartition(".")[2], text)
    return text.replace("``", "")


def _entries(cls: type) -> dict[str, str]:
    """Returns the entries under ``Args:`` in the docstring of a class. It does not read the bases."""
    lines = inspect.cleandoc(vars(cls).get("__doc__") or "").splitlines()
    if "Args:" not in lines:
        return {}
    found: dict[str, str] = {}
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if entry := re.match(r" {4}(\w+): (.*)", line):
            name, found[entry[1]] = entry[1], entry[2]
        elif line:
            found[name] += f" {line.strip()}"
    return found


def _followed(name: str, text: str, inherited: Mapping[str, Mapping[str, str]]) -> str:
    """Returns an entry. If it refers to a base, the entry of the base replaces the reference."""
    reference = re.fullmatch(r"see :class:`(\w+)`(?:\.|; (.*))", text)
    if reference is None or reference[1] not in inherited:
        return text
    more = reference[2] or ""
    return " ".join(filter(None, [inherited[reference[1]].get(name, ""), more[:1].upper() + more[1:]]))
