"""What is read from the sources is what the classes say, and mistakes are told without importing torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdegen import declared, schema
from sdegen.command import composed

ROOT = Path(__file__).parents[1]


def targets(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)


TARGETS = sorted({t for path in (ROOT / "conf").rglob("*.yaml") for t in targets(yaml.safe_load(path.read_text()))})


@pytest.mark.parametrize("target", TARGETS)
def test_sources_say_what_the_classes_say(target: str) -> None:
    read, own = declared.declared(target), schema._options(schema.resolve(target, ()))
    if read is not None:
        assert list(read) == list(own)
        assert all(read[name] == own[name] for name in own if read[name] is not Any)


def test_nearly_all_types_are_read() -> None:
    read = [kind for target in TARGETS for kind in (declared.declared(target) or {"": Any}).values()]
    assert sum(kind is not Any for kind in read) > 0.8 * len(read)


def test_what_is_right_has_no_faults() -> None:
    for experiment in ("smile", "digits_conditional", "smld", "double_well", "gaussian_mixture"):
        assert declared.faults(composed("train", [f"experiment={experiment}"])) == []


WRONG = {
    "trainer.steps=many": "trainer.steps: must be an integer or auto or null, not 'many'",
    "trainer.steps=1.5": "trainer.steps: must be an integer or auto or null, not 1.5",
    "optimizer.decay=linear": "optimizer.decay: must be one of constant, cosine, not 'linear'",
    "+network.hiden=[3]": "network.hiden: no such option of MLP; did you mean network.hidden?",
    "network.hidden=[3,x]": "network.hidden: must be a list, each entry an integer, not [3, 'x']",
    "sampler.predictor.eta=x": "sampler.predictor.eta: must be a number, not 'x'",
}


@pytest.mark.parametrize("override", WRONG)
def test_mistakes_are_told_without_torch_and_as_the_classes_tell_them(override: str) -> None:
    options = ["experiment=smile", "sampler=stochastic_dpm_solver", override]
    (found,) = declared.faults(composed("train", options))
    assert found == WRONG[override]
    group = override.strip("+").partition(".")[0]
    from sdegen.assembly import NODES

    assert schema.faults(composed("train", options)[group], NODES[group], group) == [found]
    code = (
        "import sys; sys.argv[1:] = sys.argv[2:]; sys.path.insert(0, 'scripts'); import runpy\n"
        "try:\n    runpy.run_path('scripts/train.py', run_name='__main__')\n"
        "except SystemExit as stop:\n    print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "", *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr.strip() == found


@pytest.mark.parametrize(
    "target", ["os.path.join", "sdegen..os.X", "sdegen.nothing.X", "X", "", "sdegen.sde/linear.VP"]
)
def test_what_is_not_the_packages_own_is_left_to_others(target: str) -> None:
    assert declared.declared(target) is None
