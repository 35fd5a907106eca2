"""Compare guidance with exact posteriors of Gaussian mixtures: ``python scripts/benchmarks/posteriors.py``.

The posterior of a mixture given a class or a linear measurement has a closed form, and the samples of each method are
compared with it. The floor is the median over 20 sets of exact draws, each as large as the set of samples. The
samples in the row ``exact`` use the exact conditional score, so this row shows the error of the sampler alone. Seeds
fix the mixtures and the measurements.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

CASES = {"plane, one number": (2, 1), "8 dimensions, four numbers": (8, 4)}
"""Numbers of dimensions of the data and of the measurement."""
NOISE = 0.3
METRICS = ("sliced_w1", "mean", "std", "mode_weights")


def mixture(d: int, seed: int):  # noqa: ANN201 - torch is imported late
    """Returns a standardised mixture of four components with random weights, means and covariances."""
    import torch

    from sdegen.core.randomness import generator
    from sdegen.sde.mixture import GaussianMixture

    source = generator("cpu", seed, "posteriors", d)
    root = 0.45 * torch.randn(4, d, d, generator=source, dtype=torch.float64) / d**0.5
    means = 1.2 * torch.randn(4, d, generator=source, dtype=torch.float64)
    weights = 0.3 + torch.rand(4, generator=source, dtype=torch.float64)
    law = GaussianMixture(weights, means, root @ root.mT + 0.02 * torch.eye(d))
    x = law.sample(100_000, source)
    return law.affine(x.mean(0), x.std(0))


def compared(law, x) -> dict[str, float]:  # noqa: ANN001
    """Returns distances between samples and exact draws; each coordinate is divided by its deviation in exact draws."""
    import torch

    from sdegen.core.randomness import generator
    from sdegen.metrics import sliced_w1

    exact = law.sample(20_000, generator("cpu", 0, "reference"))
    scale = exact.std(0)
    shares = [torch.bincount(law.component(part), minlength=4).double() / len(part) for part in (x, exact)]
    return {
        "sliced_w1": sliced_w1(x / scale, exact / scale),
        "mean": float(((x.mean(0) - exact.mean(0)) / scale).norm()),
        "std": float(((x.std(0) - scale) / scale).norm()),
        "mode_weights": 0.5 * float((shares[0] - shares[1]).abs().sum()),
    }


def problems(d: int, m: int, seed: int, folder: Path):  # noqa: ANN201
    """Returns the SDE and, for each method, the exact posterior, the guided score and a function of the prior.

    The function maps draws of the prior to initial states.
    """
    import numpy as np
    import torch

    from sdegen.core.randomness import generator
    from sdegen.guidance import Isotropic, Moments, Posterior, Replacement
    from sdegen.guidance.classes import ClassifierGuidance
    from sdegen.guidance.measurement import Linear
    from sdegen.models.classifier import ClassifierModel
    from sdegen.sde import VP
    from sdegen.sde.mixture import Marginals

    sde, law, source = VP(), mixture(d, seed), generator("cpu", seed, "measurement", d)
    # Every method accepts a matrix with orthonormal rows.
    a = torch.linalg.qr(torch.randn(d, m, generator=source, dtype=torch.float64))[0].T
    truth = law.sample(1, source)
    y = truth @ a.T + NOISE * torch.randn(1, m, generator=source, dtype=torch.float64)
    np.save(folder / "a.npy", a.numpy())
    measurement = Linear((d,), str(folder / "a.npy"))
    marginals = Marginals(law, sde)
    posterior = law.given(a, y[0], NOISE)
    label = int(law.component(truth))
    guided: dict[str, tuple[Any, Any, Callable]] = {"exact": (posterior, Marginals(posterior, sde), lambda x: x)}
    for method in (Moments(), Isotropic(), Replacement()):
        guidance = Posterior(y, measurement, method, NOISE)
        name = type(method).__name__.lower()
        guided[name] = (posterior, guidance(sde, marginals), lambda x, g=guidance: g.start(sde, x))
    guided["isotropic, twisted"] = guided["isotropic"]
    steered = ClassifierGuidance(ClassifierModel(Components(law, sde), sde), label)
    guided["classifier"] = (components(law)[label], steered(sde, marginals), lambda x: x)
    return sde, guided


def components(law) -> list:  # noqa: ANN001
    """Returns each component of a mixture as a distribution."""
    parts = (law.weights, law.means, law.covariances)
    return [type(law)(*(part[m : m + 1] for part in parts)) for m in range(len(law.weights))]


def Components(law, sde):  # noqa: ANN001, ANN201, N802 - a class whose base is imported late
    """Returns a network of the exact log-probabilities of a mixture's components given a noisy point."""
    import torch

    from sdegen.networks import Network

    class Exact(Network):
        predicts = "class"

        def forward(self, x, t):  # noqa: ANN001, ANN202
            alpha, sigma = (part.expand(len(x)) for part in (sde.alpha(t), sde.sigma(t)))
            log_p = torch.stack([part.log_prob(x, alpha, sigma) for part in components(law)], dim=1)
            return log_p + law.weights.log()

    return Exact()


def table(count: int, steps: int, seeds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Returns values and floors by case and method; each is a mean over seeds."""
    import tempfile

    import torch

    from sdegen.core.randomness import SampleNoise, generator
    from sdegen.samplers import StepSampler, StochasticAdams, Twisted

    torch.set_num_threads(1)
    guided_by, found = {True: Twisted(steps), False: StepSampler(StochasticAdams(), None, steps, "logistic")}, {}
    for case, (d, m) in CASES.items():
        rows: dict[str, list[dict[str, float]]] = {}
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                sde, guided = problems(d, m, seed, Path(folder))
            for name, (law, score, start) in guided.items():
                noise = SampleNoise(seed, 0, count, (d,))
                sampler = guided_by["twisted" in name]
                prior = start(sde.sample_prior(torch.empty(count, d, dtype=torch.float64), noise))
                with torch.no_grad():
                    value = compared(law, sampler(sde, score, prior, noise=noise).x)
                draws = [compared(law, law.sample(count, generator("cpu", seed, "floor", i))) for i in range(20)]
                floor = {f"{key}_floor": statistics.median(draw[key] for draw in draws) for key in METRICS}
                rows.setdefault(name, []).append({**value, **floor})
        found[case] = {
            name: {key: statistics.fmean(row[key] for row in own) for key in own[0]} for name, own in rows.items()
        }
    return found


def printed(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Returns the table as text. A cell has the value, the floor, and the ratio of the two."""
    lines = []
    for case, methods in found.items():
        lines.append(f"{case:<28}" + "".join(f"{metric:>26}" for metric in METRICS))
        for name, row in methods.items():
            cells = [(row[metric], row[f"{metric}_floor"]) for metric in METRICS]
            text = [f"{v:.4f} / {f:.4f} = {v / f:4.1f}" if f else f"{v:.4f} / 0" for v, f in cells]
            lines.append(f"  {name:<26}" + "".join(f"{cell:>26}" for cell in text))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="number of samples of each method")
    parser.add_argument("--steps", type=int, default=100, help="number of steps of the sampler")
    parser.add_argument("--seeds", type=int, default=4, help="number of mixtures of each case")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    found = table(arguments.count, arguments.steps, arguments.seeds)
    print(printed(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
