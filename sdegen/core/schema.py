"""A configuration node against the class it names: the constructor's signature is the schema.

A node is ``{_target_: package.module.Class, option: value, …}``. :func:`faults` tells all that is wrong with a node
without building anything; :func:`construct` builds it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import re
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

PACKAGE = "sdegen"
ANYTHING: tuple[str, ...] = ("*",)
"""Trust that lets a node name a class of any module: for what the user composes on the spot."""


def resolve(target: object, trust: Sequence[str]) -> type:
    """The class that ``module.Class`` names.

    Nothing outside the package and the trusted modules is imported, and a class must be *defined* in one of them:
    a name that such a module merely re-exports does not pass.

    Raises:
        ValueError: there is no such class, or it is not to be trusted.
    """
    if not isinstance(target, str) or not re.fullmatch(r"\w+(\.\w+){1,9}", target):
        raise ValueError(f"_target_={_shown(target)} is not of the form package.module.Class")
    module_name, _, class_name = target.rpartition(".")
    if not _trusted(module_name, trust):
        raise ValueError(
            f"_target_={target} is outside of {PACKAGE}; if you trust its code, add trust=[{module_name.split('.')[0]}]"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"_target_={target}: module {module_name} cannot be imported ({error})") from None
    found = vars(module).get(class_name)
    if not inspect.isclass(found):
        raise ValueError(f"_target_={target}: module {module_name} has no class {class_name}")
    if not _trusted(found.__module__, trust):
        raise ValueError(f"_target_={target} is a class of {found.__module__}, which is not trusted")
    return found


def faults(node: object, base: type, path: str, trust: Sequence[str] = ()) -> list[str]:
    """What is wrong with a node that should build a ``base``, one line each, named by the option's full path."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return [f"{path}: must be a node that names a {base.__name__} by _target_, not {_shown(node)}"]
    try:
        cls = resolve(node["_target_"], trust)
    except ValueError as error:
        return [f"{path}: {error}"]
    if not issubclass(cls, base):
        return [f"{path}: {cls.__name__} is not a {base.__name__}"]
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        names = " and ".join(missing)
        return [f"{path}: {cls.__name__} is abstract: define {names} in it, as a {base.__name__} must"]
    values = {key: value for key, value in node.items() if key != "_target_"}
    return option_faults(values, _options(cls), f"{path}.", f" of {cls.__name__}", trust)


def option_faults(
    values: Mapping[str, object], types: Mapping[str, Any], prefix: str = "", owner: str = "", trust: Sequence[str] = ()
) -> list[str]:
    """What is wrong with values for options of given types: names that do not exist, values that do not fit."""
    found = []
    for key, value in values.items():
        if not re.fullmatch(r"\w+", str(key)):
            found.append(f"{prefix}{_shown(key)}: no such option{owner}")
        elif key not in types:
            close = difflib.get_close_matches(str(key), types, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"there are {', '.join(types) or 'none'}"
            found.append(f"{prefix}{key}: no such option{owner}; {hint}")
        else:
            found += _value_faults(value, types[key], f"{prefix}{key}", trust)
    return found


def construct(node: Mapping[str, Any], trust: Sequence[str] = (), **supplied: object) -> Any:  # noqa: ANN401
    """Build a node that has no faults.

    Args:
        node: the node.
        trust: modules that may be named beside the package's own.
        supplied: arguments that the program gives to constructors that ask for them by name, those of inner nodes, too;
            and ``load(folder, cls)``, which gives the model of a run where a :class:`FromRun` is among the options.

    Raises:
        ValueError: the constructor refuses a value.
    """
    cls = resolve(node["_target_"], trust)
    parameters = inspect.signature(cls).parameters
    hints = _hints(cls)
    arguments = {key: value for key, value in supplied.items() if key in parameters}
    for key, value in node.items():
        if key != "_target_":
            arguments[key] = convert(value, hints.get(key, Any), trust, **supplied)
    return cls(**arguments)


class FromRun:
    """What a configuration gives as the folder of a run and a constructor gets loaded: a trained model."""


def takes(node: Mapping[str, Any], argument: str, trust: Sequence[str] = ()) -> bool:
    """Whether the constructor of a node has an argument, one that the program supplies, say."""
    return argument in inspect.signature(resolve(node["_target_"], trust)).parameters


def snake_case(name: str) -> str:
    """``EulerMaruyama`` to ``euler_maruyama``; ``RK45`` to ``rk45``; ``DPMSolver`` to ``dpm_solver``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


LARGEST = 2**63
"""Numbers from here on are no sensible option, and infinity and NaN are none at all."""

SUPPLIED = ("shape", "seed", "law", "sde", "classes", "label", "observed", "moments")
"""Constructor arguments that come from the program, not from a configuration."""


def _trusted(module: str, trust: Sequence[str]) -> bool:
    return tuple(trust) == ANYTHING or any(
        module == name or module.startswith(f"{name}.") for name in (PACKAGE, *trust)
    )


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls.__init__)  # type: ignore[misc]


def _options(cls: type) -> dict[str, Any]:
    """The options of a class, with their annotated types."""
    hints = _hints(cls)
    names = [name for name in inspect.signature(cls).parameters if name not in SUPPLIED]
    return {name: hints.get(name, Any) for name in names}


def _value_faults(value: object, hint: Any, path: str, trust: Sequence[str]) -> list[str]:  # noqa: ANN401
    nested = _nested(hint)
    if nested is not None and issubclass(nested, FromRun):
        return [] if isinstance(value, str) else [f"{path}: must be the folder of a run, not {_shown(value)}"]
    if nested is not None and isinstance(value, Mapping):
        return faults(value, nested, path, trust)
    if not _fits(value, hint):
        # A number it is.
        large = isinstance(value, int | float) and LARGEST <= abs(value) < math.inf
        return [f"{path}: must be {_describe(hint)}{f' below {LARGEST:.2g}' if large else ''}, not {_shown(value)}"]
    return []


def _nested(hint: Any) -> type | None:  # noqa: ANN401
    """The class of a node that an annotation asks for, if it does."""
    for part in _union(hint):
        # Any is a class from Python 3.11 on.
        plain = (int, float, str, bool, type(None), Any)
        if inspect.isclass(part) and part not in plain and not typing.get_origin(part):
            return part
    return None


def _union(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401
    """Whether a plain value has a type. bool is no number, and a whole float (1e4) is an integer."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint) and not isinstance(value, bool)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        parts = typing.get_args(hint)
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if isinstance(value, bool):
        return hint is bool
    if hint in (int, float):
        number = isinstance(value, (int, float)) and abs(value) < LARGEST
        return number and (hint is float or float(value).is_integer())  # type: ignore[arg-type]
    return isinstance(value, hint)


def convert(value: object, hint: Any, trust: Sequence[str] = (), **supplied: object) -> Any:  # noqa: ANN401
    """A fitting value in the type of its annotation: whole floats to int, lists to tuples, nodes to objects."""
    if isinstance(value, Mapping):
        return construct(value, trust, **supplied)
    nested = _nested(hint)
    if nested is not None and issubclass(nested, FromRun):
        return supplied["load"](value, nested)  # type: ignore[operator]
    for part in _union(hint):
        if not _fits(value, part):
            continue
        if typing.get_origin(part) is tuple:
            parts = typing.get_args(part)
            return tuple(
                convert(item, parts[0] if Ellipsis in parts else parts[i], trust)
                for i, item in enumerate(typing.cast("Sequence[object]", value))
            )
        if part in (int, float):
            return part(value)
    return value


def _shown(value: object) -> str:
    """A value in a line that is not too long, whatever it holds."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 100
    return short.repr(value)


def _describe(hint: Any) -> str:  # noqa: ANN401
    """An annotation in words."""
    if hint is type(None):
        return "null"
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_describe, parts))
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}" if len(parts) > 1 else str(parts[0])
    if origin is tuple and Ellipsis in parts:
        return f"a list, each entry {_describe(parts[0])}"
    if origin is tuple:
        return f"a list of {len(parts)}, each {_describe(parts[0])}"
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    return words.get(hint, f"a {getattr(hint, '__name__', hint)} node with _target_")
