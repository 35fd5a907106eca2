"""The READMEs are true: every command in them runs, every link leads somewhere, and both languages say the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from commands import fresh, run
from matplotlib.image import imsave

from sdegen.metrics import features, images
from sdegen.runs import forecast

ROOT = Path(__file__).parents[1]
ENGLISH, PORTUGUESE, DOCS = ROOT / "README.md", ROOT / "README.pt-BR.md", ROOT / "sdegen" / "README.md"
SHORT = {
    "train": ["trainer.steps=4", "trainer.epochs=null", "trainer.preview_every=0", "count=40"],
    "sample": ["count=20"],
    "evaluate": ["count=20"],
}
"""What a command is given besides, so that it takes a second and not minutes."""
SHORTER = {
    "trainer.epochs=8000": "trainer.steps=6",
    "trainer.replicas=10": "trainer.replicas=2",
    "weighting=uniform,variance,likelihood": "weighting=uniform,variance",
    "count=5000": "",
    "count=100": "count=2",
    "sampler.steps=5,10,20": "sampler.steps=5,10",
}
"""What is written in the place of what would take long."""
NARROW = {
    "experiment=digits": ["network.channels=[8]"],
    "network=unet": ["network.channels=8"],
    "sweep=weighting": ["experiment=paper/smile", "seed=0", "hydra.sweep.dir=outputs/weighting"],
}


def blocks(path: Path, language: str = "") -> list[str]:
    """The blocks of code of a language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    return [block for spoken, block in fenced if spoken == language]


def commands(path: Path) -> list[str]:
    """The commands of a README, in their order, without what is said beside them."""
    first = r"(?:PYTHONPATH=mine )?(?:python3?|pip|make|tensorboard|\. )"
    lines = [line for block in blocks(path) for line in block.splitlines() if re.match(first, line)]
    return [re.split(r"\s{2,}", line)[0] for line in lines]


def scripts(path: Path) -> list[str]:
    return [line for line in commands(path) if "scripts/" in line]


def test_both_languages_have_the_same_commands_choices_and_figures() -> None:
    assert commands(ENGLISH) == commands(PORTUGUESE)
    quoted = [sorted(set(re.findall(r"`([^`\n]+)`", path.read_text()))) for path in (ENGLISH, PORTUGUESE)]
    assert quoted[0] == quoted[1]
    pictures = [re.findall(r"\]\((outputs/[^)]+)\)", path.read_text()) for path in (ENGLISH, PORTUGUESE)]
    assert pictures[0] == pictures[1]
    assert [re.match("#+", line)[0] for line in headings(ENGLISH)] == [  # type: ignore[index]
        re.match("#+", line)[0]  # type: ignore[index]
        for line in headings(PORTUGUESE)
    ]


def headings(path: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line for line in text.splitlines() if line.startswith("#")]


@pytest.mark.parametrize("path", [ENGLISH, PORTUGUESE, DOCS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", path.read_text())
    assert links
    missing = [link for link in links if not link.startswith("https://") and not (path.parent / link).exists()]
    assert missing == []


def test_every_choice_of_the_table_exists() -> None:
    """And no choice is missing there."""
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([^|]*) \|", ENGLISH.read_text(), re.MULTILINE)
    groups = {group: set(re.findall(r"`([\w/]+)`", choices)) for group, choices in rows}
    for folder in sorted(path for path in (ROOT / "conf").iterdir() if path.is_dir()):
        there = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}
        named = groups[folder.name]
        if folder.name == "guidance":
            # Its methods are named beside it, and measurements by what each is used for.
            there = {choice.rpartition("/")[2] for choice in there} - {"none", "moments", "blur", "grey"}
        if folder.name == "experiment":
            there -= {"paper/grid/digits", "paper/grid/smile", "paper/grid/smile_noisy"}
        assert there >= named if folder.name == "sampler" else there == named


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in (ENGLISH, PORTUGUESE, DOCS):
        assert set(re.findall(r"(?:^|`)make ([\w-]+)", path.read_text(), re.MULTILINE)) <= targets


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README assumes that its reader has."""
    folder = tmp_path_factory.mktemp("reader")
    np.savetxt(folder / "points.csv", np.random.default_rng(0).normal(size=(50, 2)), delimiter=",")
    (folder / "pictures").mkdir()
    for i in range(6):
        imsave(folder / "pictures" / f"{i}.png", np.random.default_rng(i).random((8, 8, 3)))
    (folder / "mine" / "conf" / "sde").mkdir(parents=True)
    (python,) = (block for block in blocks(ENGLISH, "python") if "mine/slow.py" in block)
    (yaml,) = blocks(ENGLISH, "yaml")
    (folder / "mine" / "slow.py").write_text(python)
    (folder / "mine" / "conf" / "sde" / "slow.yaml").write_text(yaml)
    return folder


def test_every_command_runs(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the README, in one folder, each with less to do."""
    monkeypatch.setattr(features, "EPOCHS", (1, 1))
    monkeypatch.setattr(images, "REFERENCE", 300)
    monkeypatch.setattr(forecast, "SECONDS", 0.0)
    (refusal,) = (block for block in blocks(ENGLISH) if block.startswith("$"))
    for line in scripts(ENGLISH):
        script, arguments = shortened(line)
        monkeypatch.setenv("PYTHONPATH", "mine")
        monkeypatch.syspath_prepend(str(user / "mine")) if line.startswith("PYTHONPATH") else None
        # A launcher's own processes outlive a fork.
        result = (fresh if "joblib" in line else run)(script, *arguments, cwd=user)
        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
    asked, said = refusal.splitlines()
    script, arguments = shortened(asked.removeprefix("$ "))
    result = run(script, *arguments, cwd=user)
    assert (result.returncode, result.stderr.strip()) == (2, said)


def shortened(line: str) -> tuple[str, list[str]]:
    """The script and the arguments of a command, with less to do."""
    words = [word for word in shlex.split(line) if not word.startswith("PYTHONPATH=")]
    script, arguments = Path(words[1]).stem, [SHORTER.get(word, word) for word in words[2:]]
    arguments = [word for word in arguments if word]
    if "--help" in arguments or any(word.startswith("resume=") for word in arguments):
        return script, arguments
    own = [
        option
        for option in SHORT.get(script, [])
        if not any(a.startswith(option.partition("=")[0] + "=") for a in arguments)
    ]
    for word in arguments:
        own += NARROW.get(word, [])
    # The experiments of the sweep have a sampler that chooses its steps.
    if script in ("train", "sample") and not any(a.startswith(("sampler", "sweep=")) for a in arguments):
        own.append("sampler.steps=3")
    return script, [*arguments, *own]


def test_what_python_is_shown_works(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train", *shortened("python scripts/train.py experiment=smile_noisy")[1], cwd=user).returncode == 0
    monkeypatch.chdir(user)
    (block,) = (block for block in blocks(ENGLISH, "python") if "import sdegen" in block)
    names: dict = {}
    exec(block, names)
    shapes = [re.search(r"# \((\d+)(?:, (\d+))?,?\)", line) for line in block.splitlines()]
    assert names["x"].shape == names["z"].shape == tuple(int(number) for number in shapes[3].groups())  # type: ignore[union-attr]
    assert float((names["run"].decode(names["z"]) - names["x"]).abs().max()) < 1e-2


def test_pip_lines_are_those_of_the_makefile() -> None:
    """What the Makefile installs is what a reader is told to."""
    makefile = (ROOT / "Makefile").read_text()
    asked = [line for line in commands(ENGLISH) if "pip install" in line]
    assert asked
    for line in asked:
        installed = line.partition("install ")[2]
        assert installed in makefile
