"""Figures and animations in a notebook."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from sdegen import figures
from sdegen.core.progress import shell
from sdegen.figures import animations


class Animation:
    """Sequence of pictures, which a notebook shows as a GIF."""

    def __init__(self, frames: list[Image.Image]) -> None:
        self.frames = frames

    def save(self, path: str | Path) -> Path:
        """Write the animation as a GIF."""
        return animations.save(self.frames, Path(path))

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            content = self.save(Path(folder) / "animation.gif").read_bytes()
        return f'<img alt="animation" src="data:image/gif;base64,{base64.b64encode(content).decode()}">'


def show_figures() -> None:
    """Make a notebook show figures. IPython itself does this only after pyplot is imported."""
    if (found := shell()) is not None:
        found.display_formatter.formatters["image/png"].for_type(Figure, figures.png)
