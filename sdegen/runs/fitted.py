"""Fits of a sampler's steps to the score of a run, kept in its folder as ``fitted/<sampler>-<steps>-<key>.json``.

A fit is used again for the same weights, sampler, process, guidance and condition. This costs a few evaluations of the
score at :data:`COMPARED` points, which are compared with those of the fit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdegen.config.options import choice
from sdegen.core.errors import Unwritable
from sdegen.core.progress import Progress
from sdegen.core.randomness import generator, own_layers, randn_like
from sdegen.runs import files
from sdegen.samplers import Sampler, StepSampler, fitting
from sdegen.samplers.fitting import Fit
from sdegen.sde.base import Score
from sdegen.sde.scores import of_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdegen.runs.steered import Steered

log = logging.getLogger("sdegen")

FOLDER = "fitted"
"""Folder of the fits inside the run's folder."""
COMPARED = 96
"""Number of starts at which scores are compared."""
PROBED = (0.9, 0.5, 0.1)
"""Shares of T at which the scores of a fit and of the present run are compared."""
CLOSE = 1e-4
"""Largest relative difference between equal scores."""


def fitted(run: Steered) -> Sampler:
    """Returns the sampler of a run; for ``grid=fitted``, with times and weights that are fitted to the run's score."""
    sampler = run.sampler
    if sampler.grid != "fitted":
        return sampler
    assert isinstance(sampler, StepSampler)
    facts, name = described(run), f"{choice(run.config['sampler'])}-{sampler.steps}"
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
    path = run.folder / FOLDER / f"{name}-{key}.json"
    with evaluated(run):
        score, x = steered(run)
        probe = probed(run, score, x)
        found, why = read(path, sampler, run.sde, probe)
        if found is None:
            log.info(f"fitting {sampler.steps} steps to {run.weights_used()}{why or others(path, name, facts)}")
            found, seconds = fit(run, sampler, score, x)
            log.info(f"fitted in {seconds:.1f} s: {found.summary()}")
            keep(path, {**found._asdict(), "of": facts, "probe": probe, "starts": len(x), "seconds": round(seconds, 2)})
        else:
            log.info(f"steps from {path}: {found.summary()}")
    return sampler.fitted(found)


def described(run: Steered) -> dict[str, Any]:
    """Returns what a fit is made for, as plain data."""
    return {
        "step": run.step,
        "weights": run.weights,
        "digest": run.once("digest of the weights", lambda: digest(run)),
        "precision": run.precision,
        **{group: run.config[group] for group in ("network", "sde", "sampler")},
        # The conditions of single samples change with each sampling. A fit to some of them serves all.
        "target": "a condition for each sample" if run.target.rows is not None else run.target.name,
    }


def digest(run: Steered) -> str:
    """Returns a hash of the tensors of the model."""
    found = hashlib.sha256()
    for name, value in sorted(run.model.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(name.encode())
            found.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


@contextmanager
def evaluated(run: Steered) -> Iterator[None]:
    """Returns a context in which the model is evaluated as in a sampling."""
    was_training = run.model.training
    run.model.eval()
    try:
        with torch.no_grad(), own_layers(run.device, 0, "fitted layers"):
            yield
    finally:
        run.model.train(was_training)


def steered(run: Steered) -> tuple[Score, Tensor]:
    """Returns the score of a run and starts of a fit, ``(N, *)``. They are never those of samples."""
    number = fitting.number(run.sampler.predictor, run.units.size)
    like = torch.empty(number, *run.units.shape, dtype=run.dtype)
    x = run.sde.sample_prior(like, randn_like(generator("cpu", 0, "starts of a fit"))).to(run.device)
    x, score = x if run.guidance is None else run.guidance.start(run.sde, x), run.steered_score()
    return score if run.target.rows is None else of_rows(score, torch.arange(number) % run.target.rows), x


def probed(run: Steered, score: Score, x: Tensor) -> list[float]:
    """Returns the root mean squares of the score at a few times; none if each sample has a condition of its own."""
    if run.target.rows is not None:
        return []
    score, x = of_rows(score, torch.arange(COMPARED)), x[:COMPARED]
    times = [torch.tensor(share * run.sde.T, dtype=torch.float64) for share in PROBED]
    return [float(score(x, t).double().square().mean().sqrt()) for t in times]


def read(path: Path, sampler: StepSampler, sde: Any, probe: list[float]) -> tuple[Fit | None, str]:  # noqa: ANN401
    """Returns the fit in a file; None, and words about the reason, if there is none for a score with this probe."""
    try:
        content = json.loads(files.text(path))
        found = Fit.of(content)
        sampler.fitted(found).times(sde)
        before = [float(value) for value in content["probe"]]
    except FileNotFoundError:
        return None, ""
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return None, f", since {path} is damaged"
    same = len(before) == len(probe) and all(abs(a - b) <= CLOSE * abs(b) for a, b in zip(before, probe, strict=True))
    return (found, "") if same else (None, f", since {path} was fitted to another score")


def others(path: Path, name: str, facts: dict[str, Any]) -> str:
    """Returns words about what is new, compared with the last fit of the same sampler and number of steps."""
    kept = sorted(path.parent.glob(f"{name}-*.json"), key=lambda one: one.stat().st_mtime)
    try:
        before = json.loads(files.text(kept[-1]))["of"]
        new = [key for key in facts if before.get(key) != facts[key]]
    except (IndexError, ValueError, TypeError, KeyError, AttributeError, OSError):
        return ""
    return f", since {kept[-1]} was fitted with another {new[0]}" if new else ""


def fit(run: Steered, sampler: StepSampler, score: Score, x: Tensor) -> tuple[Fit, float]:
    """Returns the fit and its duration in seconds, and shows the progress."""
    began, shown = time.perf_counter(), Progress(f"fitting {sampler.steps} steps", "candidates")
    with closing(shown):
        assert run.sde.linear is not None
        report = partial(shown.to, total=None)
        found = fitting.fit(sampler.predictor, run.sde.linear, score, x, sampler.steps, report)
    return found, time.perf_counter() - began


def keep(path: Path, content: dict[str, Any]) -> None:
    """Writes a fit; logs a warning if it cannot be written."""
    try:
        files.write_json(path, content)
    except Unwritable as error:
        log.warning(f"the fitted steps are not kept: {error}")
