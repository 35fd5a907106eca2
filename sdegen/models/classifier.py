r"""A classifier of noisy data, :math:`p_t(y \mid x)`, which guides a score towards a class.

With :math:`\nabla_x \log p_t(x \mid y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y \mid x)`, a score that was trained
without labels can sample one class (section 4 of the paper).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sdegen.core.randomness import generator, randn_like
from sdegen.core.schema import FromRun
from sdegen.networks.base import Network
from sdegen.sde.base import SDE, LinearSDE
from sdegen.sde.change import Change

BATCH = 1000
"""Number of points classified at once."""


class ClassifierModel(nn.Module, FromRun):
    """A network with log-probabilities of the classes as output: ``(x, t) -> (B, classes)``.

    Args:
        network: trainable function, which returns logits.
        sde: process that adds the noise.
        change: map to the path of the training; None if the network was trained along the path of ``sde``.
    """

    def __init__(self, network: Network, sde: SDE, change: Change | None = None) -> None:
        super().__init__()
        self.network, self.sde, self.change = network, sde, change

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.change is not None:
            x, t, _ = self.change(x, t)
        return self.network(x, t).log_softmax(1)

    def along(self, sde: LinearSDE) -> ClassifierModel:
        """Returns the classifier of points of another path: see :meth:`sdegen.models.ScoreModel.along`."""
        assert self.sde.linear is not None
        return ClassifierModel(self.network, sde, Change(sde, self.sde.linear))

    def given(self, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        r"""Returns the log-likelihood of a class, :math:`\log p_t(y \mid x)`: ``(x, t) -> (B,)``.

        ``y`` is one class, ``()``, or a class for each row, ``(B,)`` int64.
        """
        return lambda x, t: self(x, t).gather(1, y.expand(len(x)).unsqueeze(1)).squeeze(1)


@torch.no_grad()
def log_likelihood_by_time(model: ClassifierModel, x: Tensor, y: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean log-probability of the true class and the accuracy at each time, ``(F,)`` float64 each.

    The noise is the same in every call.

    Args:
        model: classifier.
        x: clean data in the network's units, ``(N, *)``.
        y: classes of the data, ``(N,)``.
        times: times, ``(F,)``.
    """
    source = randn_like(generator(x.device, 0, "accuracy"))
    rows = []
    for t in times.to(x.device):
        found = [
            (log_p.gather(1, label.unsqueeze(1)).squeeze(1), log_p.argmax(1) == label)
            for clean, label in zip(x.split(BATCH), y.split(BATCH), strict=True)
            for log_p in [model(model.sde.perturb(clean, t.expand(len(clean)), source), t)]
        ]
        rows.append([torch.cat(column).double().mean() for column in zip(*found, strict=True)])
    log_p, hits = zip(*rows, strict=True)
    return torch.stack(log_p).cpu(), torch.stack(hits).cpu()
