"""Result of an evaluation, and the folder in which it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from sdegen.metrics.points import Metrics
from sdegen.runs import events, files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result(NamedTuple):
    """Result of an evaluation.

    Attributes:
        metrics: content of ``metrics.json``.
        arrays: content of the ``.npz`` file; without the entries that are None.
        figure: figure of the result; None if the result is a number alone.
        points: kind of points, and the heading of the column of values.
        columns: columns of ``points.csv`` by name; None if there is no such file.
        decimal: decimal sign of the numbers in ``columns``.
    """

    metrics: Metrics
    arrays: dict[str, Any]
    figure: Figure | None
    points: str
    columns: dict[str, list[str]] | None = None
    decimal: str = "."

    def write(self, parent: Path, name: str, step: int, settings: Mapping[str, Any]) -> Path:
        """Write the result into a new folder ``<number>-<name>`` and return the folder.

        Args:
            parent: parent folder.
            name: name of the metric.
            step: step of the run whose weights were used.
            settings: content of ``config.yaml``; without the entries that are None.
        """
        # Import late: matplotlib takes half a second, for which a wrong option should not wait.
        from sdegen import figures

        with files.new_folder(parent, name) as (folder, final):
            own, kept = ({k: v for k, v in part.items() if v is not None} for part in (settings, self.arrays))
            files.write_yaml(folder / "config.yaml", own)
            files.write_json(folder / "metrics.json", self.metrics)
            arrays: dict[str, Any] = {key: torch.as_tensor(value).cpu().numpy() for key, value in kept.items()}
            np.savez(folder / f"{name}.npz", **arrays)
            if self.figure is not None:
                figures.save(self.figure, folder / "figures" / f"{name}.png")
            if self.columns is not None:
                rows = zip(*self.columns.values(), strict=True)
                files.write_table(folder / "points.csv", self.columns, rows, self.decimal)
            events.write(folder, step, self.metrics)
        return final
