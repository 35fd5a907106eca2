r"""Conditions: what a network is given about a point beside x and t, such as the class of the point.

A condition is the argument ``y`` of a network. It has a value for each row, or one value for all rows. ``y=None`` means
that no row has a condition, and :meth:`Condition.hide` writes the value with this meaning into single rows. A network
that was trained with some conditions hidden has the scores of both :math:`p_t(x \mid y)` and :math:`p_t(x)`.

Each kind of condition is a subclass of :class:`Condition`, and :func:`condition_of` chooses the kind from the data:

==================  ===============================================================  =================================
kind                value of a row                                                   "no condition"
==================  ===============================================================  =================================
:class:`Classes`    class, ``()`` int64                                              -1
:class:`Numbers`    numbers ``(k,)``, or the class and the numbers, ``(1 + k,)``     NaN, and -1 for the class
:class:`Field`      image ``(C, H, W)`` or signal ``(C, L)`` on the grid of x        NaN
==================  ===============================================================  =================================

Numbers, images and signals are in the network's units. All other code uses only the base class:

- A perceptron appends the features of the condition to its inputs.
- Other networks add the embedding of the condition to the embedding of the time, and append its planes to the channels.
  A value for all rows is embedded once.
- Training hides conditions in :class:`sdegen.training.batches.Points`, and nowhere else.
- A sampler or guidance takes ``score.given(y)`` for the score with a condition, and the score itself for no condition.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sdegen.core.checks import in_range

NONE = -1
"""Class number that means "no condition"."""


class Condition(ABC):
    """A kind of condition, with the values that a network takes in place of ``y``.

    Attributes:
        label_dropout: share of training rows whose class is hidden; None if the class is no part of the condition.
        value_dropout: share of training rows whose numbers, image or signal are hidden; None if there are none.
        inputs: number F of features.
        planes: number of channels that are appended to the channels of x.
        ndim: number of axes of the value of a row.
    """

    label_dropout: float | None = None
    value_dropout: float | None = None
    inputs: int
    planes = 0
    ndim: int

    @property
    def labelled(self) -> bool:
        """True if the class is part of the condition."""
        return self.label_dropout is not None

    @property
    def valued(self) -> bool:
        """True if numbers, an image or a signal are part of the condition."""
        return self.value_dropout is not None

    @abstractmethod
    def of(self, labels: Tensor | None, values: Tensor | None) -> Tensor:
        """Returns the conditions of points, from their classes and from their numbers or images.

        None for one of both hides it. Without an axis for the rows, the result is the condition of one point.
        """

    @abstractmethod
    def features(self, y: Tensor | None, x: Tensor) -> Tensor:
        """Returns the features ``(B, F)`` of the conditions of the rows of ``x`` ``(B, *)``, in the type of ``x``."""

    @abstractmethod
    def codes(self, y: Tensor | None, x: Tensor) -> Tensor:
        """Returns the input of :meth:`embedding` for the rows of ``x`` ``(B, *)``; one row if all conditions agree."""

    @abstractmethod
    def embedding(self, width: int) -> nn.Module:
        """Returns a new layer that maps :meth:`codes` to embeddings ``(B, width)``."""

    @abstractmethod
    def hide(self, y: Tensor, u: Tensor) -> Tensor:
        """Returns the conditions ``y`` with "no condition" in some rows.

        Args:
            y: condition of each row.
            u: uniform random number of each row. The parts of a condition whose dropout is above it are hidden.
        """

    def knows(self, labels: bool, values: bool) -> bool:
        """Returns True if some training rows show exactly these parts of the condition and hide the others.

        For False and False, the network learns :math:`p_t(x)`.

        Args:
            labels: True if the class is shown.
            values: True if the numbers, the image or the signal are shown.
        """
        both = ((self.label_dropout, labels), (self.value_dropout, values))
        parts = [(share, shown) for share, shown in both if share is not None]
        # A row with the random number u shows the parts whose dropout is at most u.
        lowest = max((share for share, shown in parts if shown), default=0.0)
        return lowest < min((share for share, shown in parts if not shown), default=1.0)

    @abstractmethod
    def initialise(self, weight: Tensor) -> None:
        """Initialises the weights ``(outputs, F)`` of a linear layer on the features, in place."""

    def numbers(self, y: Tensor) -> Tensor | None:
        """Returns the numbers ``(*, k)`` in conditions, NaN if they are hidden; None for a kind without numbers."""
        return None

    def appended(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Returns ``x`` ``(B, C, *)`` with :attr:`planes` further channels, which hold the condition."""
        return x


class Classes(Condition):
    """The class of a point, ``()`` or ``(B,)`` int64. The value -1 means that the class is not given.

    The features are one-hot, with a last entry for "no class". A weight of a layer on the features is then an entry of
    a learned embedding.

    Args:
        classes: number of classes.
        dropout: share of training rows whose class is hidden.
    """

    label_dropout: float

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        self.label_dropout, self.inputs, self.ndim = dropout, classes + 1, 0

    def of(self, labels: Tensor | None, values: Tensor | None) -> Tensor:
        return torch.tensor(NONE) if labels is None else labels

    def features(self, y: Tensor | None, x: Tensor) -> Tensor:
        known = torch.arange(self.inputs, device=x.device)
        return (self.codes(y, x).unsqueeze(1) == known).to(x.dtype).expand(len(x), -1)

    def codes(self, y: Tensor | None, x: Tensor) -> Tensor:
        y = torch.full((1,), NONE, device=x.device) if y is None else y.to(x.device).reshape(-1)
        return y.remainder(self.inputs)

    def embedding(self, width: int) -> nn.Module:
        return nn.Embedding(self.inputs, width)

    def hide(self, y: Tensor, u: Tensor) -> Tensor:
        return torch.where(u < self.label_dropout, NONE, y)

    def initialise(self, weight: Tensor) -> None:
        # Only one entry of the features is not zero, so scale the weights as those of a single input.
        nn.init.uniform_(weight, -1, 1)


class Numbers(Condition):
    """Numbers that are known about a point, ``(k,)`` or ``(B, k)``, with its class before them if there are classes.

    NaN means that the numbers are not given, and the class -1 that the class is not given. The features are the
    numbers, 0 if they are hidden; 1 for hidden numbers; and the features of :class:`Classes`.

    Args:
        size: number k of numbers.
        dropout: share of training rows whose numbers are hidden.
        classes: number of classes; None if the condition has no class.
        label_dropout: share of training rows whose class is hidden. Both parts are hidden by the same random number, so
            the smaller of the two shares is that of the rows without both.
    """

    value_dropout: float

    def __init__(self, size: int, dropout: float = 0.0, classes: int | None = None, label_dropout: float = 0.0) -> None:
        self.size, self.value_dropout, self.ndim = size, dropout, 1
        self.classes = None if classes is None else Classes(classes, label_dropout)
        self.label_dropout = None if classes is None else label_dropout
        self.inputs = size + 1 + (0 if self.classes is None else self.classes.inputs)

    def of(self, labels: Tensor | None, values: Tensor | None) -> Tensor:
        like = torch.zeros((), dtype=torch.float64) if labels is None else labels.double()
        values = like.new_full((*like.shape, self.size), math.nan) if values is None else values
        if self.classes is None:
            return values
        labels = torch.full(values.shape[:-1], NONE) if labels is None else labels
        return torch.cat([labels.to(values).unsqueeze(-1), values], dim=-1)

    def numbers(self, y: Tensor) -> Tensor:
        return y[..., -self.size :]

    def features(self, y: Tensor | None, x: Tensor) -> Tensor:
        return self.codes(y, x).expand(len(x), -1)

    def codes(self, y: Tensor | None, x: Tensor) -> Tensor:
        width = self.size + (self.classes is not None)
        y = rows_of(y, x, (width,))
        parts = vectors(self.numbers(y))
        if self.classes is not None:
            label = y[:, 0].nan_to_num(NONE).long()
            parts.append(self.classes.features(label, y))
        return torch.cat(parts, dim=1)

    def embedding(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(self.inputs, width), nn.SiLU(), nn.Linear(width, width))

    def hide(self, y: Tensor, u: Tensor) -> Tensor:
        u = u.unsqueeze(-1)
        numbers = self.numbers(y).masked_fill(u < self.value_dropout, math.nan)
        if self.label_dropout is None:
            return numbers
        return torch.cat([y[..., :1].masked_fill(u < self.label_dropout, NONE), numbers], dim=-1)

    def initialise(self, weight: Tensor) -> None:
        nn.init.kaiming_uniform_(weight[:, : self.size], a=math.sqrt(5))
        nn.init.uniform_(weight[:, self.size :], -1, 1)


class Field(Condition):
    """An image ``(C, H, W)`` or signal ``(C, L)`` on the grid of x, or one for each row. NaN means "not given".

    Networks with convolutions take it as further channels of x. A hidden one is 0, and the embedding says so.

    Args:
        shape: shape of the image or signal.
        dropout: share of training rows whose image or signal is hidden.
    """

    value_dropout: float

    def __init__(self, shape: tuple[int, ...], dropout: float = 0.0) -> None:
        self.shape, self.planes, self.ndim = shape, shape[0], len(shape)
        self.value_dropout = dropout
        self.inputs = math.prod(shape) + 1

    def of(self, labels: Tensor | None, values: Tensor | None) -> Tensor:
        return torch.full(self.shape, math.nan, dtype=torch.float64) if values is None else values

    def features(self, y: Tensor | None, x: Tensor) -> Tensor:
        return torch.cat(vectors(rows_of(y, x, self.shape)), dim=1).expand(len(x), -1)

    def codes(self, y: Tensor | None, x: Tensor) -> Tensor:
        return rows_of(y, x, self.shape).flatten(1)[:, 0].isnan().long()

    def embedding(self, width: int) -> nn.Module:
        return nn.Embedding(2, width)

    def hide(self, y: Tensor, u: Tensor) -> Tensor:
        return y.masked_fill((u < self.value_dropout)[(..., *[None] * len(self.shape))], math.nan)

    def initialise(self, weight: Tensor) -> None:
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def appended(self, x: Tensor, y: Tensor | None) -> Tensor:
        values = rows_of(y, x, self.shape).nan_to_num(0)
        return torch.cat([x, values.expand(len(x), *self.shape)], dim=1)


def rows_of(y: Tensor | None, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns the condition ``(B, *shape)`` of each row of ``x``, or one row if all conditions agree."""
    return x.new_full((1, *shape), math.nan) if y is None else y.to(x).reshape(-1, *shape)


def vectors(values: Tensor) -> list[Tensor]:
    """Returns values ``(B, *)`` as vectors, 0 if they are hidden, and 1 for each row with hidden values."""
    hidden = values.flatten(1).isnan()
    return [values.flatten(1).masked_fill(hidden, 0), hidden[:, :1].to(values)]


def condition_of(
    shape: tuple[int, ...],
    classes: int | None,
    label_dropout: float | None,
    condition_shape: tuple[int, ...] | None = None,
    condition_dropout: float | None = 0.0,
) -> Condition | None:
    """Returns the condition that a network takes; None if it takes neither the condition of the data nor the class.

    Args:
        shape: shape of a point.
        classes: number of classes of the data; None if the data have no classes.
        label_dropout: share of training rows whose class is hidden; None if the network does not take the class.
        condition_shape: shape of the condition of a point; None if the data have no conditions.
        condition_dropout: share of training rows whose condition is hidden; None if the network does not take the
            condition.

    Raises:
        ValueError: a share is out of range, or the data do not have what the network takes.
    """
    for name, share in (("label_dropout", label_dropout), ("condition_dropout", condition_dropout)):
        if share is not None:
            in_range(name, share, at_least=0, below=1, fix=", or null")
    if condition_shape is None and condition_dropout:
        raise ValueError(
            f"condition_dropout={condition_dropout:g} needs data with conditions, and these have none: name their "
            f"columns with dataset.condition=[…], or set network.condition_dropout=0"
        )
    if label_dropout is None:
        classes = None
    elif classes is None:
        fix = "set network.label_dropout=null"
        raise ValueError(f"label_dropout={label_dropout:g} needs labels, and the data have none: {fix}")
    if condition_shape is None or condition_dropout is None:
        return None if classes is None else Classes(classes, label_dropout or 0.0)
    if len(condition_shape) == 1:
        return Numbers(condition_shape[0], condition_dropout, classes, label_dropout or 0.0)
    if condition_shape[1:] != shape[1:]:
        raise ValueError(
            f"condition: has the shape {condition_shape}, and points have {tuple(shape)}: give numbers, or an "
            f"image or signal on the same grid"
        )
    if classes is not None:
        raise ValueError(
            "label_dropout: a network takes the image as condition, or the class: set network.label_dropout=null"
        )
    return Field(condition_shape, condition_dropout)
