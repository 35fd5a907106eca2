"""Finished runs of a folder, read from the files of the runs. Unfinished or damaged runs are listed with the reason."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdegen.config.options import flat_options
from sdegen.core.errors import UserError
from sdegen.reports.status import natural
from sdegen.runs import files, forecast, ledger

TRIALS = "trials.json"
"""File in a sweep's folder with the trials of a search over options."""
NOTES = ("multirun.yaml", forecast.NAME, TRIALS)
"""Files that Hydra and a forecast leave in folders without runs."""
ENDS = {"failed": "failed: {}", "pruned": "{}", "interrupted": "interrupted: {}; repeat the command to go on"}
"""Reasons for which a job of a sweep is not finished, by the state in the ledger."""
LENGTHS = {"trainer.steps", "trainer.epochs"}
"""Options of which one sets the length of a training, and the other is null."""
RESUMED = "resumed at"
"""Name of the option with the steps at which a run was resumed to more steps."""


class FinishedRun(NamedTuple):
    """A finished run.

    Attributes:
        folder: folder of the run.
        name: value of the option ``name``.
        options: all options of the finished training, by path; the path of a group gives its choice. They are those of
            the configuration, with the changes when the run was resumed. If the number of steps was changed, the option
            :data:`RESUMED` has the steps before: a run to 4000 steps and one that was resumed to them differ.
        metrics: content of ``metrics.json``.
        provenance: content of ``provenance.json``.
        data: text that is equal for equal data from a file; empty for other data.
    """

    folder: Path
    name: str
    options: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Any]
    data: str = ""

    @property
    def kind(self) -> tuple[str, str]:
        """Name of the run, and its data. Only runs of one kind are compared."""
        return self.name, self.data or self.options.get("dataset", "")

    @property
    def cost(self) -> Mapping[str, float]:
        """Steps, seconds and memory of the training, as far as they were recorded."""
        found = self.provenance.get("training")
        return {k: v for k, v in found.items() if files.is_number(v)} if isinstance(found, Mapping) else {}

    @property
    def commands(self) -> list[str]:
        """Command that began the run, and the commands that resumed it, as far as they were recorded."""
        resumed = self.provenance.get("resumed")
        found = [self.provenance, *(resumed if isinstance(resumed, list) else [])]
        return [str(one["command"]) for one in found if isinstance(one, Mapping) and one.get("command")]


def titles(runs: Sequence[FinishedRun]) -> dict[tuple[str, str], str]:
    """Returns a title for each kind of runs: their name, and their data if runs of this name have several."""
    kinds = {run.kind: run for run in reversed(runs)}
    several = {name for name, _ in kinds if sum(name == other for other, _ in kinds) > 1}
    found = {}
    for kind, run in kinds.items():
        path = Path(run.options.get("dataset.path", ""))
        # An array from Python is in the folder of its run, so the name of the file alone would not distinguish it.
        data = "/".join(path.parts[-2:]) or run.options.get("dataset", "")
        found[kind] = f"{run.name}, {data}" if run.name in several else run.name
    return found


def written(choice: Iterable[tuple[str, str]]) -> list[str]:
    """Returns options as on the command line, without a null of ``trainer.steps`` or ``trainer.epochs``."""
    return [f"{key}={value}" for key, value in choice if not (key in LENGTHS and value == "None")]


def changes(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Returns the options that were changed when a run was resumed, with the newest values, and :data:`RESUMED`."""
    resumed = provenance.get("resumed")
    found: dict[str, str] = {}
    steps = []
    for one in resumed if isinstance(resumed, list) else []:
        options = one.get("options") if isinstance(one, Mapping) else None
        if isinstance(options, Mapping):
            found |= {str(path): str(value) for path, value in options.items()}
            if LENGTHS & options.keys():
                steps.append(str(one.get("step")))
    return found | ({RESUMED: ", ".join(steps)} if steps else {})


def collect(root: Path) -> tuple[list[FinishedRun], list[tuple[Path, str]]]:
    """Returns the finished runs below a folder, sorted by name, and the folders that are left out with the reasons."""
    runs, left_out = [], []
    failed: dict[Path, str] = {}
    for folder, inner, names in os.walk(root):
        # Links to folders are not followed.
        inner.sort(key=natural)
        here = Path(folder)
        records = ledger.read(here) if files.is_plain(here / ledger.NAME) else {}
        for state, reason in ENDS.items():
            failed |= {here / str(job): reason.format(one.error) for job, one in records.items() if one.state == state}
        if "config.yaml" in names and ("checkpoints" in inner or "provenance.json" in names):
            # Inside a run, visit only the runs of other seeds that were trained together with it.
            inner[:] = [name for name in inner if name == files.REPLICAS]
            try:
                runs.append(read(here))
            except UserError as error:
                left_out.append((here, str(error)))
        # A folder with only notes and pictures is not a failed run.
        elif not inner and here != root and not all(name in NOTES or name.endswith((".png", ".gif")) for name in names):
            left_out.append((here, "holds no run: remove it if it is not needed"))
    return runs, [(folder, failed.get(folder, why)) for folder, why in left_out]


def first_seed(folder: Path) -> Path:
    """Returns the folder of the run that was trained together with the run in a folder, or this folder itself."""
    return folder.parents[1] if folder.parent.name == files.REPLICAS else folder


def title(folder: Path) -> str:
    """Returns a name for the run in a folder; a replica is named after the first run of its training, too."""
    first = first_seed(folder)
    return folder.name if first == folder else f"{first.name}, {folder.name}"


def read(folder: Path) -> FinishedRun:
    """Returns the finished run in a folder; raises UserError with the reason if there is none."""
    from omegaconf import OmegaConf

    provenance, metrics = _loaded(folder / "provenance.json"), metrics_of(folder)
    try:
        text = files.text(folder / "config.yaml")
        # Nested aliases could expand until the memory is full. The package never writes aliases.
        if re.search(r"(^|[\s\[{,:-])\*\w", text):
            raise ValueError
        config: Any = OmegaConf.to_container(OmegaConf.create(text))
        options = {str(key): str(value) for key, value in flat_options(config)} | changes(provenance)
        # The number of runs that were trained together does not change the result.
        options.pop("trainer.replicas", None)
    except Exception:  # The file may come from anyone and may contain anything.
        raise UserError("config.yaml is damaged, or is not the file of a run: restore it, or train again") from None
    name, data = str(config.get("name", folder.name)), _data(folder) if "dataset.path" in options else ""
    return FinishedRun(folder, name, options, metrics, provenance, data)


def _data(folder: Path) -> str:
    """Returns a text that is equal for runs on equal data; empty if the run has no record of its data."""
    try:
        found, columns = json.loads(files.text(folder / files.DATA)), []
        for one in found["columns"]:
            low, high = one["lowest"], one["highest"]
            # Another seed holds out other rows, which changes the last digits of a mean.
            columns.append(f"{one['name']} {low:.6g} {high:.6g} {(one['mean'] - low) / ((high - low) or 1):.6f}")
        return f"{found['rows']} rows of {found['shape']}, {found['classes']}, {columns}" if columns else ""
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        # The file may come from anyone and may contain anything.
        return ""


def metrics_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the content of ``metrics.json`` of a folder; raises UserError if it is missing or malformed."""
    found = _loaded(folder / "metrics.json")
    for name, entry in found.items():
        if isinstance(entry, dict) and str(entry.get("value")) in ("nan", "inf"):
            raise UserError(f"{name} is {entry['value']}, since samples diverged: train again, or use another sampler")
        known = isinstance(entry, dict) and files.is_number(entry.get("value"))
        if not known or any(
            not files.is_number(entry[key]) for key in ("floor", "train") if entry.get(key) is not None
        ):
            raise UserError("metrics.json is not the file of a run: restore it, or train again")
    return found


def _loaded(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(files.text(path))
    except FileNotFoundError:
        started = (path.parent / "checkpoints" / "last.pt").exists()
        fix = "resume it" if started else "it has no checkpoint to resume from, so remove the folder and start again"
        raise UserError(f"is not finished, since it has no {path.name}: {fix}") from None
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path.name} is damaged: restore it, or train again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path.name} is not the file of a run: restore it, or train again")
    return found
