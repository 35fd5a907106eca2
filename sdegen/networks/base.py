"""What every network is."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from sdegen.sde.base import SDE


class Network(nn.Module, ABC):
    """A function (x, t) -> an array of the shape of x, or, of a classifier, the logits of the classes.

    A subclass takes as its first argument the ``shape`` of one point, which the experiment supplies from the data;
    its other arguments are the options of its YAML.

    Attributes:
        exact: whether the output is the exact score, which no parametrization is to turn into anything else and for
            which there is nothing to train.
        process: the type of process that it works with.
        classifies: whether the output is the logits of classes, ``(B, classes)``.
        label_dropout: None where the network is not told the class of x. One that is takes a third argument y, ``()``
            or ``(B,)`` int64, of which -1, or None for all, stands for "not told"; this is the share of a training's
            rows for which it is not.
        rough: empty where the output can be differentiated in x and then in the weights; else the words of the fix.
    """

    exact = False
    process: type[SDE] = SDE
    classifies = False
    label_dropout: float | None = None
    rough = ""

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``(B, *shape)`` and ``()`` or ``(B,)`` to ``(B, *shape)``."""

    def work(self, shape: tuple[int, ...]) -> float:
        """Multiplications and additions of the linear layers and convolutions for one row of a shape."""
        counts: list[float] = []

        def count(layer: nn.Module, _: object, output: Tensor) -> None:
            # Each entry of the weight is used once at each position.
            weight = layer.weight
            assert isinstance(weight, Tensor)
            counts.append(2 * weight.numel() * output.numel() / len(weight))

        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        hooks = [layer.register_forward_hook(count) for layer in self.modules() if isinstance(layer, kinds)]
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.zeros(()))
        training = self.training
        try:
            with torch.no_grad():
                self.eval()(like.new_zeros(1, *shape), like.new_full((), 0.5))
        finally:
            self.train(training)
            for hook in hooks:
                hook.remove()
        return sum(counts)


@contextlib.contextmanager
def at_most(size: float, holder: str) -> Iterator[None]:
    """While it is entered, no network is made whose weights have more than ``size`` bytes.

    Args:
        size: the most.
        holder: who has room for that, in words.

    Raises:
        ValueError: one is asked for; before its numbers are drawn, so that it has cost neither time nor memory.
    """
    left = size

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        # The size of a lazy layer is not known yet.
        left -= 0 if parameter is None or is_lazy(parameter) else parameter.nbytes
        if left < 0:
            raise ValueError(f"asks for more weights than {holder}")

    with register_module_parameter_registration_hook(count):
        yield
