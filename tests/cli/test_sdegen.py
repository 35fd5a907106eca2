"""The program ``sdegen``: list of commands, help, completion, and imports of commands that do not train."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import ROOT, Result, run

from sdegen.cli.main import COMMANDS, SPINS
from sdegen.cli.page import about, comments
from sdegen.config.compose import CONF
from sdegen.datasets import File
from sdegen.samplers import HMC

HEAVY = ("torch", "matplotlib", "scipy", "sklearn", "numpy")
WITNESS = "import atexit, sys; atexit.register(lambda: print('HEAVY', *sorted(set(sys.modules) & {names!r})))"


def sdegen(*arguments: str, cwd: Path, line: str | None = None, **variables: str) -> Result:
    """Runs ``python -m sdegen`` in a new interpreter, with further ``variables`` of the environment.

    ``line`` is the command line that the shell completes.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(cwd), str(ROOT)]), **variables}
    if line is not None:
        environment["COMP_LINE"] = line
    done = subprocess.run(
        [sys.executable, "-m", "sdegen", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)], ids=" ".join)
def test_alone_it_lists_its_commands(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = sdegen(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.findall(r"^  python -m sdegen (\w+) ", result.stdout, re.MULTILINE) == list(COMMANDS)


def test_a_wrong_command_is_one_line(tmp_path: Path) -> None:
    result = sdegen("trian", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"trian: no such command; choose from {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize(
    "arguments", [("--help",), ("experiment=smiel",), ("experiment=smile", "sde.beta=3"), ("--flag",)], ids=" ".join
)
@pytest.mark.parametrize("command", ["train", "verify"])
def test_help_and_wrong_names_import_nothing_heavy(command: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITNESS.format(names=set(HEAVY)))
    result = sdegen(command, *arguments, cwd=tmp_path)
    assert result.stdout.splitlines()[-1] == "HEAVY"


def test_the_status_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITNESS.format(names={*HEAVY, "hydra", "tensorboard"}))
    (tmp_path / "outputs" / "0-smile").mkdir(parents=True)
    (tmp_path / "outputs" / "jobs.json").write_text('{"0-smile": ["seed=1"]}')
    result = sdegen("status", cwd=tmp_path)
    assert result.stdout.splitlines() == ["outputs: 1 waiting", "  waiting  0-smile  seed=1", "HEAVY"]


def test_help_shows_the_groups_and_options_that_matter(tmp_path: Path) -> None:
    """The help lists only what the command accepts: for ``network``, the network of the run and the exact score."""
    page = sdegen("sample", "--help", cwd=tmp_path).stdout.splitlines()
    assert "network: run, oracle" in page and "sweep: samplers" in page
    assert not any(line.startswith(("dataset:", "trainer:", "experiment:")) for line in page)
    options = yaml.safe_load((CONF / "sample.yaml").read_text()).keys() - {"defaults", "hydra"}
    assert {line.partition("=")[0] for line in page if re.match(r"\w+=", line)} == options
    groups = [line for line in sdegen("evaluate", "--help", cwd=tmp_path).stdout.splitlines() if ": " in line[:20]]
    assert "network: run, oracle" in groups and not any(line.startswith("sampler:") for line in groups)


def test_help_for_a_choice_explains_its_options(tmp_path: Path) -> None:
    """The help lists each option of the class with the value in the YAML. It needs no run."""
    page = run("train", "--help", "dataset=file", "dataset.held_out=0.3", cwd=tmp_path)
    assert (page.returncode, page.stderr) == (0, "")
    shown = dict(re.findall(r"^  dataset\.(\w+)=(\S*)  \(", page.stdout, re.MULTILINE))
    assert shown.keys() == inspect.signature(File).parameters.keys() - {"seed"}
    assert (shown["path"], shown["held_out"], shown["levels"]) == ("…", "0.3", "null")
    assert "  dataset.levels=null  (an integer or null)\n" in page.stdout
    assert not (tmp_path / "outputs").exists()
    nested = run("sample", "--help", "sampler=ddim", "sampler/corrector=hmc", cwd=tmp_path).stdout
    inner = set(re.findall(r"^  sampler\.corrector\.(\w+)=", nested, re.MULTILINE))
    assert inner == inspect.signature(HMC).parameters.keys()


def test_help_for_a_users_own_class_has_the_comments_of_its_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a class has no docstring, the help shows the comments of the YAML. A missing class is reported in one line."""
    (tmp_path / "conf" / "sde").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(
        "from sdegen.sde import VP\n\n\nclass Slow(VP):\n    def __init__(self, pace: float = 2.0): ...\n"
    )
    (tmp_path / "conf" / "sde" / "slow.yaml").write_text("_target_: mine.Slow\n# The pace.\npace: 2.5\n")
    (tmp_path / "conf" / "sde" / "none.yaml").write_text("_target_: mine.Fast\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    page = run("train", "--help", "--config-dir", "conf", "sde=slow", cwd=tmp_path).stdout
    assert "  sde.pace=2.5  (a number)\n      The pace.\n" in page
    wrong = run("train", "--help", "--config-dir", "conf", "sde=none", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "sde: _target_=mine.Fast: module mine has no class Fast: correct the name\n"


def test_help_for_a_wrong_choice_is_one_line(tmp_path: Path) -> None:
    result = run("train", "--help", "dataset=flie", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "dataset=flie: no such choice; did you mean dataset=file?\n"


def test_comments_of_a_yaml_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# @package _global_\n# Two\n# lines.\n#   sdegen train\n\na: 1\n# Of b,\n# too.\nb: 2\nc: 3\n")
    assert about(path) == ("Two\nlines.", ["sdegen train"])
    assert comments(path) == {"a": "", "b": "Of b, too.", "c": ""}


def test_the_shell_completes_commands_groups_choices_and_options(tmp_path: Path) -> None:
    """Hydra's completion reads the line from the environment and prints the completions to standard output."""

    def completed(line: str) -> set[str]:
        return set(sdegen("-sc", "query=bash", cwd=tmp_path, line=line).stdout.split())

    assert completed("sdegen ") == set(COMMANDS)
    assert completed("sdegen s") == {"sample", "status"}
    assert completed("sdegen report ") == completed("sdegen trian s") == set()
    for name in ("smile", "smooth[1]", "moons"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
    (tmp_path / "outputs" / "smoke.txt").touch()
    assert completed("sdegen status outputs/sm") == {"outputs/smile/", "outputs/smooth[1]/"}
    assert completed("sdegen report outputs/smooth[") == {"outputs/smooth[1]/"}
    assert completed("sdegen train sde=s") == {"sde=smld", "sde=subvp"}
    assert completed("sdegen train sde=ve sde.sigma_m") == {"sde.sigma_max=", "sde.sigma_min="}
    assert completed("sdegen verify sampler=stoch") == {
        "sampler=stochastic_adams",
        "sampler=stochastic_dpm_solver",
        "sampler=stochastic_heun",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU's OpenMP on Linux")
@pytest.mark.parametrize(
    ("variables", "spins"), [({}, SPINS), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_waiting_threads_soon_sleep_unless_the_user_says_otherwise(
    variables: dict[str, str], spins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenMP itself prints the values that it has read."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    result = sdegen("evaluate", "run=nowhere", cwd=tmp_path, OMP_DISPLAY_ENV="verbose", **variables)
    assert f"GOMP_SPINCOUNT = '{spins}'" in result.stderr
