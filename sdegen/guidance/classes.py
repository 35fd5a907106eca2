r"""Guidance by a class or another condition, and by a weaker network.

.. math:: \nabla_x \log p_t(x \mid y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y \mid x)

A guidance object holds the condition or the measurement. Samplers use a guided score in place of the network's score.

All guidance in this module has a scale γ. At γ = 0 the guided score is the score without the condition or of the weaker
network, and at γ = 1 the score given the condition or of the stronger network. Any other γ interpolates or extrapolates
these two scores, and the result is in general the score of no process: see docs/mathematics.md. With an interval of t,
γ applies inside the interval, and outside of it γ is 1 (Kynkäänniemi et al., 2024, https://arxiv.org/abs/2404.07724).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.tensors import expand
from sdegen.models.classifier import ClassifierModel
from sdegen.models.likelihood import Likelihood
from sdegen.models.score import ScoreModel
from sdegen.sde.base import SDE, S, Score
from sdegen.sde.scores import Counted, GuidedScore, Parts, RowScore, of_rows

Interval = tuple[float, float]


class Guidance(ABC, Generic[S]):
    """Map from scores to guided scores. A guided score treats each row of a batch separately.

    Attributes:
        process: type of process that the guidance works with.
        conditional: True if the guidance needs a network that takes a condition.
        contrasts: True if the guidance needs the network's score without a condition.
        scale: guidance scale over time; None if the guidance has none.
    """

    process: type[SDE] = SDE
    conditional = False
    contrasts = False
    scale: Scale | None = None

    @abstractmethod
    def __call__(self, sde: S, score: Any) -> Score:  # noqa: ANN401 - a score, or a score with ``given``
        """Returns the guided score that belongs to ``score``."""

    @abstractmethod
    def start(self, sde: S, x: Tensor) -> Tensor:
        """Returns the initial states at T, ``(B, *)``, for the draws ``x`` ``(B, *)`` of the prior."""


class Scale:
    """Guidance scale γ inside an interval of t, both ends included, and 1 outside of the interval.

    Args:
        scale: γ inside of the interval.
        interval: first and last time of the interval; None for all times.
    """

    def __init__(self, scale: float, interval: Interval | None) -> None:
        if interval is not None and not 0 <= interval[0] < interval[1] <= SDE.T:
            raise ValueError(
                f"interval=[{interval[0]:g},{interval[1]:g}] must be two ascending times between 0 and {SDE.T:g}, such "
                f"as [0.2,0.8]"
            )
        self.scale, self.interval = scale, interval

    def inside(self, t: Tensor) -> Tensor:
        """Returns True for the times ``t`` inside of the interval."""
        low, high = self.interval or (-math.inf, math.inf)
        return (t >= low) & (t <= high)

    def at(self, x: Tensor, t: Tensor) -> Tensor | float:
        """Returns γ at the times ``t``, in a shape that broadcasts with ``x``."""
        return self.scale if self.interval is None else expand(torch.where(self.inside(t), self.scale, 1.0), x)

    def extrapolated(self, base: Score, towards: Score) -> Score:
        """Returns the score base + γ (towards − base). Where γ is 1, only ``towards`` is evaluated."""
        return towards if self.scale == 1 else Extrapolated(self, base, towards)

    def check(self, sde: SDE, times: Tensor | None = None) -> None:
        """Raises UserError if the interval has no time between eps and T of the process, or none of ``times``.

        Args:
            sde: forward process.
            times: times at which a sampler evaluates the score, ``(N,)``; None if they are not known.
        """
        if self.interval is None:
            return
        low, high = self.interval
        name = f"guidance.interval=[{low:g},{high:g}]"
        if not (low < sde.T and high > sde.eps):
            raise UserError(
                f"{name}: has no time between {sde.eps:g} (sde.eps) and {sde.T:g}: use guidance.interval=[0.2,0.8], "
                f"for example"
            )
        if times is None or self.scale == 1 or bool(self.inside(times).any()):
            return
        sides = times[times < low].sort().values[-1:], times[times > high].sort().values[:1]
        nearest = " and ".join(f"{float(t):.4g}" for t in torch.cat(sides))
        raise UserError(
            f"{name}: contains no time at which the sampler evaluates the score, and the nearest are {nearest}: widen "
            f"the interval, or raise sampler.steps"
        )


class Extrapolated(RowScore):
    """The score base + γ (towards − base) of two scores. Where γ is 1, only ``towards`` is evaluated."""

    def __init__(self, scale: Scale, base: Score, towards: Score) -> None:
        self.scale, self.base, self.towards = scale, base, towards

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        inside, scale = self.scale.inside(t), self.scale.scale
        if bool(inside.all()):
            return torch.lerp(self.base(x, t), self.towards(x, t), scale)
        found = self.towards(x, t)
        if bool(inside.any()):
            base = of_rows(self.base, inside.nonzero().flatten())
            found[inside] = torch.lerp(base(x[inside], t[inside]), found[inside], scale)
        return found

    def of(self, row: Tensor) -> Extrapolated:
        return Extrapolated(self.scale, of_rows(self.base, row), of_rows(self.towards, row))


class Learned(Guidance[SDE]):
    r"""Guidance by a learned likelihood of noisy data, which adds :math:`\gamma \nabla_x \log p_t(y \mid x)`.

    Args:
        likelihood: classifier or regressor of noisy data.
        y: class or condition, ``(1, *)`` for all samples, or one for each sample, ``(N, *)``.
        scale: strength γ of the guidance.
        interval: first and last time at which ``scale`` applies; outside of it, γ is 1. None for all times.
    """

    def __init__(self, likelihood: Likelihood, y: Tensor, scale: float, interval: Interval | None) -> None:
        self.likelihood, self.y = likelihood, y
        self.scale: Scale = Scale(scale, interval)

    def __call__(self, sde: SDE, score: Score) -> Score:
        self.scale.check(sde)
        return Steered(self.likelihood, self.y, self.scale, score)

    def start(self, sde: SDE, x: Tensor) -> Tensor:
        return x


class ClassifierGuidance(Learned):
    r"""Guidance by a classifier of noisy data, which pulls a score towards a class.

    .. math:: s(x, t) + \gamma\, \nabla_x \log p_t(y \mid x)

    At :math:`\gamma = 1` this is the score of the class. With a larger γ, more samples agree with the class, and the
    samples are less diverse.

    Reference: section 4 and appendix F of the paper; Dhariwal & Nichol (2021), https://arxiv.org/abs/2105.05233

    Args:
        run: classifier; in a configuration, the folder of the run that trained it.
        label: class y; from the option ``label`` of the command.
        scale: strength γ of the guidance.
        interval: first and last time at which ``scale`` applies; outside of it, γ is 1. None for all times.
    """

    def __init__(
        self, run: ClassifierModel, label: int | None, scale: float = 1.0, interval: Interval | None = None
    ) -> None:
        super().__init__(run, torch.tensor([required("classifier", label)]), scale, interval)


class Steered(GuidedScore):
    """Score with the guidance of a learned likelihood. The arguments are those of :class:`Learned`."""

    def __init__(self, likelihood: Likelihood, y: Tensor, scale: Scale, score: Score) -> None:
        self.likelihood, self.y, self.scale, self.score = likelihood, y, scale, score

    def of(self, row: Tensor) -> Steered:
        y = self.y if len(self.y) == 1 else self.y[row.to(self.y.device)]
        return Steered(self.likelihood, y, self.scale, of_rows(self.score, row))

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            log_p = self.likelihood.given(self.y.to(x.device))(point, t)
            log_p = self.scale.at(log_p, t) * log_p
            pull = torch.autograd.grad(log_p.sum(), point)[0]
        return Parts(self.score(x, t), pull, log_p.detach())


class ClassifierFree(Guidance[SDE]):
    r"""Guidance by the difference between one network's scores with and without the condition.

    .. math:: s(x, t) + \gamma \left( s(x, t \mid y) - s(x, t) \right)

    At :math:`\gamma = 1` this is the score given the condition, and an evaluation costs half as much as for other γ.
    With an interval, this saving holds at the times outside of it.

    Reference: Ho & Salimans (2022), https://arxiv.org/abs/2207.12598

    Args:
        given: condition y, such as the number of the class, or one for each sample; from the options ``label`` and
            ``condition`` of the command.
        scale: strength γ of the guidance.
        interval: first and last time at which ``scale`` applies; outside of it, γ is 1. None for all times.
    """

    conditional = True

    def __init__(self, given: Tensor | int | None, scale: float = 1.0, interval: Interval | None = None) -> None:
        self.y = torch.as_tensor(required("classifier_free", given))
        self.scale: Scale = Scale(scale, interval)
        self.contrasts = scale != 1

    def __call__(self, sde: SDE, score: Any) -> Score:  # noqa: ANN401 - a score with ``given``
        self.scale.check(sde)
        return self.scale.extrapolated(score, score.given(self.y))

    def start(self, sde: SDE, x: Tensor) -> Tensor:
        return x


class AutoGuidance(Guidance[SDE]):
    r"""Guidance by a weaker network of the same data, whose errors are those of the network, but larger.

    .. math:: s_{\text{weak}}(x, t) + \gamma \left( s(x, t) - s_{\text{weak}}(x, t) \right)

    The posterior mean D of :math:`x_0` is affine in the score, so this is :math:`D_{\text{weak}} + \gamma
    (D - D_{\text{weak}})`. An evaluation costs one of each network, both of which are counted. If a condition is given,
    it is given to each network that takes one.

    Reference: Karras et al. (2024), https://arxiv.org/abs/2406.02507

    Args:
        given: condition y, such as the number of the class, or one for each sample; from the options ``label`` and
            ``condition`` of the command. None for all data.
        run: weaker network; in a configuration, the folder of its run, or null for the run that is sampled.
        checkpoint: checkpoint of the weaker network: a step, ``last`` or ``best``.
        scale: strength γ of the guidance.
        interval: first and last time at which ``scale`` applies; outside of it, γ is 1. None for all times.
    """

    def __init__(
        self,
        given: Tensor | int | None,
        run: ScoreModel | None,
        checkpoint: int | Literal["last", "best"] = "last",
        scale: float = 2.0,
        interval: Interval | None = None,
    ) -> None:
        if run is None:
            raise ValueError("run=null: there is no weaker network: give a run, or the checkpoint of an earlier step")
        self.weak = run
        self.scale: Scale = Scale(scale, interval)
        self.y = None if given is None else torch.as_tensor(given)
        self.conditional = given is not None

    def __call__(self, sde: SDE, score: Counted) -> Score:
        self.scale.check(sde)
        strong = score if self.y is None else score.given(self.y)
        return self.scale.extrapolated(score.beside(self.weak.given(self.y)), strong)

    def start(self, sde: SDE, x: Tensor) -> Tensor:
        return x


T = TypeVar("T")


def required(name: str, given: T | None) -> T:
    """Returns the class or the condition ``given``, or raises ValueError if it is None."""
    if given is None:
        other = name == "classifier_free"
        raise ValueError(
            f"guidance={name} needs a class{' or a condition' * other}: give label=3, for example, or label=all for "
            f"all classes in turn{', or condition=[0.3,1.2] for data with conditions' * other}"
        )
    return given
