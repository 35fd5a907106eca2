"""The properties of samplers and likelihoods hold on a GPU too, if there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import plane
from test_samplers import SAMPLERS

import sdegen
from sdegen import metrics
from sdegen.config.compose import composed
from sdegen.datasets import Affine
from sdegen.flow import Exact, Flow, Hutchinson
from sdegen.flow.solvers import DormandPrince
from sdegen.models import Raw, ScoreModel
from sdegen.networks.oracle import Oracle
from sdegen.runs import checkpoint, session
from sdegen.runs.sampling import draw
from sdegen.samplers import RK45, Dopri5
from sdegen.sde import LinearSDE
from sdegen.sde.mixture import Marginals

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SHORT = (
    "experiment=smile",
    "trainer.log_every=7",
    "trainer.preview_every=0",
    "sampler.steps=20",
    "trainer.device=cuda",
)


@pytest.mark.parametrize("options", [(), ("times=grid", "times.points=10", "times.simulations=3", "times.chunk=7")])
def test_resumed_run_is_the_uninterrupted_one(tmp_path: Path, options: tuple[str, ...]) -> None:
    config = composed("train", [*SHORT, *options, "trainer.steps=80", "trainer.checkpoint_every=37"])
    whole = session.train(config, tmp_path / "whole")
    saved = checkpoint.load(checkpoint.find(tmp_path / "whole", 37))
    (tmp_path / "resumed").mkdir()
    resumed = session.train(saved.config, tmp_path / "resumed", resume=[saved])
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_run_of_the_gpu_is_reloaded_on_the_cpu(tmp_path: Path) -> None:
    config = composed("train", [*SHORT, "trainer.steps=30", "trainer.precision=bfloat16"])
    on_gpu = session.train(config, tmp_path / "run")
    on_cpu = sdegen.load(tmp_path / "run", device="cpu")
    assert on_gpu.sample(4).device.type == "cuda"
    x, t = torch.randn(8, 2), torch.rand(8)
    torch.testing.assert_close(on_gpu.score(x, t).cpu(), on_cpu.score(x, t), rtol=1e-3, atol=1e-3)
    assert metrics.score_error(on_cpu.dataset, on_cpu.sde, on_cpu.model.double()) is not None


@pytest.mark.parametrize("key", [key for key in SAMPLERS if key != "rk45"])
def test_sample_does_not_depend_on_its_batch(sde: LinearSDE, key: str) -> None:
    sampler = SAMPLERS[key]()
    model = ScoreModel(Oracle(plane(), sde), Raw(), sde)
    units = Affine(torch.zeros(2).double(), torch.ones(2).double())
    options = {"device": "cuda", "dtype": torch.float64, "frames": 5}
    batches = [draw(sde, model, sampler, units, 130, batch_size=b, **options).x for b in (7, 130)]
    torch.testing.assert_close(batches[0], batches[1], rtol=0, atol=1e-9)


def test_flow_is_that_of_the_cpu(sde: LinearSDE) -> None:
    model = ScoreModel(Oracle(plane(), sde), Raw(), sde)
    x = sde.sample_prior(torch.empty(20, 2, dtype=torch.float64), torch.randn_like)
    for sampler in (RK45(1e-7, 1e-7), Dopri5(1e-7, 1e-7)):
        here = sampler(sde, model, x, noise=torch.randn_like).x
        there = sampler(sde, model, x.cuda(), noise=torch.randn_like, frames=3).x
        torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(2)], ids=["exact", "hutchinson"])
def test_likelihood_is_the_exact_one_and_does_not_depend_on_its_batch(sde: LinearSDE, divergence) -> None:  # noqa: ANN001
    """With random probes, only the mean is compared, because a GPU draws other probes than the CPU."""
    units = Affine(torch.full((2,), 0.5).double(), torch.full((2,), 1.8).double())
    law = plane()
    x = law.sample(150, torch.Generator().manual_seed(0))
    score, solver = Marginals(law.affine(units.shift, units.scale), sde), DormandPrince(1e-6, 1e-6, 10_000)
    here = Flow(sde, score, units, solver, dtype=torch.float64).log_prob(x, Exact()).log_p
    flows = [Flow(sde, score, units, solver, batch_size=b, device="cuda", dtype=torch.float64) for b in (150, 31)]
    there = [flow.log_prob(x.cuda(), divergence) for flow in flows]
    assert there[0].log_p.device.type == "cuda"
    torch.testing.assert_close(there[1].log_p, there[0].log_p, rtol=0, atol=1e-9)
    off = there[0].log_p.cpu() - here
    if there[0].standard_error is None:
        torch.testing.assert_close(there[0].log_p.cpu(), here, rtol=0, atol=1e-4)
    else:
        assert abs(float(off.mean())) < 5 * float(off.std()) / 150**0.5
    torch.testing.assert_close(flows[1].decode(flows[0].encode(x)).cpu(), x, rtol=0, atol=1e-3)
