"""Numbers that overflow are reported with the step, the times and the likely cause."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.datasets import Affine
from sdegen.models import Raw, ScoreModel
from sdegen.networks import Network
from sdegen.runs import checkpoint, session
from sdegen.runs.sampling import draw
from sdegen.sde import VP
from sdegen.training.batches import Batch
from sdegen.training.history import Diverged, History, cause
from sdegen.training.objective import Prepared

SMALL = (
    "dataset=smile",
    "network.hidden=[8]",
    "trainer.steps=40",
    "trainer.batch_size=64",
    "trainer.log_every=10",
    "trainer.checkpoint_every=10",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=10",
    "count=50",
)


def test_a_learning_rate_that_is_too_large_is_named(tmp_path: Path) -> None:
    options = ("optimizer.lr=1e18", "trainer.clip=null", "trainer.log_every=7")
    with pytest.raises(UserError, match="try a lower optimizer.lr") as error:
        session.train(composed("train", (*SMALL, *options)), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert all(bool(w.isfinite().all()) for w in checkpoint.read(tmp_path / "run").weights.values())


def test_the_times_and_the_cause_are_those_of_the_first_chunk_that_is_broken() -> None:
    """Of three chunks, the first is sound, the second is broken only near t = 0, and the third everywhere."""
    t = torch.tensor([[0.1, 0.5, 0.001, 0.9, 0.002, 0.6, 0.2, 0.8]])
    losses = torch.tensor([[1.0, 1.0, math.inf, 1.0, math.nan, 1.0, math.nan, math.nan]])
    told = cause(t, losses, [2, 4, 2])
    assert told.startswith(
        "the loss is not finite for 50% of the points, at t from 0.001 to 0.002: try a larger sde.eps"
    )
    told = cause(t[:, 6:], losses[:, 6:], [2])
    assert (
        told == "the loss is not finite for 100% of the points, at t from 0.2 to 0.8: "
        "try a lower optimizer.lr, or a smaller trainer.clip"
    )


def test_a_gradient_alone_may_overflow() -> None:
    history = History(lambda losses: losses, 1, 0.0, 1.0)
    ones = torch.ones(1, 4)
    history.add(0, Batch(Prepared(ones, ones / 2), ones, ones, ones, 4), (ones,))
    history.add_norms(torch.tensor([[math.inf]]))
    with pytest.raises(
        Diverged, match="the loss is 1.0 at step 1, and the norm of its gradient is inf; the gradient alone"
    ):
        history.check()


def test_weights_that_overflow_after_a_sound_loss_are_not_saved(tmp_path: Path) -> None:
    """The step itself may overflow. The loss and the gradient are then finite, but the checkpoint would be broken."""
    from sdegen.training.optimizer import Adam

    step = Adam.step

    def overflow(self: Adam, optimizer: torch.optim.Optimizer, lr: float) -> None:
        step(self, optimizer, lr)
        (group,) = optimizer.param_groups
        (vector,) = group["params"]
        if int(optimizer.state[vector]["step"]) == 20:
            vector.data.mul_(1e30).mul_(1e30)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="weights are not finite after step 20"):
        patch.setattr(Adam, "step", overflow)
        session.train(composed("train", SMALL), tmp_path / "run")
    assert checkpoint.read(tmp_path / "run").step == 10


def test_a_preview_that_fails_does_not_stop_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from sdegen.runs.files import log

    log.propagate = True
    options = ("trainer.preview_every=10", "sampler=adaptive_sde", "sampler.max_steps=3")
    with pytest.raises(UserError, match="adaptive_sde cannot reach"):
        session.train(composed("train", (*SMALL[:-2], *options)), tmp_path / "run")
    assert [f"no preview at step {step}: adaptive_sde cannot reach" in caplog.text for step in (10, 20, 30, 40)] == [
        True
    ] * 4
    assert checkpoint.read(tmp_path / "run").step == 40


class Field(Network):
    """Score in the plane that is NaN at times in ``hole``, for points whose first coordinate is above ``mean``."""

    def __init__(self, mean: float, hole: tuple[float, float]) -> None:
        super().__init__()
        self.mean, self.hole = mean, hole

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        low, high = self.hole
        inside = ((t > low) & (t < high)).expand(len(x))[:, None] & (x[:, :1] > self.mean)
        return torch.where(inside, torch.nan, -x)


UNITS = Affine(torch.zeros(2).double(), torch.ones(2).double())


@pytest.mark.parametrize("sampler", ["euler_maruyama", "adams", "stochastic_heun", "ddim"])
def test_samples_that_are_not_numbers_are_counted_and_the_time_is_told(sampler: str) -> None:
    """The score is NaN for some points at some times. The message names the first of these times on the grid."""
    parts = session.replicated(composed("train", (f"sampler={sampler}", "sampler.steps=20")))
    model = ScoreModel(Field(0.5, (0.3, 0.62)), Raw(), VP())
    with pytest.raises(UserError) as error:
        draw(VP(), model, parts[0].sampler, UNITS, 300, batch_size=64)
    found = str(error.value)
    count, of = (int(word) for word in found.split()[:3:2])
    assert of == 300 and 0 < count < 300
    told = re.search(r"samples are not finite: the score is not finite, at t=(0\.\d+) ", found)
    assert told and 0.5 < float(told[1]) < 0.62, found
    sound = draw(VP(), ScoreModel(Field(math.inf, (0, 0)), Raw(), VP()), parts[0].sampler, UNITS, 300, batch_size=64)
    assert bool(sound.x.isfinite().all())


def test_steps_that_run_away_are_told_apart_from_a_score_that_is_broken() -> None:
    parts = session.replicated(composed("train", ("sampler=euler_maruyama", "sampler.steps=2")))

    class Steep(Field):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -x.clamp(-3e38, 3e38) * 1e38

    with pytest.raises(UserError, match=r"^5 of 5 samples are not finite: the steps diverge, the first at t=0.5"):
        draw(VP(), ScoreModel(Steep(0.0, (0, 0)), Raw(), VP()), parts[0].sampler, UNITS, 5)
