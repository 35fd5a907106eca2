"""Others' samplers for ``scripts/contest.py``: azula, diffusers, k-diffusion and SciPy, called as they are.

Each meets the same schedule in continuous form: azula by its functions alpha and sigma, k-diffusion by
``sigma / alpha`` after dividing x by alpha, diffusers by writing our ``sigma / alpha`` over the ones it looks up in
its table of a thousand. A time grid ends at eps, or, as these libraries' own do, goes from a last positive time on to
t = 0; the exact ends at the two times are 1e-5 apart. A library that is not installed is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contest import TOLERANCES, Contestant, Run

if TYPE_CHECKING:
    from torch import Tensor

    from sdegen.sde import LinearSDE
    from sdegen.sde.base import Score

Grid = Callable[["LinearSDE", int], "Tensor"]
"""``(sde, steps) -> times``, ``(steps + 1,)`` float64, falling from T."""


def share(steps: int) -> Tensor:
    import torch

    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def power(rho: float, sde: LinearSDE, steps: int, last: float | None = None) -> Tensor:
    """Uniform in t^(1/rho)."""
    low, high = (last or sde.eps) ** (1 / rho), sde.T ** (1 / rho)
    return (high + (low - high) * share(steps)) ** rho


def log_snr(sde: LinearSDE, steps: int, last: float | None = None) -> Tensor:
    """Uniform in log(sigma / alpha)."""
    import torch

    ends = sde.log_nsr(torch.tensor([sde.T, last or sde.eps], dtype=torch.float64))
    return sde.time(torch.lerp(ends[0], ends[1], share(steps)))


def karras(sde: LinearSDE, steps: int, last: float | None = None, rho: float = 7.0) -> Tensor:
    """Uniform in (sigma / alpha)^(1/rho). Reference: Karras et al. (2022), eq. 5."""
    import torch

    ends = (sde.log_nsr(torch.tensor([sde.T, last or sde.eps], dtype=torch.float64)) / (2 * rho)).exp()
    return sde.time(2 * rho * torch.lerp(ends[0], ends[1], share(steps)).log())


def to_zero(grid: Callable[..., Tensor], last: float, sde: LinearSDE, steps: int) -> Tensor:
    """A grid from T to ``last`` and then 0: the last evaluation is at ``last``."""
    import torch

    if steps < 2:
        raise ValueError("a grid to 0 has two steps at least")
    return torch.cat([grid(sde, steps - 1, last=last), torch.zeros(1, dtype=torch.float64)])


GRIDS: dict[str, Grid] = {
    "uniform t": partial(power, 1.0),
    "quadratic t": partial(power, 2.0),
    "log-SNR": log_snr,
    "Karras": karras,
    "uniform t to 1e-3, 0": partial(to_zero, partial(power, 1.0), 1e-3),
    "log-SNR to 1e-3, 0": partial(to_zero, log_snr, 1e-3),
    "Karras to 1e-3, 0": partial(to_zero, karras, 1e-3),
}
"""The grids that the libraries and papers use; those to 0 are the defaults of diffusers and k-diffusion."""


def logistic(sde: LinearSDE, steps: int) -> Tensor:
    """The grid that our samplers use."""
    from sdegen.samplers import DDIM, StepSampler

    return StepSampler(DDIM(), steps=steps, grid="logistic").times(sde)


EXTRA_GRIDS: dict[str, Grid] = {"ours": logistic}
"""Grids of ours that others may use as well."""

Stepper = Callable[["LinearSDE", "Score", "Tensor", "Tensor"], "Tensor"]
"""``(sde, score, x, times) -> ends``, drawing its noise from the global generator."""


def contestants(kind: str) -> list[Contestant]:
    """The samplers of every library that is installed; one line is printed for each that is not."""
    found = scipys() if kind == "ode" else []
    for library, samplers in (("azula", azulas), ("diffusers", diffusers), ("k_diffusion", k_diffusions)):
        try:
            found += samplers(kind)
        except ImportError as error:
            print(f"{library} is left out: {error}", file=sys.stderr)
    return [contestant._replace(run=partial(tried, contestant.run)) for contestant in found]


def tried(run: Run, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """The samples, not numbers where a sampler fails, as some do with too few steps or at sigma = 0."""
    try:
        return run(sde, score, x, steps, seed)
    except Exception:
        return x * float("nan")


def gridded(name: str, stepper: Stepper) -> list[Contestant]:
    """A sampler with every grid."""

    def run(grid: Grid, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
        with seeded(seed):
            return stepper(sde, score, x, grid(sde, steps))

    return [Contestant(name, setting, partial(run, grid)) for setting, grid in {**GRIDS, **EXTRA_GRIDS}.items()]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generator seeded, and float64 the default, as these libraries know no other way; both for a while."""
    import torch

    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def level(sde: LinearSDE, t: Tensor) -> Tensor:
    """sigma / alpha, also at t = 0."""
    return sde.sigma(t) / sde.alpha(t)


def denoised(sde: LinearSDE, score: Score, x: Tensor, t: Tensor) -> Tensor:
    """Tweedie's mean of x(0)."""
    return (x + sde.sigma(t) ** 2 * score(x, t)) / sde.alpha(t)


def scipys() -> list[Contestant]:
    """SciPy's solvers on the flow, the batch as one system."""

    def run(method: str, tolerance: float, sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
        import torch
        from scipy.integrate import solve_ivp

        field = sde.reverse(score, eta=0).drift

        def flat(t: float, state):  # noqa: ANN001, ANN202 - arrays of SciPy's
            return field(torch.as_tensor(state).view_as(x), torch.tensor(t, dtype=torch.float64)).flatten().numpy()

        start = x.flatten().numpy()
        result = solve_ivp(
            flat, (sde.T, sde.eps), start, method=method, rtol=tolerance, atol=tolerance, t_eval=[sde.eps]
        )
        return torch.as_tensor(result.y[:, -1]).view_as(x)

    return [
        Contestant(f"scipy {method}", f"tolerance {tolerance:.2g}", partial(run, method, tolerance))
        for method in ("RK45", "RK23")
        for tolerance in TOLERANCES
    ]


def azulas(kind: str) -> list[Contestant]:
    """azula's samplers, whose noise schedule is a function of t."""
    denoise = importlib.import_module("azula.denoise")
    sample = importlib.import_module("azula.sample")

    class Exact(denoise.Denoiser):  # type: ignore[name-defined]
        def __init__(self, sde: LinearSDE, score: Score) -> None:
            super().__init__()
            self.sde, self.score = sde, score

        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.sde.alpha(t), self.sde.sigma(t)

        def forward(self, x: Tensor, t: Tensor) -> Any:  # noqa: ANN401
            return denoise.DiracPosterior(denoised(self.sde, self.score, x, t))

    def step(sampler: str, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
        on_grid = type(sampler, (getattr(sample, sampler),), {"timesteps": times})
        return on_grid(Exact(sde, score), silent=True, **options)(x)

    samplers: dict[str, tuple[str, dict[str, Any]]] = {}
    if kind == "ode":
        samplers |= {"DDIM": ("DDIMSampler", {}), "Heun": ("HeunSampler", {}), "REAB 1": ("REABSampler", {"order": 1})}
        # The other forms of order 1 are DDIM.
        for form in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
            samplers |= {f"{form} {order}": (f"{form}Sampler", {"order": order}) for order in (2, 3, 4)}
    else:
        samplers |= {"DDPM": ("DDPMSampler", {})}
        samplers |= {f"DDIM eta={eta}": ("DDIMSampler", {"eta": eta}) for eta in (0.5, 1.0)}
        samplers |= {f"Ito eta={eta}": ("ItoSampler", {"eta": eta}) for eta in (0.5, 1.0)}
        samplers |= {f"PC delta={delta}": ("PCSampler", {"delta": delta}) for delta in (0.01, 0.1)}
    return [c for name, how in samplers.items() for c in gridded(f"azula {name}", partial(step, *how))]


def diffusers(kind: str) -> list[Contestant]:
    """diffusers' schedulers, with our levels of noise in place of the table's."""
    schedulers = importlib.import_module("diffusers.schedulers")
    importlib.import_module("diffusers").utils.logging.set_verbosity_error()
    found = []
    for name, (cls, options, space) in (DIFFUSERS_ODE if kind == "ode" else DIFFUSERS_SDE).items():
        found += gridded(f"diffusers {name}", partial(space, getattr(schedulers, cls), options))
    if kind == "sde":
        for eta in (0.5, 1.0):
            found += gridded(f"diffusers DDIM eta={eta}", partial(ddim, schedulers.DDIMScheduler, eta))
    return found


def ending(cls: type, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """A scheduler that moves x itself and is told whether it ends at 0."""
    end = "sigma_min" if times[-1] > 0 else "zero"
    return preserving(cls, {"final_sigmas_type": end, **options}, sde, score, x, times)


def preserving(cls: type, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """A scheduler that moves x itself and asks for the noise in it."""
    scheduler = cls(**options)
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = level(sde, times)
    return stepped(scheduler, times[:-1], x, lambda x, t: -sde.sigma(t) * score(x, t))


def exploding(
    repeats: int, cls: type, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor
) -> Tensor:
    """A scheduler that moves x / alpha; it meets each inner time ``repeats`` times."""
    import torch

    scheduler = cls(**options)
    scheduler.set_timesteps(len(times) - 1)
    inner = times[1:-1].repeat_interleave(repeats)
    at = torch.cat([times[:1], inner])
    scheduler.sigmas = level(sde, torch.cat([at, times[-1:]]))
    scheduler.is_scale_input_called = True
    x = stepped(scheduler, at, x / sde.alpha(times[0]), lambda x, t: -sde.sigma(t) * score(sde.alpha(t) * x, t))
    return x * sde.alpha(times[-1])


def edm(cls: type, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """A scheduler of Karras et al.'s preconditioned networks: it moves x / alpha and asks for their output."""
    scheduler = cls(**options, final_sigmas_type="sigma_min" if times[-1] > 0 else "zero")
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = level(sde, times)
    data = scheduler.config.sigma_data

    def output(x: Tensor, t: Tensor) -> Tensor:
        sigma = level(sde, t)
        total = sigma**2 + data**2
        return (denoised(sde, score, sde.alpha(t) * x, t) - data**2 / total * x) * total.sqrt() / (sigma * data)

    return stepped(scheduler, times[:-1], x / sde.alpha(times[0]), output) * sde.alpha(times[-1])


def stepped(scheduler: Any, times: Tensor, x: Tensor, output: Callable[[Tensor, Tensor], Tensor]) -> Tensor:  # noqa: ANN401
    """The loop of a pipeline. Our times are not the scheduler's: it is given names for them, which fall as its own."""
    import torch

    scheduler.timesteps = torch.arange(len(times) - 1, -1, -1, dtype=torch.float64)
    for t, label in zip(times, scheduler.timesteps, strict=True):
        x = scheduler.step(output(x, t), label, x, return_dict=False)[0].double()
    return x


def ddim(cls: type, eta: float, sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """DDIM, which knows no levels but its table's: the table holds our grid."""
    steps = len(times) - 1
    scheduler = cls(num_train_timesteps=steps, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = sde.alpha(times[:-1].flip(0)) ** 2
    scheduler.final_alpha_cumprod = sde.alpha(times[-1]) ** 2
    for t, label in zip(times, scheduler.timesteps, strict=False):
        x = scheduler.step(-sde.sigma(t) * score(x, t), label, x, eta=eta, return_dict=False)[0]
    return x


DPM, SINGLE, DEIS, UNIPC = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
DIFFUSERS_ODE: dict[str, tuple[str, dict[str, Any], Any]] = {
    **{f"DPM++ {o}M": (DPM, {"solver_order": o}, ending) for o in (1, 2, 3)},
    **{f"DPM++ {o}M, full order": (DPM, {"solver_order": o, "lower_order_final": False}, ending) for o in (2, 3)},
    "DPM++ 2M heun": (DPM, {"solver_order": 2, "solver_type": "heun"}, ending),
    **{
        f"DPM {o}M": (DPM, {"solver_order": o, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, ending)
        for o in (2, 3)
    },
    **{f"DPM++ {o}S": (SINGLE, {"solver_order": o}, ending) for o in (2, 3)},
    **{f"DEIS {o}": (DEIS, {"solver_order": o}, preserving) for o in (2, 3)},
    **{f"UniPC {o}": (UNIPC, {"solver_order": o}, ending) for o in (1, 2, 3)},
    **{f"UniPC {o} bh1": (UNIPC, {"solver_order": o, "solver_type": "bh1"}, ending) for o in (1, 2, 3)},
    **{f"UniPC {o}, full order": (UNIPC, {"solver_order": o, "lower_order_final": False}, ending) for o in (2, 3)},
    **{f"UniPC {o} noise": (UNIPC, {"solver_order": o, "predict_x0": False}, ending) for o in (2, 3)},
    **{f"EDM DPM++ {o}M": ("EDMDPMSolverMultistepScheduler", {"solver_order": o}, edm) for o in (2, 3)},
    "Heun": ("HeunDiscreteScheduler", {}, partial(exploding, 2)),
}
"""Name: the scheduler, its options, and how it is driven."""

SDE_DPM = {"algorithm_type": "sde-dpmsolver++"}
SA = "SASolverScheduler"
DIFFUSERS_SDE: dict[str, tuple[str, dict[str, Any], Any]] = {
    **{f"SDE-DPM++ {o}M": (DPM, {"solver_order": o, **SDE_DPM}, ending) for o in (1, 2, 3)},
    "SDE-DPM++ 2M heun": (DPM, {"solver_order": 2, "solver_type": "heun", **SDE_DPM}, ending),
    "SDE-DPM++ 3M, full order": (DPM, {"solver_order": 3, "lower_order_final": False, **SDE_DPM}, ending),
    "SDE-DPM++ 2S": (SINGLE, {"solver_order": 2, **SDE_DPM}, ending),
    "SDE EDM DPM++ 2M": ("EDMDPMSolverMultistepScheduler", {"solver_order": 2, **SDE_DPM}, edm),
    **{
        f"SA-Solver {p},{c}": (SA, {"predictor_order": p, "corrector_order": c, "tau_func": lambda t: 1}, preserving)
        for p, c in ((1, 1), (2, 2), (3, 3), (3, 4))
    },
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}, partial(exploding, 1)),
}


def k_diffusions(kind: str) -> list[Contestant]:
    """k-diffusion's samplers, which move x / alpha; their Brownian trees are replaced by independent noise."""
    import torch

    sampling = k_sampling()

    def model(sde: LinearSDE, score: Score) -> Callable[[Tensor, Tensor], Tensor]:
        def call(x: Tensor, sigma: Tensor) -> Tensor:
            t = sde.time(2 * sigma[0].log())
            return denoised(sde, score, sde.alpha(t) * x, t)

        return call

    def step(sampler: str, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
        walk = getattr(sampling, f"sample_{sampler}")
        x = walk(model(sde, score), x / sde.alpha(times[0]), level(sde, times), disable=True, **options)
        return x * sde.alpha(times[-1])

    def independent(
        sampler: str, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, times: Tensor
    ) -> Tensor:
        noise = {"noise_sampler": lambda sigma, sigma_next: torch.randn_like(x)}
        return step(sampler, {**options, **noise}, sde, score, x, times)

    def whole(
        sampler: str, options: dict[str, Any], sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int
    ) -> Tensor:
        """A sampler that places its own steps between the ends."""
        ends = level(sde, torch.tensor([sde.eps, sde.T], dtype=torch.float64)).tolist()
        walk = getattr(sampling, f"sample_{sampler}")
        placed = {} if "rtol" in options else {"n": steps}
        with seeded(seed):
            start = x / sde.alpha(torch.tensor(sde.T, dtype=torch.float64))
            x = walk(model(sde, score), start, *ends, disable=True, **placed, **options)
        return x * sde.alpha(torch.tensor(sde.eps, dtype=torch.float64))

    samplers: dict[str, tuple[str, dict[str, Any]]] = {}
    found: list[Contestant] = []
    if kind == "ode":
        samplers |= {name: (name, {}) for name in ("euler", "heun", "dpm_2", "dpmpp_2m")}
        samplers |= {f"lms {order}": ("lms", {"order": order}) for order in (2, 3, 4)}
        samplers |= {f"{name} eta=0": (name, {"eta": 0.0}) for name in ("dpmpp_2s_ancestral", "dpmpp_3m_sde")}
        samplers |= {"dpmpp_2m_sde heun eta=0": ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"})}
        found = [Contestant("k-diffusion dpm_fast", "its own", partial(whole, "dpm_fast", {}))]
        for order in (2, 3):
            for tolerance in TOLERANCES:
                how = partial(whole, "dpm_adaptive", {"order": order, "rtol": tolerance, "atol": 0.156 * tolerance})
                found.append(Contestant(f"k-diffusion dpm_adaptive {order}", f"tolerance {tolerance:.2g}", how))
    else:
        samplers |= {name: (name, {}) for name in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral")}
        trees = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
        fair: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in trees} | {
            "dpmpp_2m_sde heun": ("dpmpp_2m_sde", {"solver_type": "heun"})
        }
        found = [c for name, how in fair.items() for c in gridded(f"k-diffusion {name}", partial(independent, *how))]
        samplers |= {f"{name} tree": (name, {}) for name in trees}
        samplers |= {f"{name} eta=0.5": (name, {"eta": 0.5}) for name in ("euler_ancestral", "dpmpp_2s_ancestral")}
        samplers |= {f"{name} churn": (name, {"s_churn": 40.0}) for name in ("euler", "heun")}
    return found + [c for name, how in samplers.items() for c in gridded(f"k-diffusion {name}", partial(step, *how))]


def k_sampling() -> types.ModuleType:
    """``k_diffusion.sampling`` without the rest of its package, which wants libraries for images."""
    if "k_diffusion.sampling" not in sys.modules:
        spec = importlib.util.find_spec("k_diffusion")
        if spec is None or spec.origin is None:
            raise ImportError("No module named 'k_diffusion'")
        package = types.ModuleType("k_diffusion")
        package.__path__ = [str(Path(spec.origin).parent)]
        utils = types.ModuleType("k_diffusion.utils")
        utils.append_dims = lambda x, dimensions: x[(...,) + (None,) * (dimensions - x.ndim)]  # type: ignore[attr-defined]
        sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
        package.utils = utils  # type: ignore[attr-defined]
    return importlib.import_module("k_diffusion.sampling")
