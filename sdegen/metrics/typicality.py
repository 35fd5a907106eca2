r"""Tail shares, which say how unusual a point is.

The tail share of a point x among n held-out points :math:`x_1, \dots, x_n` is

.. math:: \frac{1 + \#\{j : \log p(x_j) \le \log p(x)\}}{n + 1}.

It is a conformal p-value. If x comes from the distribution of the held-out points, the rank of its density among theirs
is uniform, whatever density p the model has learned. So :math:`P(\text{tail share} \le a) \le a` for every a, with
equality for the multiples of :math:`1 / (n + 1)` if no densities are equal. A better model does not make this statement
more true. It finds more of the points that come from elsewhere.

The statement needs held-out points that took no part in the training. ``checkpoint=best`` chooses a checkpoint by its
loss on them, which makes their densities slightly too high.

Reference: Laxhammar & Falkman (2011), https://doi.org/10.1145/2107736.2107737; Bates et al. (2023),
https://arxiv.org/abs/2104.08279
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RARE = 0.01
"""Tail share up to which a point is counted as unusual."""


class Typicality(NamedTuple):
    """Log-densities of points under a model, and their tail shares.

    Attributes:
        log_density: log-density of each point, in nats and in the user's units, ``(N,)`` float64.
        tail_share: share of fresh points of the data's distribution that are no denser, ``(N,)`` float64.
    """

    log_density: Tensor
    tail_share: Tensor

    def single(self) -> Typicality:
        """Returns the typicality of the only point, without the batch axis."""
        return Typicality(self.log_density[0], self.tail_share[0])


def tail_shares(log_p: Tensor, held_out: Tensor) -> Tensor:
    """Returns the tail shares ``(N,)`` of points with log-densities ``log_p`` ``(N,)``, float64.

    ``held_out`` ``(n,)`` holds the log-densities of points that took no part in the training.
    """
    no_denser = torch.searchsorted(held_out.double().sort().values, log_p.double(), right=True)
    return (1 + no_denser).double() / (len(held_out) + 1)
