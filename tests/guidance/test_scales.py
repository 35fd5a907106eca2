"""Guidance scales over time, guidance by a weaker network, and extrapolated scores, which belong to no process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import plane
from test_guidance import Both, Components, component, points
from torch import Tensor

import sdegen
from sdegen.core.errors import UserError
from sdegen.core.randomness import SampleNoise
from sdegen.guidance import AutoGuidance, ClassifierFree, ClassifierGuidance, Guidance
from sdegen.models import Raw, ScoreModel
from sdegen.models.classifier import ClassifierModel
from sdegen.networks.oracle import Oracle
from sdegen.samplers import RK4, Dopri5, EulerMaruyama, Heun, Langevin, Sampler, StepSampler, Twisted
from sdegen.sde import VP
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.sde.scores import Counted

INTERVAL = (0.2, 0.8)
IN_AND_OUT = torch.tensor([0.05, 0.2, 0.5, 0.8, 0.9], dtype=torch.float64).repeat(4)
WIDER = plane().affine(torch.zeros(2), torch.tensor(0.8))
"""Distribution that the weak network has learned, which is too wide."""


def guidance(kind: str, scale: float, interval: tuple[float, float] | None) -> Guidance:
    sde = VP()
    if kind == "classifier":
        return ClassifierGuidance(ClassifierModel(Components(plane(), sde), sde), 1, scale, interval)
    if kind == "classifier_free":
        return ClassifierFree(1, scale, interval)
    return AutoGuidance(None, ScoreModel(Oracle(WIDER, sde), Raw(), sde), "last", scale, interval)


@pytest.mark.parametrize("kind", ["classifier", "classifier_free", "auto"])
def test_scale_applies_inside_of_the_interval_and_is_one_outside(kind: str) -> None:
    """Each row has its own time. Inside, the score is base + γ (towards − base); outside, it is the true score."""
    x, sde = points(20, 2), VP()
    towards = Marginals(plane() if kind == "auto" else component(plane(), 1), sde)
    base = Marginals(WIDER if kind == "auto" else plane(), sde)
    found = guidance(kind, 2.5, INTERVAL)(sde, Counted(Both(plane(), sde)))(x, IN_AND_OUT)
    for i, t in enumerate(IN_AND_OUT):
        row, scale = x[i : i + 1], 2.5 if 0.2 <= t <= 0.8 else 1.0
        expected = base(row, t) + scale * (towards(row, t) - base(row, t))
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["classifier_free", "auto"])
def test_second_score_is_evaluated_inside_of_the_interval_only(kind: str) -> None:
    x, sde = points(20, 2), VP()
    inside = int(((IN_AND_OUT >= 0.2) & (IN_AND_OUT <= 0.8)).sum())
    for interval, rows in ((INTERVAL, 20 + inside), (None, 40)):
        counted = Counted(Both(plane(), sde))
        guidance(kind, 2.0, interval)(sde, counted)(x, IN_AND_OUT)
        assert counted.rows == rows
    counted = Counted(Both(plane(), sde))
    score = guidance(kind, 2.0, INTERVAL)(sde, counted)
    for t in (0.1, 0.9):
        score(x, torch.tensor(t, dtype=torch.float64))
    assert counted.rows == 40


def test_auto_guidance_extrapolates_the_posterior_means() -> None:
    """The formula of the reference is D_weak + γ (D − D_weak). For Gaussian data, D has a closed form."""
    x, sde, t = points(30, 1), VP(), torch.tensor(0.3, dtype=torch.float64)
    strong, weak = (GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([v])) for v in (1.0, 2.0))
    auto = AutoGuidance(None, ScoreModel(Oracle(weak, sde), Raw(), sde), "last", 3.0)
    score = auto(sde, Counted(Marginals(strong, sde)))(x, t)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    means = [v * alpha * x / (v * alpha**2 + sigma**2) for v in (1.0, 2.0)]
    torch.testing.assert_close((x + sigma**2 * score) / alpha, means[1] + 3 * (means[0] - means[1]))


def test_class_is_given_to_both_networks() -> None:
    x, sde, t = points(30, 2), VP(), torch.tensor(0.3, dtype=torch.float64)

    class Weak(ScoreModel):
        def given(self, y: Tensor | None) -> Marginals:
            return Marginals(component(WIDER, 0 if y is None else int(y)), sde)

    auto = AutoGuidance(1, Weak(Oracle(WIDER, sde), Raw(), sde), "last", 2.0)
    own, weak = (Marginals(component(law, 1), sde)(x, t) for law in (plane(), WIDER))
    torch.testing.assert_close(auto(sde, Counted(Both(plane(), sde)))(x, t), 2 * own - weak)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_extrapolated_scores_belong_to_no_process(scale: float) -> None:
    r"""With γ = 1, the flow and the reverse SDE sample the class. With another γ, they do not sample p^γ / q^(γ−1).

    They do not even agree with each other, as they would if the guided scores were those of a process. Here p is the
    right component of a mixture q on the line, and the oracle integrates on a fine grid.
    """
    law, n, sde = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.25, 0.25])), 4000, VP()
    line = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    log_p, log_q = component(law, 1).log_prob(line[:, None]), law.log_prob(line[:, None])
    weights = (scale * log_p + (1 - scale) * log_q).softmax(0)
    mean = float((weights * line).sum())
    tilted = torch.tensor([mean, float((weights * (line - mean) ** 2).sum().sqrt())], dtype=torch.float64)

    score = ClassifierFree(1, scale)(sde, Both(law, sde))
    # The flow is increasing, so it maps quantiles to quantiles.
    quantiles = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]
    noise = SampleNoise(0, 0, n, (1,))
    found = [
        Dopri5()(sde, score, quantiles, noise=noise).x,
        StepSampler(EulerMaruyama(), steps=300)(sde, score, noise(quantiles), noise=noise).x,
    ]
    flow, reverse = (torch.stack([x.mean(), x.std()]) for x in found)
    if scale == 1:
        torch.testing.assert_close(flow, tilted, atol=0.005, rtol=0)
        torch.testing.assert_close(reverse, tilted, atol=0.03, rtol=0)
    else:
        # Interpolation errs in the other direction, and by less.
        sign, gap = (1, 0.1) if scale > 1 else (-1, 0.05)
        assert float(flow[0] - tilted[0]) * sign > 0.25 and float(reverse[0] - tilted[0]) * sign > 0.1
        assert float(tilted[1] - flow[1]) * sign > 0.1 and float(flow[0] - reverse[0]) * sign > gap


@pytest.mark.parametrize("interval", [(0.8, 0.2), (0.5, 0.5), (-0.1, 0.5), (0.5, 1.5)])
def test_interval_must_be_ascending_times(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"^interval=\[.*two ascending times between 0 and 1, such as \[0.2,0.8\]$"):
        ClassifierFree(1, 2.0, interval)


def test_interval_must_have_a_time_of_the_process() -> None:
    with pytest.raises(UserError, match=r"^guidance.interval=\[0,0.001\]: has no time between 0.01 \(sde.eps\)"):
        ClassifierFree(1, 2.0, (0.0, 0.001))(VP(eps=0.01), Both(plane(), VP()))


@pytest.mark.parametrize(
    "sampler",
    [
        StepSampler(RK4(), steps=3),
        StepSampler(Heun(), steps=5, grid="karras"),
        StepSampler(EulerMaruyama(), Langevin(), steps=4, denoise=True),
        Twisted(steps=6),
    ],
    ids=lambda sampler: type(getattr(sampler, "predictor", sampler) or sampler).__name__,
)
def test_a_sampler_knows_the_times_at_which_it_evaluates_the_score(sampler: Sampler) -> None:
    times, law = [], Marginals(plane(), VP())

    def score(x: Tensor, t: Tensor) -> Tensor:
        times.append(float(t))
        return law(x, t)

    sampler(VP(), score, points(3, 2), noise=SampleNoise(0, 0, 3, (2,)))
    assert sampler.evaluated(VP()).tolist() == times
    assert Dopri5().evaluated(VP()) is None


SHORT = (
    "dataset=moons",
    "dataset.size=200",
    "network.hidden=[8]",
    "network.label_dropout=0.1",
    "trainer.device=cpu",
    "trainer.threads=1",
    "trainer.steps=20",
    "trainer.checkpoint_every=10",
    "trainer.preview_every=0",
    "figures=false",
    "sampler=ddim",
    "sampler.steps=4",
    "count=20",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sdegen.Run]:
    folder = tmp_path_factory.mktemp("auto")
    lines = {"moons": (), "circles": ("dataset=circles",), "plain": ("network.label_dropout=null",)}
    lines["needy"] = ("network.label_dropout=0",)
    return {name: sdegen.train(*SHORT, *line, folder=folder / name) for name, line in lines.items()}


def test_a_network_that_learned_other_points_of_the_same_kind_is_refused(tmp_path: Path) -> None:
    """The units of data that are not standardised do not depend on the points."""
    lines = {
        "run": (),
        "same": (),
        "seed": ("seed=1",),
        "noisy": ("dataset.noise=0.2",),
        "fewer": ("dataset.size=150",),
    }
    shared = (*SHORT, "dataset.standardize=false", "trainer.steps=1")
    run, same, seed, noisy, fewer = (
        sdegen.train(*shared, *line, folder=tmp_path / name) for name, line in lines.items()
    )
    for other in (same, seed):
        run.guided("auto", run=other)
    for other, words in ((noisy, "the same number of points, with other values"), (fewer, "150 .* instead of 200 ")):
        with pytest.raises(UserError, match=rf"was trained on other data than .*run \({words}.*\): train on these d"):
            run.guided("auto", run=other)


def test_another_seed_does_not_hide_that_a_file_has_other_points(tmp_path: Path) -> None:
    path, shared = (
        tmp_path / "x.npy",
        ("dataset.standardize=false", "network.label_dropout=null", *SHORT[2:3], *SHORT[4:], "trainer.steps=1"),
    )
    for seed, count in enumerate((60, 50)):
        np.save(path, np.random.default_rng(0).normal(size=(count, 2)))
        sdegen.train("dataset=file", f"dataset.path={path}", *shared, f"seed={seed}", folder=tmp_path / str(seed))
    with pytest.raises(UserError, match=r"was trained on other data than .*0 \(50 .* instead of 60 "):
        sdegen.load(tmp_path / "0").guided("auto", run=tmp_path / "1")


def test_an_earlier_checkpoint_steers_a_run(runs: dict[str, sdegen.Run]) -> None:
    run = runs["moons"]
    early = sdegen.load(run.folder, checkpoint=10, device="cpu")
    x, t = run.sample(5), 0.4
    for label in (None, 1):
        guided = run.guided("auto", checkpoint=10, scale=3.0, label=label)
        strong, weak = ((one if label is None else one.guided("classifier_free", label=1)) for one in (run, early))
        expected = weak.score(x, t) + 3 * (strong.score(x, t) - weak.score(x, t))
        torch.testing.assert_close(guided.score(x, t), expected, rtol=1e-4, atol=1e-4)
        assert guided.generate(7).nfe == 8
    other = run.guided("auto", run=runs["plain"], scale=3.0)
    weak_score = runs["plain"].score(x, t)
    torch.testing.assert_close(other.score(x, t), weak_score + 3 * (run.score(x, t) - weak_score), rtol=1e-4, atol=1e-4)
    half = run.guided("auto", checkpoint=10, interval=(0.3, 0.7))
    # DDIM evaluates the score at the times of its grid before the last one, of which one lies in the interval.
    assert half.generate(7).nfe == 5
    first, second, *_, last = run.sampler.times(run.sde)[:-1].tolist()
    for interval, nearest in (
        ((second + 0.1, first - 0.1), f"{second:.4g} and {first:.4g}"),
        ((last / 3, last / 2), f"{last:.4g}"),
    ):
        with pytest.raises(UserError, match=f"contains no time .* the nearest are {nearest}: widen the interval, or"):
            run.guided("auto", checkpoint=10, interval=interval).generate(7)
    run.guided("auto", checkpoint=10, interval=(0.6, 0.7)).sample(3, sampler="dopri5")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "step 20 is the network that is sampled: give guidance.checkpoint= with an earlier step"),
        ({"checkpoint": 5}, "^guidance.checkpoint: .*no checkpoint .*; choose guidance.checkpoint= from 0, 10, 20$"),
        ({"run": "circles"}, "was trained on other data than"),
        ({"run": "needy"}, "has learned no score without the class: train it with network.label_dropout=0.1$"),
        ({"checkpoint": 10, "interval": [0.8, 0.2]}, r"guidance.interval=\[0.8,0.2\] must be two ascending times"),
        ({"checkpoint": 10, "interval": [0, 1e-6]}, r"guidance.interval=.*: has no time between 1e-05"),
        ({"checkpoint": 10, "interval": 0.5}, "guidance.interval: must be null or a list of 2, each a number, not 0.5"),
    ],
)
def test_a_weaker_network_that_cannot_steer_is_one_line(
    runs: dict[str, sdegen.Run], options: dict[str, object], words: str
) -> None:
    if "run" in options:
        options = {**options, "run": runs[str(options["run"])]}
    with pytest.raises(UserError, match=words) as error:
        runs["moons"].guided("auto", **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
