"""The site builds without a warning and loads nothing from outside. The slow build also runs the notebooks."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from commands import ROOT
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from sdegen.reports.errata import Erratum

DOCS = ROOT / "docs"
QUICK = {"nb_execution_mode": "off", "autodoc_typehints": "none", "autodoc_docstring_signature": False}
"""Settings without the slow work that has no part in cross-references."""


def faults(source: Path, folder: Path) -> str:
    """Returns the warnings of Sphinx about a site: names listed twice, missing targets, faults of the markup.

    The texts of docstrings are left out, the notebooks are not run, and the errata are not measured.
    """
    found, row = io.StringIO(), Erratum(1, "", "", "", "", None, None, None)
    with pytest.MonkeyPatch.context() as patch, patch_docutils(), docutils_namespace(), warnings.catch_warnings():
        patch.setattr(sys, "path", [*sys.path])
        # Extensions use functions that a later Sphinx will drop.
        warnings.simplefilter("ignore")
        site = Sphinx(source, source, folder, folder, "dummy", QUICK, status=None, warning=found, freshenv=True)
        patch.setattr("options.errata", lambda: [row])
        site.connect("autodoc-process-docstring", lambda *given: given[-1].clear(), priority=1000)
        site.build()
    return found.getvalue()


def test_names_are_listed_once_and_references_have_targets(tmp_path: Path) -> None:
    assert faults(DOCS, tmp_path) == ""


@pytest.mark.parametrize(
    ("page", "text", "words"),
    [
        ("api.rst", ".. automodule:: sdegen\n\n.. autofunction:: sdegen.train\n", "duplicate object description"),
        ("api.rst", ":ref:`nowhere`\n", "undefined label: 'nowhere'"),
        ("api.rst", ":doc:`nowhere`\n", "unknown document: 'nowhere'"),
        ("page.md", "# A page\n\n[a link](nowhere.md)\n", "nowhere.md"),
        ("page.md", "# A page\n\n[a link](#nowhere)\n", "'nowhere'"),
    ],
)
def test_a_name_listed_twice_or_a_missing_target_is_found(page: str, text: str, words: str, tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(DOCS / "conf.py", source)
    shutil.copytree(DOCS / "extensions", source / "extensions")
    shutil.copytree(DOCS / "static", source / "static")
    (source / "index.rst").write_text(f"Site\n====\n\n.. toctree::\n\n   {Path(page).stem}\n")
    (source / page).write_text(text if page.endswith("md") else f"Page\n====\n\n{text}")
    assert words in faults(source, tmp_path / "site")


@pytest.mark.slow
def test_site_builds_strictly_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "cache")]
    result = subprocess.run([*line, str(DOCS), str(tmp_path / "site")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    loaded = [re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?:[^"]+)', p.read_text()) for p in pages]
    assert pages and not any(loaded)
    # Formulas are MathML in the pages, so no script has to be loaded.
    assert "<math" in (tmp_path / "site" / "mathematics.html").read_text()
    for option in ("beta_max", "standardize", "rtol", "label_dropout"):
        assert option in (tmp_path / "site" / "reference" / "options.html").read_text()
