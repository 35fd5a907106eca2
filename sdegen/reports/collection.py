"""The finished runs of a folder, read from their files; what is none, or damaged, is left out with the reason."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sdegen.config.options import flat_options
from sdegen.core.errors import UserError
from sdegen.runs import files, forecast, ledger

NOTES = ("multirun.yaml", forecast.NAME)


class Entry(NamedTuple):
    """A finished run.

    Attributes:
        folder: where it lies.
        name: of the run.
        options: all of its configuration, by their paths; a group's stands for its class.
        metrics: as in ``metrics.json``.
        provenance: as in ``provenance.json``.
    """

    folder: Path
    name: str
    options: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Any]

    @property
    def cost(self) -> Mapping[str, float]:
        """Steps, seconds and memory of the training, where they were noted."""
        found = self.provenance.get("training")
        return {k: v for k, v in found.items() if files.is_number(v)} if isinstance(found, Mapping) else {}


def collect(root: Path) -> tuple[list[Entry], list[tuple[Path, str]]]:
    """The finished runs below a folder, in the order of their names, and what was left out, with why."""
    entries, left_out = [], []
    failed: dict[Path, str] = {}
    for folder, inner, names in os.walk(root):
        # A link to a folder, as latest is, is not walked into.
        inner.sort(key=_natural)
        here = Path(folder)
        records = ledger.read(here) if files.is_plain(here / ledger.NAME) else {}
        failed |= {here / str(job): str(one.error) for job, one in records.items() if one.state == "failed"}
        if "config.yaml" in names and ("checkpoints" in inner or "provenance.json" in names):
            # Those of other seeds that were trained together with it.
            inner[:] = [name for name in inner if name == files.REPLICAS]
            try:
                entries.append(read(here))
            except UserError as error:
                left_out.append((here, str(error)))
        # Hydra leaves a note of a sweep over samplers, a forecast one of its own, and pictures are no failed run.
        elif not inner and here != root and not all(name in NOTES or name.endswith((".png", ".gif")) for name in names):
            left_out.append((here, "holds no run"))
    return entries, [(folder, f"failed: {failed[folder]}" if folder in failed else why) for folder, why in left_out]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """10-smile after 9-smile."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def read(folder: Path) -> Entry:
    """The run in a folder; UserError says why it is none, or not finished."""
    from omegaconf import OmegaConf

    provenance, metrics = _loaded(folder / "provenance.json"), metrics_of(folder)
    try:
        text = files.text(folder / "config.yaml")
        # What a few aliases stand for can fill the memory; no run writes any.
        if re.search(r"(^|[\s\[{,:-])\*\w", text):
            raise ValueError
        config: Any = OmegaConf.to_container(OmegaConf.create(text))
        own = {str(key): str(value) for key, value in flat_options(config)}
        # How many were trained together is no part of what a run is.
        own.pop("trainer.replicas", None)
    except Exception:  # A file of anybody's, which may hold anything.
        raise UserError("config.yaml is damaged, or not a run's") from None
    return Entry(folder, str(config.get("name", folder.name)), own, metrics, provenance)


def metrics_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``metrics.json`` of a folder holds; UserError where it is none."""
    found = _loaded(folder / "metrics.json")
    for entry in found.values():
        known = isinstance(entry, dict) and files.is_number(entry.get("value"))
        if not known or any(
            not files.is_number(entry[key]) for key in ("floor", "train") if entry.get(key) is not None
        ):
            raise UserError("metrics.json is not a run's")
    return found


def _loaded(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(files.text(path))
    except FileNotFoundError:
        raise UserError(f"is not finished: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path.name} is damaged") from None
    if not isinstance(found, dict):
        raise UserError(f"{path.name} is not a run's")
    return found
