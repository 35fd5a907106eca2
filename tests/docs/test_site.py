"""The site builds without a warning and loads nothing from outside. The build checks links and runs the notebooks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT


@pytest.mark.slow
def test_site_builds_strictly_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "cache")]
    result = subprocess.run([*line, str(ROOT / "docs"), str(tmp_path / "site")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    loaded = [re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?:[^"]+)', p.read_text()) for p in pages]
    assert pages and not any(loaded)
    # Formulas are MathML in the pages, so no script has to be loaded.
    assert "<math" in (tmp_path / "site" / "mathematics.html").read_text()
    for option in ("beta_max", "standardize", "rtol", "label_dropout"):
        assert option in (tmp_path / "site" / "reference" / "options.html").read_text()
