"""Score model: a network and a parametrization of its output.

Samplers, likelihoods and figures accept any score: a trained :class:`ScoreModel`, the exact score of a mixture, or any
other function ``(x, t) -> (B, *)``.
"""

from __future__ import annotations

from torch import Tensor, nn

from sdegen.core.schema import FromRun
from sdegen.models.parametrizations import Mapped, Moved, Parametrization
from sdegen.networks.base import Network
from sdegen.sde.base import SDE, LinearSDE, Score
from sdegen.sde.scores import RowScore


class ScoreModel(nn.Module, FromRun):
    """A network with a parametrization that turns the output into a score ``(x, t) -> (B, *)``.

    Args:
        network: trainable function.
        parametrization: function that turns the network's output into the score.
        sde: forward process. The score is the score of the marginals of this process.
    """

    def __init__(self, network: Network, parametrization: Parametrization, sde: SDE) -> None:
        super().__init__()
        self.network, self.parametrization, self.sde = network, parametrization, sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.parametrization(self.network, self.sde, x, t)

    def moved(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        r"""Returns the flow map :math:`X_{s,t}(x)`, which carries points ``x`` ``(B, *)`` along the flow from s to t.

        The times are ``()`` or ``(B,)``. The network must take two times, and the parametrization must have a map: see
        :class:`sdegen.models.parametrizations.Compared`.
        """
        assert isinstance(self.parametrization, Mapped) and self.sde.linear is not None
        return self.parametrization.moved(self.network, self.sde.linear, x, s, t)

    @property
    def maps(self) -> bool:
        """True if the model has a flow map: see :meth:`moved`."""
        return self.network.times == 2 and self.parametrization.maps

    def along(self, sde: LinearSDE) -> ScoreModel:
        """Returns the score along another path, by a change of variables. The process of the training must be linear.

        Args:
            sde: other process, with noise-to-signal ratios that the process of the training has as well.
        """
        assert self.sde.linear is not None
        return ScoreModel(self.network, Moved(self.parametrization, self.sde.linear), sde)

    def parametrization_given(self, y: Tensor | None) -> Parametrization:
        """Returns the parametrization of the score given a condition: see :meth:`given`."""
        condition = self.network.condition
        numbers = None if y is None or condition is None else condition.numbers(y)
        return self.parametrization if numbers is None else self.parametrization.given(numbers)

    def given(self, y: Tensor | None) -> Score:
        r"""Returns the score :math:`\nabla_x \log p_t(x \mid y)` given a condition, such as the class.

        ``y`` is one condition for all rows or a condition for each row, as in :mod:`sdegen.networks.condition`; None
        means no condition. A network that takes no condition returns the score without one.
        """
        if self.network.condition is None:
            return self
        return Given(self, y)


class Given(RowScore):
    """The score of a model given one condition, or a condition for each row of a batch."""

    def __init__(self, model: ScoreModel, y: Tensor | None) -> None:
        self.model, self.y, self.network = model, y, model.network.given(y)
        self.parametrization = model.parametrization_given(y)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.parametrization(self.network, self.model.sde, x, t)

    def moved(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Returns the flow map given the condition: see :meth:`ScoreModel.moved`."""
        assert isinstance(self.parametrization, Mapped) and self.model.sde.linear is not None
        return self.parametrization.moved(self.network, self.model.sde.linear, x, s, t)

    def of(self, row: Tensor) -> Given:
        condition = self.model.network.condition
        if self.y is None or condition is None or self.y.ndim == condition.ndim:
            return self
        return Given(self.model, self.y[row.to(self.y.device)])
