"""Measure what sdegen costs and reaches, as ratios within one process: ``python scripts/benchmark.py step``.

Suites::

    step      a training step, everything on, over a bare PyTorch loop
    memory    peak memory of the paper's grid of times, with chunks and without
    quality   an experiment's metrics over three seeds, beside floors and the training set's own values
    overhead  each sampler over the bare network calls it makes
    likelihood   the error of likelihoods with the exact score, and the truth of their standard error
    time_to_quality   the paper's grid of times against continuous t: error of the score by seconds of training
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

TASKS = {"mixture": "paper/gaussian_mixture", "smile": "paper/smile"}
OVERHEAD = {
    "adams": 1,
    "dpm_solver": 1,
    "ddim": 1,
    "heun": 2,
    "rk4": 4,
    "stochastic_adams": 1,
    "stochastic_dpm_solver": 1,
    "euler_maruyama": 1,
    "reverse_diffusion": 1,
    "ancestral": 1,
    "stochastic_heun": 2,
}
"""Samplers whose overhead is measured, and their evaluations a step."""


def bare_loop(x, hidden: tuple[int, ...]) -> Callable[[int], None]:  # noqa: ANN001 - torch is imported late
    """The one baseline: noising, forward, backward and fused Adam in as little PyTorch as there can be.

    VP, one uniform t a data point, batch 64, the noise-prediction loss, the paper's network; nothing else.
    """
    import torch
    from torch import nn

    size = x.shape[1]
    widths = (size + 1, *hidden)
    layers = [layer for a, b in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Linear(hidden[-1], size))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)

    def steps(n: int) -> None:
        for _ in range(n):
            x0 = x[torch.randint(len(x), (64,))]
            t = 1e-5 + (1 - 1e-5) * torch.rand(64, 1)
            integral = 0.1 * t + 0.5 * 19.9 * t * t
            sigma = torch.sqrt(-torch.expm1(-integral))
            z = torch.randn_like(x0)
            noisy = torch.exp(-0.5 * integral) * x0 + sigma * z
            loss = (network(torch.cat([noisy, t], 1)) - z).square().sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return steps


def our_loop(parts, recorder) -> Callable[[int], None]:  # noqa: ANN001
    """The whole step: batches of the stream, clipping, averaging, loss by t-bin, TensorBoard."""
    training = parts.training()

    def steps(n: int) -> None:
        training.steps = training.step + n
        training.run(lambda at, values: recorder.scalars(at, values[0]), lambda: None, lambda: None)

    return steps


def step(rounds: int = 15, steps: int = 400) -> dict[str, Any]:
    """The step of the paper's two networks over the bare loop's, interleaved, one thread."""
    import torch

    from sdegen.assembly import build
    from sdegen.recorder import Recorder

    torch.set_num_threads(1)
    results = {}
    for task, name in TASKS.items():
        config = composed(f"experiment={name}", "trainer.clip=1.0", "trainer.ema=0.999", "trainer.preview_every=0")
        parts = build(config)
        x = parts.dataset.units.encode(parts.dataset.x).float()
        with tempfile.TemporaryDirectory() as folder:
            bare = bare_loop(x, tuple(config["network"]["hidden"]))
            recorder = Recorder(Path(folder), 0, 10**9)
            ours = our_loop(parts, recorder)
            bare(steps), ours(steps)
            pairs = [(timed(bare, steps), timed(ours, steps)) for _ in range(rounds)]
            recorder.close()
        ratios = sorted(b / a for a, b in pairs)
        results[task] = {
            "bare_us": 1e6 * statistics.median(a for a, _ in pairs) / steps,
            "ours_us": 1e6 * statistics.median(b for _, b in pairs) / steps,
            "ratio": statistics.median(ratios),
            "quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
        }
    return results


def timed(loop: Callable[[int], None], steps: int) -> float:
    start = time.perf_counter()
    loop(steps)
    return time.perf_counter() - start


def memory() -> dict[str, Any]:
    """Peak memory, in MiB, of two training steps in a process of its own, as the operating system counts it."""
    results = {}
    for task, name in TASKS.items():
        for label, chunk in (("no step", None), ("chunks", 100), ("no chunks", 10**6)):
            code = (
                "import sys, resource; sys.argv = ['benchmark'];"
                f"from scripts.benchmark import two_steps; two_steps({name!r}, {chunk!r});"
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
            )
            root = Path(__file__).parents[1]
            output = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
            results[f"{task}, {label}"] = float(output.stdout.split()[-1])
    return results


def two_steps(name: str, chunk: int | None) -> None:
    """Two steps of a paper experiment with its grid; none where ``chunk`` is None."""
    import torch

    from sdegen.assembly import build

    torch.set_num_threads(1)
    training = build(composed(f"experiment={name.replace('/', '/grid/')}", f"times.chunk={chunk or 1}")).training()
    if chunk is not None:
        for chunks in training.stream.steps(0, 2):
            training.advance(chunks)


def quality(names: Sequence[str], seeds: int) -> dict[str, Any]:
    """The metrics of experiments, means over seeds, against 1.5 times the larger of floor and training set's value."""
    from sdegen import command

    results: dict[str, Any] = {}
    for name in names:
        runs = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                command.guard(partial(trained, name, seed, Path(folder)), "train")
                runs.append(
                    [json.loads((Path(folder) / f"{part}.json").read_text()) for part in ("metrics", "provenance")]
                )
        metrics = [metrics for metrics, _ in runs]
        cost = [provenance["training"] for _, provenance in runs]
        results[name] = {
            "steps": cost[0]["steps"],
            "seconds": [round(c["seconds"], 1) for c in cost],
            "metrics": {key: summary([m[key] for m in metrics]) for key in metrics[0]},
        }
    return results


def trained(name: str, seed: int, folder: Path) -> None:
    from sdegen import experiment

    experiment.train(composed(f"experiment={name}", f"seed={seed}"), folder)


def summary(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the value over the larger of the floor and the training set's own."""
    means = {
        key: statistics.mean(entry[key] for entry in entries)
        for key in ("value", "floor", "train")
        if entries[0][key] is not None
    }
    base = max(means["floor"], means.get("train", 0.0))
    return {**means, "ratio": means["value"] / base if base else None, "values": [entry["value"] for entry in entries]}


def likelihood(points: int = 2000, tolerance: float = 1e-5) -> dict[str, Any]:
    """Mean error a point, in nats for each dimension, of log-densities of anisotropic mixtures under VP, exact score.

    In the plane by the exact divergence, by one probe, and by the mean of ten runs of one probe each. In 16 dimensions
    by ten probes, with the mean squared error over the mean squared standard error, and the share of errors within the
    95 % of Student's t with nine degrees of freedom.
    """
    import torch

    from sdegen.likelihood import Exact, Flow, Hutchinson
    from sdegen.mixture import Marginals
    from sdegen.ode import RK45, Dopri5
    from sdegen.rng import generator
    from sdegen.sde import VP

    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    sde = VP()
    for d in (2, 16):
        law, units = anisotropic(d)
        x = law.sample(points, generator("cpu", 0, "likelihood"))
        inner, eps = Marginals(law.affine(*units), sde), torch.tensor(sde.eps, dtype=torch.float64)
        exact = inner.log_prob(units.encode(x), eps) - units.scale.log().sum()
        flow = Flow(sde, inner, units, Dopri5(tolerance, tolerance, 10_000), dtype=torch.float64)
        found = flow.log_prob(x, Exact())
        rows = {"exact divergence": found.log_p, "one probe": flow.log_prob(x, Hutchinson(1)).log_p}
        truth: dict[str, float] = {}
        if d == 2:
            scipys = Flow(sde, inner, units, RK45(tolerance, tolerance), dtype=torch.float64)
            rows["exact divergence, RK45"] = scipys.log_prob(x, Exact()).log_p
            rows["exact divergence, float32"] = Flow(sde, inner, units, flow.solver).log_prob(x, Exact()).log_p
            single = torch.stack([flow.log_prob(x, Hutchinson(1), seed).log_p for seed in range(10)])
            rows["ten runs of one probe"] = single.mean(0)
        else:
            ten = flow.log_prob(x, Hutchinson(10))
            assert ten.standard_error is not None
            rows["ten probes"], off = ten.log_p, (ten.log_p - exact).abs()
            truth["squared_error_ratio"] = float(off.square().mean() / ten.standard_error.square().mean())
            truth["within_95_percent"] = float((off < 2.262 * ten.standard_error).double().mean())
        errors = {name: float((log_p - exact).abs().mean()) / d for name, log_p in rows.items()}
        results[f"{d} dimensions"] = {"nfe": found.nfe, "nats_per_dim": errors, **truth}
    return results


def anisotropic(d: int):  # noqa: ANN201 - torch is imported late
    """A mixture of three Gaussians with full covariances in d dimensions, and its standardising units."""
    import torch

    from sdegen.datasets import Units
    from sdegen.mixture import GaussianMixture
    from sdegen.rng import generator

    source = generator("cpu", 0, "mixture", d)
    root = torch.randn(3, d, d, generator=source, dtype=torch.float64) / (d + 1) ** 0.5
    means = 2 * torch.randn(3, d, generator=source, dtype=torch.float64)
    law = GaussianMixture(torch.tensor([0.2, 0.5, 0.3]), means, root @ root.transpose(1, 2) + 0.01 * torch.eye(d))
    mean = law.weights @ law.means
    spread = law.covariances + (law.means - mean)[:, :, None] * (law.means - mean)[:, None, :]
    return law, Units(mean, (law.weights[:, None, None] * spread).sum(0).diagonal().sqrt())


def overhead(rounds: int = 15, evaluations: int = 50) -> dict[str, Any]:
    """CPU time of each sampler over that of the bare network calls it makes, interleaved, one thread, no gradient."""
    import torch
    from torch import nn

    from sdegen import networks
    from sdegen.assembly import construct
    from sdegen.rng import SampleNoise
    from sdegen.score import Noise, ScoreModel
    from sdegen.sde import VP

    class Convolution(networks.Network):
        """Three convolutions of 32 channels, with the time as a channel."""

        def __init__(self) -> None:
            super().__init__()
            widths = (2, 32, 32, 1)
            layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:], strict=False)]
            self.layers = nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])

        def forward(self, x, t):  # noqa: ANN001, ANN202 - torch is imported late
            return self.layers(torch.cat([x, t.to(x).expand(len(x))[:, None, None, None].expand_as(x)], 1))

    torch.set_num_threads(1)
    sde, results = VP(), {}
    tasks = {
        "mlp, batch 1000": (networks.MLP((2,), (128, 128)), (2,), 1000),
        "convolutions, batch 256": (Convolution(), (1, 8, 8), 256),
    }
    for task, (network, shape, batch) in tasks.items():
        score, x = ScoreModel(network, Noise(), sde), torch.randn(batch, *shape, generator=torch.Generator())
        times = [torch.tensor(1 - i / evaluations, dtype=torch.float64) for i in range(evaluations)]

        def bare(n: int, x=x, network=network, times=times) -> None:  # noqa: ANN001
            for t in times[:n]:
                network(x, t)

        def ours(n: int, sampler: Any, x=x, score=score, batch=batch, shape=shape) -> None:  # noqa: ANN001, ANN401
            sampler(sde, score, x, noise=SampleNoise(0, 0, batch, shape))

        ratios = {}
        for name, per_step in OVERHEAD.items():
            node = composed(f"sampler={name}", f"sampler.steps={evaluations // per_step}")
            sampler = construct(node, "sampler", ())
            with torch.no_grad():
                pairs = [(cpu_time(bare, evaluations), cpu_time(ours, evaluations, sampler)) for _ in range(rounds)]
            ratios[name] = round(statistics.median(b / a for a, b in pairs[1:]), 3)
        results[task] = ratios
    return results


def time_to_quality(seconds: float, path: Path | None) -> dict[str, Any]:
    """See :mod:`race`."""
    import race

    results = race.race(seconds)
    if path is not None:
        from sdegen import figures

        figures.save(race.draw(results), path)
    return results


def cpu_time(work: Callable[..., None], *arguments: Any) -> float:  # noqa: ANN401
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of train.yaml with overrides, plain."""
    from sdegen import command

    return command.composed("train", overrides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=("step", "memory", "quality", "likelihood", "overhead", "time_to_quality"))
    parser.add_argument("experiments", nargs="*", default=["smile", "gaussian_mixture"], help="for quality")
    parser.add_argument("--seeds", type=int, default=3, help="for quality")
    parser.add_argument("--seconds", type=float, default=600, help="for time_to_quality: of the paper's method")
    parser.add_argument("--figure", type=Path, help="for time_to_quality: a PNG file to draw it into")
    arguments = parser.parse_args()
    suites: dict[str, Callable[[], dict[str, Any]]] = {
        "step": step,
        "memory": memory,
        "likelihood": likelihood,
        "overhead": overhead,
        "time_to_quality": partial(time_to_quality, arguments.seconds, arguments.figure),
        "quality": partial(quality, arguments.experiments, arguments.seeds),
    }
    print(json.dumps(suites[arguments.suite](), indent=2))


if __name__ == "__main__":
    main()
