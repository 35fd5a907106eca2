r"""Guidance by a class or another condition, which turns the score of all data into the score given the condition.

.. math:: \nabla_x \log p_t(x \mid y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y \mid x)

A guidance object holds the condition or the measurement. Samplers use a guided score in place of the network's score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from sdegen.models.classifier import ClassifierModel
from sdegen.sde.base import SDE, S, Score
from sdegen.sde.scores import GuidedScore, Parts


class Guidance(ABC, Generic[S]):
    """Map from scores to guided scores. A guided score treats each row of a batch separately.

    Attributes:
        process: type of process that the guidance works with.
        conditional: True if the guidance needs a network that takes a condition.
        contrasts: True if it also needs the network's score without a condition.
    """

    process: type[SDE] = SDE
    conditional = False
    contrasts = False

    @abstractmethod
    def __call__(self, sde: S, score: Any) -> Score:  # noqa: ANN401 - a score, or a score with ``given``
        """Returns the guided score that belongs to ``score``."""

    @abstractmethod
    def start(self, sde: S, x: Tensor) -> Tensor:
        """Returns the initial states at T, ``(B, *)``, for the draws ``x`` ``(B, *)`` of the prior."""


class ClassifierGuidance(Guidance[SDE]):
    r"""Guidance by a classifier of noisy data, which pulls a score towards a class.

    .. math:: s(x, t) + \gamma\, \nabla_x \log p_t(y \mid x)

    At :math:`\gamma = 1` this is the score of the class. With a larger γ, more samples agree with the class, and the
    samples are less diverse.

    Reference: section 4 and appendix F of the paper; Dhariwal & Nichol (2021), https://arxiv.org/abs/2105.05233

    Args:
        run: classifier; in a configuration, the folder of the run that trained it.
        label: class y; from the option ``label`` of the command.
        scale: strength γ of the guidance.
    """

    def __init__(self, run: ClassifierModel, label: int | None, scale: float = 1.0) -> None:
        self.classifier, self.label, self.scale = run, required("classifier", label), scale

    def __call__(self, sde: SDE, score: Score) -> Score:
        return Classified(self, score)

    def start(self, sde: SDE, x: Tensor) -> Tensor:
        return x


class Classified(GuidedScore):
    """Score with the guidance of a classifier."""

    def __init__(self, guidance: ClassifierGuidance, score: Score) -> None:
        self.guidance, self.score = guidance, score

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        guidance, label = self.guidance, torch.tensor(self.guidance.label, device=x.device)
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            log_p = guidance.scale * guidance.classifier.given(label)(point, t)
            pull = torch.autograd.grad(log_p.sum(), point)[0]
        return Parts(self.score(x, t), pull, log_p.detach())


class ClassifierFree(Guidance[SDE]):
    r"""Guidance by the difference between one network's scores with and without the condition.

    .. math:: s(x, t) + \gamma \left( s(x, t \mid y) - s(x, t) \right)

    At :math:`\gamma = 1` this is the score given the condition, and an evaluation costs half as much as for other γ.

    Reference: Ho & Salimans (2022), https://arxiv.org/abs/2207.12598

    Args:
        given: condition y, such as the number of the class; from the options ``label`` and ``condition`` of the
            command.
        scale: strength γ of the guidance.
    """

    conditional = True

    def __init__(self, given: Tensor | int | None, scale: float = 1.0) -> None:
        self.y, self.scale = torch.as_tensor(required("classifier_free", given)), scale
        self.contrasts = scale != 1

    def __call__(self, sde: SDE, score: Any) -> Score:  # noqa: ANN401 - a score with ``given``
        towards = score.given(self.y)
        if self.scale == 1:
            return towards
        return lambda x, t: torch.lerp(score(x, t), towards(x, t), self.scale)

    def start(self, sde: SDE, x: Tensor) -> Tensor:
        return x


T = TypeVar("T")


def required(name: str, given: T | None) -> T:
    """Returns the class or the condition ``given``, or raises ValueError if it is None."""
    if given is None:
        raise ValueError(
            f"guidance={name} needs a class: give label=3, for example, or label=all for all classes in turn"
            f"{' or, for data with conditions, condition=' if name == 'classifier_free' else ''}"
        )
    return given
