"""Nodes of a configuration, checked against the classes that they name: a constructor's signature is the schema.

A node is ``{_target_: package.module.Class, option: value, …}``. :func:`faults` lists all faults of a node without
building anything, :func:`construct` builds the object, and :func:`options` describes the options of a class.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import re
import reprlib
import typing
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, NamedTuple

from sdegen.core import docstrings

PACKAGE = "sdegen"
Trust = Sequence[str]
"""Modules outside of the package whose classes a configuration may name."""
ANYTHING: Trust = ("*",)
"""Trust in every module, for configurations that the user composes now."""
SUPPLIED = ("shape", "seed", "law", "sde", "classes", "label", "observed", "moments")
"""Arguments of constructors that the program supplies; a configuration does not give them."""
REQUIRED = inspect.Parameter.empty
"""Marker for the default of an option without one."""
LARGEST = 2**63
"""Bound on the absolute value of numbers; infinity and NaN are refused too."""

UNIONS = (UnionType, typing.Union)
WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
"""Plain types as messages name them."""


class Option(NamedTuple):
    """An option of a class, described for the user.

    Attributes:
        name: name of the option in a node.
        kind: type of the option in words, such as ``an integer or null``.
        default: default value, or :data:`REQUIRED`.
        meaning: text of the docstring, with markup: see :func:`sdegen.core.docstrings.without_markup`.
    """

    name: str
    kind: str
    default: object
    meaning: str


class FromRun:
    """Base class of trained models, which a configuration names by the folder of a run."""


def options(cls: type) -> dict[str, Option]:
    """Returns the options of a class by name, in the order of its constructor, inherited ones included."""
    parameters, meanings = inspect.signature(cls).parameters, docstrings.meanings(cls)
    return {
        name: Option(name, in_words(hint), parameters[name].default, meanings.get(name, ""))
        for name, hint in _types(cls).items()
    }


def resolve(target: object, trust: Trust) -> type:
    """Returns the class named ``module.Class``; raises ValueError if there is none or it is not trusted.

    Nothing outside of the package and the trusted modules is imported. The class must be *defined* in one of them; a
    class that such a module only imports is refused.
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


def faults(node: object, base: type, path: str, trust: Trust = ()) -> list[str]:
    """Returns a line for each fault of a node that should build a ``base``, beginning with the option's full path."""
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
    return option_faults(values, _types(cls), f"{path}.", f" of {cls.__name__}", trust)


def option_faults(
    values: Mapping[str, object], types: Mapping[str, Any], prefix: str = "", owner: str = "", trust: Trust = ()
) -> list[str]:
    """Returns a line for each name that is not among the options, and for each value that does not fit its type."""
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


def construct(node: Mapping[str, Any], trust: Trust = (), **supplied: object) -> Any:  # noqa: ANN401
    """Builds the object of a node without faults; raises ValueError if a constructor refuses a value.

    Each ``supplied`` argument is passed to the constructors, also of inner nodes, that have a parameter of that name.
    For options of type :class:`FromRun`, the supplied ``load(folder, cls)`` returns the model of a run.
    """
    cls = resolve(node["_target_"], trust)
    parameters = inspect.signature(cls).parameters
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    arguments = {key: value for key, value in supplied.items() if key in parameters}
    for key, value in node.items():
        if key != "_target_":
            arguments[key] = convert(value, hints.get(key, Any), trust, **supplied)
    return cls(**arguments)


def convert(value: object, hint: Any, trust: Trust = (), **supplied: object) -> Any:  # noqa: ANN401
    """Converts a fitting value to its annotated type: whole floats to int, lists to tuples, nodes to objects."""
    if isinstance(value, Mapping):
        return construct(value, trust, **supplied)
    if _is_from_run(hint):
        return supplied["load"](value, node_class(hint))  # type: ignore[operator]
    for member in members(hint):
        if not fits(value, member):
            continue
        if typing.get_origin(member) is tuple and isinstance(value, list | tuple):
            return tuple(convert(entry, own, trust) for entry, own in zip(value, _entries(member, value), strict=True))
        if member in (int, float):
            return member(value)
    return value


def fits(value: object, hint: Any) -> bool:  # noqa: ANN401
    """Returns True if a plain value has the annotated type; a bool is not a number, and a whole float is an integer."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in UNIONS:
        return any(fits(value, member) for member in members(hint))
    if origin is Literal:
        return value in typing.get_args(hint) and not isinstance(value, bool)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        entries = _entries(hint, value)
        return len(value) == len(entries) and all(map(fits, value, entries))
    if isinstance(value, bool):
        return hint is bool
    if hint in (int, float):
        number = isinstance(value, (int, float)) and abs(value) < LARGEST
        return number and (hint is float or float(value).is_integer())  # type: ignore[arg-type]
    return isinstance(value, hint)


def members(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Returns the members of a union, or a tuple of the annotation if it is not a union."""
    return typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)


def _entries(hint: Any, value: Sequence[object]) -> tuple[Any, ...]:  # noqa: ANN401
    """Returns the annotation of each entry of a value annotated as a tuple."""
    parts = typing.get_args(hint)
    return parts[:1] * len(value) if Ellipsis in parts else parts


def node_class(hint: Any) -> type | None:  # noqa: ANN401
    """Returns the class that a nested node must build, or None if the annotation is for plain values."""
    for member in members(hint):
        # Any is a class from Python 3.11 on.
        if inspect.isclass(member) and member not in (*WORDS, Any) and not typing.get_origin(member):
            return member
    return None


def in_words(hint: Any) -> str:  # noqa: ANN401
    """Returns an annotation in words, such as ``an integer or null``."""
    if _is_from_run(hint):
        return "the folder of a run"
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in UNIONS:
        return " or ".join(map(in_words, parts))
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}" if len(parts) > 1 else str(parts[0])
    if origin is tuple and Ellipsis in parts:
        return f"a list, each entry {in_words(parts[0])}"
    if origin is tuple:
        return f"a list of {len(parts)}, each {in_words(parts[0])}"
    return WORDS.get(hint, f"a {getattr(hint, '__name__', hint)} node with _target_")


def takes(node: Mapping[str, Any], argument: str, trust: Trust = ()) -> bool:
    """Returns True if the constructor of a node's class has an argument, such as one that the program supplies."""
    return argument in inspect.signature(resolve(node["_target_"], trust)).parameters


def snake_case(name: str) -> str:
    """Returns ``euler_maruyama`` for ``EulerMaruyama``, ``rk45`` for ``RK45``, ``dpm_solver`` for ``DPMSolver``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _trusted(module: str, trust: Trust) -> bool:
    return tuple(trust) == ANYTHING or any(f"{module}.".startswith(f"{name}.") for name in (PACKAGE, *trust))


def _types(cls: type) -> dict[str, Any]:
    """Returns the annotated types of a class's options."""
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    names = [name for name in inspect.signature(cls).parameters if name not in SUPPLIED]
    return {name: hints.get(name, Any) for name in names}


def _is_from_run(hint: Any) -> bool:  # noqa: ANN401
    nested = node_class(hint)
    return nested is not None and issubclass(nested, FromRun)


def _value_faults(value: object, hint: Any, path: str, trust: Trust) -> list[str]:  # noqa: ANN401
    nested = node_class(hint)
    if isinstance(value, Mapping) and nested is not None and not _is_from_run(hint):
        return faults(value, nested, path, trust)
    if isinstance(value, str) if _is_from_run(hint) else fits(value, hint):
        return []
    too_large = isinstance(value, int | float) and LARGEST <= abs(value) < math.inf
    return [f"{path}: must be {in_words(hint)}{f' below {LARGEST:.2g}' if too_large else ''}, not {_shown(value)}"]


def _shown(value: object) -> str:
    """Returns a value as text for a message: short, on one line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 100
    return short.repr(value)
