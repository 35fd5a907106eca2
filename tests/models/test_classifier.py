"""Classifiers of noisy data, and the labels with which a network is trained."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdegen.config import assembly
from sdegen.config.components import Components
from sdegen.config.compose import composed
from sdegen.config.options import Faults
from sdegen.core.randomness import generator, randn_like
from sdegen.models.classifier import ClassifierModel, log_likelihood_by_time
from sdegen.networks import Network
from sdegen.sde import VP
from sdegen.training.batches import Points, Stream
from sdegen.training.objective import Classification

MEANS = torch.tensor([-1.5, 1.5], dtype=torch.float64)
STD = 0.5


class Posterior(Network):
    """Network with the exact log-odds of two equal Gaussians on the line under VP noise, times a factor."""

    predicts = "class"

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = VP().alpha(t), VP().sigma(t)
        variance = (alpha * STD) ** 2 + sigma**2
        odds = 2 * alpha * MEANS[1] * x[:, 0] / variance
        return self.factor * torch.stack([torch.zeros_like(odds), odds], dim=1)


def labelled(n: int) -> tuple[Tensor, Tensor]:
    source = generator("cpu", 0, "test")
    y = torch.randint(2, (n,), generator=source)
    return (MEANS[y] + STD * torch.randn(n, generator=source, dtype=torch.float64)).unsqueeze(1), y


def test_probability_of_a_class_is_its_own() -> None:
    """All rows have the same class, or each row has its own. The oracle is Bayes' rule with densities."""
    x, y = labelled(50)
    t = torch.tensor(0.3, dtype=torch.float64)
    alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
    density = torch.distributions.Normal(alpha * MEANS, math.hypot(alpha * STD, sigma)).log_prob(x).exp()
    posterior = density / density.sum(1, keepdim=True)
    model = ClassifierModel(Posterior(), VP())
    torch.testing.assert_close(model.given(y)(x, t).exp(), posterior[torch.arange(50), y])
    torch.testing.assert_close(model.given(torch.tensor(1))(x, t).exp(), posterior[:, 1])


def test_cross_entropy_is_least_for_the_posterior() -> None:
    """The smallest loss is the entropy of the class given the noisy point. Larger and smaller logits are worse."""
    x, y = labelled(20_000)
    t = torch.full((len(x),), 0.35, dtype=torch.float64)
    objective = Classification()
    rows = objective.prepare(VP(), x, t, randn_like(torch.Generator().manual_seed(1)))
    losses = [
        float(objective.loss(ClassifierModel(Posterior(factor), VP()).given(y), rows).mean())
        for factor in (0.5, 1.0, 2.0)
    ]
    assert losses[1] < min(losses[0], losses[2]) - 0.01
    p = ClassifierModel(Posterior(), VP())(rows.x, t).exp()
    entropy = -(p * p.log()).nan_to_num().sum(1)
    assert losses[1] == pytest.approx(float(entropy.mean()), abs=0.01)


def test_accuracy_over_time_is_that_of_bayes() -> None:
    """The best rule is the sign of x.

    Its accuracy is Φ(m / s), with the mean m and the standard deviation s of a class.
    """
    x, y = labelled(20_000)
    times = torch.tensor([1e-5, 0.2, 0.5, 1.0], dtype=torch.float64)
    log_p, hits = log_likelihood_by_time(ClassifierModel(Posterior(), VP()), x, y, times)
    for t, share in zip(times, hits, strict=True):
        alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
        distance = alpha * float(MEANS[1]) / math.hypot(alpha * STD, sigma)
        assert float(share) == pytest.approx(0.5 * (1 + math.erf(distance / math.sqrt(2))), abs=0.015)
    assert bool((log_p.diff() < 0).all())
    assert float(log_p[-1]) == pytest.approx(-math.log(2), abs=0.01)


def stream(*overrides: str) -> tuple[Stream, Components]:
    parts = assembly.build(composed("train", ["experiment=digits_conditional", "network.channels=8", *overrides]))
    points = Points(3, parts.dataset, 100, parts.model.network.condition, dtype=torch.float64)
    return Stream([points], parts.training().gradient.prepare, parts.weighting, parts.times, parts.sde), parts


def test_labels_follow_their_images_and_a_share_is_not_told() -> None:
    """After its noise is removed, each row is an image with the right label. Three tenths of the labels are dropped."""
    told, parts = stream("network.label_dropout=0.0")
    half, _ = stream("network.label_dropout=0.3")
    images = parts.dataset.units.encode(parts.dataset.x).flatten(1)
    seen, dropped = 0, []
    for chunks, others in zip(told.steps(0, 30), half.steps(0, 30), strict=True):
        batch, other = chunks[0].of(0), others[0].of(0)
        torch.testing.assert_close(batch.rows.x, other.rows.x, rtol=0, atol=0)
        clean = (batch.rows.x - batch.rows.sigma.view(-1, 1, 1, 1) * batch.rows.noise) / VP().alpha(batch.rows.t).view(
            -1, 1, 1, 1
        )
        distance = (clean.flatten(1)[:, None] - images[None]).abs().amax(2)
        near, which = distance.min(1)
        early = batch.rows.t < 0.5
        assert float(near[early].max()) <= 1 / 16 + 1e-9
        assert parts.dataset.y is not None
        assert torch.equal(parts.dataset.y[which[early]], batch.y[early])
        seen += int(early.sum())
        kept = other.y != -1
        assert torch.equal(other.y[kept], batch.y[kept])
        dropped.append(~kept)
    assert seen > 1000
    assert float(torch.cat(dropped).double().mean()) == pytest.approx(0.3, abs=0.03)


def test_dequantised_data_fill_their_cells() -> None:
    """Values are uniform in the cell of each level and new at each step. Noise and times do not change."""
    spread, parts = stream()
    plain, _ = stream("dataset.dequantize=false")
    offsets = []
    for chunks, others in zip(spread.steps(0, 15), plain.steps(0, 15), strict=True):
        a, b = chunks[0].of(0), others[0].of(0)
        assert torch.equal(a.rows.noise, b.rows.noise)
        assert torch.equal(a.rows.t, b.rows.t)
        alpha = VP().alpha(a.rows.t).view(-1, 1, 1, 1)
        offsets.append(((a.rows.x - b.rows.x) / alpha)[a.rows.t < 0.5].flatten() * 8)
    u = torch.cat(offsets).sort().values + 0.5
    assert float((u - torch.linspace(0, 1, len(u), dtype=torch.float64)).abs().max()) < 2 / math.sqrt(len(u))
    assert len(offsets[0].unique()) > 0.99 * len(offsets[0])


def test_a_classifier_and_a_score_are_not_mixed_up() -> None:
    for overrides, fix in (
        (["dataset=digits", "objective=classification", "weighting=uniform"], "use network=classifier_mlp"),
        (["dataset=digits", "network=classifier_mlp"], "use objective=classification"),
    ):
        with pytest.raises(Faults, match=fix):
            assembly.build(composed("train", overrides))
    with pytest.raises(Faults, match="has no labels"):
        assembly.build(composed("train", ["objective=classification", "network=classifier_mlp", "weighting=uniform"]))
