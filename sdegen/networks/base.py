"""The base class of all networks."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from sdegen.networks.condition import Condition
from sdegen.sde.base import SDE


class Network(nn.Module, ABC):
    """A function of (x, t). It returns a tensor in the shape of x, or the numbers of a distribution of y given x.

    The program supplies the arguments ``shape`` (shape of one point), ``classes``, ``condition_shape``, ``law`` and
    ``sde`` to a constructor that has them. All other arguments are options in the YAML of the network.

    Attributes:
        exact: True if the output is the exact score. Such a network needs no parametrization and no training.
        process: type of process that the network works with.
        predicts: ``score``; or ``class``, if the output is the logits of the classes, ``(B, classes)``; or
            ``condition``, if it is the numbers of a mixture of Gaussians over the condition: see
            :class:`sdegen.models.RegressorModel`.
        times: number of times that the network takes. With 2, t may also be ``(B, 2)``, the start and the end of the
            flow map of :meth:`sdegen.models.ScoreModel.moved`. A single time is then both, and gives the score.
        condition: kind of condition that the network takes as the third argument ``y`` of :meth:`forward`, such as the
            class, or that it predicts; None for none. ``y=None`` means "no condition": see
            :mod:`sdegen.networks.condition`.
        rough: fix for messages, if the output cannot be differentiated in x and then in the weights; otherwise empty.
    """

    exact = False
    process: type[SDE] = SDE
    predicts: Literal["score", "class", "condition"] = "score"
    condition: Condition | None = None
    rough = ""
    times = 1

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the output ``(B, *shape)`` at ``x`` ``(B, *shape)`` and ``t``, ``()`` or ``(B,)``."""

    def given(self, y: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns the network given a condition, ``(x, t) -> (B, *shape)``.

        A network may compute what depends only on ``y`` once here. The weights must not change afterwards.
        """
        return partial(self, y=y)

    def work(self, shape: tuple[int, ...]) -> float:
        """Returns the number of multiplications and additions in linear layers and convolutions for one row."""
        total = 0.0

        def count(layer: nn.Module, _: object, output: Tensor) -> None:
            nonlocal total
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                # Each entry of the weight is used once at each position.
                total += 2 * layer.weight.numel() * output.numel() / len(layer.weight)

        like = next((p for p in self.parameters() if p.is_floating_point()), torch.zeros(()))
        training = self.training
        try:
            # Do not use torch's counter of operations, which takes a second to import.
            with torch.no_grad(), register_module_forward_hook(count):
                self.eval()(like.new_zeros(1, *shape), like.new_full((), 0.5))
        finally:
            self.train(training)
        return total


def number_of(times: Literal["auto", 1, 2]) -> int:
    """Returns the number of times of a network. In a configuration, the objective replaces ``auto``."""
    return 1 if times == "auto" else times


@contextlib.contextmanager
def at_most(size: float, holder: str) -> Iterator[None]:
    """Returns a context in which the weights of new networks may have at most ``size`` bytes in total.

    Args:
        size: limit in bytes.
        holder: end of the message "asks for more weights than …".

    Raises:
        ValueError: the weights need more. It is raised before the weights are initialised, to save time and memory.
    """
    left = size

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        # A lazy layer has no size yet.
        left -= 0 if parameter is None or is_lazy(parameter) else parameter.nbytes
        if left < 0:
            raise ValueError(f"asks for more weights than {holder}")

    with register_module_parameter_registration_hook(count):
        yield
