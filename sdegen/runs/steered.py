"""A trained score that is steered by a class, a condition or a guidance, with its samples and its flow."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from sdegen.config import choices
from sdegen.config.options import EVALUATE, SAMPLE, check, choice
from sdegen.core.checks import explained
from sdegen.core.errors import UserError
from sdegen.datasets import Dataset
from sdegen.flow.likelihood import Flow
from sdegen.flow.solvers import DormandPrince
from sdegen.guidance.classes import Guidance
from sdegen.runs import conditions
from sdegen.runs.arrays import ArrayLike
from sdegen.runs.conditions import Asked
from sdegen.runs.fitted import fitted
from sdegen.runs.guiding import UNSTEERED, Plan, Target, planned
from sdegen.runs.observations import results
from sdegen.runs.sampling import draw
from sdegen.runs.trained import Trained
from sdegen.samplers import Samples
from sdegen.sde.base import Score
from sdegen.sde.scores import Counted


class Drawn(NamedTuple):
    """Samples of a plan and the cost of the sampling.

    Attributes:
        x: samples ``(N, *)`` in the user's units, those of each target one after the other.
        y: classes of the samples, ``(N,)``; None if there are none.
        c: conditions of the samples, ``(N, *)``; None if there are none.
        truth: points of the data with these classes and conditions, ``(N, *)``; None if the user gave the conditions.
        targets: targets of the samples, with as many samples each.
        samples: samples of the first target in the network's units, with the path.
        nfe: number of evaluations of the score for each sample, a mean over the targets.
        seconds: duration of the sampling.
    """

    x: Tensor
    y: Tensor | None
    c: Tensor | None
    truth: Tensor | None
    targets: Sequence[Target]
    samples: Samples
    nfe: float
    seconds: float


class Steered(Trained):
    """Trained score that may be steered towards a target. Copies with other targets share the weights and the data.

    Attributes:
        target: class, condition and guidance of the score, of the samples and of the densities.
    """

    target: Target = UNSTEERED

    @property
    def guidance(self) -> Guidance | None:
        """Guidance that steers the score; None if the score is not guided."""
        return self.target.guidance

    def at(self, target: Target) -> Self:
        """Return a copy of this run that is steered towards a target."""
        other = copy.copy(self)
        other.target = target
        return other

    def check_unsteered(self, call: str) -> None:
        """Raise UserError if this run has a target; ``call`` is what the user should call on the run itself."""
        if self.target.guidance is not None:
            raise UserError(f"{self.target.name}: this run is guided already: call {call} on the unguided run")
        if self.target.told is not None:
            raise UserError(f"{self.target.name}: this run has a condition already: call {call} on the run itself")

    def check_unguided(self) -> None:
        """Raise UserError if a guidance steers the score."""
        if self.guidance is not None:
            raise UserError(
                f"{self.target.name}: a guided run has no latents and no density, and cannot be exported: use the "
                f"unguided run"
            )

    @explained
    def given(self, condition: Asked = None, *, label: float | str | None = None) -> Self:
        """Return a copy of this run whose score, samples and densities are those given a condition.

        Args:
            condition: condition in the user's units, if the network was trained with conditions: k numbers, or an image
                or signal; None for no condition.
            label: label of a class, as in the data, if the network was trained with classes; None for no class.

        Raises:
            UserError: the network does not take the condition or the class, or they do not fit the data.
        """
        plan = self.planned("given", condition, label)
        if plan.of_data is not None or len(plan.targets) > 1:
            rows = f"{len(plan.targets)} rows" if plan.of_data is None else "a row for each sample"
            raise UserError(f"condition: has {rows}: give one condition, or use run.sample(condition=…)")
        return self.at(plan.targets[0])

    def planned(self, call: str, condition: Asked, label: float | str | None, *, together: bool = False) -> Plan:
        """Return the plan of samples given a class, and given one condition or several: see :func:`planned`."""
        self.check_unsteered(f"{call}()")
        _check_one_class(label, call)
        taken = self.model.network.condition
        if condition is None and (taken is None or (label is not None and not taken.labelled)):
            # The message of the guidance says what the network lacks.
            self.guided("classifier_free", label=label)
        return planned(self, None, label, condition=condition, together=together)

    @explained
    def guided(
        self,
        name: str,
        *,
        run: Trained | str | Path | None = None,
        condition: Asked = None,
        label: float | str | None = None,
        observed: ArrayLike | Sequence[ArrayLike] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Self:
        """Return a copy of this run with a guided score, which steers the samples.

        Args:
            name: choice of the group ``guidance``: ``classifier``, ``regressor``, ``classifier_free``, ``inpaint``, …
            run: run with the classifier or the regressor, or with the weaker network for ``auto``; a run or its folder.
            condition: condition to steer towards, for ``regressor``, ``classifier_free`` and ``auto``: see
                :meth:`given`. An array ``(M, *)``, or a file or data frame of M rows, has the condition of each of M
                samples or points.
            label: label of the class to steer towards, as in the data.
            observed: result of a measurement in the user's units, for ``inpaint``, ``operator``, …, or several
                independent results in one array; for ``several``, a list with the result of each measurement; if
                None, a held-out image is measured.
            options: options of the guidance, such as ``scale=2.0`` or ``measurement={"mask": "top"}``.

        Raises:
            UserError: the guidance or an option does not exist, or the guidance does not work with this run.
        """
        self.check_unsteered("guided(), with all observations, because two guidances do not add up,")
        _check_one_class(label, "guided")
        loaded = run if isinstance(run, Trained) else None
        folder = run if loaded is None else loaded.folder
        node = choices.node("guidance", name, options if folder is None else {**options, "run": str(folder)})
        check({"guidance": node}, ("guidance",), {}, self.trust)
        plan = planned(self, node, label, results(node, observed), loaded, condition, together=True)
        if plan.of_data is not None:
            raise UserError("condition=data: give the conditions as an array, with a row for each sample")
        return self.at(plan.targets[0])

    def given_rows(self, condition: Asked, count: int) -> Self:
        """Return a copy of this run that is given one condition, or a condition for each of ``count`` points."""
        plan = self.planned("log_prob", condition, None, together=True)
        if plan.of_data is not None:
            raise UserError("condition=data: log_prob() needs the condition of each point: give them as an array")
        other = self.at(plan.targets[0])
        other.check_rows(count, "points")
        return other

    def check_rows(self, count: int, of: str = "samples") -> None:
        """Raise UserError if this run has the condition of each of another number of samples or points than count."""
        if self.target.rows not in (None, count):
            raise UserError(
                f"condition: has {self.target.rows} rows for {count} {of}: give one for all, or one for each"
            )

    @explained
    def generate(
        self, count: int, *, seed: int = 0, batch_size: int = 1000, frames: int = 0, first: int = 0
    ) -> Samples:
        """Return samples in the network's units, with the cost and the path of the sampling: see :func:`draw`."""
        check({"count": count, "seed": seed, "batch_size": batch_size}, (), SAMPLE, self.trust)
        self.check_sampler()
        if not self.target.steers:
            conditions.check_known(self)
        self.check_rows(count)
        if self.guidance is not None and self.target.rows is not None and self.sampler.smallest_batch > 1:
            raise UserError(
                f"sampler={choice(self.config['sampler'])}: moves samples of a batch to other rows, which have other "
                f"conditions: use another sampler, or one condition"
            )
        return draw(
            self.sde,
            self.score_model,
            fitted(self, self.target, self.steered_score),
            self.units,
            count,
            seed=seed,
            batch_size=batch_size,
            device=self.device,
            dtype=self.dtype,
            frames=frames,
            guidance=self.guidance,
            first=first,
            progress=f"sampling {self.target.name}".rstrip(),
            told=self.target.told,
        )

    def drawn(self, plan: Plan, count: int, *, seed: int = 0, batch_size: int = 1000, frames: int = 0) -> Drawn:
        """Return ``count`` samples of each target of a plan. Only the first target has a path, of ``frames`` states."""
        started, targets = time.perf_counter(), plan.targets
        given = [target.condition for target in targets if target.condition is not None]
        c = torch.stack(given).repeat_interleave(count, 0) if given else None
        y = None if targets[0].label is None else torch.tensor([target.label for target in targets])
        y, truth = None if y is None else y.repeat_interleave(count), None
        if plan.of_data is not None:
            target, (truth, y, c, _) = plan.of_data(self._conditioning_data(), count, seed)
            targets = [target]
        run = self if plan.all is None else self._fitted(plan.all)
        parts = [
            run.at(target).generate(count, seed=seed, batch_size=batch_size, frames=0 if i else frames, first=i * count)
            for i, target in enumerate(targets)
        ]
        seconds = time.perf_counter() - started
        x = torch.cat([self.units.decode(part.x) for part in parts])
        return Drawn(x, y, c, truth, targets, parts[0], sum(part.nfe for part in parts) / len(parts), seconds)

    def _fitted(self, target: Target) -> Self:
        """Return this run; for ``grid=fitted``, with steps that are fitted to the score towards a target."""
        other = copy.copy(self)
        other.sampler = fitted(self, target, self.at(target).steered_score)
        return other

    def _conditioning_data(self) -> Dataset:
        try:
            return self.dataset
        except UserError as error:
            fix = "or give a label or a condition, or condition=none for the score without them"
            raise UserError(f"{error}, {fix}") from None

    def to_compare(self, count: int, *, seed: int = 0, batch_size: int = 1000, frames: int = 0) -> Drawn:
        """Return samples to compare with the data. A network that takes a condition is given those of the data."""
        plain = self.target.steers or not conditions.takes_one(self)
        plan = Plan([self.target]) if plain else planned(self, None, None, condition=conditions.DATA)
        return self.drawn(plan, count, seed=seed, batch_size=batch_size, frames=frames)

    def steered_score(self) -> Score:
        """Return the trained score, given the condition of the target and steered by its guidance."""
        if not self.target.steers:
            conditions.check_known(self)
        told, guidance = self.target.told, self.guidance
        score: Score = self.score_model if told is None else self.score_model.given(told)
        return score if guidance is None else guidance(self.sde, Counted(score))

    @explained
    def flow(self, *, rtol: float = 1e-5, atol: float = 1e-5, batch_size: int = 1000) -> Flow:
        """Return the map between data and latents, computed with tolerances ``rtol`` and ``atol``: see :class:`Flow`.

        Raises:
            UserError: the run is guided; a guided score has no exact flow.
        """
        self.check_unguided()
        check({"rtol": rtol, "atol": atol, "batch_size": batch_size}, (), EVALUATE, self.trust)
        solver = DormandPrince(rtol, atol, max_steps=10_000)
        score = self.steered_score()
        return Flow(self.sde, score, self.units, solver, batch_size=batch_size, device=self.device, dtype=self.dtype)

    def flow_of(self, y: Tensor | None, c: Tensor | None, **settings: Any) -> Flow:  # noqa: ANN401
        """Return the flow of points with classes ``(N,)`` and conditions ``(N, *)``, if the network needs these.

        ``settings`` are those of :meth:`flow`.

        Raises:
            UserError: the network needs the condition of each point, and none is given.
        """
        taken = self.model.network.condition
        if self.target.steers or taken is None or not conditions.needs_one(self):
            return self.flow(**settings)
        if c is None and taken.valued:
            raise UserError("points: the network needs the condition of each point: add the columns of the conditions")
        if y is None and taken.labelled:
            raise UserError("points: the network needs the class of each point: add a column label")
        told = conditions.told(taken, self.conditions, y if taken.labelled else None, c)
        return self.at(Target(told=told)).flow(**settings)


def _check_one_class(label: float | str | None, call: str) -> None:
    if label == "all":
        raise UserError(f"label=all: must be one class of the data: call {call}() once for each class")
