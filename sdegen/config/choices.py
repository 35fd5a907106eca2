"""Configuration nodes for use from Python. Choices have the same names as on the command line, such as ``adams``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from omegaconf.errors import MissingMandatoryValue
from torch import Tensor

from sdegen.config.compose import CONF, Config, composed
from sdegen.config.options import flat
from sdegen.core.errors import UserError, nearest


def node(group: str, name: str, options: Mapping[str, Any]) -> Config:
    """Returns the node of ``conf/<group>/<name>.yaml``, in which ``options`` replace values.

    The group is ``sampler`` or ``guidance``. If an option is itself a group, a string selects a choice of this group
    (``corrector="hmc"``), and a dictionary changes options of the default choice. Names and types of options are
    checked later, by :func:`sdegen.config.options.check`.

    Raises:
        UserError: the choice does not exist, or an option without a default is missing.
    """
    inner = {key: value for key, value in options.items() if isinstance(value, str) and (CONF / group / key).is_dir()}
    for path, chosen in ((group, name), *((f"{group}/{key}", value) for key, value in inner.items())):
        known = sorted(file.stem for file in (CONF / path).glob("*.yaml"))
        if chosen not in known:
            raise UserError(f"{path}={chosen}: no such choice; {nearest(str(chosen), known)}")
    overrides = [f"{'' if group == 'sampler' else '+'}{group}={name}"]
    overrides += [f"{group}/{key}={value}" for key, value in inner.items()]
    # Hydra needs a value for each option without a default. Use placeholders, because real values may have any type.
    outer = {key: value for key, value in options.items() if key not in inner}
    overrides += [f"++{group}.{path}=given" for path, value in flat(outer) if isinstance(value, str)]
    try:
        found = composed("train", overrides)[group]
    except MissingMandatoryValue as error:
        path = str(error.full_key)
        raise UserError(f"{path} is missing: give {path.rpartition('.')[2]}=") from None
    return changed(found, outer)


def changed(node: Mapping[str, Any], options: Mapping[str, Any]) -> Config:
    """Returns a copy of a node in which ``options`` replace values. A dictionary replaces values of an inner node.

    Arrays and tensors become lists.
    """
    merged = dict(node)
    for key, value in options.items():
        old = node.get(key)
        merged[key] = changed(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else _plain(value)
    return merged


def _plain(value: object) -> object:
    """Returns an array, a tensor or one number of these as plain data; any other value as it is."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic | Tensor) else value
