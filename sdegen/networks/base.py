"""The base class of all networks."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from sdegen.sde.base import SDE


class Network(nn.Module, ABC):
    """A function of (x, t). Its output has the shape of x; a classifier returns the logits of the classes.

    The first argument of a subclass is the ``shape`` of one point, which the experiment supplies from the data; its
    other arguments are the options of its YAML.

    Attributes:
        exact: True if the output is the exact score, which needs no parametrization and no training.
        process: type of process that the network works with.
        classifies: True if the output is the logits of the classes, ``(B, classes)``.
        label_dropout: share of training rows whose class is hidden, or None if the network takes no class. A class is
            a third argument y, ``()`` or ``(B,)`` int64; -1, or None for all rows, stands for "no class".
        rough: empty if the output can be differentiated in x and then in the weights; otherwise the fix, for messages.
    """

    exact = False
    process: type[SDE] = SDE
    classifies = False
    label_dropout: float | None = None
    rough = ""

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the output: ``(B, *shape)`` and ``()`` or ``(B,)`` to ``(B, *shape)``."""

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
            # Torch's counter of operations needs a second of imports.
            with torch.no_grad(), register_module_forward_hook(count):
                self.eval()(like.new_zeros(1, *shape), like.new_full((), 0.5))
        finally:
            self.train(training)
        return total


@contextlib.contextmanager
def at_most(size: float, holder: str) -> Iterator[None]:
    """Context that limits the weights of the networks made in it to ``size`` bytes in total.

    Args:
        size: limit in bytes.
        holder: end of the message "asks for more weights than …".

    Raises:
        ValueError: the networks need more; raised before the weights are drawn, which saves their time and memory.
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
