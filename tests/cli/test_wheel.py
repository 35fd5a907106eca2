"""The installed package: the wheel has all necessary files, and the commands work in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import ROOT, SHORT, Result, newest

import sdegen


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds a wheel in a copy of the checkout, because setuptools leaves files in the folder in which it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("sdegen", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(source / "dist"), str(source))
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installs the wheel in a folder. The dependencies are taken from the environment of the tests."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    return target


def pip(*arguments: str) -> None:
    line = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def sdegen_of(installed: Path, *arguments: str, cwd: Path) -> Result:
    """Runs the installed command ``sdegen``, without the checkout on the import path."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(installed / "bin" / "sdegen"), *arguments]
    done = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    own = [path for path in (ROOT / "sdegen").rglob("*.*") if path.suffix != ".pyc"]
    wanted = {str(path.relative_to(ROOT)) for path in own}
    wanted |= {f"sdegen/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert there == wanted
    assert wheel.name == f"sdegen-{sdegen.__version__}-py3-none-any.whl"


def test_the_installed_commands_work_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    trained = sdegen_of(installed, "train", "experiment=smile", *SHORT, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    sampled = sdegen_of(installed, "sample", "run=outputs/smile/latest", "count=20", "figures=false", cwd=tmp_path)
    assert sampled.returncode == 0, sampled.stderr
    assert (tmp_path / sampled.stdout.splitlines()[-1].removeprefix("results in ") / "samples.csv").exists()
    reported = sdegen_of(installed, "report", "outputs", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    provenance = json.loads((newest(tmp_path, "smile") / "provenance.json").read_text())
    assert provenance["command"].startswith("sdegen train experiment=smile trainer.steps=4 ")
    assert "smile" in (tmp_path / "outputs" / "report.html").read_text()


def test_benchmarks_of_an_installed_package_are_in_the_checkout(installed: Path, tmp_path: Path) -> None:
    result = sdegen_of(installed, "benchmark", "step", cwd=tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "scripts/benchmark.py" in result.stderr
