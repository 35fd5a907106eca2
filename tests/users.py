"""Networks that users might write, with all the state that a module can have, and a simulator."""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor, nn

from sdegen.datasets import Simulator
from sdegen.models.moments import Moments
from sdegen.models.parametrizations import Karras, Raw, Terms
from sdegen.networks import Network
from sdegen.sde import SDE, LinearSDE


class Regular(Network):
    """A perceptron with dropout, batch normalisation, weight norm, tied weights and counters.

    Args:
        shape: shape of one point.
        width: width of the layers.
        dropout: share of the hidden units that are dropped.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 16, dropout: float = 0.3) -> None:
        super().__init__()
        size = shape[0]
        self.enter = nn.Linear(size + 1, width)
        self.norm = nn.BatchNorm1d(width)
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(width, width))
        self.again = nn.Linear(width, width)
        self.again.weight = self.enter_twin = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.leave = nn.Linear(width, size)
        self.frozen = nn.Parameter(torch.ones(width), requires_grad=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(width, dtype=torch.bool))
        self.register_buffer("mask", torch.full((2,), -torch.inf))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = t.to(x).expand(len(x)).unsqueeze(1)
        h = self.dropout(self.norm(self.enter(torch.cat([x, time], 1))).relu())
        h = self.again(self.inner(h).tanh()).relu() * self.frozen
        if self.training:
            self.passes += 1
            self.seen |= (h > 0).any(0)
        return self.leave(h @ self.enter_twin)


class Plain(Network):
    """Perceptron that has no state except its weights."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(shape[0], width), nn.SiLU(), nn.Linear(width, shape[0]))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x)


class RandomFeatures(Plain):
    """Network with random features that are neither a buffer nor a parameter, and with a lazy layer."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        self.frequencies = torch.randn(shape[0])
        self.register_buffer("phase", torch.randn(shape[0]), persistent=False)
        self.lazy = nn.LazyLinear(shape[0])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.lazy(super().forward((x * self.frequencies.to(x) + self.phase).sin(), t))


class OldNorm(Plain):
    """Perceptron with weight norm by hooks, as it was before torch's parametrizations."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        nn.utils.weight_norm(self.layers[0])


class Extra(Plain):
    """Perceptron with state that is no tensor, saved by torch's ``get_extra_state``."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        self.passes = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"passes": self.passes}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.passes = state["passes"]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.passes += self.training
        return super().forward(x, t) / (1 + self.passes)


class Unsaved(Extra):
    """Perceptron with a state that a checkpoint refuses."""

    def get_extra_state(self) -> dict[str, object]:  # type: ignore[override]
        return {"passes": self.passes, "code": np.random.default_rng}


class Forgetful(Plain):
    """Perceptron with a counter that changes the output and is not in ``state_dict``."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        self.passes = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.passes += self.training
        return super().forward(x, t) / (1 + self.passes)


class Foreign(Plain):
    """Perceptron with noise from a generator that does not belong to torch."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        noise = torch.from_numpy(np.random.standard_normal(x.shape)).to(x)
        return super().forward(x + noise, t)


class Minimum(Plain):
    """Perceptron with a minimum that begins at infinity, a counter with two names, and frozen integers."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        self.levels = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
        self.register_buffer("lowest", torch.full((), torch.inf))
        self.register_buffer("passes", torch.zeros(()))
        self.inner = nn.Module()
        self.inner.register_buffer("passes", self.passes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.training:
            self.lowest = torch.minimum(self.lowest, x.detach().min())
            self.passes += 1
        return super().forward(x, t) + 0 * self.lowest


class Moving(Plain):
    """Perceptron that normalises its weights before each pass, counts in a frozen parameter, and replaces a buffer."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        self.count = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.layers[0].weight.div_(self.layers[0].weight.norm(dim=1, keepdim=True))
                self.count.add_(x.abs().mean())
                self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return super().forward(x - self.mean, t) / (1 + self.count)


class Growing(Plain):
    """Perceptron with a buffer that grows while the network runs."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        self.register_buffer("bank", torch.zeros(0, *shape))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.training:
            self.bank = torch.cat([self.bank, x.detach()[:1]])[-8:]
        return super().forward(x, t)


class Late(Plain):
    """Perceptron with a layer that is made in the first pass."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.training:
            self.late = nn.Linear(x.shape[1], x.shape[1])
        return self.late(super().forward(x, t)) if self.training else super().forward(x, t)


class Replacing(Plain):
    """Perceptron that normalises a weight by putting another tensor in its place."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.training:
            weight = self.layers[0].weight
            weight.data = weight.data / weight.data.norm(dim=1, keepdim=True)
        return super().forward(x, t)


class Waves(Plain):
    """Perceptron with a complex buffer."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        self.register_buffer("wave", torch.polar(torch.ones(shape), torch.ones(shape)))


class Locked(Plain):
    """Perceptron that cannot be copied, because it has a lock."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        self.lock = threading.Lock()


class Keeping(Plain):
    """Perceptron that keeps its last output in a list, with the graph."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.last = [super().forward(x, t)]
        return self.last[0]


class Counting(Plain):
    """Perceptron with an integer that changes the output, in a buffer that is not saved."""

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__(shape, width)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.passes += self.training
        return super().forward(x, t) / (1 + self.passes)


class Centred(Raw):
    """Parametrization that takes the moments of the data and keeps their axes."""

    def __init__(self, moments: Moments | None) -> None:
        assert moments is not None and moments.axes is not None
        self.rotation = moments.axes

    def terms(self, sde: SDE, x: Tensor, t: Tensor) -> Terms:
        terms = super().terms(sde, x, t)
        return terms._replace(x=x @ self.rotation.to(x))


class Learned(Karras, nn.Module):
    """Parametrization with a parameter of its own, outside of the network."""

    def __init__(self, sigma_data: float = 1.0) -> None:
        nn.Module.__init__(self)
        super().__init__(sigma_data)
        self.scale = nn.Parameter(torch.ones(()))

    def terms(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Terms:
        terms = super().terms(sde, x, t)
        return terms._replace(gain=self.scale * terms.gain)


class TwoModes(Simulator):
    """Numbers from two narrow Gaussians on the line, observed with Gaussian noise."""

    def __init__(self, seed: int, size: int | None = 10_000) -> None:
        super().__init__(seed, size)

    def pairs(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        mean = torch.randint(2, (n, 1), generator=source) * 3 - 1.5
        theta = mean + 0.3 * torch.randn(n, 1, generator=source, dtype=torch.float64)
        return theta, theta + 0.3 * torch.randn(n, 1, generator=source, dtype=torch.float64)
