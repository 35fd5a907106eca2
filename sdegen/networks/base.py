"""What every network is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A function (x, t) -> an array of the shape of x.

    A subclass takes as its first argument the ``shape`` of one point, which the experiment supplies from the data;
    its other arguments are the options of its YAML.

    Attributes:
        exact: whether the output is the exact score, which no parametrization is to turn into anything else and for
            which there is nothing to train.
        kernel: empty where any SDE will do; else the words of what to use in its place where the SDE has no
            closed-form kernel.
        rough: empty where the output can be differentiated in x and then in the weights; else the words of the fix.
    """

    exact = False
    kernel = ""
    rough = ""

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``(B, *shape)`` and ``()`` or ``(B,)`` to ``(B, *shape)``."""
