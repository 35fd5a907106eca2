"""Randomness as a function of (seed, purpose, place), never of what ran before.

A generator is made afresh from a key, so a resumed run and an uninterrupted one, a batch of 7 and a batch of 1000,
a run with previews and one without, see the same numbers, and a checkpoint holds no generator's state.
Numbers are drawn in float32 and converted, so that a seed gives the same sample in every precision.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

RandnLike = Callable[[Tensor], Tensor]
"""Independent standard normal draws, shaped and typed like the argument: ``(B, *) -> (B, *)``."""


def derive(seed: int, *key: str | int) -> int:
    """Returns a 63-bit seed for a purpose: equal keys give equal seeds, different keys unrelated ones."""
    digest = hashlib.blake2b(repr((int(seed), *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device | str, seed: int, *key: str | int) -> torch.Generator:
    """Returns a fresh generator on a device, determined by ``(seed, *key)``."""
    return torch.Generator(device=device).manual_seed(derive(seed, *key))


def randn_like(source: torch.Generator) -> RandnLike:
    """Returns a function that draws standard normal numbers from a generator, one tensor after the other."""
    return lambda x: torch.randn(x.shape, generator=source, device=x.device, dtype=torch.float32).to(x.dtype)


def seed_layers(device: torch.device, seed: int, *key: str | int) -> None:
    """Seeds the generators from which a network's own layers draw, such as dropout, by ``(seed, *key)``."""
    number = derive(seed, *key)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(number)


@contextlib.contextmanager
def own_layers(device: torch.device | str, seed: int, *key: str | int) -> Iterator[None]:
    """Fixes by ``(seed, *key)`` what layers draw inside; the numbers drawn outside stay the same."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_layers(device, seed, *key)
        yield


class SampleNoise:
    """The noise of the samples ``start`` to ``stop`` of a seed, the same in every batch.

    Draw ``j`` of sample ``i`` is row ``i % 64`` of draw ``j`` of the block ``i // 64``. A block is always drawn
    whole, because ``randn(8)`` is not the head of ``randn(16)``. :attr:`AHEAD` draws of a block come from one
    generator, so that a step costs microseconds. Both constants are part of the meaning of a seed.

    The ``shape`` is that of one sample.
    """

    BLOCK = 64
    AHEAD = 16

    def __init__(
        self, seed: int, start: int, stop: int, shape: tuple[int, ...], device: torch.device | str = "cpu"
    ) -> None:
        self.seed, self.start, self.stop, self.shape, self.device = seed, start, stop, shape, device
        self.draws = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the next draw, ``(stop - start, *shape)``, with the type of ``x``."""
        ahead, row = divmod(self.draws, self.AHEAD)
        if row == 0:
            self._rows = self._draw(ahead)
        self.draws += 1
        return self._rows[row].to(x.dtype)

    def _draw(self, ahead: int) -> Tensor:
        first = self.start // self.BLOCK
        blocks = [
            torch.randn(
                (self.AHEAD, self.BLOCK, *self.shape),
                generator=generator(self.device, self.seed, "sample", block, ahead),
                device=self.device,
            )
            for block in range(first, -(-self.stop // self.BLOCK))
        ]
        offset = first * self.BLOCK
        return torch.cat(blocks, dim=1)[:, self.start - offset : self.stop - offset]
