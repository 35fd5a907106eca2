"""Fits of a sampler's steps to the score of a run, kept in its folder as ``fitted/<sampler>-<steps>-<key>.json``.

A fit is used again for the same weights, sampler, process, guidance and condition. This costs a few evaluations of the
score at :data:`COMPARED` points, which are compared with those of the fit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdegen.config.options import choice
from sdegen.core.errors import Unwritable
from sdegen.core.progress import Progress
from sdegen.core.randomness import generator, own_layers, randn_like
from sdegen.runs import files
from sdegen.runs.guiding import Target
from sdegen.runs.sampling import evaluated
from sdegen.runs.trained import Trained
from sdegen.samplers import Sampler, StepSampler, fitting
from sdegen.samplers.fitting import Fit
from sdegen.samplers.grids import check_ends
from sdegen.sde.base import SDE, Score
from sdegen.sde.scores import of_rows

log = logging.getLogger("sdegen")

FOLDER = "fitted"
"""Folder of the fits inside the run's folder."""
COMPARED = 96
"""Largest number of starts at which scores are compared. Fits to images have fewer starts."""
PROBED = (0.9, 0.5, 0.1)
"""Shares of T at which the scores of a fit and of the present run are compared."""
CLOSE = 1e-4
"""Largest relative difference between equal scores."""


def fitted(run: Trained, target: Target, score_of: Callable[[], Score]) -> Sampler:
    """Returns the sampler of a run; for ``grid=fitted``, with steps that are fitted to the score towards a target.

    ``score_of`` returns this score, in the network's units.
    """
    sampler = run.sampler
    if sampler.grid != "fitted":
        return sampler
    assert isinstance(sampler, StepSampler)
    facts, name = described(run, target), f"{choice(run.config['sampler'])}-{sampler.steps}"
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
    path = run.folder / FOLDER / f"{name}-{key}.json"
    with evaluated(run.model), torch.no_grad(), own_layers(run.device, 0, "layers of a fit"):
        score, x = starting(run, target, score_of())
        probe = [] if target.of_data else probed(run, score, x)
        found, why = read(path, sampler, run.sde, probe)
        if found is None:
            towards = f" for {facts['target']}" if facts["target"] else ""
            log.info(
                f"fitting {sampler.steps} steps to {run.weights_used()}{towards}{why or others(path, name, facts)}"
            )
            found, seconds = fit(run, sampler, score, x)
            log.info(f"fitted in {seconds:.1f} s: {found.summary()}")
            keep(path, {**found._asdict(), "of": facts, "probe": probe, "starts": len(x), "seconds": round(seconds, 2)})
        else:
            log.info(f"steps from {path}: {found.summary()}")
    return sampler.fitted(found)


def described(run: Trained, target: Target) -> dict[str, Any]:
    """Returns what a fit is made for, as plain data."""
    facts = {
        "step": run.step,
        "weights": run.weights,
        "ema": run.ema,
        "values of the weights": run.digest,
        "precision": run.precision,
        **{group: run.config[group] for group in ("network", "sde", "sampler")},
        # The conditions of points of the data change with each seed. A fit to some of them serves all.
        "target": "conditions of the data" if target.of_data else target.name,
        "guidance": target.node,
    }
    found: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return found


def starting(run: Trained, target: Target, score: Score) -> tuple[Score, Tensor]:
    """Returns the score at the starts of a fit, and the starts, ``(N, *)``. They are never those of samples."""
    sampler = run.sampler
    assert isinstance(sampler, StepSampler)
    number = fitting.number(sampler.predictor, run.units.shape, sampler.steps)
    like = torch.empty(number, *run.units.shape, dtype=run.dtype)
    x = run.sde.sample_prior(like, randn_like(generator("cpu", 0, "starts of a fit"))).to(run.device)
    if target.guidance is not None:
        x = target.guidance.start(run.sde, x)
    if target.rows is None:
        return score, x
    # Rows may be sorted, and more than the starts: choose them at random.
    order = torch.randperm(target.rows, generator=generator("cpu", 0, "rows of a fit"))
    return of_rows(score, order[torch.arange(number) % target.rows]), x


def probed(run: Trained, score: Score, x: Tensor) -> list[float]:
    """Returns the root mean squares of the score at a few times."""
    x = x[:COMPARED]
    score = of_rows(score, torch.arange(len(x)))
    times = [torch.tensor(share * run.sde.T, dtype=torch.float64) for share in PROBED]
    return [float(score(x, t).double().square().mean().sqrt()) for t in times]


def read(path: Path, sampler: StepSampler, sde: SDE, probe: list[float]) -> tuple[Fit | None, str]:
    """Returns the fit in a file; None, and words about the reason, if there is none for a score with this probe."""
    try:
        content = json.loads(files.text(path))
        found = Fit.of(content)
        if sampler.fitted(found).steps != sampler.steps:
            raise ValueError("another number of steps")
        check_ends(found.times, sde)
        before = [float(value) for value in content["probe"]]
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, OSError):
        return None, f", since {path} is damaged"
    same = len(before) == len(probe) and all(abs(a - b) <= CLOSE * abs(b) for a, b in zip(before, probe, strict=True))
    return (found, "") if same else (None, f", since {path} was fitted to another score")


def others(path: Path, name: str, facts: dict[str, Any]) -> str:
    """Returns words about what is new, compared with the last fit of the same sampler and number of steps."""
    kept = sorted(path.parent.glob(f"{name}-*.json"), key=lambda one: one.stat().st_mtime)
    try:
        before = json.loads(files.text(kept[-1]))["of"]
        new = [key for key in facts if before.get(key) != facts[key]]
    except (IndexError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
        return ""
    return f", since {kept[-1]} was fitted with another {new[0]}" if new else ""


def fit(run: Trained, sampler: StepSampler, score: Score, x: Tensor) -> tuple[Fit, float]:
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
