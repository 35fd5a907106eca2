r"""Conditions: what a network is told about a point beside x and t, such as the class of the point.

A condition is the argument ``y`` of a network. It has a value for each row, or one value for all rows. ``y=None`` means
that no row has a condition, and :meth:`Condition.hide` writes the value with this meaning into single rows. A network
that was trained with some conditions hidden has the scores of both :math:`p_t(x \mid y)` and :math:`p_t(x)`.

Each kind of condition is a subclass of :class:`Condition`. The classes of the data are one kind, and
:func:`condition_of` chooses the kind. All other code uses only the base class:

- A perceptron appends the features of the condition to its inputs.
- Other networks add the embedding of the condition to the embedding of the time.
- Training hides conditions in :class:`sdegen.training.batches.Points`, and nowhere else.
- A sampler or guidance takes ``score.given(y)`` for the score with a condition, and the score itself for no condition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sdegen.core.checks import in_range

NONE = -1
"""Class number that means "no condition"."""


class Condition(ABC):
    """A kind of condition, with the values that a network takes in place of ``y``.

    Attributes:
        dropout: share of training rows whose condition is hidden.
        inputs: number F of features.
    """

    dropout: float
    inputs: int

    @abstractmethod
    def features(self, y: Tensor | None, x: Tensor) -> Tensor:
        """Returns the features ``(B, F)`` of the conditions of the rows of ``x`` ``(B, *)``, in the type of ``x``."""

    @abstractmethod
    def codes(self, y: Tensor | None, x: Tensor) -> Tensor:
        """Returns the input of :meth:`embedding` for the rows of ``x`` ``(B, *)``."""

    @abstractmethod
    def embedding(self, width: int) -> nn.Module:
        """Returns a new layer that maps :meth:`codes` to embeddings ``(B, width)``."""

    @abstractmethod
    def hide(self, y: Tensor, rows: Tensor) -> Tensor:
        """Returns the conditions ``y`` with "no condition" where ``rows`` is True."""


class Classes(Condition):
    """The class of a point, ``()`` or ``(B,)`` int64. The value -1 means that the class is not given.

    The features are one-hot, with a last entry for "no class". A weight of a layer on the features is then an entry of
    a learned embedding.

    Args:
        classes: number of classes.
        dropout: share of training rows whose class is hidden.
    """

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        self.dropout, self.inputs = dropout, classes + 1

    def features(self, y: Tensor | None, x: Tensor) -> Tensor:
        known = torch.arange(self.inputs, device=x.device)
        return (self.codes(y, x).unsqueeze(1) == known).to(x.dtype)

    def codes(self, y: Tensor | None, x: Tensor) -> Tensor:
        y = torch.full((len(x),), NONE, device=x.device) if y is None else y.to(x.device).expand(len(x))
        return y.remainder(self.inputs)

    def embedding(self, width: int) -> nn.Module:
        return nn.Embedding(self.inputs, width)

    def hide(self, y: Tensor, rows: Tensor) -> Tensor:
        return torch.where(rows, NONE, y)


def condition_of(classes: int | None, label_dropout: float | None) -> Condition | None:
    """Returns the condition that a network takes; None if ``label_dropout`` is None.

    Args:
        classes: number of classes of the data; None if the data have no classes.
        label_dropout: share of training rows whose class is hidden.

    Raises:
        ValueError: the share is out of range, or the data have no classes.
    """
    if label_dropout is None:
        return None
    in_range("label_dropout", label_dropout, at_least=0, below=1, fix=", or null")
    if classes is None:
        raise ValueError(
            f"label_dropout={label_dropout:g} needs labels, and the data have none: set label_dropout=null"
        )
    return Classes(classes, label_dropout)
