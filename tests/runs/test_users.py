"""Networks that a user writes: all state of a module is trained, averaged, saved and resumed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import sdegen
from sdegen.config import assembly
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.runs import checkpoint, session
from sdegen.runs.checkpoint import Checkpoint

SMALL = (
    "dataset=moons",
    "dataset.size=200",
    "trainer.batch_size=32",
    "optimizer.decay=constant",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=5",
    "count=50",
)


def config(network: str, *options: str, steps: int = 40) -> dict[str, Any]:
    made = composed("train", [*SMALL, f"trainer.steps={steps}", *options])
    return {**made, "network": {"_target_": f"users.{network}"}}


def trained(folder: Path, network: str, *options: str, steps: int = 40) -> Checkpoint:
    session.train(config(network, *options, steps=steps), folder)
    return checkpoint.read(folder)


def assert_same(a: Checkpoint, b: Checkpoint) -> None:
    for one, other in ((a.weights, b.weights), (a.ema, b.ema), (a.optimizer["state"][0], b.optimizer["state"][0])):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


@pytest.mark.parametrize("network", ["Regular", "RandomFeatures", "Extra"])
def test_resumes_bit_for_bit_while_other_code_draws_random_numbers(tmp_path: Path, network: str) -> None:
    torch.manual_seed(1)
    whole = trained(tmp_path / "whole", network)
    torch.manual_seed(2)
    trained(tmp_path / "run", network, "trainer.preview_every=15", "trainer.checkpoint_every=9", steps=20)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    session.resume(tmp_path / "run", {"trainer.steps": 40}, ["users"])
    assert_same(checkpoint.read(tmp_path / "run"), whole)
    assert torch.equal(torch.rand(3), expected)


def test_all_state_is_saved_and_its_kinds_kept(tmp_path: Path) -> None:
    saved = trained(tmp_path / "run", "Regular")
    assert saved.weights["passes"].dtype == torch.int64 and int(saved.weights["passes"]) == 40
    assert int(saved.ema["passes"]) == int(saved.weights["norm.num_batches_tracked"]) == 40
    assert saved.weights["seen"].dtype == torch.bool and torch.equal(saved.ema["seen"], saved.weights["seen"])
    assert torch.equal(saved.ema["mask"], torch.full((2,), -torch.inf))
    assert torch.equal(saved.weights["again.weight"], saved.weights["enter_twin"])
    assert torch.equal(saved.ema["frozen"], torch.ones(16))
    assert int(trained(tmp_path / "extra", "Extra").ema["_extra_state"]["passes"]) == 40


def test_buffers_are_averaged_like_the_weights() -> None:
    """The averages follow the recursion, computed in float64 from the buffers after each step."""
    (parts,) = assembly.replicated(config("Regular"))
    training = parts.training()
    model, average = training.models[0].network, training.averages[0].network
    expected = {name: getattr(model.norm, name).double().clone() for name in ("running_mean", "running_var")}
    for step, chunks in enumerate(training.stream.steps(0, 40)):
        training.advance(chunks)
        decay = min(0.999, (1 + step) / (10 + step))
        for name in expected:
            expected[name] = decay * expected[name] + (1 - decay) * getattr(model.norm, name).double()
    for name, value in expected.items():
        assert torch.allclose(getattr(average.norm, name).double(), value, rtol=1e-5)
        assert not torch.allclose(getattr(model.norm, name).double(), value, rtol=1e-2)


def test_the_average_is_evaluated_as_it_will_be_used() -> None:
    (parts,) = assembly.replicated(config("Regular"))
    training, held_out = parts.training(), parts.held_out()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    torch.manual_seed(1)
    first, before = held_out.loss(training.averages[0]), training.averages[0].network.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    torch.manual_seed(2)
    assert held_out.loss(training.averages[0]) == first
    after = training.averages[0].network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    # In training mode, dropout is active and changes the loss.
    assert held_out.loss(training.averages[0].train()) != pytest.approx(first, rel=1e-3)


def test_noise_inside_the_network_is_fixed_by_seed_step_part_and_retry() -> None:
    (parts,) = assembly.replicated(config("Plain", "times.draws=2", "times.chunk=1"))
    training, drawn = parts.training(), []
    training.models[0].network.register_forward_hook(lambda *_: drawn.append(tuple(torch.rand(4).tolist())))
    for variant in (0, 0, 1):
        training.step, training.stream.variant = 0, variant
        for chunks in training.stream.steps(0, 2):
            training.advance(chunks)
            torch.rand(5)
    first, again, retried = drawn[:4], drawn[4:8], drawn[8:]
    assert first == again
    # The draws in two parts of two steps, for two variants, all differ.
    assert len({*first, *retried}) == 8


@pytest.mark.parametrize("network", ["Regular", "RandomFeatures"])
def test_a_reloaded_network_is_the_one_that_was_trained(tmp_path: Path, network: str) -> None:
    """State outside of ``state_dict`` is made again from the seed of the run."""
    model = session.train(config(network), tmp_path / "run").score_model
    torch.manual_seed(7)
    again = sdegen.load(tmp_path / "run", trust=["users"]).score_model
    (parts,) = assembly.replicated(config(network))
    x, t = torch.randn(50, 2), torch.tensor(0.3)
    with torch.no_grad():
        assert torch.equal(model(x, t), again(x, t))
        untrained = sdegen.load(tmp_path / "run", checkpoint=0, trust=["users"]).score_model
        assert torch.equal(untrained(x, t), parts.training().models[0].eval()(x, t))


def test_an_old_weight_norm_trains(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        whole = trained(tmp_path / "whole", "OldNorm")
        trained(tmp_path / "run", "OldNorm", steps=20)
        session.resume(tmp_path / "run", {"trainer.steps": 40}, ["users"])
    assert_same(checkpoint.read(tmp_path / "run"), whole)
    assert {"layers.0.weight_g", "layers.0.weight_v"} <= whole.weights.keys()


@pytest.mark.parametrize(
    ("network", "warned"),
    [("Forgetful", 1), ("Foreign", 1), ("Counting", 1), ("Regular", 0), ("Extra", 0), ("Keeping", 0)],
)
def test_state_that_no_checkpoint_would_store_is_reported_once(
    network: str, warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    (parts,) = assembly.replicated(config(network, steps=8))
    with caplog.at_level("WARNING", "sdegen"):
        parts.training().run(lambda step, values: None, lambda: None, lambda: None)
    assert sum("outside of its state_dict" in record.message for record in caplog.records) == warned


def test_a_network_that_cannot_be_saved_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="network: the state_dict of users.Unsaved cannot be saved and read again"):
        trained(tmp_path / "run", "Unsaved")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000000.pt"]


def test_a_buffer_that_begins_at_infinity_or_has_two_names_is_averaged_once_it_can_be(tmp_path: Path) -> None:
    saved = trained(tmp_path / "run", "Minimum", steps=20)
    assert saved.ema["lowest"].isfinite() and saved.ema["lowest"] < -1
    # The average decays once in each step, under both names of the buffer.
    expected = 0.0
    for step in range(20):
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * (step + 1)
    assert float(saved.ema["passes"]) == float(saved.ema["inner.passes"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("Growing", "Growing creates the tensor bank in training, or changes its shape or type"),
        ("Late", "Late creates the tensor late.weight in training"),
        (
            "Replacing",
            "Replacing replaces the parameter layers.0.weight in training, and the new parameter is not trained",
        ),
        ("Waves", "wave is complex, and would lose its imaginary part"),
        ("Locked", "Locked cannot be copied"),
    ],
)
def test_a_network_that_cannot_be_trained_or_read_again_is_refused_at_its_first_step(network: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        assembly.replicated(config(network))[0].training().run(lambda step, values: None, lambda: None, lambda: None)


def test_the_average_equals_a_reloaded_one() -> None:
    """Buffers that are not saved keep their first values."""
    (parts,) = assembly.replicated(config("Counting", steps=8))
    training = parts.training()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    assert int(training.averages[0].network.passes) == 0


@pytest.mark.parametrize("gradient", ["auto", "autograd"])
def test_a_parameter_outside_of_the_network_is_refused(gradient: str) -> None:
    """Only autograd would train the parameter, and no checkpoint would store it."""
    made = composed("train", [*SMALL, "trainer.steps=5", f"trainer.gradient={gradient}"])
    with pytest.raises(
        UserError, match=r"parametrization\.scale: only parameters of the network are trained and saved"
    ):
        assembly.replicated({**made, "parametrization": {"_target_": "users.Learned"}})
