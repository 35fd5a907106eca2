"""A short run of every experiment gives the same numbers as before: no change of behaviour goes unnoticed.

After an intended change, run ``python tests/runs/test_golden.py``, and explain in the change log why numbers changed.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import idx_bytes

from sdegen.config import assembly
from sdegen.config.compose import CONF, composed
from sdegen.core.randomness import generator
from sdegen.runs.sampling import draw

FILE = Path(__file__).with_suffix(".json")
EXPERIMENTS = sorted(
    str(path.relative_to(CONF / "experiment").with_suffix("")) for path in CONF.glob("experiment/**/*.yaml")
)
SLOW = "paper/grid/digits"
"""Experiment that takes a third of the total time. Other experiments test its kind of times and its network."""
OWN = "a network with dropout and BatchNorm"
"""Network of a user, trained like ``experiment=smile``."""
STEPS = {True: 2, False: 20}
"""Number of steps with the paper's grids of times, where a step has 10⁵ rows, and with other times."""
TOLERANCE = 2e-3
"""Relative tolerance. Other processors and libraries add in another order, and Adam amplifies the difference."""


def clothes(folder: Path) -> Path:
    """Writes noise to files in the format of Fashion-MNIST, and returns the folder."""
    source = np.random.default_rng(0)
    for part, count in (("train", 80), ("t10k", 40)):
        images = source.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return folder


def run(experiment: str, folder: Path) -> dict[str, float]:
    """Return the numbers of a short run, by name."""
    grid = "grid" in experiment
    options = [
        f"experiment={'smile' if experiment == OWN else experiment}",
        f"trainer.steps={STEPS[grid]}",
        f"trainer.log_every={STEPS[grid]}",
    ]
    options += ["trainer.device=cpu", "trainer.threads=1", "trainer.preview_every=0", "figures=false"]
    if experiment == "fashion_mnist":
        options += [f"dataset.path={clothes(folder)}", "trainer.batch_size=8", "network.channels=16"]
    config = composed("train", options)
    (parts,) = assembly.replicated(config | ({"network": {"_target_": "users.Regular"}} if experiment == OWN else {}))
    training, dataset, found = parts.training(), parts.dataset, {}
    source = generator("cpu", 0, "golden")
    weight = torch.rand(dataset.x[0].shape, generator=source, dtype=torch.float64)
    found["data"] = float((dataset.units.encode(dataset.x) * weight).square().mean())
    found["weights at first"] = float(training.average_vector.norm())
    if training.steps:
        training.run(lambda step, values: found.update(values[0]), lambda: None, lambda: None)
        loss = None if grid else parts.held_out().loss(training.averages[0])
        found |= {"weights": float(training.average_vector.norm())} | ({} if loss is None else {"held-out loss": loss})
    if training.averages[0].network.predicts == "score":
        samples = draw(parts.sde, training.averages[0], parts.sampler, dataset.units, 4, seed=1)
        found |= {"evaluations": samples.nfe, "samples": float((samples.x * weight).square().mean())}
    return {name: value for name, value in found.items() if name != "train/steps_per_second"}


@pytest.fixture(autouse=True, scope="module")
def _small_measures() -> None:
    """Keeps the full size of the metrics, because the stored numbers were computed with it."""


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=[pytest.mark.slow] * (name == SLOW)) for name in (*EXPERIMENTS, OWN)]
)
def test_a_run_gives_the_same_numbers_as_before(experiment: str, tmp_path: Path) -> None:
    expected = json.loads(FILE.read_text())[experiment]
    found = run(experiment, tmp_path)
    assert found == {name: pytest.approx(value, rel=TOLERANCE) for name, value in expected.items()}


def test_a_repeated_run_gives_the_same_numbers(tmp_path: Path) -> None:
    for experiment in ("smile", OWN):
        assert run(experiment, tmp_path) == run(experiment, tmp_path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        numbers = {experiment: run(experiment, Path(folder)) for experiment in sys.argv[1:] or [*EXPERIMENTS, OWN]}
    before = json.loads(FILE.read_text()) if sys.argv[1:] else {}
    FILE.write_text(json.dumps({**before, **numbers}, indent=1, sort_keys=True) + "\n")
