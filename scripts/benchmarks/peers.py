"""Samplers from four libraries and from papers, for ``contest.py``.

All samplers use the same continuous schedule. azula gets alpha and sigma as functions. k-diffusion gets
``sigma / alpha`` and x / alpha. In diffusers, ``sigma / alpha`` replaces the values of the table. A time grid ends at
eps or, like the grids of the libraries, at t = 0 after a last positive time. The exact end points at eps and at 0 are
4e-6 to 1.3e-4 apart, depending on the family. A library that is not installed is left out.

GITS and AYS fit their grids to each target, from draws of the prior that no contest measures.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arena.race import Contestant, Run
    from torch import Tensor

    from sdegen.sde import LinearSDE
    from sdegen.sde.base import Score


def contestants(kind: str) -> list[Contestant]:
    """Returns the samplers of every installed library, and prints a line for each library that is not installed."""
    from arena import ays, azula, diffusers, gits, k_diffusion, papers, scipy, stork

    found: list[Contestant] = []
    for library in (scipy, azula, papers, stork, gits, ays, diffusers, k_diffusion):
        try:
            found += library.contestants(kind)
        except ImportError as error:
            print(
                f"{library.__name__.removeprefix('arena.')} is left out: {error}: install it to compare its samplers",
                file=sys.stderr,
            )
    return [contestant._replace(run=partial(tried, contestant.run)) for contestant in found]


def tried(run: Run, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """Returns samples; NaN if a sampler fails, as some do with too few steps or at sigma = 0."""
    try:
        return run(sde, score, x, steps, seed)
    except Exception:
        return x * float("nan")
