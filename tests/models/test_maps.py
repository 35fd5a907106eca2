"""Flow maps of a model: the identity at equal times, the velocity of the flow near them, the flow of a Gaussian."""

from __future__ import annotations

import pytest
import torch
from conftest import SDES
from torch import Tensor

from sdegen.models import Gaussian, Karras, ScoreModel
from sdegen.models.moments import Moments, Regression
from sdegen.models.parametrizations import Compared
from sdegen.networks import MLP, Network
from sdegen.samplers import Dopri5, FlowMap
from sdegen.sde import VE, VP, LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals


class Silent(Network):
    """Network of two times whose output is 0."""

    times = 2

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert t.shape == (len(x), 2)
        return torch.zeros_like(x)


def gaussian(d: int = 3) -> GaussianMixture:
    source = torch.Generator().manual_seed(1)
    root = torch.randn(d, d, generator=source, dtype=torch.float64)
    mean = torch.randn(1, d, generator=source, dtype=torch.float64)
    return GaussianMixture(torch.ones(1), mean, (root @ root.mT / d)[None])


def of(law: GaussianMixture) -> Gaussian:
    variances, axes = torch.linalg.eigh(law.covariances[0])
    return Gaussian(Moments(law.means[0], axes, variances))


def regressed() -> Compared:
    """The parametrization given numbers of some rows, hidden in the others."""
    source = torch.Generator().manual_seed(2)
    c = torch.randn(500, 2, generator=source, dtype=torch.float64)
    x = c @ torch.tensor([[1.0, 0, 1], [0, -1, 1]]).double() + torch.randn(500, 3, generator=source).double()
    whole = of(gaussian())
    moments = Moments(whole.mean, whole.axes, whole.variances, Regression.of(x, c))
    given: Compared = Gaussian(moments).given(torch.stack([c[0], c[1], c[0] * torch.nan, c[2]]))  # type: ignore[assignment]
    return given


def model(parametrization: Compared, sde: LinearSDE) -> ScoreModel:
    """A network with random weights, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ScoreModel(MLP((3,), (16, 16), times=2), parametrization, sde).double()


CASES = [Karras(0.8), of(gaussian()), regressed()]


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("parametrization", CASES, ids=lambda p: type(p).__name__)
def test_a_map_begins_with_the_velocity_of_the_flow_of_its_score(parametrization: Compared, sde: LinearSDE) -> None:
    r"""At t = s, :math:`X_{s,t}(x) = x` and :math:`\partial_t X_{s,t}(x) = f(x, s) - g(s)^2 s_\theta(x, s) / 2`."""
    own = model(parametrization, sde)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    s = torch.lerp(*torch.tensor([sde.eps, sde.T], dtype=torch.float64), torch.tensor([0.03, 0.3, 0.6, 0.97]).double())
    t = s.clone().requires_grad_()
    moved = own.moved(x, s, t)
    rate = torch.stack([torch.autograd.grad(column.sum(), t, retain_graph=True)[0] for column in moved.unbind(1)], 1)
    torch.testing.assert_close(moved, x, rtol=1e-12, atol=1e-12)
    velocity = sde.drift(x, s) - 0.5 * sde.diffusion(s)[:, None] ** 2 * own(x, s)
    torch.testing.assert_close(rate, velocity, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_without_a_network_the_map_is_the_flow_of_the_gaussian(sde: LinearSDE) -> None:
    law = gaussian()
    x = sde.prior_std * torch.randn(20, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noise = torch.zeros_like
    exact = Dopri5(1e-10, 1e-10)(sde, Marginals(law, sde), x, noise=noise).x
    own = ScoreModel(Silent(), of(law), sde)
    for steps in (1, 3):
        found = FlowMap(steps)(sde, own, x, noise=noise, frames=2)
        torch.testing.assert_close(found.x, exact, rtol=1e-6, atol=1e-6)
        assert found.nfe == steps
        torch.testing.assert_close(found.path, torch.stack([x, found.x]))


def test_a_map_along_another_path_is_the_flow_of_that_path() -> None:
    law, trained = gaussian(), VP()
    other = VE(sigma_max=20.0).within(trained)
    own = ScoreModel(Silent(), of(law), trained).along(other)
    x = 20 * torch.randn(20, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = Dopri5(1e-10, 1e-10)(other, Marginals(law, other), x, noise=torch.zeros_like).x
    torch.testing.assert_close(FlowMap(1)(other, own, x, noise=torch.zeros_like).x, exact, rtol=1e-6, atol=1e-6)
    assert own.maps


def test_a_network_of_two_times_is_given_both_and_a_single_time_stands_for_both() -> None:
    own = model(Karras(0.8), VP())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = torch.full((4,), 0.2, dtype=torch.float64)
    both = own.network(x, torch.stack([t, t], 1))
    torch.testing.assert_close(own.network(x, t), both)
    torch.testing.assert_close(own.network(x, t[0]), both)
    assert not torch.equal(own.network(x, torch.stack([t, 0.5 * t], 1)), both)
