"""Random numbers that depend only on a seed and a key, not on earlier draws.

A key is, for example, a purpose and a step. The numbers are therefore the same in a resumed and an uninterrupted run,
in batches of 7 and of 1000, and with and without previews. A checkpoint stores no state of a generator. Numbers are
drawn in float32 and then converted, so that a seed gives the same numbers in every precision.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

RandnLike = Callable[[Tensor], Tensor]
"""Function that returns independent standard normal numbers with the shape and type of its argument ``(B, *)``."""


def derive(seed: int, *key: str | int) -> int:
    """Returns a 63-bit seed made from a seed and a key. Different arguments give unrelated seeds."""
    digest = hashlib.blake2b(repr((int(seed), *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device | str, seed: int, *key: str | int) -> torch.Generator:
    """Returns a new generator on a device, seeded by ``(seed, *key)``."""
    return torch.Generator(device=device).manual_seed(derive(seed, *key))


def randn_like(source: torch.Generator) -> RandnLike:
    """Returns a function that draws standard normal numbers from a generator."""
    return lambda x: torch.randn(x.shape, generator=source, device=x.device, dtype=torch.float32).to(x.dtype)


def seed_layers(device: torch.device, seed: int, *key: str | int) -> None:
    """Seeds torch's default generators, from which layers such as dropout draw, by ``(seed, *key)``."""
    number = derive(seed, *key)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(number)


@contextlib.contextmanager
def own_layers(device: torch.device | str, seed: int, *key: str | int) -> Iterator[None]:
    """Returns a context in which ``(seed, *key)`` seeds random layers. Draws outside of the context are unaffected."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_layers(device, seed, *key)
        yield


class SampleNoise:
    """Noise of the samples ``start`` to ``stop - 1`` of a seed. A sample has the same noise in every batch.

    Draw ``j`` of sample ``i`` is row ``i % BLOCK`` of draw ``j`` of the block ``i // BLOCK``. A block is always drawn
    as a whole, because ``randn(8)`` is not the beginning of ``randn(16)``. :attr:`AHEAD` draws of a block come from one
    generator, so that a step takes only microseconds. Other values of the two constants change the result of a seed.
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
        first, shape = self.start // self.BLOCK, (self.AHEAD, self.BLOCK, *self.shape)
        sources = [
            generator(self.device, self.seed, "sample", block, ahead)
            for block in range(first, -(-self.stop // self.BLOCK))
        ]
        blocks = [torch.randn(shape, generator=source, device=self.device) for source in sources]
        offset = first * self.BLOCK
        return torch.cat(blocks, dim=1)[:, self.start - offset : self.stop - offset]
