r"""A classifier of noisy data, :math:`p_t(y \mid x)`, which guides a score towards a class.

With :math:`\nabla_x \log p_t(x \mid y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y \mid x)`, a score that was trained
without labels can sample one class (section 4 of the paper).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdegen.models.likelihood import Likelihood, by_time


class ClassifierModel(Likelihood):
    """A network with log-probabilities of the classes as output: ``(x, t) -> (B, classes)``.

    The output of the network are logits. The value y of a row is its class, ``()`` int64.
    """

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.output(x, t).log_softmax(1)

    def given(self, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, t: self(x, t).gather(1, y.expand(len(x)).unsqueeze(1)).squeeze(1)


def log_likelihood_by_time(model: ClassifierModel, x: Tensor, y: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean log-probability of the true class and the accuracy at each time, ``(F,)`` float64 each.

    The arguments are those of :func:`sdegen.models.likelihood.by_time`.
    """

    def measure(noisy: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        log_p = model(noisy, t)
        return log_p.gather(1, y.unsqueeze(1)).squeeze(1), log_p.argmax(1) == y

    rows = by_time(model.sde, x, y, times, measure)
    log_p, hits = zip(*([column.double().mean() for column in row] for row in rows), strict=True)
    return torch.stack(log_p).cpu(), torch.stack(hits).cpu()
