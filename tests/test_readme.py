"""The READMEs are true: every command in them runs, every link leads to a file, and both languages say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import ROOT
from documents import blocks, commands, own_commands, reader, run_commands

ENGLISH, PORTUGUESE = ROOT / "README.md", ROOT / "README.pt-BR.md"


def headings(path: Path) -> list[int]:
    """Returns the levels of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


def test_both_languages_have_the_same_commands_choices_figures_and_links() -> None:
    assert commands(ENGLISH) == commands(PORTUGUESE)
    for pattern in (r"`([^`\n]+)`", r"\]\(((?!README)[^)]+)\)"):
        english, portuguese = (sorted(re.findall(pattern, path.read_text())) for path in (ENGLISH, PORTUGUESE))
        assert english == portuguese
    assert headings(ENGLISH) == headings(PORTUGUESE)


@pytest.mark.parametrize("path", [ENGLISH, PORTUGUESE, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_every_link_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", path.read_text())
    assert [link for link in links if not link.startswith("https://") and not (path.parent / link).exists()] == []


def test_every_command_runs_and_then_the_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_commands(own_commands(ENGLISH), reader(tmp_path), monkeypatch)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ENGLISH, "python")
    names: dict = {}
    exec(block, names)
    assert names["x"].shape == (1000, 2)
