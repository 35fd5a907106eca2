"""Nodes of a configuration. A node names a class, and the signature of the constructor is the schema of the node.

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
"""Trust in every module, for configurations that the user writes in the current command or call."""
SUPPLIED = ("shape", "seed", "law", "sde", "classes", "condition_shape", "given", "label", "y", "observed", "moments")
"""Arguments of constructors that the program supplies; a configuration does not have them."""
REQUIRED = inspect.Parameter.empty
"""Marker for options without a default value."""
LARGEST = 2**63
"""Bound on the absolute value of numbers. Infinity and NaN are refused as well."""

UNIONS = (UnionType, typing.Union)
WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
"""Names of plain types in messages."""


class Option(NamedTuple):
    """An option of a class, described for the user.

    Attributes:
        name: name of the option in a node.
        kind: type of the option in words, such as ``an integer or null``.
        default: default value, or :data:`REQUIRED`.
        meaning: text about the option in the docstring, with markup: see :mod:`sdegen.core.docstrings`.
    """

    name: str
    kind: str
    default: object
    meaning: str


class FromRun:
    """Base class of trained models. A configuration gives the folder of a run in place of such a model."""


def options(cls: type) -> dict[str, Option]:
    """Returns the options of a class by name, in the order of the constructor's arguments."""
    parameters, meanings = inspect.signature(cls).parameters, docstrings.meanings(cls)
    return {
        name: Option(name, in_words(hint), parameters[name].default, meanings.get(name, ""))
        for name, hint in _types(cls).items()
    }


def resolve(target: object, trust: Trust, option: str = "_target_") -> type:
    """Returns the class ``module.Class``. Raises ValueError if this class does not exist or is not trusted.

    ``option`` is the name of the option in messages.

    Only modules of the package and trusted modules are imported. The class must be *defined* in such a module: a class
    that a trusted module imports from another module is refused if the other module is not trusted.
    """
    if not isinstance(target, str) or not re.fullmatch(r"\w+(\.\w+){1,9}", target):
        raise ValueError(
            f"{option}={_shown(target)} is not of the form package.module.Class: write, for example, sdegen.sde.VP"
        )
    module_name, _, class_name = target.rpartition(".")
    if not _trusted(module_name, trust):
        raise ValueError(
            f"{option}={target} is outside of {PACKAGE}; if you trust its code, add trust=[{module_name.split('.')[0]}]"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        fix = "correct the name"
        if not module_name.startswith(f"{PACKAGE}."):
            fix += ", or put its folder on PYTHONPATH"
        raise ValueError(f"{option}={target}: module {module_name} cannot be imported ({error}): {fix}") from None
    found = vars(module).get(class_name)
    if not inspect.isclass(found):
        raise ValueError(f"{option}={target}: module {module_name} has no class {class_name}: correct the name")
    if not _trusted(found.__module__, trust):
        raise ValueError(
            f"{option}={target} is a class of {found.__module__}, which is not trusted: use a class of {PACKAGE}, "
            f"or add trust=[{found.__module__.split('.')[0]}]"
        )
    return found


def faults(node: object, base: type, path: str, trust: Trust = ()) -> list[str]:
    """Returns a line for each fault of a node that must build a ``base``. A line begins with the path of the option."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return [f"{path}: must be a node that names a {base.__name__} by _target_, not {_shown(node)}"]
    try:
        cls = resolve(node["_target_"], trust)
    except ValueError as error:
        return [f"{path}: {error}"]
    if not issubclass(cls, base):
        return [f"{path}: {cls.__name__} is not a {base.__name__}: name a subclass of {base.__name__}"]
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        names = " and ".join(missing)
        return [f"{path}: {cls.__name__} is abstract: define {names} in this class, or name a subclass"]
    values, types = {key: value for key, value in node.items() if key != "_target_"}, _types(cls)
    needed = [name for name, own in inspect.signature(cls).parameters.items() if own.default is REQUIRED]
    absent = [name for name in needed if name in types and name not in values]
    lines = [f"{path}.{name} is missing: give {cls.__name__} this option" for name in absent]
    return lines + option_faults(values, types, f"{path}.", f" of {cls.__name__}", trust)


def option_faults(
    values: Mapping[str, object], types: Mapping[str, Any], prefix: str = "", owner: str = "", trust: Trust = ()
) -> list[str]:
    """Returns a line for each name that is not an option, and for each value that does not have the option's type."""
    found = []
    for key, value in values.items():
        if not re.fullmatch(r"\w+", str(key)):
            found.append(f"{prefix}{_shown(key)}: no such option{owner}: use only letters, digits and _ in names")
        elif key not in types:
            close = difflib.get_close_matches(str(key), types, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"the options are {', '.join(types) or 'none'}"
            found.append(f"{prefix}{key}: no such option{owner}; {hint}")
        else:
            found += _value_faults(value, types[key], f"{prefix}{key}", trust)
    return found


def construct(node: Mapping[str, Any], trust: Trust = (), **supplied: object) -> Any:  # noqa: ANN401
    """Builds the object that a node describes. Raises ValueError if a constructor refuses a value.

    The node must have no :func:`faults`. Each ``supplied`` argument is passed to every constructor, also of inner
    nodes, with a parameter of the same name. For an option of type :class:`FromRun`, the supplied function
    ``load(folder, cls)`` returns the model; the folder may be None if the annotation allows None.
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
    """Converts a value without faults to the annotated type: whole floats to int, lists to tuples, nodes to objects."""
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
    """Returns True if a plain value has the annotated type. A whole float is also an integer. A bool is no number."""
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
    """Returns the members of a union. For any other annotation, the only member is the annotation."""
    return typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)


def _entries(hint: Any, value: Sequence[object]) -> tuple[Any, ...]:  # noqa: ANN401
    """Returns the annotation of each entry of ``value``, if ``hint`` is a tuple."""
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
        return f"the folder of a run{' or null' if type(None) in members(hint) else ''}"
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in UNIONS and len(parts) == 2 and typing.get_args(parts[1]) == (parts[0], ...):
        return f"{in_words(parts[0])}, or a list of these"
    if origin in UNIONS:
        # The entries of a list come last, as "null or a list of 2, each a number".
        return " or ".join(map(in_words, sorted(parts, key=lambda part: typing.get_origin(part) is tuple)))
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}" if len(parts) > 1 else str(parts[0])
    if origin is tuple and Ellipsis in parts:
        return f"a list, each entry {in_words(parts[0])}"
    if origin is tuple:
        return f"a list of {len(parts)}, each {in_words(parts[0])}"
    return WORDS.get(hint, f"a {getattr(hint, '__name__', hint)} node with _target_")


def takes(node: Mapping[str, Any], argument: str, trust: Trust = ()) -> bool:
    """Returns True if the constructor of a node's class has a parameter with the name ``argument``."""
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
    lists = [typing.get_args(member)[0] for member in members(hint) if typing.get_origin(member) is tuple]
    if nested is not None and lists and isinstance(value, list | tuple):
        return [line for i, own in enumerate(value) for line in _value_faults(own, lists[0], f"{path}[{i}]", trust)]
    if _is_from_run(hint):
        plain = str | None if type(None) in members(hint) else str
    else:
        plain = hint
    if fits(value, plain):
        return []
    too_large = isinstance(value, int | float) and LARGEST <= abs(value) < math.inf
    wanted = f"{in_words(hint)}{f' below {LARGEST:.2g}' if too_large else ''}"
    return [f"{path}: must be {wanted}, not {_shown(value)}{_intended(value, hint)}"]


def _intended(value: object, hint: Any) -> str:  # noqa: ANN401
    """Returns the end of a message, which names the allowed words that are nearest to the given words."""
    allowed = [word for word in _words(hint) if isinstance(word, str)]
    given = value if isinstance(value, list | tuple) else [value]
    wrong = [str(word) for word in given if word not in allowed]
    close = [near for word in wrong for near in difflib.get_close_matches(word, allowed, n=1)]
    return f": did you mean {' and '.join(dict.fromkeys(close))}?" if close else ""


def _words(hint: Any) -> list[object]:  # noqa: ANN401
    """Returns the allowed values of all ``Literal`` annotations in an annotation."""
    parts = typing.get_args(hint)
    return list(parts) if typing.get_origin(hint) is Literal else [word for part in parts for word in _words(part)]


def _shown(value: object) -> str:
    """Returns a value as a short text on one line, for a message."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 100
    return short.repr(value)
