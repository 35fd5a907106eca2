"""A class reaches every network in one way, and the exact score of a labelled mixture is that of its components."""

from __future__ import annotations

import pytest
import torch
from conftest import plane
from test_networks import awake
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sdegen.core.randomness import generator
from sdegen.guidance import ClassifierFree
from sdegen.models import Raw, ScoreModel
from sdegen.networks import MLP, Network, Oracle, ScoreNet, UNet
from sdegen.sde import VP, LinearSDE
from sdegen.sde.mixture import GaussianMixture

NETWORKS = {
    "mlp": lambda dropout, classes: MLP((1, 8, 8), (16, 16), label_dropout=dropout, classes=classes),
    "concat": lambda dropout, classes: MLP((1, 8, 8), (16,), "tanh", "concat", label_dropout=dropout, classes=classes),
    "scorenet": lambda dropout, classes: ScoreNet((1, 8, 8), (8, 16), 16, label_dropout=dropout, classes=classes),
    "unet": lambda dropout, classes: UNet((1, 8, 8), classes, 8, (1, 2), 1, (4,), label_dropout=dropout),
}
EACH = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def normal(n: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, generator=generator("cpu", 0, "points"), dtype=torch.float64)


@EACH
def test_class_of_a_row_changes_that_row_alone(make) -> None:  # noqa: ANN001
    """None and -1 both stand for no class, which the network treats as one more class."""
    network, x, t = awake(make(0.1, 10)), normal(4, 1, 8, 8), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    none = network(x, t)
    assert torch.equal(none, network(x, t, torch.tensor(-1)))
    y = torch.tensor([-1, 3, -1, 7])
    told = network(x, t, y)
    torch.testing.assert_close(told[[0, 2]], none[[0, 2]], rtol=1e-12, atol=1e-12)
    assert not torch.isclose(told[[1, 3]], none[[1, 3]]).any()
    torch.testing.assert_close(network(x, t, torch.tensor(3))[1], told[1])
    every = torch.stack([network(x[:1], t[0], torch.tensor(k)) for k in range(-1, 10)])
    assert bool((torch.pdist(every.flatten(1)) > 1e-3).all())


@EACH
def test_without_the_option_a_network_ignores_the_class_and_draws_the_same_weights(make) -> None:  # noqa: ANN001
    built = []
    for classes in (None, 10):
        torch.manual_seed(0)
        built.append(make(None, classes))
    assert built[1].condition is None
    torch.testing.assert_close(built[0].state_dict(), built[1].state_dict(), rtol=0, atol=0)


@EACH
def test_data_without_classes_are_refused_with_the_fix(make) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match="^label_dropout=0.1 needs labels, .*: set network.label_dropout=null$"):
        make(0.1, None)
    with pytest.raises(ValueError, match="^label_dropout=1 must be at least 0 and below 1, or null"):
        make(1.0, 10)


def exact(x: Tensor, t: Tensor, sde: LinearSDE, components: list[int]) -> Tensor:
    """Returns the score of some components, by autograd through torch's own density of a Gaussian."""
    law, point = plane(), x.clone().requires_grad_()
    alpha, sigma = (part.expand(len(x))[:, None] for part in (sde.alpha(t), sde.sigma(t)))
    joint = torch.stack(
        [
            law.weights[k].log()
            + torch.distributions.MultivariateNormal(
                alpha * law.means[k],
                alpha[:, :, None] ** 2 * law.covariances[k] + sigma[:, :, None] ** 2 * torch.eye(2, dtype=x.dtype),
            ).log_prob(point)
            for k in components
        ]
    )
    return torch.autograd.grad(joint.logsumexp(0).sum(), point)[0]


def oracle(sde: LinearSDE) -> ScoreModel:
    """Returns the exact score of three components, of which the first and the last are class 1."""
    law = plane()
    labelled = GaussianMixture(law.weights, law.means, law.covariances, torch.tensor([1, 0, 1]))
    return ScoreModel(Oracle(labelled, sde), Raw(), sde)


def test_the_oracle_has_the_exact_score_of_each_class(sde: LinearSDE) -> None:
    x, t, score = normal(30, 2), torch.linspace(0.01, 1, 30, dtype=torch.float64), oracle(sde)
    whole, zero, one = (exact(x, t, sde, components) for components in ([0, 1, 2], [1], [0, 2]))
    y = torch.arange(30) % 3 - 1
    expected = torch.where((y == -1)[:, None], whole, torch.where((y == 0)[:, None], zero, one))
    torch.testing.assert_close(score.given(y)(x, t), expected)
    torch.testing.assert_close(score.given(torch.tensor(1))(x, t), one)
    torch.testing.assert_close(score.given(None)(x, t), whole)
    torch.testing.assert_close(score(x, t), whole)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_guidance_without_a_classifier_lies_on_the_line_through_both_scores(sde: LinearSDE, scale: float) -> None:
    x, t = normal(30, 2), torch.tensor(0.3, dtype=torch.float64)
    whole, own = exact(x, t, sde, [0, 1, 2]), exact(x, t, sde, [0, 2])
    guided = ClassifierFree(1, scale)(sde, oracle(sde))(x, t)
    torch.testing.assert_close(guided, whole + scale * (own - whole))


class Plain(Network):
    """A network that takes no class."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return -x


def test_a_network_that_takes_no_class_has_one_score(sde: LinearSDE) -> None:
    model, x, t = ScoreModel(Plain(), Raw(), sde), normal(5, 2), torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(model.given(torch.tensor(1))(x, t), model(x, t), rtol=0, atol=0)


@torch.no_grad()
def test_one_condition_of_all_rows_is_embedded_once() -> None:
    """By torch's counter of operations: an evaluation costs no more than that of a network without conditions."""
    plain, network = MLP((2,)).double(), MLP((2,), condition_shape=(100,)).double()
    x, t, y = normal(50, 2), torch.linspace(0.01, 1, 50, dtype=torch.float64), normal(1, 100)[0]
    counts = []
    score = ScoreModel(network, Raw(), VP()).given(y)
    for function in (plain, score):
        with FlopCounterMode(display=False) as counter:
            found = function(x, t)
        counts.append(counter.get_total_flops())
    assert counts[1] <= counts[0]
    torch.testing.assert_close(found, network(x, t, y.expand(50, 100)), rtol=1e-12, atol=1e-12)


def test_a_condition_of_all_rows_follows_weights_that_are_trained() -> None:
    network, x, y = MLP((2,), condition_shape=(100,)), normal(5, 2).float(), normal(1, 100)[0].float()
    given, t = network.given(y), torch.tensor(0.3)
    given(x, t).square().sum().backward()
    gradient = network.layers[0].weight.grad.clone()
    network.zero_grad()
    network(x, t, y.expand(5, 100)).square().sum().backward()
    torch.testing.assert_close(network.layers[0].weight.grad, gradient)
    torch.nn.init.normal_(network.layers[0].weight)
    torch.testing.assert_close(given(x, t), network(x, t, y.expand(5, 100)))
