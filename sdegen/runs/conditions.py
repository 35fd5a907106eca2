"""Conditions that a user gives for samples and densities, in the values that a network takes."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.config.options import choice
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.datasets import Conditions, Dataset
from sdegen.datasets import table as tables
from sdegen.datasets.arrays import Arrays
from sdegen.datasets.checks import prefixed
from sdegen.datasets.table import Table, shortened
from sdegen.networks.condition import Condition
from sdegen.runs.arrays import ArrayLike, Frame, array
from sdegen.runs.given import (
    arranged,
    classes_of,
    conditions_beside,
    coordinates,
    label_names,
    labels_beside,
    opened_by,
)
from sdegen.runs.trained import Trained
from sdegen.runs.unseen import Examples, conditioning

log = logging.getLogger("sdegen")

DATA = "data"
"""Value of ``condition`` for the conditions and classes of points of the data: see :func:`conditioning`."""
NONE = "none"
"""Value of ``condition`` for the score without a condition and a class, if a network has learned this score."""

Asked = ArrayLike | Frame | str | Path | None
"""Condition that a user asks for: numbers, an array, a data frame, the path of a file, :data:`DATA`, or None."""


class Rows(NamedTuple):
    """Conditions ``(M, *)`` float64 in the user's units, and their classes ``(M,)``; None if none are given."""

    values: Tensor
    labels: Tensor | None = None


def rows(trained: Trained, asked: Asked) -> Rows | None:
    """Returns the conditions that a user asks for; None for no condition.

    A condition outside of the range of the training data is logged as a warning.

    Raises:
        UserError: the data have no conditions, or the conditions do not have the shape of the data's conditions.
    """
    if asked is None or (isinstance(asked, str) and asked == NONE):
        return None
    found = _read(trained, asked, _conditions(trained).shape)
    shape, values = _conditions(trained).shape, found.values
    if tuple(values.shape[1:]) != shape or not len(values):
        names = _names(trained)
        numbers = "1 number" if shape == (1,) else f"{math.prod(shape)} numbers"
        wanted = f"{numbers} ({', '.join(names)})" if names else f"an array of shape {shape}"
        raise UserError(f"condition: has the shape {tuple(values.shape[1:])}: give {wanted} for each condition")
    bad = torch.nonzero(~values.flatten(1).isfinite().all(1)).flatten().tolist()
    if bad:
        where = f" in row {bad[0] + 1}" if len(values) > 1 else ""
        raise UserError(f"condition: holds NaN or infinity{where}: give finite numbers")
    _warn(trained, values)
    return found


def told(taken: Condition, conditions: Conditions | None, label: Tensor | int | None, values: Tensor | None) -> Tensor:
    """Returns the values that a network takes for classes and for conditions in the user's units.

    Both have an axis of the rows, or neither has. None hides a part of the condition.
    """
    encoded = None if values is None or conditions is None else conditions.encode(values)
    return taken.of(None if label is None else torch.as_tensor(label), encoded)


def of_data(dataset: Dataset, labels: bool, values: bool, count: int, seed: int = 0) -> Examples:
    """Returns ``count`` points of the data whose conditions samples take, without their other parts.

    See :func:`sdegen.runs.unseen.conditioning`.

    Args:
        dataset: the data.
        labels: True if samples take the class.
        values: True if samples take the numbers, the image or the signal.
        count: number of points.
        seed: seed that chooses the points.
    """
    points = conditioning(dataset, count, seed)
    return points._replace(y=points.y if labels else None, c=points.c if values else None)


def _conditions(trained: Trained) -> Conditions:
    if trained.conditions is None:
        raise UserError(
            f"condition: the data of {trained.folder} have no conditions: leave out condition=, or train a run with "
            f"dataset.condition=[…]"
        )
    return trained.conditions


def chosen(trained: Trained, asked: Asked, label: object, guidance: object) -> Asked:
    """Returns the condition of samples: :data:`DATA` if nothing is asked for and the network has learned both.

    A network that has learned only the score with a condition asks for one: see :func:`check_known`. Raises UserError
    if the network is given a class, and :data:`NONE` is asked for.
    """
    if isinstance(asked, str) and asked == NONE and label is not None and guidance is None:
        raise UserError(f"label={label}: condition=none asks for the score without a class: leave out one of them")
    if isinstance(asked, str) and asked in (DATA, NONE):
        return DATA if asked == DATA else None
    plain = asked is None and label is None and guidance is None
    return DATA if plain and takes_one(trained) and not needs_one(trained) else asked


def check_taken(trained: Trained) -> None:
    """Raises UserError if the data have no conditions, or the network does not take them."""
    _conditions(trained)
    taken, node = trained.score_model.network.condition, trained.config["network"]
    if (taken is None or not taken.valued) and not schema.takes(node, "condition_dropout", trained.trust):
        raise UserError(
            f"condition: network={choice(node)} of {trained.folder} takes no condition: train a run with network=mlp, "
            f"scorenet or unet"
        )
    if taken is None or not taken.valued:
        raise UserError(
            f"condition: the network of {trained.folder} does not take the condition: train one with "
            f"network.condition_dropout=0, or use guidance=regressor"
        )


def takes_one(trained: Trained) -> bool:
    """Returns True if the network has learned a score with a condition or a class."""
    network = trained.score_model.network
    return network.condition is not None and not network.exact


def needs_one(trained: Trained) -> bool:
    """Returns True if the network has learned no score without a condition."""
    network = trained.score_model.network
    condition = network.condition
    return condition is not None and not network.exact and not condition.knows(False, False)


def check_known(trained: Trained, labels: bool = False, values: bool = False) -> None:
    """Raises UserError if the network has not learned the score given just these parts of the condition.

    Args:
        trained: trained model.
        labels: True if a class is given.
        values: True if numbers, an image or a signal are given.
    """
    taken = trained.score_model.network.condition
    if taken is None or trained.model.network.exact or taken.knows(labels, values):
        return
    if taken.labelled and not labels and (values or not taken.valued):
        fix = "give label=, or label=all" if not values else "give label= too"
        why, share = "the class of each point", "label_dropout"
    else:
        fix = f"give condition={_example(trained)}, a file with a row for each, or condition=data for those of the data"
        fix = "give condition= too" if labels else fix
        why, share = "a condition for each point", "condition_dropout"
    if labels or values:
        other = "condition_dropout" if share == "label_dropout" else "label_dropout"
        fix += f", or train a run with network.{share} above network.{other}"
    raise UserError(
        f"{'label' if share == 'label_dropout' else 'condition'}: the network was trained with {why}: {fix}"
    )


def _names(trained: Trained) -> list[str]:
    """Returns the names of the numbers of a condition; no names for images and signals."""
    shape = () if trained.conditions is None else trained.conditions.shape
    return [trained.names.condition(i) for i in range(shape[0])] if len(shape) == 1 else []


def _example(trained: Trained) -> str:
    names = _names(trained)
    return f"[{','.join(names)}]" if names else "observed.npy"


def _read(trained: Trained, asked: Asked, shape: tuple[int, ...]) -> Rows:
    """Returns conditions, not yet checked. Only files and data frames have classes."""
    name = f"condition={asked}" if isinstance(asked, str | Path) else "condition"
    try:
        with prefixed(f"{name}: "):
            if (read := opened_by(trained, asked)) is None:
                values = array(name, asked).double().cpu().numpy()  # type: ignore[arg-type]
                # A list of numbers, as on the command line, is one condition. An array of numbers may be many.
                alone = isinstance(asked, list | tuple) and values.ndim == len(shape) == 1
                return Rows(_batch(trained, values[None] if alone else values, shape))
            table, arrays = read
            if arrays is not None and (arrays.beside or not (arrays.names or arrays.x.dtype.names)):
                return _of_arrays(trained, arrays, shape)
            if table is None or len(shape) > 1:
                raise ValueError(f"holds no array of shape {shape}: give a .npy or .npz file")
            return _of_table(trained, table)
    except ValueError as error:
        raise UserError(str(error)) from None


def _batch(trained: Trained, values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Returns conditions with an axis for the rows, images and signals with their channels first."""
    if len(shape) == 1:
        values = values[:, None] if shape == (1,) and values.ndim == 1 else np.atleast_2d(values)
    else:
        alone = arranged(trained, values[None], shape)
        values = alone if alone.shape[1:] == shape else arranged(trained, values, shape)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def _of_arrays(trained: Trained, arrays: Arrays, shape: tuple[int, ...]) -> Rows:
    """Returns the conditions beside the points of a file, or else in its points, and the classes beside them."""
    taken, found = trained.model.network.condition, conditions_beside(trained, arrays)
    labels = labels_beside(trained, arrays) if taken is not None and taken.labelled else None
    return Rows(_batch(trained, arrays.x, shape) if found is None else found, classes_of(trained, labels))


def _of_table(trained: Trained, table: Table) -> Rows:
    """Returns the conditions of a table, and the classes in a column of labels.

    The columns are matched by name if the table has the names of the conditions, else by their order.
    """
    names, known, taken = _names(trained), list(table.columns), trained.model.network.condition
    found = label_names(trained, table) if taken is not None and taken.labelled else []
    label = next((name for name in found if name not in names), None)
    if not set(names) <= set(known):
        others = [name for name in known if name != label]
        if len(others) != len(names) or (table.named and trained.names.conditions):
            raise ValueError(f"has the columns {', '.join(map(shortened, known[:20]))}: give {', '.join(names)}")
        names = others
    labels = None if label is None else classes_of(trained, tables.labels(table, label))
    return Rows(coordinates(table, names), labels)


def _warn(trained: Trained, found: Tensor) -> None:
    """Logs a warning that names the entry of the conditions that is farthest outside of the training range."""
    conditions = _conditions(trained)
    beyond = conditions.beyond(found)
    if not bool((beyond > 0).any()):
        return
    row, entry = divmod(int(beyond.flatten().argmax()), beyond[0].numel())
    low, high = (float(end.flatten()[entry]) for end in (conditions.low, conditions.high))
    name = (
        trained.names.condition(entry)
        if found.ndim == 2
        else f"channel {entry * len(found[0]) // found[0].numel() + 1}"
    )
    log.warning(
        f"condition: {name}={float(found[row].flatten()[entry]):g} lies {float(beyond.max()):.2g} standard deviations "
        f"outside of the range in training, {low:g} to {high:g}: the network extrapolates"
    )
