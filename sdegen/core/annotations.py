"""Type annotations of options: which values fit them, and how messages name them."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any, Literal

LARGEST = 2**63
"""Numbers must be smaller than this in size; infinity and NaN are refused too."""

WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
"""Plain types as messages name them."""


def fits(value: object, hint: Any) -> bool:  # noqa: ANN401
    """Returns True if a plain value has the annotated type: a bool is no number, and a whole float an integer."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, member) for member in members(hint))
    if origin is Literal:
        return value in typing.get_args(hint) and not isinstance(value, bool)
    if origin is tuple:
        entries = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            return False
        if Ellipsis in entries:
            return all(fits(entry, entries[0]) for entry in value)
        return len(value) == len(entries) and all(map(fits, value, entries))
    if isinstance(value, bool):
        return hint is bool
    if hint in (int, float):
        number = isinstance(value, (int, float)) and abs(value) < LARGEST
        return number and (hint is float or float(value).is_integer())  # type: ignore[arg-type]
    return isinstance(value, hint)


def members(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Returns the members of a union; any other annotation is its own only member."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def node_class(hint: Any) -> type | None:  # noqa: ANN401
    """Returns the class that a nested node must build, or None where the annotation is of plain values."""
    for member in members(hint):
        # Any is a class from Python 3.11 on.
        if inspect.isclass(member) and member not in (*WORDS, Any) and not typing.get_origin(member):
            return member
    return None


def in_words(hint: Any) -> str:  # noqa: ANN401
    """Returns an annotation in words, such as ``an integer or null``."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(in_words, parts))
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}" if len(parts) > 1 else str(parts[0])
    if origin is tuple and Ellipsis in parts:
        return f"a list, each entry {in_words(parts[0])}"
    if origin is tuple:
        return f"a list of {len(parts)}, each {in_words(parts[0])}"
    return WORDS.get(hint, f"a {getattr(hint, '__name__', hint)} node with _target_")
