"""Conditions that a user gives for samples and densities, in the values that a network takes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Conditions, Dataset
from sdegen.datasets.checks import prefixed
from sdegen.datasets.file import opened
from sdegen.datasets.table import shortened
from sdegen.networks.condition import Condition
from sdegen.runs.arrays import ArrayLike, array
from sdegen.runs.given import coordinates
from sdegen.runs.trained import Trained

log = logging.getLogger("sdegen")

DATA = "data"
"""Value of ``condition`` for the conditions of unseen points of the data."""

Asked = ArrayLike | str | Path | None
"""Condition that a user asks for: numbers, an array, the path of a file, :data:`DATA`, or None."""


def rows(trained: Trained, asked: Asked) -> Tensor | None:
    """Returns the conditions that a user asks for, ``(M, *)`` float64 in the user's units; None for no condition.

    A condition outside of the range of the training data is logged as a warning.

    Raises:
        UserError: the network takes no condition, or the conditions do not have the shape of the data's conditions.
    """
    if asked is None:
        return None
    conditions = trained.conditions
    if conditions is None:
        raise UserError(
            f"condition: the data of {trained.folder} have no conditions: leave out condition=, or train a run with "
            f"dataset.condition=[…]"
        )
    found = _read(trained, Path(asked)) if isinstance(asked, str | Path) else array("condition", asked).double()
    shape = conditions.shape
    found = found.reshape(1, *found.shape) if found.ndim == len(shape) else found
    if tuple(found.shape[1:]) != shape or not len(found):
        names = [trained.names.condition(i) for i in range(shape[0])] if len(shape) == 1 else []
        wanted = f"{shape[0]} numbers ({', '.join(names)})" if names else f"an array of shape {shape}"
        raise UserError(f"condition: has the shape {tuple(found.shape[1:])}: give {wanted} for each condition")
    if not bool(found.isfinite().all()):
        raise UserError("condition: holds NaN or infinity: give finite numbers")
    _warn(trained, found)
    return found


def unseen(dataset: Dataset, count: int, seed: int = 0) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Returns at most ``count`` unseen points ``(N, *)`` in the user's units, their classes and their conditions.

    They are fresh if the data set can draw them, else held out, or those of the training if none is held out.
    """
    source = generator("cpu", seed, "unseen pairs")
    if dataset.simulate is not None:
        fresh, beside = dataset.simulate(count, source)
        return fresh.double(), None, beside.double()
    if (drawn := dataset.draw_labelled(count, source)) is not None:
        return *drawn, None
    x, y, c = dataset.x, dataset.y, dataset.c
    if dataset.held_out is not None:
        x, y, c = dataset.held_out, dataset.held_out_y, dataset.held_out_c
    order = torch.randperm(len(x), generator=source)[:count]
    return x[order].double(), None if y is None else y[order], None if c is None else c[order]


def told(taken: Condition, conditions: Conditions | None, label: Tensor | None, values: Tensor | None) -> Tensor:
    """Returns the values that a network takes for classes and for conditions in the user's units.

    Both have an axis of the rows, or neither has. None hides a part of the condition.
    """
    return taken.of(label, None if values is None or conditions is None else conditions.encode(values))


def of_data(
    dataset: Dataset, taken: Condition, count: int, seed: int = 0
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Returns what a network is told of ``count`` unseen points, ``(count, *)``, and their classes and conditions.

    If there are fewer unseen points than ``count``, they are repeated.
    """
    x, y, c = unseen(dataset, count, seed)
    index = torch.arange(count) % len(x)
    y, c = (None if part is None else part[index] for part in (y, c))
    return told(taken, dataset.conditions, y, c), y, c


def check_taken(trained: Trained) -> None:
    """Raises UserError if the network does not take the conditions of the data."""
    taken = trained.model.network.condition
    if taken is None or not taken.valued:
        raise UserError(
            f"condition: the network of {trained.folder} is not told the condition: train one with "
            f"network.condition_dropout=0, or use guidance=regressor"
        )


def needs_one(trained: Trained) -> bool:
    """Returns True if the network has learned no score without a condition."""
    network = trained.score_model.network
    return network.condition is not None and not network.condition.complete and not network.exact


def check_given(trained: Trained) -> None:
    """Raises UserError if the network has learned no score without a condition."""
    if not needs_one(trained):
        return
    if trained.conditions is None:
        raise UserError("label: the network was trained with the class of each point: give label=, or label=all")
    shape = trained.conditions.shape
    names = ",".join(trained.names.condition(i) for i in range(shape[0])) if len(shape) == 1 else "array.npy"
    raise UserError(
        f"condition: the network was trained with a condition for each point: give condition="
        f"{f'[{names}]' if len(shape) == 1 else names}, a file with a row for each, or condition=data for those of "
        f"unseen points"
    )


def _read(trained: Trained, path: Path) -> Tensor:
    """Returns the conditions of a file. Columns are matched by name if the table has the names, else by order."""
    assert trained.conditions is not None
    try:
        with prefixed(f"condition={path}: "):
            table, arrays = opened(path)
            if table is None:
                assert arrays is not None
                return torch.from_numpy(np.asarray(arrays.x, dtype=np.float64))
            names = [trained.names.condition(i) for i in range(trained.conditions.shape[0])]
            known = list(table.columns)
            if not set(names) <= set(known):
                if len(known) != len(names):
                    raise ValueError(
                        f"has the columns {', '.join(map(shortened, known[:20]))}: give {', '.join(names)}"
                    )
                names = known
            return coordinates(table, names)
    except ValueError as error:
        raise UserError(str(error)) from None


def _warn(trained: Trained, found: Tensor) -> None:
    """Logs a warning that names the entry of the conditions that is farthest outside of the training range."""
    assert trained.conditions is not None
    beyond = trained.conditions.beyond(found)
    if not bool((beyond > 0).any()):
        return
    row, entry = divmod(int(beyond.flatten().argmax()), beyond[0].numel())
    low, high = (float(end.flatten()[entry]) for end in (trained.conditions.low, trained.conditions.high))
    name = trained.names.condition(entry) if found.ndim == 2 else f"entry {entry + 1}"
    log.warning(
        f"condition: {name}={float(found[row].flatten()[entry]):g} lies {float(beyond.max()):.2g} standard deviations "
        f"outside of the range in training, {low:g} to {high:g}: the network extrapolates"
    )
