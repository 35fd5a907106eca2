r"""Change of variables between two paths, which is exact for the score of any data.

At times t and t' at which two paths have the same noise-to-signal ratio :math:`\sigma/\alpha`, the distribution of
:math:`x_0` given the point :math:`x` is that given :math:`x' = (\alpha'/\alpha)\, x`, and

.. math:: \nabla \log p'_{t'}(x') = \frac{\alpha}{\alpha'}\, \nabla \log p_t(x).

The flows of both paths, written in :math:`x/\alpha` as functions of :math:`\sigma/\alpha`, are the same.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sdegen.core.tensors import expand
from sdegen.sde.base import LinearSDE


class Point(NamedTuple):
    """Point ``x`` ``(B, *)`` and time ``t``, ``()`` or ``(B,)``, on a path, and the factor α'/α of its change."""

    x: Tensor
    t: Tensor
    factor: Tensor


class Change(NamedTuple):
    """Map from the points and times of a path to those of another path.

    Attributes:
        start: path of the given points.
        end: path of the resulting points. Its range of noise-to-signal ratios contains that of ``start``.
    """

    start: LinearSDE
    end: LinearSDE

    def __call__(self, x: Tensor, t: Tensor) -> Point:
        """Returns the point that corresponds to ``x`` ``(B, *)`` at ``t``, ``()`` or ``(B,)``."""
        # Compute in float64: where α is small, a time in float32 has few digits of it.
        given = t.double()
        time = self.end.time(self.start.log_nsr(given)).clamp(self.end.eps, self.end.T)
        factor = expand(self.end.alpha(time) / self.start.alpha(given), x)
        return Point(factor * x, time.to(t.dtype), factor)
