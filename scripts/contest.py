"""Compare samplers at equal numbers of score evaluations: ``python scripts/contest.py ode --steps 5 10 20``.

Five Gaussian mixtures of the plane, whose score is exact, under VP; every sampler starts from the same draws.

ode: the mean distance of the end points to the exact ones, which are the flow's at tolerance 1e-10.
sde: sliced W1 of the samples to exact draws, beside its floor, the distance of other exact draws to them.

Evaluations are counted at the score. A sampler takes as many steps as fit. Others' samplers (see peers.py, installed
beside this package or left out) have, at every number of evaluations, the time grid that serves them best on these
very targets; ours are as configured. A grid is chosen on the first samples and measured on all.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from sdegen.mixture import GaussianMixture
    from sdegen.sde import LinearSDE
    from sdegen.sde.base import Score

OURS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ode": (
        ("sampler=adams",),
        ("sampler=adams", "sampler.grid=log_snr"),
        ("sampler=adams", "sampler.grid=quadratic"),
        ("sampler=dpm_solver", "sampler.predictor.order=2"),
        ("sampler=dpm_solver", "sampler.predictor.order=3"),
        ("sampler=dpm_solver", "sampler.predictor.order=3", "sampler.grid=log_snr"),
        ("sampler=ddim",),
        ("sampler=heun",),
        ("sampler=heun", "sampler.grid=logistic"),
        ("sampler=rk4",),
    ),
    "sde": (
        ("sampler=stochastic_adams",),
        ("sampler=stochastic_adams", "sampler.predictor.eta=0.6"),
        ("sampler=stochastic_adams", "sampler.predictor.eta=0.3"),
        ("sampler=stochastic_dpm_solver", "sampler.predictor.order=2"),
        ("sampler=stochastic_dpm_solver", "sampler.predictor.order=3"),
        ("sampler=ancestral", "sampler.grid=quadratic"),
        ("sampler=reverse_diffusion", "sampler.grid=quadratic"),
        ("sampler=stochastic_heun",),
        ("sampler=euler_maruyama",),
        ("sampler=euler_maruyama", "sampler.grid=quadratic"),
    ),
}
"""Our samplers, as options of ``scripts/train.py``; ``sampler.steps`` is added."""

ADAPTIVE: dict[str, tuple[tuple[str, ...], ...]] = {"ode": (("sampler=rk45",), ("sampler=dopri5",)), "sde": ()}
"""Our samplers that choose their steps; ``sampler.rtol`` and ``sampler.atol`` are added."""

TOLERANCES = [10 ** (-k / 4) for k in range(-2, 25)]
FINALISTS = 2
"""How many settings of a sampler are measured on all samples."""

REFERENCE = 50_000
"""Exact draws that samples are compared to."""

Row = dict[str, Any]
Run = Callable[["LinearSDE", "Score", "Tensor", int, int], "Tensor"]
"""``(sde, score, x, steps, seed) -> ends``: draws of the prior to samples, both ``(B, 2)``."""


class Contestant(NamedTuple):
    """A sampler with one setting.

    Attributes:
        name: library and sampler.
        setting: the time grid, or the tolerance.
        run: see :data:`Run`; an adaptive sampler ignores the number of steps.
    """

    name: str
    setting: str
    run: Run


class Problem(NamedTuple):
    """Targets side by side, where samplers start on them, and how far from the truth samples are.

    Attributes:
        sde: the forward process.
        score: the exact score, of ``(K B, 2)`` points of which each target has B.
        x: draws of the prior, ``(K, B, 2)``.
        distances: for each target, of samples ``(B, 2)``, in standard deviations of the data.
    """

    sde: LinearSDE
    score: Score
    x: Tensor
    distances: tuple[Callable[[Tensor], float], ...]

    def head(self, samples: int) -> Problem:
        """With the first of the starts."""
        return self._replace(x=self.x[:, :samples])


class Measured(NamedTuple):
    """A distance, as a mean over problems, and the most evaluations of the score per sample on any of them."""

    value: float
    nfe: float


def target(seed: int) -> GaussianMixture:
    """A mixture of the plane, determined by its seed: 0 to 4 are the contest's, 100 and above are for tuning.

    3 to 10 components with random weights and means; their principal standard deviations are log-uniform between 0.03
    and 0.4 of the spread of the means, in random directions. The law has mean 0 and standard deviation 1 in each
    coordinate, as standardised data have.
    """
    import torch

    from sdegen.mixture import GaussianMixture
    from sdegen.rng import generator

    source = generator("cpu", seed, "contest")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=source, dtype=torch.float64)

    m = int(torch.randint(3, 11, (), generator=source))
    weights = 0.2 + uniform(m)
    means = torch.randn(m, 2, generator=source, dtype=torch.float64)
    deviations = 0.03 * (0.4 / 0.03) ** uniform(m, 2)
    angle = 2 * math.pi * uniform(m)
    axes = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(m, 2, 2)
    law = GaussianMixture(weights, means, axes @ torch.diag_embed(deviations**2) @ axes.mT)
    return law.affine(*moments(law))


def moments(law: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each coordinate of a mixture with full covariances, ``(d,)`` each."""
    mean = law.weights @ law.means
    variances = law.covariances.diagonal(dim1=1, dim2=2) + (law.means - mean) ** 2
    return mean, (law.weights @ variances).sqrt()


class SideBySide:
    r"""The exact score of K mixtures of the plane at once, each on its share of the batch: five times faster.

    With :math:`P_m = (\alpha^2 \Sigma_m + \sigma^2 I)^{-1}`, the log-weights of the components are polynomials in x of
    degree two, and so the score is two matrix products:

    .. math:: \log(w_m p_m) = \mathrm{const}_m + \alpha \mu_m^T P_m x - \tfrac12 x^T P_m x, \qquad
              \nabla \log p = \sum_m r_m \left(\alpha P_m \mu_m - P_m x\right)

    Args:
        laws: mixtures with full covariances.
        sde: the forward process.
    """

    def __init__(self, laws: Sequence[GaussianMixture], sde: LinearSDE) -> None:
        from torch.nn.utils.rnn import pad_sequence

        self.sde = sde
        # Components that fill up to the largest number have weight 0.
        self.log_weights = pad_sequence([law.weights.log() for law in laws], True, -math.inf)
        self.means = pad_sequence([law.means for law in laws], True)
        covariances = pad_sequence([law.covariances for law in laws], True)
        self.a, self.b, self.c = covariances[..., 0, 0], covariances[..., 0, 1], covariances[..., 1, 1]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        import torch

        alpha, variance = self.sde.alpha(t), self.sde.sigma(t) ** 2
        a, b, c = (alpha**2 * self.a + variance, alpha**2 * self.b, alpha**2 * self.c + variance)
        det = a * c - b * b
        p, q, r = c / det, -b / det, a / det
        u, v = (alpha * self.means).unbind(-1)
        pu, pv = p * u + q * v, q * u + r * v
        constant = self.log_weights - 0.5 * (det.log() + u * pu + v * pv)
        x = x.reshape(len(self.means), -1, 2)
        y, z = x.unbind(-1)
        powers = torch.stack([torch.ones_like(y), y, z, -0.5 * y * y, -y * z, -0.5 * z * z], -1)
        posterior = (powers @ torch.stack([constant, pu, pv, p, q, r], 1)).softmax(-1)
        pu, pv, p, q, r = (posterior @ torch.stack([pu, pv, p, q, r], -1)).unbind(-1)
        return torch.stack([pu - p * y - q * z, pv - q * y - r * z], -1).reshape(-1, 2)


def problem(kind: str, seeds: Sequence[int], samples: int) -> Problem:
    """The targets of some seeds, with what the ``kind`` of contest compares to."""
    import torch

    from sdegen.mixture import Marginals
    from sdegen.rng import generator, randn_like
    from sdegen.sde import VP

    sde, laws = VP(), [target(seed) for seed in seeds]
    scores = [Marginals(law, sde) for law in laws]
    # The draws of fewer samples are the head of those of more.
    start = randn_like(generator("cpu", 0, "contest start"))(torch.zeros(max(samples, 20_000), 2, dtype=torch.float64))
    x = start[:samples].expand(len(laws), -1, -1)
    score = scores[0] if len(laws) == 1 else SideBySide(laws, sde)
    distances: list[Callable[[Tensor], float]]
    if kind == "ode":
        distances = [EndPoints(flow(sde, one, x[0])) for one in scores]
    else:
        sources = [generator("cpu", seed, "contest draws") for seed in seeds]
        distances = [SlicedW1(law.sample(REFERENCE, source)) for law, source in zip(laws, sources, strict=True)]
    return Problem(sde, score, x, tuple(distances))


class EndPoints:
    """Mean Euclidean distance of samples to exact end points from the same starts.

    Args:
        truth: the end points, ``(N, 2)``.
    """

    def __init__(self, truth: Tensor) -> None:
        self.truth = truth

    def __call__(self, x: Tensor) -> float:
        return float((x - self.truth[: len(x)]).norm(dim=1).mean())


class SlicedW1:
    """:func:`sdegen.metrics.sliced_w1` to points of the plane that are sorted once, which is ten times faster.

    Args:
        draws: the points compared to, ``(M, 2)``.
    """

    def __init__(self, draws: Tensor) -> None:
        import torch

        from sdegen.metrics import DIRECTIONS

        angle = torch.arange(DIRECTIONS, dtype=torch.float64) * math.pi / DIRECTIONS
        self.directions = torch.stack([angle.cos(), angle.sin()])
        self.sorted = (draws @ self.directions).T.sort().values

    def __call__(self, x: Tensor) -> float:
        import torch

        # Both quantile functions are steps; in units of 1 / (N M) they jump at multiples of M and of N.
        n, m = len(x), self.sorted.shape[1]
        jumps = torch.cat([torch.arange(n + 1) * m, torch.arange(m) * n]).unique()
        start, width = jumps[:-1], jumps.diff().double() / (n * m)
        gaps = (x @ self.directions).T.sort().values[:, start // m] - self.sorted[:, start // n]
        return float((gaps.abs() @ width).mean())


def apart(problem: Problem, seeds: Sequence[int]) -> list[Problem]:
    """The targets as problems of their own."""
    from sdegen.mixture import Marginals

    scores = [Marginals(target(seed), problem.sde) for seed in seeds]
    shares = zip(scores, problem.x.split(1), problem.distances, strict=True)
    return [problem._replace(score=score, x=x, distances=(distance,)) for score, x, distance in shares]


def matching(contestants: Sequence[Contestant], words: Sequence[str]) -> list[Contestant]:
    """Those whose name holds one of some words."""
    return [contestant for contestant in contestants if any(word in contestant.name for word in words)]


def flow(sde: LinearSDE, score: Score, x: Tensor) -> Tensor:
    """The exact end points of the probability-flow ODE, ``(B, *)`` to ``(B, *)``, to about 1e-9."""
    from sdegen.rng import generator, randn_like
    from sdegen.samplers import Dopri5

    return Dopri5(rtol=1e-10, atol=1e-10)(sde, score, x, noise=randn_like(generator("cpu", 0))).x


def floor(seeds: Sequence[int], problem: Problem) -> float:
    """Mean over targets of the distance of exact draws, as many as there are samples, to the truth."""
    from sdegen.rng import generator

    draws = [target(seed).sample(problem.x.shape[1], generator("cpu", seed, "contest floor")) for seed in seeds]
    return statistics.mean(distance(x) for distance, x in zip(problem.distances, draws, strict=True))


def ours(kind: str) -> list[Contestant]:
    """The samplers of this package."""
    stepped = [Contestant(called(o), "", functools.partial(sampled, o)) for o in OURS[kind]]
    return stepped + [
        Contestant(called(o), f"tolerance {tolerance:.2g}", functools.partial(solved, o, tolerance))
        for o in ADAPTIVE[kind]
        for tolerance in TOLERANCES
    ]


def called(overrides: Iterable[str]) -> str:
    """The name of one of ours in the table."""
    return " ".join(["sdegen", *(o.removeprefix("sampler=").removeprefix("sampler.") for o in overrides)])


def sampled(overrides: tuple[str, ...], sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """The samples of one of ours with a number of steps."""
    return walked((*overrides, f"sampler.steps={steps}"), sde, score, x, seed)


def solved(
    overrides: tuple[str, ...], tolerance: float, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int
) -> Tensor:
    """The samples of one of ours with a tolerance."""
    return walked((*overrides, f"sampler.rtol={tolerance}", f"sampler.atol={tolerance}"), sde, score, x, seed)


def walked(overrides: tuple[str, ...], sde: LinearSDE, score: Score, x: Tensor, seed: int) -> Tensor:
    from sdegen.rng import SampleNoise

    noise = SampleNoise(seed, 0, len(x), tuple(x.shape[1:]))
    return built(overrides)(sde, score, x, noise=noise).x


@functools.cache
def built(overrides: tuple[str, ...]) -> Any:  # noqa: ANN401
    """The sampler that options compose."""
    from sdegen import assembly, command

    config = command.composed("train", overrides)
    return assembly.construct(config, "sampler", ())


def once(contestant: Contestant, problem: Problem, steps: int) -> Measured:
    """The mean distance over the targets; infinite where a sample is no number."""
    ends, nfe = walk(contestant, problem, steps)
    if not bool(ends.isfinite().all()):
        return Measured(math.inf, nfe)
    return Measured(statistics.mean(distance(x) for distance, x in zip(problem.distances, ends, strict=True)), nfe)


def walk(contestant: Contestant, problem: Problem, steps: int) -> tuple[Tensor, float]:
    """The samples ``(K, B, 2)`` and the evaluations each took."""
    import torch

    from sdegen.samplers.base import Counted

    score, x = Counted(problem.score), problem.x.reshape(-1, 2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = contestant.run(problem.sde, score, x, steps, 0).reshape(problem.x.shape)
    return ends, score.rows / len(x)


def fitting(contestant: Contestant, problem: Problem, budget: int) -> int:
    """The largest number of steps that takes at most ``budget`` evaluations, 0 for none."""
    few = problem.head(4)
    steps = budget
    while steps and (count := walk(contestant, few, steps)[1]) > budget:
        steps = min(steps - 1, int(steps * budget / count))
    while 0 < steps < budget and 0 < walk(contestant, few, steps + 1)[1] <= budget:
        steps += 1
    return steps


def measure(contestant: Contestant, problems: Sequence[Problem], budget: int) -> Measured:
    """The mean over problems at as many steps as ``budget`` evaluations allow, infinite where none fits."""
    steps = fitting(contestant, problems[0], budget)
    results = [once(contestant, problem, steps) for problem in problems] if steps else [Measured(math.inf, 0)]
    nfe = max(result.nfe for result in results)
    return Measured(statistics.mean(result.value for result in results) if nfe <= budget else math.inf, nfe)


def contest(
    contestants: Sequence[Contestant], problems: Sequence[Problem], budgets: Sequence[int], search: int
) -> Iterator[Row]:
    """A row for each sampler: its results with the best setting at each number of evaluations that it can do."""
    for name in dict.fromkeys(contestant.name for contestant in contestants):
        own = [contestant for contestant in contestants if contestant.name == name]
        results = {budget: best(own, problems, budget, search) for budget in budgets}
        yield {"name": name, "at": {str(b): result for b, result in results.items() if result["value"] < math.inf}}


def best(own: Sequence[Contestant], problems: Sequence[Problem], budget: int, search: int) -> dict[str, Any]:
    """The best setting of a sampler: the best of the finalists, which do best on the first samples."""
    finalists = list(own)
    if len(own) > FINALISTS:
        heads = [problem.head(search) for problem in problems]
        tried = [measure(contestant, heads, budget).value for contestant in own]
        order = sorted(range(len(own)), key=tried.__getitem__)[:FINALISTS]
        finalists = [own[i] for i in order if tried[i] < math.inf]
    final = [(measure(contestant, problems, budget), contestant.setting) for contestant in finalists]
    (value, nfe), setting = min(final, default=(Measured(math.inf, 0), ""))
    return {"value": value, "nfe": nfe, "setting": setting}


def table(rows: Sequence[Row], budgets: Sequence[int]) -> str:
    """The rows in Markdown: the distance, the setting, and the counted evaluations where they are not the budget."""
    heads = " | ".join(f"{budget} evaluations" for budget in budgets)
    return "\n".join([f"| sampler | {heads} |", "|---" * (len(budgets) + 1) + "|", *(line(r, budgets) for r in rows)])


def line(row: Row, budgets: Sequence[int]) -> str:
    return f"| {row['name']} | {' | '.join(cell(row['at'].get(str(b)), b) for b in budgets)} |"


def cell(result: dict[str, Any] | None, budget: int) -> str:
    if result is None:
        return ""
    count = "" if result["nfe"] == budget else f" at {result['nfe']:.3g}"
    return f"{result['value']:.3g}{count}" + (f" ({result['setting']})" if result["setting"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("ode", "sde"))
    parser.add_argument("--steps", type=int, nargs="+", help="numbers of evaluations")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--search", type=int, help="samples on which the settings of others are chosen")
    parser.add_argument("--targets", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of targets")
    parser.add_argument("--only", choices=("ours", "peers"))
    parser.add_argument("--match", nargs="+", default=[""], help="only samplers whose name holds one of these words")
    parser.add_argument("--json", help="a file for the results, with every setting tried")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    budgets = arguments.steps or ([5, 10, 20, 50, 100] if arguments.kind == "ode" else [5, 10, 20])
    search = arguments.search or (500 if arguments.kind == "ode" else 4000)
    kind, seeds = arguments.kind, arguments.targets
    result: dict[str, Any] = {"kind": kind, "samples": arguments.samples, "targets": seeds, "rows": []}
    whole = problem(kind, seeds, arguments.samples)
    if kind == "sde":
        result["floor"] = floor(seeds, whole)
        print(f"floor: {result['floor']:.3g}")
    rows: Iterator[Row] = iter(())
    if arguments.only != "peers":
        # Ours may drop rows that are done, so that each target has a batch of its own.
        rows = contest(matching(ours(kind), arguments.match), apart(whole, seeds), budgets, search)
    if arguments.only != "ours":
        import peers

        rows = itertools.chain(
            rows, contest(matching(peers.contestants(kind), arguments.match), [whole], budgets, search)
        )
    for row in rows:
        result["rows"].append(row)
        print(line(row, budgets), file=sys.stderr, flush=True)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(result, indent=1))
    print(table(result["rows"], budgets))


if __name__ == "__main__":
    main()
