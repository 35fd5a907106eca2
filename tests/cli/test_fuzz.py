"""Thousands of command lines: a valid one trains and samples, and an invalid one ends with messages that say the fix.

Choices come from ``conf/``; options and their types come from the signatures of the classes. The contract: a run takes
two steps and draws a few samples, or ``guard`` reports the mistake. There is no other exception and no warning, and
each line of the report names an option or an argument.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import signal
import sys
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from commands import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.image import imsave
from omegaconf import OmegaConf

from sdegen.cli import arguments as reading
from sdegen.cli import guard
from sdegen.cli.composition import Composition, paths
from sdegen.config import assembly, components
from sdegen.config import options as known
from sdegen.config.compose import CONF, composed
from sdegen.core import schema
from sdegen.metrics import features, images
from sdegen.runs.sampling import draw
from sdegen.training.trainer import DTYPES

COUNT, SECONDS = 3, 60
"""Number of samples of a run, and number of seconds after which a command counts as hanging."""
CHEAP: dict[str, dict[str, object]] = {
    "trainer": {"epochs": 1, "steps": 2, "batch_size": 4, "preview_every": 0, "threads": 1},
    "dataset": {"size": 20},
    "network": {"hidden": [4], "channels": 8, "multipliers": [1], "blocks": 1, "embedding": 8, "fourier_features": 8},
    "sampler": {"steps": 5, "max_steps": 300},
    "sde": {"levels": 30},
    "times": {"points": 4, "simulations": 2},
}
"""Values that keep a run small, for the options that the chosen classes have."""
PATHS = {"file": "points.csv", "folder": "images"}
"""Paths that the choices of ``dataset`` read."""
NASTY = (
    *("", "null", "nan", "inf", "-inf", "-1", "0", "-0.0", "1e308", "1e-308", "1e20", str(2**62), "9" * 400, "1.5"),
    *("true", "[]", "{}", "[[]]", "[1,2]", "[null]", "{a:1}", "{a:{b:[c]}}", "{_target_:os.system}", "a,b", "?", "???"),
    *("${seed}", "${nope}", "${name}", "${oc.env:NOPE}", "${oc.env:HOME", "${now:%Y}", "${hydra:job.num}", "$", "${}"),
    *(
        "experiment=null",
        "sweep=null",
        "--cfg",
        "--flag",
        "-m",
        "--config-dir=nowhere",
        "\udcff",
        "a\nb",
        "${sde}",
        "${.steps}",
        "${..seed}",
        "${oc.decode:'['}",
        "range(3)",
        "glob(*)",
        "choice(1,2)",
        "shuffle(1)",
    ),
    *("'", '"', "\\", "\\'", "a b", "a=b", "=", ":", "a:b", "a#b", "é ü 日本", "\U0001f642", "(", ")", "]", "}"),
    *("x" * 2000, "[" * 50, "../..", "/", "~", "%s", "{0}", "\t", "0x10", "1_000", "1e", "off", "sdegen.sde.VP"),
)
"""Values that few options accept, or no option."""
EDGES = ("0", "-1", "1", "2", "1e-300", "1e-30", "1e-9", "0.999999999", "1e15", "1e300", str(2**62), "null", "[]")
"""Values at the limits of the ranges of options, and outside the ranges."""
LONG = ("trainer.steps", "trainer.epochs", "sampler.max_steps")
"""Options for which a large value is no mistake, but makes a run long."""
Arguments = tuple[str, ...]
Node = dict[str, Any]


def choices(group: str) -> list[str]:
    """Returns the choices of a group, which are the YAML files in its folder."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.glob("*.yaml"))


GROUPS = {str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()}
TRAINED = sorted(group for group in GROUPS if group.partition("/")[0] in known.GROUPS)
EXPERIMENTS = sorted(str(path.relative_to(CONF / "experiment"))[:-5] for path in (CONF / "experiment").rglob("*.yaml"))


@functools.cache
def node(group: str, choice: str) -> Node:
    """Returns the configuration of a choice, including its sub-groups. A choice like ``none`` has no class."""
    raw = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"))
    assert isinstance(raw, dict)
    chosen = [pair for default in raw.pop("defaults", []) if isinstance(default, dict) for pair in default.items()]
    inner = {key: node(f"{group}/{key}", value) for key, value in chosen}
    return {**{str(key): value for key, value in raw.items()}, **{k: v for k, v in inner.items() if "_target_" in v}}


@functools.cache
def experiment(name: str) -> dict[str, Node]:
    """Returns the configuration of an experiment, by group."""
    return {k: v for k, v in composed("train", [f"experiment={name}"]).items() if k in known.GROUPS}


def options(of: Node, path: str) -> dict[str, Any]:
    """Returns the types of the options of a configuration, by the path of the option."""
    if "_target_" not in of:
        return {}
    own = {f"{path}.{key}": hint for key, hint in schema._types(schema.resolve(of["_target_"], ())).items()}
    for key, inner in of.items():
        own |= options(inner, f"{path}.{key}") if isinstance(inner, dict) else {}
    return own


def written(value: object) -> str:
    """Returns a value as a user writes it on the command line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def fitting(hint: Any) -> st.SearchStrategy:  # noqa: ANN401
    """Returns a strategy for small values of a type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*map(fitting, parts))
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple and Ellipsis in parts:
        return st.lists(fitting(parts[0]), min_size=1, max_size=3)
    if origin is tuple:
        return st.tuples(*map(fitting, parts))
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(1, 9) | st.sampled_from([8, 16, 24])
    if hint is float:
        return st.floats(0.01, 0.99) | st.floats(1e-3, 20.0) | st.sampled_from([0.0, 0.5, 1.0])
    return st.sampled_from(["auto", "cpu", *PATHS.values()]) if hint is str else st.none()


NAMED = {f"{group}={choice}": options(node(group, choice), group) for group in TRAINED for choice in choices(group)}
"""Types of the options of each choice, by ``group=choice``."""
KNOWN = sorted({*GROUPS, *known.TRAIN, *(name for named in NAMED.values() for name in named)})
WORDS = {word for name in KNOWN for word in re.split(r"[./]", name)} | {"hydra", "config", "command"}


@st.composite
def lines(draw: st.DrawFn, edge: bool = False) -> Arguments:
    """Draws a command line with existing names and values of the right types.

    With ``edge``, one value may be out of range.
    """
    name = draw(st.none() | st.sampled_from(EXPERIMENTS))
    nodes = dict(experiment(name or "smile"))
    arguments = [f"experiment={name}"] if name else ["experiment=smile"]
    for group in draw(st.lists(st.sampled_from(TRAINED), max_size=3, unique=True)):
        chosen = draw(st.sampled_from(choices(group)))
        arguments.append(f"{group}={chosen}")
        own = node(group, chosen)
        if "/" not in group:
            nodes[group] = own
            if group == "dataset" and chosen in PATHS:
                arguments.append(f"dataset.path={PATHS[chosen]}")
        elif "_target_" in own:
            outer, inner = group.split("/")
            nodes[outer] = {**nodes[outer], inner: own}
    there = {path: hint for group, own in nodes.items() for path, hint in options(own, group).items()}
    for group, values in CHEAP.items():
        for key, value in values.items():
            if (hint := there.get(f"{group}.{key}")) is not None:
                value = value if typing.get_origin(hint) is not tuple or isinstance(value, list) else [value]
                arguments.append(f"{group}.{key}={written(value)}")
    for path in draw(st.lists(st.sampled_from(sorted(there)), max_size=4, unique=True)):
        arguments.append(f"{path}={written(draw(fitting(there[path])))}")
    if edge:
        path = draw(st.sampled_from([path for path in sorted(there) if path not in LONG]))
        arguments.append(f"{path}={draw(st.sampled_from(EDGES))}")
    return (*arguments, f"count={COUNT}", f"seed={draw(st.integers(0, 99))}")


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """Draws an argument that is wrong in most cases."""
    of = draw(st.sampled_from([*NAMED]))
    name = draw(st.sampled_from([*(NAMED[of] or KNOWN)]) | st.sampled_from([*KNOWN, *HYDRA]))
    value = draw(st.sampled_from(NASTY) | st.text(max_size=12) | st.sampled_from([written(v) for v in (1, 0.5, "a")]))
    cut = draw(st.integers(0, len(name) - 1))
    misspelt = draw(st.sampled_from([name[:cut] + name[cut + 1 :], name[:cut] + name[cut] + name[cut:], name + "x"]))
    forms = [
        f"{name}={value}", f"{name}={value}", f"{name}={value}", f"{misspelt}={value}", f"+{name}={value}",
        f"++{name}={value}", f"~{name}", f"~{name}={value}", f"{name}@{misspelt}={value}", f"{misspelt}={value}",
        f"{of}x", of, f"{of},{value}", f"+{of}", value, f"{name}", f"{value}={name}", f"{name}.{misspelt}={value}",
    ]  # fmt: skip
    return draw(st.sampled_from(forms))


HYDRA = paths(OmegaConf.to_container(Composition("train", reading.read([])).compose().hydra), "hydra")[1:]
ASKED = st.tuples(lines() | lines(edge=True), st.lists(spoilt(), max_size=2)).map(lambda both: (*both[0], *both[1]))


@contextlib.contextmanager
def typed(arguments: Arguments) -> Iterator[io.StringIO]:
    """Replace ``sys.argv`` and collect standard error. A command line that hangs raises an error."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"no end after {SECONDS} s: {arguments}")

    log = logging.getLogger("sdegen")
    before, handlers, propagate = sys.argv, log.handlers[:], log.propagate
    sys.argv = ["train.py", *arguments]
    alarm = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()):
            yield told
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, alarm)
        sys.argv, log.handlers[:], log.propagate = before, handlers, propagate


def train(arguments: Arguments) -> None:
    """Compose, check, train and sample, as ``scripts/train.py`` does, but without a folder."""
    for _, config in Composition("train", reading.read(arguments)).plan().jobs:
        parts = assembly.replicated(config)
        training, first = components.together(parts), parts[0]
        training.run(lambda *_: None, lambda: None, lambda: None)
        if first.objective.predicts != "score":
            continue
        for own in training.averages:
            trainer, units = first.trainer, first.dataset.units
            x = draw(
                first.sde, own, first.sampler, units, COUNT, device=trainer.device, dtype=DTYPES[trainer.precision]
            ).x
            assert x.shape == (COUNT, *units.shape)
            assert bool(x.isfinite().all())


def outcome(arguments: Arguments) -> list[str]:
    """Returns the lines of the message about a mistake, or an empty list if the command line works."""
    with typed(arguments) as told:
        try:
            guard.guard(lambda: train(arguments))
        except SystemExit as end:
            assert end.code == 2
            text = told.getvalue()
        else:
            return []
    found, keys = text.splitlines(), [part.partition("=")[0].lstrip("+~") or part or "''" for part in arguments]
    assert found, arguments
    for line in found:
        assert len(line) <= guard.WIDEST, line
        assert WORDS & set(re.findall(r"\w+", line)) or any(
            form(key).strip("'\"") in line for key in keys for form in (str, repr, ascii)
        ), line
    return found


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make points and images in the working folder."""
    folder = tmp_path_factory.mktemp("user")
    np.savetxt(folder / "points.csv", np.random.default_rng(0).normal(size=(20, 2)), delimiter=",")
    (folder / "images").mkdir()
    for i in range(4):
        imsave(folder / "images" / f"{i}.png", np.random.default_rng(i).random((8, 8, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def works(arguments: Arguments) -> bool:
    """Returns True if a command line works. If it does not, the message must keep the contract."""
    return not outcome(arguments)


def tried(
    examples: int, arguments: st.SearchStrategy[Arguments], keeps: Callable[[Arguments], bool] = works
) -> Counter[str]:
    """Returns how many command lines work and how many are refused.

    Args:
        examples: number of command lines to try.
        arguments: strategy for command lines.
        keeps: function that returns True if a command line works, and raises if it breaks the contract.
    """
    counts: Counter[str] = Counter()

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(arguments)
    def all_keep_the_contract(line: Arguments) -> None:
        counts["works" if keeps(line) else "refused"] += 1

    all_keep_the_contract()
    return counts


def test_a_command_line_works_or_is_told() -> None:
    counts = tried(8, lines()) + tried(14, ASKED)
    assert counts["works"] >= 5, counts
    assert counts["refused"] >= 5, counts


@pytest.mark.slow
def test_thousands_of_command_lines_work_or_are_told() -> None:
    counts = tried(2300, lines()) + tried(2000, ASKED)
    assert counts["works"] >= 1000, counts
    assert counts["refused"] >= 1000, counts


def kept(script: str, arguments: Arguments, folder: Path) -> bool:
    """Returns True if a command works in a process of its own. If not, it must print messages and no traceback."""
    result = run(script, *arguments, cwd=folder)
    assert "Traceback" not in result.stderr, (arguments, result.stderr)
    assert result.returncode in (0, 1 if script == "verify" else 0, 2), (arguments, result)
    assert bool(result.stderr) == (result.returncode == 2), (arguments, result.stderr)
    assert all(len(line) <= guard.WIDEST for line in result.stderr.splitlines()), result.stderr
    return result.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("script", "examples"), [("train", 40), ("verify", 30)])
def test_real_commands_work_or_are_told(script: str, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "EPOCHS", (1, 1))
    monkeypatch.setattr(images, "REFERENCE", 300)
    own = ("sde", "sampler") if script == "verify" else ("",)

    def keeps(line: Arguments) -> bool:
        return kept(script, tuple(part for part in line if part.lstrip("+~").startswith(own)), Path())

    counts = tried(examples, ASKED, keeps)
    assert counts["works"], counts
    assert counts["refused"], counts


@st.composite
def later(draw: st.DrawFn) -> Arguments:
    """Draws the arguments after ``run=`` of a command that samples or evaluates."""
    groups = sorted(group for group in GROUPS if group.partition("/")[0] in ("sampler", "guidance", "network"))
    arguments = ["count=3", "batch_size=2"]
    for group in draw(st.lists(st.sampled_from(groups), max_size=2, unique=True)):
        chosen = draw(st.sampled_from(choices(group)))
        arguments.append(f"{group}={chosen}")
        if there := options(node(group, chosen), group) if "/" not in group else {}:
            path = draw(st.sampled_from(sorted(there)))
            arguments.append(f"{path}={draw(st.sampled_from(EDGES) | fitting(there[path]).map(written))}")
    for key in draw(st.lists(st.sampled_from(sorted({**known.SAMPLE, **known.EVALUATE})), max_size=2)):
        kind = {**known.SAMPLE, **known.EVALUATE}[key]
        # ``count`` and ``run`` get small values only: a large count takes long, and the run must exist.
        values = fitting(kind).map(written) if key in ("count", "run") else st.sampled_from(NASTY)
        arguments.append(f"{key}={draw(values | fitting(kind).map(written))}")
    return (*arguments, *draw(st.lists(spoilt(), max_size=1)))


@pytest.mark.slow
@pytest.mark.parametrize("script", ["sample", "evaluate"])
def test_a_trained_run_is_used_or_it_is_told_why_not(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ("trainer.steps=2", "trainer.preview_every=0", "count=20", "network.hidden=[8]", "sampler.steps=2")
    assert kept("train", ("experiment=smile_noisy", *short), Path())
    counts = tried(30, later(), lambda line: kept(script, ("run=outputs/smile_noisy/latest", *line), Path()))
    assert counts["works"], counts
    assert counts["refused"], counts
