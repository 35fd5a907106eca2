"""What every network is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A function (x, t) -> an array of the shape of x, or, of a classifier, the logits of the classes.

    A subclass takes as its first argument the ``shape`` of one point, which the experiment supplies from the data;
    its other arguments are the options of its YAML.

    Attributes:
        exact: whether the output is the exact score, which no parametrization is to turn into anything else and for
            which there is nothing to train.
        kernel: empty where any SDE will do; else the words of what to use in its place where the SDE has no
            closed-form kernel.
        classifies: whether the output is the logits of classes, ``(B, classes)``.
        label_dropout: None where the network is not told the class of x. One that is takes a third argument y, ``()``
            or ``(B,)`` int64, of which -1, or None for all, stands for "not told"; this is the share of a training's
            rows for which it is not.
        rough: empty where the output can be differentiated in x and then in the weights; else the words of the fix.
    """

    exact = False
    kernel = ""
    classifies = False
    label_dropout: float | None = None
    rough = ""

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``(B, *shape)`` and ``()`` or ``(B,)`` to ``(B, *shape)``."""
