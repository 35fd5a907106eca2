"""Sampling from a model, in batches of any size."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdegen.core import processes
from sdegen.core.errors import UserError
from sdegen.core.progress import Evaluations
from sdegen.core.randomness import SampleNoise, own_layers
from sdegen.datasets import Units
from sdegen.guidance.classes import Guidance
from sdegen.models.score import ScoreModel
from sdegen.samplers import Sampler, Samples
from sdegen.sde.base import SDE, Score
from sdegen.sde.scores import Counted, RowScore, of_rows

log = logging.getLogger("sdegen")

SHOWN = 1000
"""Largest number of samples whose path is kept."""


class Watched(RowScore):
    """Score that adds a message to ``found`` if the input or the output has a number that is not finite."""

    def __init__(self, score: Score, found: list[str]) -> None:
        self.score, self.found = score, found

    def given(self, y: Tensor) -> Watched:
        """Returns the score given the conditions ``y``, which also adds messages to ``found``."""
        return Watched(self.score.given(y), self.found)  # type: ignore[attr-defined]

    def of(self, row: Tensor) -> Watched:
        return Watched(of_rows(self.score, row), self.found)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self._seen(x, self.score(x, t), t)

    def moved(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Returns the flow map of the score, and adds messages to ``found``."""
        return self._seen(x, self.score.moved(x, s, t), s)  # type: ignore[attr-defined]

    def _seen(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        at = f"at t={float(t.max()):.3g}"
        if not bool(x.isfinite().all()):
            self.found.append(f"the steps diverge, the first {at}: try more sampler.steps, or another sampler")
        elif not bool(y.isfinite().all()):
            size = f"{float(x.abs().max()):.3g}"
            self.found.append(f"the score is not finite, {at} for points up to size {size}: try more sampler.steps")
        return y


class Plan(NamedTuple):
    """Arguments of :func:`draw` that all batches of a sampling share."""

    sde: SDE
    model: ScoreModel
    sampler: Sampler
    shape: tuple[int, ...]
    seed: int
    device: torch.device | str
    dtype: torch.dtype
    frames: int
    guidance: Guidance | None
    first: int
    told: Tensor | None

    def batch(self, span: range, score: Any) -> Samples:  # noqa: ANN401 - a score with ``given``
        """Returns the samples with the indices of a span."""
        noise = SampleNoise(self.seed, span.start, span.stop, self.shape, self.device)
        like = torch.empty(len(span), *self.shape, device=self.device, dtype=self.dtype)
        prior, steered = self.sde.sample_prior(like, noise), score if self.told is None else score.given(self.told)
        if self.guidance is not None:
            prior, steered = self.guidance.start(self.sde, prior), self.guidance(self.sde, steered)
        steered = of_rows(steered, torch.arange(span.start - self.first, span.stop - self.first))
        frames = self.frames if span.start == self.first else 0
        with evaluated(self.model), torch.no_grad(), own_layers(self.device, self.seed, "layers", span.start):
            return self.sampler(self.sde, steered, prior, noise=noise, frames=frames)

    def counted(self, span: range) -> tuple[Samples, int]:
        """Returns the samples of a span, and the number of rows that the model evaluated."""
        counted = Counted(self.model)
        return self.batch(span, counted), counted.rows


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
    progress: str | None = None,
    told: Tensor | None = None,
) -> Samples:
    """Returns ``count`` samples of a seed, from number ``first`` on, in the network's units.

    Sample i depends only on (seed, i) and not on the batch. The exceptions are samplers that couple the samples of a
    batch, such as ``rk45`` and ``twisted``: see :func:`cut`. The processes of the command share the batches. The path
    has ``frames`` states, and only the first :data:`SHOWN` samples of the first batch. ``nfe`` is the number of
    evaluations of the model for each sample; a guided score may need several evaluations. ``told`` is a condition for
    all samples, or one for each sample, ``(count, *)``, in the values of :mod:`sdegen.networks.condition`; None for the
    score without a condition. ``progress`` is the name under which the progress is shown; None shows none.

    Raises:
        UserError: a sample is not finite, or the interval of the guidance contains no time of the sampler.
    """
    plan = Plan(sde, model, sampler, units.shape, seed, device, dtype, frames, guidance, first, told)
    spans = cut(first, count, batch_size, even=sampler.couples)
    own = sum(map(len, processes.present().own(spans)))
    # The number of evaluations of a guided score is not known before the first batch.
    report = Evaluations(progress or "", own, sampler.evaluations if guidance is None else None)
    counted = Counted(model, None if progress is None else report.to)
    if guidance is not None and guidance.scale is not None and guidance.scale.interval is not None:
        guidance.scale.check(sde, sampler.evaluated(sde))
    if guidance is not None and (fewest := min(map(len, spans))) < sampler.smallest_batch:
        log.warning(
            f"batches of {fewest} particles are small: the weights of modes are off by about {fewest**-0.5:.2g}: raise "
            f"count and batch_size together, to {sampler.smallest_batch} or more"
        )

    def here(span: range) -> tuple[Samples, int]:
        before = counted.rows
        samples = plan.batch(span, counted)
        report.finish(len(span), counted.rows)
        return samples, counted.rows - before

    with contextlib.closing(report):
        batches, rows = zip(*processes.present().each(Plan.counted, plan, spans, here), strict=True)
    x = torch.cat([each.x for each in batches])
    broken = torch.nonzero(~x.flatten(1).isfinite().all(1)).flatten().tolist()
    if broken:
        # Sample again to find the reason. To check every step of every sampling would be slow.
        found: list[str] = []
        plan.batch(next(span for span in spans if first + broken[0] in span), Counted(Watched(model, found)))
        reason = found[0] if found else "the last step diverges: try more sampler.steps, or another sampler"
        raise UserError(f"{len(broken)} of {count} samples are not finite: {reason}")
    accepted = [each.acceptance * len(each.x) for each in batches if each.acceptance is not None]
    acceptance = sum(accepted) / count if accepted else None
    return Samples(x, sum(rows) / count, batches[0].path[:, :SHOWN], batches[0].times, acceptance)


@contextlib.contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Returns a context in which a model is not in training mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def cut(first: int, count: int, batch_size: int, *, even: bool) -> list[range]:
    """Returns the indices of ``count`` samples from ``first`` on, in as few batches as possible.

    If ``even`` is false, all batches but the last are full. Otherwise the sizes of the batches differ by at most one,
    because coupled samples would have another distribution in a short batch.
    """
    number = math.ceil(count / batch_size)
    ends = [first + (count * i // number if even else min(count, i * batch_size)) for i in range(number + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(ends)]


def on_cpu(score: Score, device: torch.device, dtype: torch.dtype) -> Score:
    """Returns a score as a function of tensors on the CPU."""
    return lambda x, t: score(x.to(device, dtype), t.to(device, dtype)).cpu()


def class_score(model: ScoreModel, label: int | None, device: torch.device, dtype: torch.dtype) -> Score:
    """Returns the score of a class, or the score without a class, as a function of tensors on the CPU."""
    condition = model.network.condition
    if label is None or condition is None:
        return on_cpu(model, device, dtype)
    return on_cpu(model.given(condition.of(torch.tensor(label), None)), device, dtype)
