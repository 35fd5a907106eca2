"""The progress of long work: lines where no bar can be shown, a bar in a terminal, and the same results as without."""

from __future__ import annotations

import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from fcntl import ioctl

import pytest
import torch

from sdegen.core import progress
from sdegen.datasets.units import Affine
from sdegen.models import Raw, ScoreModel
from sdegen.networks import Oracle
from sdegen.runs.sampling import draw
from sdegen.samplers import RK45, Adams, Sampler, Samples, StepSampler
from sdegen.sde import VP
from sdegen.sde.mixture import GaussianMixture

UNITS = Affine(torch.zeros(2).double(), torch.ones(2).double())

BAR = """
from sdegen.core import progress
progress.DELAY = 0
shown = progress.Progress("sampling", "evaluations")
for done in range(3):
    shown.to(done, 4)
shown._bar.refresh()
"""


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Shows progress from the beginning, at each evaluation."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    caplog.set_level(logging.INFO, "sdegen")
    return caplog


def sampled(sampler: Sampler, name: str | None = "sampling") -> Samples:
    sde, law = VP(), GaussianMixture(torch.ones(1), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]))
    model = ScoreModel(Oracle(law, sde), Raw(), sde)
    return draw(sde, model, sampler, UNITS, 10, batch_size=4, progress=name)


def test_the_evaluations_of_all_samples_are_announced_before_they_are_made(at_once: pytest.LogCaptureFixture) -> None:
    samples = sampled(StepSampler(Adams(), steps=5))
    found = [re.match(r"sampling: (\d+) of (\d+) evaluations", line) for line in at_once.messages]
    done, totals = zip(*([int(number) for number in match.groups()] for match in found if match), strict=True)
    assert set(totals) == {round(10 * samples.nfe)}
    # Each line comes before an evaluation of a batch of 4, 4 and 2 samples; before the first there is nothing to tell.
    assert list(done) == [*range(4, 20, 4), *range(20, 40, 4), *range(40, 50, 2)]


def test_evaluations_that_depend_on_the_sample_are_expected_after_the_first_batch(
    at_once: pytest.LogCaptureFixture,
) -> None:
    sampled(RK45())
    known = [" of " in line for line in at_once.messages]
    assert known == sorted(known) and not known[0] and known[-1]


def test_progress_changes_no_bit(at_once: pytest.LogCaptureFixture) -> None:
    sampler = StepSampler(Adams(), steps=5)
    assert torch.equal(sampled(sampler).x, sampled(sampler, name=None).x)
    at_once.clear()
    sampled(sampler, name=None)
    assert not at_once.messages


def test_a_terminal_shows_a_bar() -> None:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    subprocess.run([sys.executable, "-c", BAR], stderr=theirs, check=True)
    shown = os.read(ours, 4096).decode()
    assert re.search(r"sampling:  50%.* 2/4 ", shown)


def test_only_long_work_is_announced(at_once: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = threading.Event()
    at_once.handler.addFilter(lambda record: logged.set() or True)  # type: ignore[func-returns-value]
    with progress.announced("long"):
        assert logged.wait(60)
    assert at_once.messages == ["long"]
    monkeypatch.setattr(progress, "DELAY", 3600.0)
    with progress.announced("short"):
        pass
    assert at_once.messages == ["long"]
