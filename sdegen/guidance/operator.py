r"""Measurements by operators that need not be linear: their Jacobians are computed by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.datasets import Units
from sdegen.guidance.measurement import Linearised, Measurement


class Operator(Measurement):
    r"""Measurement by a differentiable operator of your own, :math:`y = H(x)`, linear or not.

    A subclass defines ``__call__`` with torch operations. The operator takes points ``(B, *)`` in the units of the
    data, each row by itself, and returns ``(B, …)`` in units of its own. Results and the noise are in these units::

        class Loudness(Operator):
            def __call__(self, x):
                return x.square().mean(-1)
    """

    of_data = True

    def linearised(self, x: Tensor) -> Linearised:
        return differentiated(self, x)

    def picture(self, y: Tensor) -> Tensor:
        rows = y[0].squeeze().cpu()
        return rows.reshape(-1, rows.shape[-1]) if rows.ndim > 2 else torch.atleast_1d(rows)


class Decoded(Measurement):
    """Measurement of points in the units of the data, as a measurement of points in the network's units.

    Args:
        measurement: measurement that takes points in the units of the data.
        units: units of the data and of the network.
        dtype: type of the points that ``measurement`` takes.
    """

    of_data = True

    def __init__(self, measurement: Measurement, units: Units, dtype: torch.dtype) -> None:
        self.measurement, self.units, self.dtype = measurement, units, dtype

    def __call__(self, x: Tensor) -> Tensor:
        y = self.measurement(self.units.decode(x).to(self.dtype))
        return y.unsqueeze(1) if y.ndim == 1 else y

    def linearised(self, x: Tensor) -> Linearised:
        return differentiated(self, x)

    def picture(self, y: Tensor) -> Tensor:
        return self.measurement.picture(y)


class Repeated(Measurement):
    """Several independent results of the same measurement of one point, ``(B, N, …)``.

    Args:
        measurement: measurement with a result ``(B, …)``.
        number: number N of results.
    """

    def __init__(self, measurement: Measurement, number: int) -> None:
        self.measurement, self.number = measurement, number
        self.of_data, self.selects = measurement.of_data, measurement.selects

    def __call__(self, x: Tensor) -> Tensor:
        return self._repeated(self.measurement(x))

    def linearised(self, x: Tensor) -> Linearised:
        value, forward, adjoint = self.measurement.linearised(x)
        return Linearised(self._repeated(value), lambda v: self._repeated(forward(v)), lambda v: adjoint(v.sum(1)))

    def picture(self, y: Tensor) -> Tensor:
        return self.measurement.picture(y.mean(1))

    def _repeated(self, y: Tensor) -> Tensor:
        return y.unsqueeze(1).expand(-1, self.number, *y.shape[1:])


class Together(Measurement):
    """Different measurements of one point, in standard deviations of their noise, ``(B, m)`` for m numbers in all.

    Args:
        parts: measurements with independent Gaussian noise.
        stds: standard deviation of the noise of each measurement.
    """

    of_data = True

    def __init__(self, parts: Sequence[Measurement], stds: Sequence[float]) -> None:
        self.parts, self.stds = parts, stds

    def __call__(self, x: Tensor) -> Tensor:
        return self.joined([part(x) for part in self.parts])

    def linearised(self, x: Tensor) -> Linearised:
        found = [part.linearised(x) for part in self.parts]
        sizes = [each.value[0].numel() for each in found]

        def forward(v: Tensor) -> Tensor:
            return self.joined([each.forward(v) for each in found])

        def adjoint(v: Tensor) -> Tensor:
            pieces = zip(found, v.split(sizes, dim=1), self.stds, strict=True)
            return sum((each.adjoint(own.reshape(-1, *each.value.shape[1:]) / std) for each, own, std in pieces), 0 * x)

        return Linearised(self.joined([each.value for each in found]), forward, adjoint)

    def joined(self, results: Sequence[Tensor]) -> Tensor:
        """Returns the results ``(B, …)`` of the measurements as the result of all of them, ``(B, m)``."""
        return torch.cat([y.flatten(1) / std for y, std in zip(results, self.stds, strict=True)], dim=1)

    def picture(self, y: Tensor) -> Tensor:
        return y[0].cpu()


def differentiated(measurement: Measurement, x: Tensor) -> Linearised:
    r"""Returns a measurement near the points ``x`` ``(B, *)``, with the products of its Jacobian by autograd.

    :math:`J^\top v` is a backward pass, and :math:`J v` the derivative of :math:`J^\top u` in u.
    """
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        value = measurement(point)
        dual = torch.zeros_like(value, requires_grad=True)
        # Materialise: a derivative that is zero everywhere has no graph.
        (back,) = torch.autograd.grad(value, point, dual, create_graph=True, materialize_grads=True)

    def forward(v: Tensor) -> Tensor:
        return torch.autograd.grad(back, dual, v, retain_graph=True, materialize_grads=True)[0]

    def adjoint(v: Tensor) -> Tensor:
        return torch.autograd.grad(value, point, v, retain_graph=True, materialize_grads=True)[0]

    return Linearised(value.detach(), forward, adjoint)


def check_operator(operator: Measurement, x: Tensor) -> None:
    """Checks an operator at points ``x`` ``(B, *)``, with B > 1, in the units that the operator takes.

    Raises:
        UserError: the operator fails, does not return real numbers for each row by itself, returns another result the
            next time, or is not twice differentiable.
    """
    name = f"guidance.measurement: {type(operator).__name__}"
    try:
        together, again, alone = operator(x), operator(x), operator(x[:1])
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        shape = tuple(x.shape)
        raise UserError(f"{name} fails for points of the shape {shape}: {reason}: correct its __call__") from None
    if not isinstance(together, Tensor) or not together.is_floating_point() or together.shape[:1] != x.shape[:1]:
        found = f"{together.dtype} {tuple(together.shape)}" if isinstance(together, Tensor) else type(together).__name__
        raise UserError(f"{name} must return real numbers for each of {len(x)} points, not {found}: correct __call__")
    if together.shape != again.shape or together.shape[1:] != alone.shape[1:]:
        shapes = " and ".join(str(tuple(each.shape[1:])) for each in (together, again, alone))
        raise UserError(f"{name} returns the shapes {shapes} for one point: return the same shape each time")
    if not torch.allclose(together, again, rtol=1e-3, equal_nan=True):
        raise UserError(f"{name} returns other numbers for the same points: leave the noise to guidance.noise")
    if not torch.allclose(together[:1], alone, rtol=1e-3, equal_nan=True):
        raise UserError(f"{name} mixes the points of a batch: treat each row of x by itself")
    try:
        differentiated(operator, x).forward(x)
    except RuntimeError as error:
        raise UserError(
            f"{name} is not twice differentiable: {str(error).splitlines()[0][:200]}: use torch operations, without "
            f"detach() and NumPy"
        ) from None
