"""The code of the documentation runs: the notebooks, which are stored without output, and ``docs/python.md``."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from commands import ROOT
from documents import blocks
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_output(path: Path) -> None:
    cells = nbformat.read(path, 4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def outputs(name: str, folder: Path) -> list[str]:
    """Executes a notebook in a folder and returns the text that each code cell prints."""
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / f"{name}.ipynb", 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(out.get("text") or out.data["text/plain"] for out in cell.outputs) for cell in cells]


@pytest.mark.slow
def test_first_run_measures_its_samples(tmp_path: Path) -> None:
    *_, measures = outputs("first_run", tmp_path)
    found = dict(line.split()[:2] for line in measures.splitlines())
    # An untrained network would give 0.3, the distance between the smile and a Gaussian with the same moments.
    assert float(found["sliced_w1"]) < 0.15


@pytest.mark.slow
def test_your_data_come_back_from_their_latents(tmp_path: Path) -> None:
    _, _, _, back, _ = outputs("your_data", tmp_path)
    assert back == "True"


@pytest.mark.slow
def test_new_sampler_is_proved_and_the_wrong_one_is_found(tmp_path: Path) -> None:
    _, right, wrong = outputs("new_sampler", tmp_path)
    assert "FAIL" not in right
    assert [line for line in wrong.splitlines() if "FAIL" in line] == [
        line for line in wrong.splitlines() if "declared order" in line
    ]


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(ROOT / "docs" / "python.md", "python"):
        exec(block, names)
    assert names["x"].shape == names["z"].shape == (1000, 2)
    assert float((names["run"].sample(5)).abs().max()) < 10
