"""The pages of the documentation are true: all commands work, and all files and choices that are named exist."""

from __future__ import annotations

import pkgutil
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, run
from documents import blocks, check_commands, commands, own_commands, reader, run_commands

from sdegen.cli.page import about

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
MARKDOWN = [*PAGES, ROOT / "README.md", ROOT / "README.pt-BR.md", ROOT / "CONTRIBUTING.md"]
ELSEWHERE = r"resume=|sweep=|mine|fashion_mnist|=cuda"
"""Pattern of commands in configurations that other tests check, or that need files or a device that may be missing."""


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("page", [page for page in PAGES if own_commands(page)], ids=name)
def test_every_command_can_work(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(reader(tmp_path) / "mine"))
    monkeypatch.chdir(tmp_path)
    check_commands(own_commands(page))
    # Forget the module of this page, because other tests have modules of the same name.
    sys.modules.pop("slow", None)


@pytest.mark.parametrize(
    "asked", [block for page in PAGES for block in blocks(page) if block.startswith("$")], ids=lambda block: block[:40]
)
def test_what_a_page_shows_as_refused_is_refused_with_its_line(asked: str, tmp_path: Path) -> None:
    line, message = asked.splitlines()
    _, command, *given = line.removeprefix("$ ").split()
    result = run(command, *given, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"{message}\n")


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of all pages run in one folder, page by page. A command on several pages runs once."""
    lines = dict.fromkeys(line for page in [ROOT / "README.md", *PAGES] for line in own_commands(page))
    run_commands(list(lines), reader(tmp_path), monkeypatch)


@pytest.mark.slow
def test_every_command_in_a_configuration_can_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader(tmp_path))
    np.save("matrix.npy", np.ones((3, 64)))
    images = np.random.default_rng(0).random((60, 1, 8, 8))
    np.savez("images.npz", x=images, c=images.mean((1, 2, 3))[:, None])
    lines = [line for path in sorted((ROOT / "conf").rglob("*.yaml")) for line in about(path)[1]]
    own = [re.split(r"\s{2,}", line)[0] for line in lines if not re.search(ELSEWHERE, line)]
    check_commands([line for line in own if not line.startswith("sdegen benchmark")])


@pytest.mark.parametrize("page", MARKDOWN, ids=name)
def test_every_file_and_every_choice_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"`((?:tests|scripts|conf|sdegen)/[\w/.]+\.\w+)`", text)
    assert [file for file in files if not (ROOT / file).exists()] == []
    groups = {str(folder.relative_to(ROOT / "conf")) for folder in (ROOT / "conf").rglob("*") if folder.is_dir()}
    choices = re.findall(r"(?<![\w/.])([\w/]+)=([\w/]+(?:,[\w/]+)*)", text)
    named = [(group, one) for group, several in choices if group in groups for one in several.split(",")]
    own = {("sde", "slow"), ("dataset", "spring"), ("hydra/launcher", "cluster")}
    assert [
        one for one in named if one not in own and not (ROOT / "conf" / "/".join(one)).with_suffix(".yaml").exists()
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_name_of_the_api_exists(page: Path) -> None:
    for found in re.findall(r"{py:\w+}`~?(sdegen[\w.]*)`", page.read_text()):
        pkgutil.resolve_name(found)


@pytest.mark.parametrize("page", MARKDOWN, ids=name)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(), re.MULTILINE)) <= targets


def test_pip_installs_what_the_makefile_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    asked = [line for page in MARKDOWN for line in commands(page) if "pip install" in line]
    assert asked
    assert [line for line in asked if line.partition("install ")[2] not in makefile] == []


def test_every_group_is_in_the_reference_of_the_options() -> None:
    text = (DOCS / "reference" / "options.rst").read_text()
    groups = {file.parent.relative_to(ROOT / "conf") for file in (ROOT / "conf").rglob("*.yaml")} - {Path(".")}
    # Choices in sub-folders of ``experiment`` and ``sweep`` belong to these two groups.
    groups = {Path(group.parts[0]) if group.parts[0] in ("experiment", "sweep") else group for group in groups}
    assert sorted(re.findall(r"^\.\. choices:: (\S+)", text, re.MULTILINE)) == sorted(map(str, groups))


def test_every_room_with_public_names_is_in_the_reference_of_the_api() -> None:
    rooms = {file.parent.name for file in (ROOT / "sdegen").glob("*/__init__.py") if "__all__" in file.read_text()}
    text = (DOCS / "reference" / "api.rst").read_text()
    assert rooms <= set(re.findall(r"^\.\. automodule:: sdegen\.(\w+)", text, re.MULTILINE))
