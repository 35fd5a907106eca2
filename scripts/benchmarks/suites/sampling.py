"""Cost of samplers beyond the network's calls, and speed of our adaptive solver at the accuracy of SciPy's solver."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sdegen import load
from sdegen.config.construction import construct
from sdegen.core.errors import UserError
from sdegen.core.randomness import SampleNoise
from sdegen.models import Noise, ScoreModel
from sdegen.networks import MLP, Network
from sdegen.runs import session
from sdegen.runs.run import Run
from sdegen.samplers import RK45, Dopri5, Sampler
from sdegen.sde import VP
from suites.base import Row, composed, interleaved, over, row


class Convolution(Network):
    """Network of three convolutions with 32 channels. The time is a channel of the input."""

    def __init__(self) -> None:
        super().__init__()
        first, second, last = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((2, 32), (32, 32), (32, 1)))
        self.layers = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t.to(x).expand(len(x))[:, None, None, None].expand_as(x)], 1))


def measure(
    samplers: Mapping[str, int],
    evaluations: int,
    rounds: int,
    trained: Sequence[str],
    count: int,
    tolerances: Sequence[float],
) -> list[Row]:
    """Returns the rows of :func:`overhead` and :func:`adaptive`.

    Args:
        samplers: samplers whose overhead is measured, with the number of evaluations in a step.
        evaluations: number of evaluations for a sample.
        rounds: number of rounds of each measurement.
        trained: options of the run whose network the adaptive solvers use.
        count: number of samples of the adaptive solvers.
        tolerances: tolerances of the adaptive solvers.
    """
    if evaluations < max(samplers.values()):
        raise UserError(
            f"evaluations={evaluations} must be at least {max(samplers.values())}, the evaluations of one step"
        )
    torch.set_num_threads(1)
    rows = overhead(samplers, evaluations, rounds)
    if not tolerances:
        return rows
    with tempfile.TemporaryDirectory() as folder:
        run = session.train(composed(*trained), Path(folder) / "run")
        return rows + adaptive(run, count, tolerances, rounds)


def overhead(samplers: Mapping[str, int], evaluations: int, rounds: int) -> list[Row]:
    """Returns the CPU time of each sampler divided by the time of its network calls, on one thread."""
    sde, rows = VP(), []
    tasks = {"perceptron": (MLP((2,), (128, 128)), (1000, 2)), "convolutions": (Convolution(), (256, 1, 8, 8))}
    for task, (network, shape) in tasks.items():
        score, x = ScoreModel(network, Noise(), sde), torch.randn(*shape, generator=torch.Generator())
        times = [torch.tensor(1 - i / evaluations, dtype=torch.float64) for i in range(evaluations)]

        def bare(network: nn.Module = network, x: Tensor = x, times: list[Tensor] = times) -> None:
            for t in times:
                network(x, t)

        works: dict[str, Callable[[], None]] = {"bare": bare}
        for name, each in samplers.items():
            node = composed(f"sampler={name}", f"sampler.steps={evaluations // each}")
            sampler = construct(node, "sampler", ())

            def ours(sampler: Sampler = sampler, score: ScoreModel = score, x: Tensor = x) -> None:
                sampler(sde, score, x, noise=SampleNoise(0, 0, len(x), tuple(x.shape[1:])))

            works[name] = ours
        with torch.no_grad():
            ratios = over(interleaved(works, rounds, time.process_time), "bare")
        rows += [row("CPU time divided by time of network calls", task, name, own, "") for name, own in ratios.items()]
    return rows


def adaptive(run: Run, count: int, tolerances: Sequence[float], rounds: int) -> list[Row]:
    """Returns seconds and errors of both solvers from the same states, and the speed-up by dopri5 at equal errors."""
    noise = SampleNoise(0, 0, count, run.units.shape)
    prior = run.sde.sample_prior(torch.empty(count, *run.units.shape), noise)
    precise = load(run.folder, precision="float64").score_model
    solvers = {"solve_ivp": RK45, "dopri5": Dopri5}
    rows: list[Row] = []
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in solvers}

    def end(sampler: RK45 | Dopri5) -> Tensor:
        return sampler(run.sde, run.score_model, prior, noise=noise).x

    with torch.no_grad():
        exact = Dopri5(1e-10, 1e-10)(run.sde, precise, prior.double(), noise=noise).x
        for tolerance in tolerances:
            works = {name: partial(end, solver(tolerance, tolerance)) for name, solver in solvers.items()}
            seconds = interleaved(works, rounds)
            for name, work in works.items():
                error = float((work().double() - exact).flatten(1).norm(dim=1).mean())
                point = row("time against mean distance to the exact end points", name, error, seconds[name], "s")
                rows.append(point)
                curves[name].append((error, point.median))
    errors, medians = np.log(np.array(sorted(curves["dopri5"]))).T
    for tolerance, (error, taken) in zip(tolerances, curves["solve_ivp"], strict=True):
        if errors[0] <= np.log(error) <= errors[-1]:
            gain = taken / float(np.exp(np.interp(np.log(error), errors, medians)))
            rows.append(row("time of solve_ivp divided by time of dopri5", "", f"rtol {tolerance:g}", [gain], ""))
    return rows
