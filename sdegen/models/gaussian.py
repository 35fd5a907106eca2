"""Parametrization by the difference from a Gaussian, which may depend on numbers that are known about each point."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdegen.core.tensors import expand
from sdegen.models.moments import Moments, Rotation
from sdegen.models.parametrizations import Compared, Spread, Terms
from sdegen.sde.base import LinearSDE

TINY = torch.finfo(torch.float32).tiny


class Gaussian(Compared, nn.Module):
    r"""The parametrization by the difference from a Gaussian with the mean and covariance of the data.

    Along the principal axes of the data, with :math:`c = U^\top (x - \alpha \mu)` and the variances
    :math:`\Lambda` of the data,

    .. math:: s = U \left[ -\frac{c}{v} + \frac{\alpha \sqrt\Lambda}{\sigma \sqrt v} \,
              F\!\left(\frac{c}{\sqrt v} \sqrt{\frac{w}{\bar w}}, \tfrac14 \log\frac{\sigma}{\alpha}\right) \right],
              \qquad v = \alpha^2 \Lambda + \sigma^2, \quad w = \Lambda / v

    A network with the output 0 gives the exact score of Gaussian data of any covariance. Noise in directions in which
    the data do not vary is removed without the network. With mean 0 and equal variances, this is
    the parametrization :class:`Karras`. The factor :math:`w/\bar w`, where :math:`\bar w` is the mean over the axes,
    makes the input of the network small in directions that contain only noise at this t.

    If numbers y are known about each point, such as the observation of a simulator, the score given y is
    parametrized by the Gaussian of a linear regression: :math:`\mu` is a linear function of y, and :math:`\Lambda`
    and U are those of the residuals. A network with the output 0 then gives the exact score of
    :math:`p_t(x \mid y)` if x and y are jointly Gaussian. For rows whose numbers are hidden, the Gaussian does not
    depend on y.

    Reference: the preconditioning of Karras et al. (2022), https://arxiv.org/abs/2206.00364, with a full covariance.

    Args:
        moments: mean, principal axes and variances of the data in the network's units, and their regression on the
            condition, computed when the run is built.
    """

    def __init__(self, moments: Moments | None) -> None:
        super().__init__()
        if moments is None:
            raise ValueError(
                "the moments of the data, which parametrization=gaussian needs, are unknown: use parametrization=karras"
            )
        self.mean: Tensor
        self.axes: Tensor | None
        self.variances: Tensor
        axes, regression = moments.axes, moments.regression
        self.partial = axes is not None and axes.shape[1] < len(axes)
        parts = Rotation.of(axes)._asdict() if axes is not None and self.partial else {}
        parts |= {"mean": moments.mean, "axes": axes, "variances": moments.variances}
        for name, value in parts.items():
            self.register_buffer(name, value)
        self.slope: Tensor
        self.register_buffer("slope", None if regression is None else regression.slope)
        self.rest = None if regression is None else Gaussian(regression.rest)

    def given(self, y: Tensor) -> Gaussian | Regressed:
        return self if self.rest is None else Regressed(self, self.rest, y)

    def along(self, x: Tensor) -> Tensor:
        if self.partial:
            return self._rotation().along(x)
        return x if self.axes is None else x @ self.axes

    def back(self, x: Tensor) -> Tensor:
        if self.partial:
            return self._rotation().back(x)
        return x if self.axes is None else x @ self.axes.mT

    def _rotation(self) -> Rotation:
        return Rotation(*(getattr(self, name) for name in Rotation._fields))

    def terms(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Terms:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        a, s = expand(alpha, x), expand(sigma, x)
        centred = self.along(x - a * self.mean)
        inverse = (a**2 * self.variances + s**2).rsqrt()
        share = self.variances.sqrt() * inverse
        size = share.square().mean(-1, keepdim=True).sqrt().clamp(min=TINY)
        return Terms(
            centred * (inverse * share / size),
            0.25 * (sigma / alpha).log(),
            -centred * inverse.square(),
            a / s * share,
        )

    def spread(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Spread:
        return Spread.of(sde, x, t, self.mean, self.variances.sqrt())


class Regressed(Compared):
    r"""The parametrization :class:`Gaussian` given numbers y, with the slope B of the regression.

    The shifted point :math:`x_t - \alpha B y` is a noisy residual, whose Gaussian does not depend on y.

    Args:
        whole: parametrization of rows whose numbers are hidden.
        rest: parametrization of the residuals.
        y: numbers ``(k,)`` of all rows, or ``(B, k)``; NaN if they are hidden.
    """

    def __init__(self, whole: Gaussian, rest: Gaussian, y: Tensor) -> None:
        self.whole, self.rest, y = whole, rest, y.to(whole.slope)
        self.hidden = y.isnan().any(-1, keepdim=True)
        self.shift = y.nan_to_num() @ whole.slope.mT

    def along(self, x: Tensor) -> Tensor:
        return torch.where(self.hidden, self.whole.along(x), self.rest.along(x))

    def back(self, x: Tensor) -> Tensor:
        return torch.where(self.hidden, self.whole.back(x), self.rest.back(x))

    def terms(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Terms:
        whole, rest = self.whole.terms(sde, x, t), self.rest.terms(sde, x - expand(sde.alpha(t), x) * self.shift, t)
        return Terms(
            torch.where(self.hidden, whole.x, rest.x),
            rest.t,
            torch.where(self.hidden, whole.constant, rest.constant),
            torch.where(self.hidden, whole.gain, rest.gain),
        )

    def spread(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Spread:
        whole, rest = self.whole.spread(sde, x, t), self.rest.spread(sde, x, t)
        rest = rest._replace(mean=rest.mean + expand(sde.alpha(t), x) * self.shift)
        return Spread(*(torch.where(self.hidden, *pair) for pair in zip(whole, rest, strict=True)))
