"""Samples of a model: any number, in batches that do not change them."""

from __future__ import annotations

import torch

from sdegen.datasets import Units
from sdegen.errors import UserError
from sdegen.guidance import Guidance
from sdegen.rng import SampleNoise
from sdegen.samplers import Sampler, Samples
from sdegen.samplers.base import Counted
from sdegen.score import ScoreModel
from sdegen.sde.base import SDE, Score

SHOWN = 1000
"""Samples whose path is kept."""


def draw(
    sde: SDE,
    model: ScoreModel,
    sampler: Sampler,
    units: Units,
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    frames: int = 0,
    guidance: Guidance | None = None,
    first: int = 0,
) -> Samples:
    """``count`` samples of a seed, in the network's units.

    Sample i depends on (seed, i) alone, not on the batch it is computed in (but for SciPy's RK45).

    Args:
        sde: the forward process.
        model: the score.
        sampler: carries the prior to data.
        units: tell the shape of a sample.
        count: how many.
        seed: of the samples; unrelated to the seed of the training.
        batch_size: samples computed at once; bounds the memory.
        device: where to compute.
        dtype: of the computation.
        frames: states of the path to keep, for the first :data:`SHOWN` samples of the first batch.
        guidance: steers the score; None for the score itself.
        first: index of the first sample.

    Returns:
        The samples; their ``nfe`` counts evaluations of the model, of which a guided score may take several.
    """
    if count < 1 or batch_size < 1:
        raise ValueError(f"count={count} and batch_size={batch_size} must be at least 1")
    counted, was_training = Counted(model), model.training
    model.eval()
    batches: list[Samples] = []
    try:
        with torch.no_grad():
            for start in range(first, first + count, batch_size):
                stop = min(start + batch_size, first + count)
                noise = SampleNoise(seed, start, stop, units.shape, device)
                like = torch.empty(stop - start, *units.shape, device=device, dtype=dtype)
                prior = sde.sample_prior(like, noise)
                score: Score = counted
                if guidance is not None:
                    prior, score = guidance.start(sde, prior), guidance(sde, counted)
                batches.append(sampler(sde, score, prior, noise=noise, frames=frames if start == first else 0))
    finally:
        model.train(was_training)
    x = torch.cat([batch.x for batch in batches])
    broken = int((~x.flatten(1).isfinite().all(1)).sum())
    if broken:
        raise UserError(f"{broken} of {count} samples are not finite: try more sampler.steps, or another sampler")
    accepted = [batch.acceptance * len(batch.x) for batch in batches if batch.acceptance is not None]
    acceptance = sum(accepted) / count if accepted else None
    return Samples(x, counted.rows / count, batches[0].path[:, :SHOWN], batches[0].times, acceptance)
