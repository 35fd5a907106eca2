"""Errors of log-densities and of estimated standard errors, with the exact score of mixtures under VP."""

from __future__ import annotations

import torch

from sdegen.core.randomness import generator
from sdegen.datasets import Affine
from sdegen.flow import Exact, Flow, Hutchinson
from sdegen.flow.solvers import DormandPrince, SciPyRK45
from sdegen.sde import VP
from sdegen.sde.mixture import GaussianMixture, Marginals
from suites.base import Row, row


def measure(points: int, tolerance: float) -> list[Row]:
    """Returns errors of log-densities, in nats per dimension.

    In the plane, the divergence is exact, or estimated with one probe or with ten runs of one probe each. In 16
    dimensions it is estimated with ten probes; further rows have the mean squared error divided by the mean squared
    standard error, and the share of errors within the 95 % interval of Student's t with nine degrees of freedom.
    """
    torch.set_num_threads(1)
    rows: list[Row] = []
    sde = VP()
    for d in (2, 16):
        law, units = anisotropic(d)
        x = law.sample(points, generator("cpu", 0, "likelihood"))
        inner, eps = Marginals(law.affine(units.shift, units.scale), sde), torch.tensor(sde.eps, dtype=torch.float64)
        exact = inner.log_prob(units.encode(x), eps) + units.log_det(x)
        flow = Flow(sde, inner, units, DormandPrince(tolerance, tolerance, 10_000), dtype=torch.float64)
        found = flow.log_prob(x, Exact())
        found_by = {"exact divergence": found.log_p, "one probe": flow.log_prob(x, Hutchinson(1)).log_p}
        truth: dict[str, float] = {}
        if d == 2:
            scipys = Flow(sde, inner, units, SciPyRK45(tolerance, tolerance), dtype=torch.float64)
            found_by["exact divergence, RK45"] = scipys.log_prob(x, Exact()).log_p
            found_by["exact divergence, float32"] = Flow(sde, inner, units, flow.solver).log_prob(x, Exact()).log_p
            single = torch.stack([flow.log_prob(x, Hutchinson(1), seed).log_p for seed in range(10)])
            found_by["ten runs of one probe"] = single.mean(0)
        else:
            ten = flow.log_prob(x, Hutchinson(10))
            assert ten.standard_error is not None
            found_by["ten probes"], off = ten.log_p, (ten.log_p - exact).abs()
            truth["squared error divided by its estimate"] = float(
                off.square().mean() / ten.standard_error.square().mean()
            )
            truth["share within 95 %"] = float((off < 2.262 * ten.standard_error).double().mean())
        panel, line = "error, nats per dimension", f"{d} dimensions"
        rows += [row(panel, line, name, ((log_p - exact).abs() / d).tolist(), "") for name, log_p in found_by.items()]
        rows.append(row("evaluations per point", line, line, [found.nfe], ""))
        rows += [row("ten probes in 16 dimensions", line, name, [value], "") for name, value in truth.items()]
    return sorted(rows, key=lambda each: each.panel)


def anisotropic(d: int) -> tuple[GaussianMixture, Affine]:
    """Returns a mixture of three Gaussians with full covariances in d dimensions, and the units that standardise it."""
    source = generator("cpu", 0, "mixture", d)
    root = torch.randn(3, d, d, generator=source, dtype=torch.float64) / (d + 1) ** 0.5
    means = 2 * torch.randn(3, d, generator=source, dtype=torch.float64)
    law = GaussianMixture(torch.tensor([0.2, 0.5, 0.3]), means, root @ root.transpose(1, 2) + 0.01 * torch.eye(d))
    mean = law.weights @ law.means
    spread = law.covariances + (law.means - mean)[:, :, None] * (law.means - mean)[:, None, :]
    return law, Affine(mean, (law.weights[:, None, None] * spread).sum(0).diagonal().sqrt())
