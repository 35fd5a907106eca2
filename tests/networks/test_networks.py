"""Networks for images compute each row from its own image, time and class, at every size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdegen.core.randomness import generator, randn_like
from sdegen.networks import MLP, ClassifierConv, ClassifierMLP, Network, RegressorConv, ScoreNet, UNet
from sdegen.sde import VP


def unet(shape: tuple[int, ...] = (1, 8, 8), **options) -> UNet:  # noqa: ANN003
    torch.manual_seed(0)
    return UNet(shape, 10, **{"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), **options})


def awake(network: Network) -> Network:
    """Returns the network in float64 with random weights, even for weights that start at zero."""
    source = generator("cpu", 0, "weights")
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=source) / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else p)
    return network.double()


def images(n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(n, *shape, generator=generator("cpu", 0, "images"), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 16), (1, 28, 28), (3, 33, 33), (1, 64, 64)], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda shape: ScoreNet(shape, channels=(8, 16, 16, 16), embedding=16),
        lambda shape: unet(shape, attention=(7, 4)),
        lambda shape: ClassifierConv(shape, 10, VP(), channels=(8, 8, 16)),
        lambda shape: RegressorConv(shape, (3,), VP(), channels=(8, 8, 16)),
        lambda shape: unet((shape[0], shape[1] * shape[2])),
    ],
    ids=["scorenet", "unet", "classifier_conv", "regressor_conv", "unet of signals"],
)
def test_every_row_is_computed_by_itself(make, shape: tuple[int, ...]) -> None:  # noqa: ANN001
    """A row has the same output alone and among other rows, at every size, in grey and in colour."""
    network, x = awake(make(shape)), images(3, shape)
    if isinstance(network, UNet) and network.entry.weight.ndim == 3:
        x = x.flatten(2)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    together = network(x, t)
    assert together.shape == {"score": x.shape, "class": (3, 10), "condition": (3, 1, 10)}[network.predicts]
    for i in range(3):
        torch.testing.assert_close(network(x[i : i + 1], t[i]), together[i : i + 1], rtol=1e-9, atol=1e-9)
    assert not torch.isclose(together, network(x.flip(0), t)).all()


@pytest.mark.parametrize(
    "network",
    [
        ScoreNet((1, 8, 8), channels=(8, 16), embedding=16),
        unet(),
        ClassifierConv((1, 8, 8), 10, VP(), channels=(8, 16)),
    ],
    ids=["scorenet", "unet", "classifier_conv"],
)
def test_time_reaches_every_number(network: Network) -> None:
    network, x = awake(network), images(1, (1, 8, 8))
    t = torch.tensor(0.4, dtype=torch.float64)
    moved = (network(x, t + 0.05) - network(x, t)).abs().detach()
    assert float(moved.min()) > 1e-9
    assert float(moved.mean()) > 1e-4


def test_patches_are_pixels_as_channels() -> None:
    """A network with 2 × 2 patches equals a network with four channels on the unshuffled image."""
    fine, coarse = awake(unet((1, 16, 16), patch=2)), unet((4, 8, 8)).double()
    coarse.load_state_dict(fine.state_dict())
    x, t = images(2, (1, 16, 16)), torch.tensor(0.4, dtype=torch.float64)
    stacked = torch.stack([x[:, 0, i::2, j::2] for i in range(2) for j in range(2)], dim=1)
    torch.testing.assert_close(functional.pixel_unshuffle(fine(x, t), 2), coarse(stacked, t))


def test_pieces_of_signals_are_steps_as_channels() -> None:
    fine, coarse = awake(unet((2, 16), patch=2)), unet((4, 8)).double()
    coarse.load_state_dict(fine.state_dict())
    x, t = images(2, (2, 16)), torch.tensor(0.4, dtype=torch.float64)

    def stacked(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, ::2], x[:, 0, 1::2], x[:, 1, ::2], x[:, 1, 1::2]], dim=1)

    torch.testing.assert_close(stacked(fine(x, t)), coarse(stacked(x), t))


def test_signals_are_images_of_one_row() -> None:
    """In a row between rows of zeros, a 3 × 3 kernel acts by its middle row: the network of signals has these rows."""
    # The number of weights does not depend on the height, so the network of high images also takes images of one row.
    plane = awake(unet((3, 8, 32), multipliers=(1, 2, 2), attention=(4,), label_dropout=0.1))
    line = unet((3, 32), multipliers=(1, 2, 2), attention=(16,), label_dropout=0.1).double()
    weights = plane.state_dict()
    line.load_state_dict({name: w[:, :, w.shape[2] // 2] if w.ndim == 4 else w for name, w in weights.items()})
    x, t, y = images(4, (3, 32)), torch.tensor([0.1, 0.3, 0.5, 0.9]).double(), torch.tensor([-1, 3, 9, 0])
    torch.testing.assert_close(line(x, t, y), plane(x.unsqueeze(2), t, y).squeeze(2), rtol=1e-10, atol=1e-10)


def test_unet_of_signals_approaches_the_exact_answer() -> None:
    """For a Gaussian process the best estimate is linear in all steps; each step by itself gives far less."""
    length, sigma, source = 16, 1.0, generator("cpu", 0, "signals")
    at = torch.arange(length)
    covariance = 0.9 ** (at[:, None] - at).abs().double()
    root = torch.linalg.cholesky(covariance).float()
    best = float(
        (covariance - covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(length)) @ covariance)
        .diagonal()
        .mean()
    )
    alone = sigma**2 / (1 + sigma**2)
    assert best < 0.5 * alone
    network, t = unet((1, length)), torch.tensor(0.5)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)

    def loss(n: int) -> Tensor:
        clean = torch.randn(n, 1, length, generator=source) @ root.T
        noisy = clean + sigma * torch.randn(clean.shape, generator=source)
        return (network(noisy, t) - clean).square().mean()

    for _ in range(120):
        optimizer.zero_grad()
        loss(128).backward()
        optimizer.step()
    with torch.no_grad():
        found = float(loss(8000))
    assert 0.97 * best < found < 1.1 * best


def test_fresh_unet_answers_zero_and_blocks_are_shortcuts() -> None:
    x = images(2, (1, 8, 8)).float()
    assert torch.equal(unet()(x, torch.tensor(0.4)), torch.zeros_like(x))


@pytest.mark.parametrize(
    "network", [unet(), ScoreNet((1, 8, 8), channels=(16, 32, 32, 64), embedding=32)], ids=["unet", "net"]
)
def test_networks_denoise_better_than_any_linear_map(network: Network) -> None:
    """Each image is plus or minus one pattern. The network can find the sign, a linear map can only shrink images."""
    source = generator("cpu", 0, "pattern")
    pattern = torch.randn(1, 8, 8, generator=source)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    sigma, t = 2.0, torch.tensor(0.5)

    def batch() -> tuple[Tensor, Tensor]:
        clean = pattern * (2 * torch.randint(2, (64, 1, 1, 1), generator=source) - 1)
        return clean, clean + sigma * torch.randn(clean.shape, generator=source)

    for _ in range(120):
        clean, noisy = batch()
        optimizer.zero_grad()
        (network(noisy, t) - clean).square().mean().backward()
        optimizer.step()
    # The noise hides the sign of one image in two thousand. One wrong sign costs a batch the whole error of the linear
    # map, so there are many batches.
    clean, noisy = (torch.cat(part) for part in zip(*(batch() for _ in range(60)), strict=True))
    energy = float(pattern.square().sum())
    # The best linear map projects on the pattern. Its error is the same for Gaussian data with the same variance.
    linear = energy * sigma**2 / (energy + sigma**2) / 64
    with torch.no_grad():
        assert float((network(noisy, t) - clean).square().mean()) < 0.5 * linear


def test_classifiers_approach_the_posterior() -> None:
    """For two constant images with noise, the cross entropy is near the cross entropy of Bayes' rule."""
    sde = VP()
    for network, steps in (
        (ClassifierMLP((1, 8, 8), 2), 1200),
        (ClassifierConv((1, 8, 8), 2, sde, channels=(8, 16)), 150),
    ):
        source = generator("cpu", 0, "classifier")
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

        def batch(n: int, source: torch.Generator = source) -> tuple[Tensor, Tensor, Tensor]:
            y = torch.randint(2, (n,), generator=source)
            x0 = 0.3 * (2 * y - 1).float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
            t = 0.2 + 0.6 * torch.rand(n, generator=source)
            return sde.perturb(x0, t, randn_like(source)), t, y

        for _ in range(steps):
            x, t, y = batch(128)
            optimizer.zero_grad()
            functional.cross_entropy(network(x, t), y).backward()
            optimizer.step()
        x, t, y = batch(4000)
        odds = 2 * 0.3 * sde.alpha(t) * x.sum((1, 2, 3)) / sde.sigma(t) ** 2
        bayes = functional.cross_entropy(torch.stack([torch.zeros_like(odds), odds], 1), y)
        with torch.no_grad():
            loss = functional.cross_entropy(network(x, t), y)
        assert float(loss) < float(bayes) + 0.04


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: unet((2,)), r"are neither images \(C, H, W\) nor signals \(C, L\): use network=mlp"),
        (
            lambda: unet((2, 3), multipliers=(1, 1, 1)),
            "signals of 3 steps are too small: use fewer numbers in multipliers",
        ),
        (lambda: unet((2, 9), patch=2), "patch=2 does not divide signals of 9 steps: try patch=1"),
        (lambda: ScoreNet((2, 9)), r"are not images \(C, H, W\): use network=unet for signals, or network=mlp"),
        (lambda: ClassifierConv((2, 9), 10, VP()), "are not images .*: use network=classifier_mlp"),
        (lambda: unet((1, 4, 4), multipliers=(1, 1, 1, 1)), "use fewer numbers in multipliers"),
        (lambda: ScoreNet((1, 4, 4)), "use fewer numbers in channels"),
        (lambda: unet(channels=12), "channels=12 must be a multiple of 8"),
        (lambda: unet(patch=3), "patch=3 does not divide images of 8 × 8"),
        (lambda: UNet((1, 8, 8), None, label_dropout=0.1), "label_dropout=0.1 needs labels, and the data have none"),
        (lambda: ClassifierMLP((1, 8, 8), None), "the data set has no labels"),
        (lambda: ClassifierConv((1, 2, 2), 10, VP()), "use fewer numbers in channels"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_fix(make, words: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (MLP((2,), (128, 16), "relu", "concat"), (2,), 2 * (3 * 128 + 128 * 16 + 16 * 2)),
        # An image of 8 × 8 has 64, 16 and 4 pixels on the way down, 16 and 64 on the way up, and 64 in the last layer.
        (
            ScoreNet((1, 8, 8), (8, 16, 24), embedding=32),
            (1, 8, 8),
            2
            * (
                9 * (64 * 8 + 16 * 8 * 16 + 4 * 16 * 24 + 16 * 24 * 16 + 64 * 32 * 8 + 64 * 16)
                + 32 * (32 + 8 + 16 + 24 + 16 + 8)
            ),
        ),
    ],
    ids=["mlp", "scorenet"],
)
def test_work_is_counted_by_hand(network: Network, shape: tuple[int, ...], expected: int) -> None:
    """Each weight needs two operations at each position. Counting leaves the network unchanged."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert network.work(shape) == expected
    assert network.training
    assert not any(layer._forward_hooks for layer in network.modules())
    torch.testing.assert_close(dict(network.state_dict()), state, rtol=0, atol=0)
