"""A configuration against what the package's sources declare, read without importing them.

Most mistakes are a wrong name or a wrong type. They are told at once, where :func:`sdegen.schema.faults`, which knows
all, would first import torch.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sdegen import schema

KNOWN = {"int": int, "float": float, "str": str, "bool": bool, "tuple": tuple, "Literal": Literal}
"""Names of annotations that need no import; others stand for anything."""


def faults(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What is wrong with the options of nodes that name classes of the package, one line each; all, where it is empty.

    Args:
        config: nodes by their names, among other options.
        prefix: of the names.
    """
    found = []
    for name, node in config.items():
        if not isinstance(node, Mapping):
            continue
        target, path = str(node.get("_target_", "")), f"{prefix}{name}"
        options = declared(target)
        if options is not None:
            values = {key: value for key, value in node.items() if key != "_target_"}
            found += schema.option_faults(values, options, f"{path}.", f" of {target.rpartition('.')[2]}")
        found += faults(node, f"{path}.")
    return found


@functools.cache
def declared(target: str) -> dict[str, Any] | None:
    """The options of a class of the package, with their types as far as these are plain.

    Args:
        target: ``sdegen.module.Class``.

    Returns:
        None where the class is not the package's, or does not declare a constructor of its own.
    """
    package, *inner, name = target.split(".") if target.count(".") > 1 else ("", "")
    path = Path(__file__).parent.joinpath(*inner).with_suffix(".py")
    if package != schema.PACKAGE or not all(part.isidentifier() for part in inner) or not path.is_file():
        return None
    tree = ast.parse(path.read_text())
    classes = [item for item in tree.body if isinstance(item, ast.ClassDef) and item.name == name]
    makers = [
        item for of in classes for item in of.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    ]
    if not makers:
        return None
    _, *arguments = (*makers[0].args.args, *makers[0].args.kwonlyargs)
    return {one.arg: _hint(one.annotation) for one in arguments if one.arg not in schema.SUPPLIED}


def _hint(annotation: ast.expr | None) -> Any:  # noqa: ANN401
    """The type that an annotation of the package's own sources stands for."""
    if annotation is None:
        return Any
    names = {part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)}
    if not names <= KNOWN.keys():
        return Any
    return eval(compile(ast.Expression(annotation), "annotation", "eval"), {"__builtins__": {}}, KNOWN)  # noqa: S307
