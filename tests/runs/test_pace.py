"""The expected time of a long training is said once, after a few steps."""

from __future__ import annotations

from sdegen.runs.pace import Pace, in_words


def messages(seconds: float, stop: int, batch: int = 16, epochs: int | None = None, **network: object) -> list[str]:
    """Returns the messages of a training whose first step takes a minute and all others ``seconds``."""
    config = {"network": network, "trainer": {"batch_size": batch, "epochs": epochs}}
    pace = Pace(0, stop, config, 6654019)
    said = [pace.message(step, 60 + seconds * (step - 1)) for step in range(1, min(stop, 200) + 1)]
    return [message for message in said if message]


def test_a_long_training_says_its_time_and_what_is_faster() -> None:
    (message,) = messages(6.0, 12_001, channels=64)
    # Two steps take 12 s but are too few; after the fourth, 11,997 steps are left.
    assert message == (
        "expected time: 20 h 0 min for 11997 steps of 6 s with 6654019 parameters: about 3 times as fast with "
        "network.channels=32"
    )
    twice = "about twice as fast with trainer.batch_size=64"
    assert messages(6.0, 12_001, 128, channels=64) == [f"{message}, or {twice}"]
    time = message.partition(": about")[0]
    assert messages(6.0, 12_001, 128, hidden=[128]) == [f"{time}: {twice}"]
    # With a number of epochs, half the batch has twice the steps.
    assert messages(6.0, 12_001, 128, epochs=9, hidden=[128]) == [time]
    assert messages(6.0, 12_001, channels=[32, 64]) == [time]
    assert messages(6.0, 12_001, channels=24) == [time]


def test_a_short_training_says_nothing() -> None:
    assert messages(6.0, 100, channels=64) == []
    assert messages(0.001, 12_000, channels=64) == []


def test_durations_have_two_units() -> None:
    assert in_words(1800) == "30 min"
    assert in_words(3 * 3600 + 59.6 * 60) == "4 h 0 min"
    assert in_words(49 * 3600) == "2 d 1 h"
