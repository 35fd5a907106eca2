"""A network that was trained along one path is exact along every other, by a change of variables."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path

import pytest
import torch
from conftest import SDES, plane
from torch import Tensor

from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.models import ClassifierModel, Karras, Raw, ScoreModel
from sdegen.networks import MLP
from sdegen.networks.base import Network
from sdegen.networks.oracle import Oracle
from sdegen.runs import session
from sdegen.runs.run import load
from sdegen.samplers import Dopri5
from sdegen.sde import LinearSDE, Table
from sdegen.sde.mixture import GaussianMixture, Marginals

PATHS = {**SDES, "table": Table(None, ((0.0, 1.0, 0.0), (0.2, 1.1, 0.1), (0.6, 0.5, 0.9), (1.0, 0.01, 1.0)))}
ORDER = [*PATHS, next(iter(PATHS))]
PAIRS = [pytest.param(PATHS[a], PATHS[b], id=f"{a} to {b}") for a, b in itertools.pairwise(ORDER)]
"""Each path once as that of the training, and once as the other."""


class Bayes(Network):
    """Exact classifier: logits that are the log-densities of the weighted components."""

    predicts = "class"

    def __init__(self, law: GaussianMixture, sde: LinearSDE) -> None:
        super().__init__()
        self.law, self.sde = law, sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        parts = [self.law.of_class(k).log_prob(x, self.sde.alpha(t), self.sde.sigma(t)) for k in range(3)]
        return torch.stack(parts, 1) + self.law.weights.log()


def labelled() -> GaussianMixture:
    law = plane()
    return GaussianMixture(law.weights, law.means, law.covariances, torch.arange(3))


@pytest.mark.parametrize(("trained", "other"), PAIRS)
def test_scores_and_classes_are_exact_along_every_path(trained: LinearSDE, other: LinearSDE) -> None:
    """The oracle of one path becomes the oracle of the other, for all data, for a class, and for float32."""
    law, cut = labelled(), other.within(trained)
    model = ScoreModel(Oracle(law, trained), Raw(), trained).along(cut)
    t = torch.lerp(*torch.tensor([cut.eps, cut.T], dtype=torch.float64), torch.linspace(0, 1, 40, dtype=torch.float64))
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * (cut.alpha(t) ** 2 + cut.sigma(t) ** 2).sqrt()[:, None]
    exact = Marginals(law, other)(x, t)
    torch.testing.assert_close(model(x, t), exact, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(model(x[:5], t[7]), Marginals(law, other)(x[:5], t[7]), rtol=1e-6, atol=1e-9)
    of_class = Marginals(law.of_class(1), other)(x, t)
    torch.testing.assert_close(model.given(torch.tensor(1))(x, t), of_class, rtol=1e-6, atol=1e-9)
    single = model(x.float(), t.float()).double()
    inner = Marginals(law, other)(x.float().double(), t.float().double())
    assert float((single - inner).norm() / inner.norm()) < 1e-3
    classifier = ClassifierModel(Bayes(law, trained), trained).along(cut)
    torch.testing.assert_close(classifier(x, t), Bayes(law, other)(x, t).log_softmax(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("trained", "other"), PAIRS)
def test_flows_from_equal_starts_end_at_equal_points(trained: LinearSDE, other: LinearSDE) -> None:
    """This holds for any network, not only for a score: here it has random weights."""
    torch.manual_seed(0)
    model = ScoreModel(MLP((2,), hidden=(16,)).double(), Karras(1.0), trained)
    own, cut = trained.within(other), other.within(trained)
    z, ends = torch.randn(5, 2, dtype=torch.float64), []
    for sde, score in ((own, model), (cut, model.along(cut))):
        alpha = [sde.alpha(torch.tensor(t, dtype=torch.float64)) for t in (sde.T, sde.eps)]
        with torch.no_grad():
            end = Dopri5(1e-8, 1e-8)(sde, score, 3 * alpha[0] * z, noise=torch.zeros_like).x
        ends.append(end / alpha[1])
    torch.testing.assert_close(*ends, rtol=2e-5, atol=2e-5)


def test_a_process_is_cut_to_the_ratios_that_both_have() -> None:
    for a, b in itertools.permutations(PATHS.values(), 2):
        ratios = []
        for sde in (a.within(b), b.within(a)):
            t = torch.tensor([sde.eps, sde.T], dtype=torch.float64)
            ratios.append(sde.sigma(t) / sde.alpha(t))
        torch.testing.assert_close(*ratios, rtol=3e-4, atol=0)


SHORT = (
    "trainer.steps=3",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=2",
    "dataset.size=300",
    "count=50",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("along") / "run"
    session.train(composed("train", ["dataset=moons", "network.hidden=[16]", *SHORT]), path)
    return path


def test_a_run_is_loaded_along_another_path(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The score in the user's units obeys the change of variables. The log has the range that both paths share."""
    run = load(folder, precision="float64")
    node = composed("train", ["sde=edm", "sde.sigma_max=2"])["sde"]
    with caplog.at_level(logging.INFO, "sdegen"):
        other = load(folder, precision="float64", nodes={"sde": node})
    assert (
        "sde=edm with a network for sde=vp: σ/α from 0.001 to 2, which both have, at t from 0.0005 to 1" in caplog.text
    )
    # The priors of x/α are N(0, 2² + 1) for edm, and N(0, 1/α²) with α² = 1 / (1 + 2²) for vp.
    assert "2.236 for sde=edm" not in caplog.text
    assert other.config["sde"]["spread"] == 1.0
    x, t = torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=torch.float64), 0.25
    vp = run.sde.linear
    time = vp.time(torch.tensor(0.5, dtype=torch.float64).log() * 2)
    alpha = float(vp.alpha(time))
    shift = run.units.affine.shift
    torch.testing.assert_close(other.score(x, t), alpha * run.score(shift + alpha * (x - shift), float(time)))
    assert "for sde=vp" in other.weights_used()
    assert len(other.sample(7)) == 7
    assert other.log_prob(x).isfinite().all()


def test_a_path_without_enough_noise_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """For σ/α up to s and data of variance 1, the prior is N(0, 1 + s²), and the kernels are N(x0, s²)."""
    nodes = [composed("train", ["sde=edm", f"sde.sigma_max={s}"])["sde"] for s in (0.01, 20)]
    run = load(folder, nodes={"sde": nodes[1]})
    assert run.score_model is not None and "does not hide" not in caplog.text
    assert load(folder, nodes={"sde": nodes[0]}).score_model is not None
    # E KL(N(x0, s²), N(0, 1 + s²)) is the information ½ log(1 + 1/s²) of a Gaussian x0.
    expected = 0.5 * math.log(1 + 1 / 0.01**2)
    assert f"of its prior from p_T is up to {expected:.2g} nats in each coordinate" in caplog.text
    distant = composed("train", ["sde=edm", "sde.sigma_max=1000", "sde.eps=0.5"])["sde"]
    with pytest.raises(UserError, match=r"σ/α are from 500 to 1000, and those of the training from 0.001 to 152"):
        assert load(folder, nodes={"sde": distant}).score_model is None


def test_a_network_that_takes_the_process_keeps_that_of_its_training(tmp_path: Path) -> None:
    """The inputs of a regressor depend on α and σ. Equal points on both paths have the same log-likelihood."""
    line = ["experiment=regressor", "network.hidden=[16]", "dataset.size=300", "trainer.steps=20", "figures=false"]
    session.train(composed("train", [*line, "trainer.batch_size=32"]), tmp_path / "run")
    node = composed("train", ["sde=edm", "sde.sigma_max=2"])["sde"]
    run, other = (load(tmp_path / "run", precision="float64", nodes=nodes) for nodes in ({}, {"sde": node}))
    x, y = torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=torch.float64), torch.tensor([0.3, 1.2], dtype=torch.float64)
    # On the path edm, α = 1 and σ = 2 t; on vp, α² + σ² = 1.
    for t in (0.05, 0.25, 0.8):
        time = run.sde.linear.time(torch.tensor(2 * t, dtype=torch.float64).log() * 2)
        expected = run.model.given(y)(x / (1 + (2 * t) ** 2) ** 0.5, time)
        torch.testing.assert_close(other.model.given(y)(x, torch.tensor(t, dtype=torch.float64)), expected)


def test_priors_that_differ_are_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = composed("train", ["sde=ve", "sde.sigma_max=2"])["sde"]
    with caplog.at_level(logging.INFO, "sdegen"):
        load(folder, nodes={"sde": node})
    assert "the standard deviation 2 for sde=ve, and 2.236 for sde=vp" in caplog.text


@pytest.mark.parametrize(
    ("choice", "words"),
    [("ddpm", "sde=ddpm is a chain: use sde=run"), ("double_well", "sde=double_well is not linear: use sde=run")],
)
def test_chains_and_nonlinear_processes_are_refused(folder: Path, choice: str, words: str) -> None:
    node = composed("train", [f"sde={choice}"])["sde"]
    with pytest.raises(UserError, match=f"^sde={choice}: the network was trained with sde=vp.*{words}$"):
        load(folder, nodes={"sde": node})
