"""Metrics of experiments over several seeds, with floors and the values of the training set."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sdegen.runs import session
from suites.base import Row, composed, row


def measure(experiments: Sequence[str], seeds: int) -> list[Row]:
    """Returns the rows of a panel for each experiment, and of a panel for the time of training."""
    rows = []
    for name in experiments:
        found, seconds = [], []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                session.train(composed(f"experiment={name}", f"seed={seed}"), Path(folder))
                found.append(json.loads((Path(folder) / "metrics.json").read_text()))
                seconds.append(json.loads((Path(folder) / "provenance.json").read_text())["training"]["seconds"])
        for metric, first in found[0].items():
            for what in ("value", "floor", "train"):
                if first[what] is not None:
                    rows.append(row(f"metrics of {name}", what, metric, [one[metric][what] for one in found], ""))
        rows.append(row("time of training", name, name, seconds, "s"))
    return sorted(rows, key=lambda each: each.panel)
