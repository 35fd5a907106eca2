"""Others' samplers for ``contest.py``: those of four libraries, called as they are, and those of papers.

Each meets the same schedule in continuous form: azula by its functions alpha and sigma, k-diffusion by
``sigma / alpha`` after dividing x by alpha, diffusers by writing our ``sigma / alpha`` over the ones it looks up in
its table of a thousand. A time grid ends at eps, or, as these libraries' own do, goes from a last positive time on to
t = 0; the exact ends at the two times are 4e-6 to 1.3e-4 apart, by family. A library that is not installed is left out.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from arena import azula, diffusers, k_diffusion, papers, scipy
from arena.race import Contestant, Run

if TYPE_CHECKING:
    from torch import Tensor

    from sdegen.sde import LinearSDE
    from sdegen.sde.base import Score


def contestants(kind: str) -> list[Contestant]:
    """The samplers of every library that is installed; one line is printed for each that is not."""
    found: list[Contestant] = []
    for library in (scipy, azula, papers, diffusers, k_diffusion):
        try:
            found += library.contestants(kind)
        except ImportError as error:
            print(f"{library.__name__.removeprefix('arena.')} is left out: {error}", file=sys.stderr)
    return [contestant._replace(run=partial(tried, contestant.run)) for contestant in found]


def tried(run: Run, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """The samples, not numbers where a sampler fails, as some do with too few steps or at sigma = 0."""
    try:
        return run(sde, score, x, steps, seed)
    except Exception:
        return x * float("nan")
