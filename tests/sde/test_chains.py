"""The chains of appendices A and B, step by step, agree with their SDEs and have the right limits."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import standard_error
from torch import Tensor

from sdegen.core.randomness import randn_like
from sdegen.sde import DDPM, SMLD, VE, VP, LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.training.objective import Denoising
from sdegen.training.times import Levels
from sdegen.training.weighting import Variance

N, SIGMA_MIN, SIGMA_MAX, BETA_MIN, BETA_MAX = 50, 0.1, 8.0, 0.2, 15.0
SMLD_CHAIN = SMLD(SIGMA_MIN, SIGMA_MAX, N)
DDPM_CHAIN = DDPM(BETA_MIN, BETA_MAX, N)
CHAINS = [SMLD_CHAIN, DDPM_CHAIN]


def name(value: object) -> str:
    return type(value).__name__


def levels(n: int = N) -> Tensor:
    return torch.arange(1, n + 1, dtype=torch.float64) / n


def smld_scales(n: int = N) -> list[float]:
    """Returns σ_1 = σ_min to σ_N = σ_max, in equal ratios."""
    factor = (SIGMA_MAX / SIGMA_MIN) ** (1 / (n - 1))
    return [SIGMA_MIN * factor**i for i in range(n)]


def ddpm_betas(n: int = N) -> list[float]:
    return [(BETA_MIN + (BETA_MAX - BETA_MIN) * i / n) / n for i in range(1, n + 1)]


def walked(chain: str, n: int = N) -> tuple[Tensor, Tensor]:
    """Returns the mean factors and variances of x_1 … x_N given x_0, by the recursion of the chain."""
    mean, variance, means, variances = 1.0, 0.0, [], []
    scales, before = smld_scales(n), 0.0
    for i in range(n):
        if chain == "SMLD":
            variance, before = variance + scales[i] ** 2 - before**2, scales[i]
        else:
            beta = ddpm_betas(n)[i]
            mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        means.append(mean)
        variances.append(variance)
    return torch.tensor(means, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64)


@pytest.mark.parametrize("sde", CHAINS, ids=name)
def test_kernel_at_every_level_equals_the_kernel_of_the_chain(sde: LinearSDE) -> None:
    """Errata 5, 11 and 13: the mean of SMLD is x and not 0, α_i is ∏(1 − β_j), and SMLD starts without noise."""
    mean, variance = walked(name(sde))
    torch.testing.assert_close(sde.alpha(levels()), mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.sigma(levels()) ** 2, variance, rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.sigma(levels().float()).double() ** 2, variance, rtol=1e-4, atol=0)
    assert sde.eps == 1 / N
    assert float(sde.sigma(torch.zeros(()))) == 0


def test_the_paths_of_the_chains_have_the_moments_of_the_kernels() -> None:
    """Erratum 5 by simulation: the mean of x̃ is x, the data point at which the chain started."""
    source = torch.Generator().manual_seed(0)
    smld = ddpm = torch.full((40_000,), 3.0, dtype=torch.float64)
    scales, before = smld_scales(), 0.0
    for scale, beta in zip(scales, ddpm_betas(), strict=True):
        z = torch.randn(2, len(smld), generator=source, dtype=torch.float64)
        smld = smld + math.sqrt(scale**2 - before**2) * z[0]
        ddpm = math.sqrt(1 - beta) * ddpm + math.sqrt(beta) * z[1]
        before = scale
        if scale == scales[N // 3]:
            t = torch.tensor((N // 3 + 1) / N, dtype=torch.float64)
            for sde, x in ((SMLD_CHAIN, smld), (DDPM_CHAIN, ddpm)):
                assert float(x.mean()) == pytest.approx(3 * float(sde.alpha(t)), abs=4 * standard_error(x))
                assert float(x.std()) == pytest.approx(float(sde.sigma(t)), rel=4 / math.sqrt(2 * len(x)))
    assert float(smld.mean()) == pytest.approx(3, abs=4 * standard_error(smld))
    assert float(ddpm.std()) == pytest.approx(float(DDPM_CHAIN.sigma(torch.ones(()))), rel=0.015)


@pytest.mark.parametrize("sde", CHAINS, ids=name)
def test_kernel_solves_the_moment_equations_within_each_step(sde: LinearSDE) -> None:
    """The equations α' = aα and (σ²)' = 2aσ² + g² hold in the middle of each step and at its end."""
    h = 1e-6
    for t in ((levels() - 0.5 / N), levels() - 2e-5 / N):
        low, high = t - h / N, t
        alpha, variance = (
            (sde.alpha(high) - sde.alpha(low)) * N / h,
            (sde.sigma(high) ** 2 - sde.sigma(low) ** 2) * N / h,
        )
        rate = sde.drift(torch.ones(N, 1, dtype=torch.float64), levels()).flatten()
        g2 = sde.diffusion(levels()) ** 2
        torch.testing.assert_close(alpha, rate * sde.alpha(t), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(variance, 2 * rate * sde.sigma(t) ** 2 + g2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [lambda n: SMLD(0.01, 50.0, n), lambda n: DDPM(levels=n)], ids=["smld", "ddpm"])
def test_time_of_a_level_belongs_to_its_own_step(make, dtype: torch.dtype) -> None:  # noqa: ANN001
    """At i/N, in both precisions, g has the value of the step from i − 1 to i. It is constant on the step."""
    n = 1000
    sde = make(n)
    t = torch.linspace(1, 1 / n, n, dtype=torch.float64).flip(0).to(dtype)
    torch.testing.assert_close(sde.diffusion(t), sde.diffusion(t - 0.3 / n), rtol=1e-6, atol=0)
    # From the second step on, g increases. The first step of SMLD adds all of σ_min² at once.
    assert float((sde.diffusion(t[2:]) / sde.diffusion(t[1:-1])).min()) > 1 + 1e-4


@pytest.mark.parametrize("sde", CHAINS, ids=name)
def test_time_inverts_the_noise_to_signal_ratio(sde: LinearSDE) -> None:
    t = torch.cat([levels(), torch.logspace(-4, 0, 200, dtype=torch.float64)]).sort().values
    u = sde.log_nsr(t)
    torch.testing.assert_close(sde.time(u), t, rtol=1e-9, atol=0)
    torch.testing.assert_close(sde.time(u.float()), t.float(), rtol=1e-4, atol=0)
    assert bool((u.diff() > -1e-12).all())


def test_ddpm_converges_to_vp_at_order_one() -> None:
    """Erratum 7: appendix D is about DDPM. The limit of DDPM is VP from β_min to β_max, with the drift of VP."""
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    vp = VP(BETA_MIN, BETA_MAX)
    for of in ("alpha", "sigma", "rate"):
        errors = [
            float((getattr(DDPM(BETA_MIN, BETA_MAX, n), of)(t) - getattr(vp, of)(t)).abs().max())
            for n in (200, 400, 800, 1600)
        ]
        orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
        assert orders[-1] == pytest.approx(1, abs=0.1), of


def test_smld_converges_to_ve_started_from_blurred_data() -> None:
    """Errata 7 and 13: the limit has no drift and the same g as VE.

    Its variance is larger than the variance of VE by σ_min².
    """
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    ve, x = VE(SIGMA_MIN, SIGMA_MAX), torch.randn(10, 1, generator=torch.Generator().manual_seed(0))
    errors = []
    for n in (200, 400, 800, 1600):
        smld = SMLD(SIGMA_MIN, SIGMA_MAX, n)
        assert torch.equal(smld.drift(x, t), torch.zeros(10, 1))
        blurred = (ve.sigma(t) ** 2 + SIGMA_MIN**2).sqrt()
        errors.append(
            (float((smld.sigma(t) - blurred).abs().max()), float((smld.diffusion(t) / ve.diffusion(t) - 1).abs().max()))
        )
    for a, b in zip(errors[-2], errors[-1], strict=True):
        assert math.log2(a / b) == pytest.approx(1, abs=0.1)


def test_smld_starts_with_the_largest_scale_squared() -> None:
    """Erratum 6: the prior is N(0, σ_max² I). The paper prints the variance σ_max."""
    x = SMLD_CHAIN.sample_prior(torch.empty(50_000, 1), randn_like(torch.Generator().manual_seed(0)))
    assert float(x.std()) == pytest.approx(SIGMA_MAX, rel=0.015)
    grid = torch.linspace(-80, 80, 20_001, dtype=torch.float64)[:, None]
    density = SMLD_CHAIN.log_prior(grid).exp()
    assert float(torch.trapezoid(density * grid.flatten() ** 2, grid.flatten())) == pytest.approx(SIGMA_MAX**2)


@pytest.mark.parametrize("sde", CHAINS, ids=name)
def test_denoising_at_the_levels_is_the_loss_of_the_chain(sde: LinearSDE, line: GaussianMixture) -> None:
    """The loss is Σ_i w_i E‖s − ∇log p(x̃|x)‖² / N, as in appendices A and B, with w_i = σ_i² and w_i = 1 − α_i.

    The sum needs no samples of x. With Gaussian kernels and the score s = −cx, the expectation of a term is
    w_i (c² (m_i² E x² + v_i) − 2c + 1/v_i), with the moments m_i and v_i of the chain.
    """
    mean, variance = walked(name(sde))
    second, c = float((line.weights * (line.means.flatten() ** 2 + line.covariances.flatten())).sum()), 0.3
    per_level = variance * (c**2 * (mean**2 * second + variance) - 2 * c + 1 / variance)
    u = torch.rand(1, 1, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, ratio = Levels(points=N)(sde, Variance(), u)
    assert torch.allclose(t.flatten().unique(), levels(), rtol=1e-12)
    x0 = line.sample(u.numel(), torch.Generator().manual_seed(1))
    rows = Denoising().prepare(sde, x0, t.flatten(), randn_like(torch.Generator().manual_seed(2)))
    losses = ratio.flatten() * Variance()(sde, rows.t) * Denoising().loss(lambda x, t: -c * x, rows)
    assert float(losses.mean()) == pytest.approx(float(per_level.mean()), abs=4.5 * standard_error(losses))


def test_exact_score_of_the_chain_is_the_score_of_its_marginals(line: GaussianMixture) -> None:
    """The exact score at level i is the score of the mixture mapped by the moments of the chain."""
    x = torch.linspace(-4, 4, N, dtype=torch.float64)[:, None]
    for sde in CHAINS:
        mean, variance = walked(name(sde))
        moved = x.clone().requires_grad_()
        parts = [
            torch.distributions.Normal(mean * m, (mean**2 * v + variance).sqrt()).log_prob(moved.flatten())
            + math.log(w)
            for w, m, v in zip(line.weights.tolist(), line.means.flatten(), line.covariances.flatten(), strict=True)
        ]
        (expected,) = torch.autograd.grad(torch.stack(parts).logsumexp(0).sum(), moved)
        torch.testing.assert_close(Marginals(line, sde)(x, levels()), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: DDPM(levels=20), "levels=20 must be above beta_max=20"),
        (lambda: DDPM(levels=1), "levels=1 must be at least 2"),
        (lambda: DDPM(beta_min=0), "beta_min=0 must be above 0"),
        (lambda: DDPM(beta_max=0.01), "beta_max=0.01 must be at least beta_min=0.1"),
        (lambda: SMLD(levels=1), "levels=1 must be at least 2"),
        (lambda: SMLD(sigma_max=0.01), "sigma_max=0.01 must be above sigma_min=0.01"),
        (lambda: SMLD(sigma_max="auto"), "sigma_max=auto is computed from data"),
    ],
)
def test_values_out_of_range_are_refused(build, words: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=words):
        build()
