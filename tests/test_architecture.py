"""Imports go downwards only, scripts import no slow modules at the start, and few modules import Hydra."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sdegen"
ROOMS = (
    ("core",),
    ("sde",),
    ("networks", "datasets"),
    ("models",),
    ("flow",),
    ("samplers",),
    ("training", "guidance"),
    ("metrics", "figures"),
    ("config",),
    ("runs",),
    ("reports",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path): path for path in MODULES}


def imports(path: Path) -> set[str]:
    """Returns the modules of the package that a file imports, anywhere in it.

    For an import from a room itself, the result has the room.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & NAMES.keys()) or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & NAMES.keys()


def test_every_module_is_in_a_room_that_has_a_place() -> None:
    flat = {path.name for path in PACKAGE.glob("*.py")}
    assert flat <= {"__init__.py", "__main__.py"}
    assert {path.parent.name for path in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downwards_between_rooms(path: Path) -> None:
    own = path.parent.name
    for other in imports(path):
        room = other.split(".")[1]
        assert room == own or FLOOR[room] < FLOOR[own], f"{name_of(path)} imports {other}"


def test_imports_go_round_in_no_circle_within_a_room() -> None:
    graph = {name: imports(path) - {name} for name, path in NAMES.items() if path.stem != "__init__"}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("room", FLOOR)
def test_a_room_says_what_is_in_it(room: str) -> None:
    assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))


def test_only_the_command_line_and_composition_know_hydra() -> None:
    for path in MODULES:
        names = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        names |= {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        if any(name and name.split(".")[0] == "hydra" for name in names):
            assert path.parent.name == "cli" or name_of(path) == "sdegen.config.compose", path


@pytest.mark.parametrize("script", ["train", "sample", "evaluate", "calibrate", "verify", "benchmark", "report"])
def test_importing_a_script_imports_nothing_heavy(script: str) -> None:
    assert_light(f"import sys; sys.path.insert(0, 'scripts'); import {script}")


@pytest.mark.parametrize("script", ["contest", "peers", "posteriors"])
def test_importing_a_benchmark_imports_nothing_heavy(script: str) -> None:
    assert_light(f"import sys; sys.path.insert(0, 'scripts/benchmarks'); import {script}")


def assert_light(code: str) -> None:
    code += "; print(sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for module in ("torch", "matplotlib", "scipy", "sklearn", "tensorboard", "numpy"):
        assert f"'{module}'" not in output


def test_package_does_not_assume_a_device_or_a_global_generator() -> None:
    for path in MODULES:
        text = path.read_text()
        assert ".cuda(" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.randn", "torch.rand", "torch.randperm"):
                drawn_from_key = any(keyword.arg == "generator" for keyword in node.keywords)
                assert drawn_from_key or path.stem == "embedding", f"{path}:{node.lineno}"
