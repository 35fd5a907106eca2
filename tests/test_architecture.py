"""Imports go downwards only, scripts start light, and only one module knows Hydra."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"errors", "rng", "tensor", "schema", "paper", "events", "moments", "buffers", "jobs"},
    {"sde", "stepping", "declared", "interrupt", "mistakes"},
    {"mixture", "ode"},
    {"networks", "samplers", "weighting", "datasets"},
    {"score", "classifier", "measurement", "times", "objective", "optimizer", "likelihood", "density"},
    {"stream", "guidance"},
    {"posterior", "gradient"},
    {"sampling", "history", "held_out"},
    {"training", "metrics", "figures", "proofs", "errata", "features"},
    {"files"},
    {
        "checkpoint",
        "recorder",
        "ledger",
        "flow_figures",
        "process_figures",
        "animation",
        "image_metrics",
        "image_figures",
    },
    {"assembly"},
    {"trust"},
    {"run", "frontier"},
    {"output", "evaluation"},
    {"member", "forecast"},
    {"experiment"},
    {"collection", "page"},
    {"comparison"},
    {"report"},
    {"command"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted((ROOT / "sdegen").rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """The package's modules that a file imports, each with whether it does so at its top level."""
    found = []
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [(name, node in tree.body) for name in names]
    return found


def part(name: str) -> str | None:
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "sdegen" and len(pieces) > 1 and pieces[1] in LEVEL else None


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name != "sdegen" or p.stem != "__init__"], ids=str)
def test_imports_go_downwards(path: Path) -> None:
    relative = path.relative_to(ROOT / "sdegen")
    own = relative.parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} has no place in the layers"
    for name, _ in imports(path):
        other = part(name)
        if other is not None and other != own:
            assert LEVEL[other] < LEVEL[own] or (LEVEL[other] == LEVEL[own] and own in {"networks", "files"}), name


def test_only_the_command_line_knows_hydra() -> None:
    users = {path.stem for path in MODULES for name, _ in imports(path) if name.split(".")[0] == "hydra"}
    assert users == {"command"}


@pytest.mark.parametrize(
    "script", ["train", "sample", "evaluate", "verify", "benchmark", "contest", "peers", "posteriors", "report"]
)
def test_importing_a_script_imports_nothing_heavy(script: str) -> None:
    code = f"import sys; sys.path.insert(0, 'scripts'); import {script}; print(sorted(sys.modules))"
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
