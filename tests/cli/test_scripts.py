"""Commands as users type them. Each command runs in a process of its own."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ROOT, SHORT, interrupted, newest, refused, run
from conftest import go_back
from hydra.core.override_parser.overrides_parser import OverridesParser

import sdegen
from sdegen.cli import arguments, stored
from sdegen.core.errors import UserError
from sdegen.core.meanings import WORDS
from sdegen.metrics import features
from sdegen.reports import collection
from sdegen.runs import densities, files, ledger, likelihoods, locks, results


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder with a short run of ``experiment=smile``."""
    folder = tmp_path_factory.mktemp("user")
    result = run("train", "experiment=smile", *SHORT, "figures=true", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("results in outputs/smile/")
    return folder


def test_a_run_leaves_what_the_interface_says(trained: Path) -> None:
    latest = newest(trained, "smile")
    left = {path.name for path in latest.iterdir()}
    wanted = {"config.yaml", "provenance.json", "data.json", "train.log", "checkpoints", "samples", "figures"}
    wanted |= {"metrics.json", "scalars.csv", "result"}
    assert wanted <= left
    assert {name for name in left - wanted if not name.startswith("events.out.tfevents")} == set()
    names = ["best.pt", "last.pt", "step-00000000.pt", "step-00000004.pt"]
    assert sorted(path.name for path in (latest / "checkpoints").iterdir()) == names
    provenance = json.loads((latest / "provenance.json").read_text())
    assert provenance["command"].endswith(
        " ".join(("experiment=smile", *SHORT[:5], "'network.hidden=[8]'", "figures=true"))
    )
    assert provenance["packages"]["torch"]
    assert provenance["training"]["steps"] == 4
    assert "trained in" in (latest / "train.log").read_text()
    metrics = json.loads((latest / "metrics.json").read_text())
    assert set(metrics) == {"sliced_w1", "energy", "column_w1", "mode_weights", "off_support", "score_error"}
    assert all({"value", "floor", "train"} <= set(entry) for entry in metrics.values())


def test_sampling_changes_the_sampler_and_repeats_a_seed(trained: Path) -> None:
    base = ("run=outputs/smile/latest", "count=70", "seed=5")
    own = run("sample", *base, "sampler.steps=7", "animate=true", cwd=trained)
    assert own.returncode == 0, own.stderr
    assert (trained / own.stdout.splitlines()[-1].removeprefix("results in ") / "figures" / "generation.gif").exists()
    assert "70 samples with the sampler euler_maruyama, ema weights of step 4\n7 evaluations a sample" in own.stdout
    again = run("sample", *base, "sampler.steps=7", "batch_size=9", "weights=ema", "figures=false", cwd=trained)
    other = run("sample", *base, "sampler=dopri5", "sampler.rtol=1e-3", "weights=raw", "figures=false", cwd=trained)
    exact = run("sample", *base, "sampler=rk45", "network=oracle", "count=20", "figures=false", cwd=trained)
    assert "the sampler dopri5, raw weights of step 4" in other.stdout
    assert "the sampler rk45, exact score" in exact.stdout
    folders = [
        Path(result.stdout.splitlines()[-1].removeprefix("results in ")) for result in (own, again, other, exact)
    ]
    assert [folder.name[4:] for folder in folders] == ["-euler_maruyama", "-euler_maruyama", "-dopri5", "-rk45"]
    x = [np.load(trained / folder / "samples.npz") for folder in folders]
    assert x[0]["x"].shape == (70, 2)
    np.testing.assert_allclose(x[0]["x"], x[1]["x"], atol=1e-4)
    assert (x[0]["nfe"], x[0]["seed"], x[0]["step"]) == (7, 5, 4)
    np.testing.assert_allclose(np.loadtxt(trained / folders[0] / "samples.csv", delimiter=",", skiprows=1), x[0]["x"])
    wanted = {"samples.npz", "samples.csv", "metrics.json", "figures", "config.yaml"}
    # The last file is for TensorBoard.
    *left, events = sorted(
        (path.name for path in (trained / folders[0]).iterdir()), key=lambda n: n.startswith("events")
    )
    assert set(left) == wanted and events.startswith("events.out.tfevents.")
    error = json.loads((trained / folders[3] / "metrics.json").read_text())["score_error"]["value"]
    assert error < 1e-5


def test_resume_goes_on_in_the_same_folder(trained: Path) -> None:
    folder = newest(trained, "smile")
    before = {path: path.read_bytes() for path in (folder / "config.yaml", folder / "checkpoints" / "step-00000004.pt")}
    result = run("train", "resume=outputs/smile/latest", "trainer.steps=6", cwd=trained)
    assert result.returncode == 0, result.stderr
    assert "steps 4 to 6" in result.stdout
    assert (folder / "checkpoints" / "step-00000006.pt").exists()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert [path.name for path in folder.parent.iterdir() if path.is_dir() and not path.is_symlink()] == [folder.name]
    done = run("train", f"resume={folder}", cwd=trained)
    assert done.returncode == 2
    assert "nothing to do: the run finished at step 6; set trainer.steps=… for more" in done.stderr
    foreign = run("train", f"resume={folder}", "sde=ve", cwd=trained)
    assert foreign.stderr.startswith("sde: cannot change on resume")
    assert run("train", f"resume={folder}", "-m", cwd=trained).stderr.startswith("-m: cannot change on resume")


def test_multirun_makes_a_run_for_each_value_in_one_folder(tmp_path: Path) -> None:
    line = ("-m", "experiment=smile", "weighting=uniform,variance", *SHORT)
    result = run("train", *line, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (sweep,) = (tmp_path / "outputs").iterdir()
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir() and not path.is_symlink()) == [
        "0-smile",
        "1-smile",
    ]
    assert "Uniform" in (sweep / "0-smile" / "config.yaml").read_text()
    assert "Variance" in (sweep / "1-smile" / "config.yaml").read_text()
    assert "job 1: experiment=smile weighting=variance" in result.stdout
    before = {path: path.read_bytes() for path in sweep.glob("*-smile/**/*") if path.is_file()}
    again = run("train", *line, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(", from an earlier command") == 2
    assert {path: path.read_bytes() for path in sweep.glob("*-smile/**/*") if path.is_file()} == before
    # A job that cannot start does not stop the other jobs, and only the missing jobs run.
    shutil.rmtree(sweep / "1-smile")
    (sweep / "0-smile" / "metrics.json").unlink()
    (sweep / "ledger.jsonl").write_text("".join((sweep / "ledger.jsonl").read_text().splitlines(True)[2:]))
    partly = run("train", *line, cwd=tmp_path)
    assert partly.returncode == 2
    told, count = partly.stderr.splitlines()
    assert told.startswith("job 0: ") and "holds a run of another configuration" in told
    assert count == "1 of 2 jobs failed"
    assert (sweep / "1-smile" / "metrics.json").exists()


def test_interrupted_sweep_does_only_what_is_missing(tmp_path: Path) -> None:
    """Ctrl-C interrupts the second job. The command then runs only the unfinished jobs."""
    options = ("experiment=smile", "trainer.steps=2,2000", *SHORT[1:], "hydra.sweep.dir=outputs/mine")
    status, _, message = interrupted("train", "-m", *options, cwd=tmp_path, words="steps 0 to 2000")
    assert status == 130, message
    sweep = tmp_path / "outputs" / "mine"
    states = {job: record.state for job, record in ledger.read(sweep).items()}
    assert states == {"0-smile": "done", "1-smile": "interrupted"}
    stopped = r"job 1: (stopped by SIGINT, saved at step (\d+)); repeat the command to continue the sweep\n"
    saved = re.fullmatch(stopped, message)
    assert saved, message
    shown = run("status", "outputs/mine", cwd=tmp_path).stdout.splitlines()
    assert shown[0] == "outputs/mine: 1 stopped, 1 done" and shown[2] == f"  stopped  1-smile  {saved[1]}"
    (reason,) = [why for folder, why in collection.collect(sweep)[1] if folder.name == "1-smile"]
    assert reason == f"interrupted: {saved[1]}; repeat the command to go on"
    again = run("train", "-m", *options, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "results in outputs/mine/0-smile, from an earlier command" in again.stdout
    assert f"steps {saved[2]} to 2000" in again.stdout
    assert {record.state for record in ledger.read(sweep).values()} == {"done"}


def test_interrupted_run_is_saved_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Ctrl-C interrupts a training before its first checkpoint. The resumed run ends like an undisturbed one."""
    options = ("experiment=smile", "trainer.steps=2000", *SHORT[1:], "trainer.log_every=100")
    status, _, message = interrupted("train", *options, "name=a", cwd=tmp_path, words="steps 0 to 2000")
    assert status == 130, message
    pattern = r"stopped by SIGINT, saved at step (\d+); continue with sdegen train resume=(\S+)\n"
    found = re.fullmatch(pattern, message)
    assert found, message
    assert int(found[1]) < 2000
    assert run("train", f"resume={found[2]}", cwd=tmp_path).returncode == 0
    assert run("train", *options, "name=b", cwd=tmp_path).returncode == 0
    samples = [next((newest(tmp_path, n) / "samples").glob("*/samples.csv")) for n in ("a", "b")]
    assert samples[0].read_bytes() == samples[1].read_bytes()


def test_your_own_class_and_yaml_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "sde").mkdir(parents=True)
    (tmp_path / "mine.py").write_text("from sdegen.sde import VP\n\nclass Slow(VP):\n    pass\n")
    (tmp_path / "conf" / "sde" / "slow.yaml").write_text("_target_: mine.Slow\nbeta_max: 5.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = run("train", "--config-dir", "conf", "experiment=smile", "sde=slow", *SHORT, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    refusal = run("sample", "run=outputs/smile/latest", "count=5", cwd=tmp_path)
    assert "if you trust its code, add trust=[mine]" in refusal.stderr
    assert len(refusal.stderr.splitlines()) == 1
    trusted = run("sample", "run=outputs/smile/latest", "count=5", "trust=[mine]", "figures=false", cwd=tmp_path)
    assert trusted.returncode == 0, trusted.stderr


def test_a_path_with_spaces_brackets_and_accents_works(tmp_path: Path) -> None:
    path = tmp_path / "dados São (1) [x].csv"
    path.write_text("\n".join(f"{i},{i % 7}" for i in range(30)))
    result = run("train", "dataset=file", f"dataset.path={path.name}", *SHORT, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (newest(tmp_path, "file") / "metrics.json").exists()


MISTAKES = [
    (("experiment=smiel",), ("experiment=smiel", "did you mean experiment=smile?")),
    (("sede=vp",), ("sede: no such option", "sde")),
    (
        ("experiment=double_well", "objective=denoising"),
        ("objective=denoising needs a closed-form kernel and sde=double_well has none: use objective=sliced",),
    ),
    (("sde=vpp",), ("sde=vpp", "did you mean sde=vp?")),
    (("sde.beta_maxx=3",), ("sde.beta_maxx", "did you mean sde.beta_max?")),
    (("+sampler.nstep=3",), ("sampler.nstep", "did you mean sampler.steps?")),
    (("sde.beta_max=abc",), ("sde.beta_max: must be a number, not 'abc'",)),
    (("sde.beta_max=0.01",), ("sde.beta_max=0.01 must be at least beta_min=0.1",)),
    (("sampler.steps=0",), ("sampler.steps=0 must be at least 1",)),
    (("sde.eps=1",), ("sde.eps=1 must be above 0 and below 1, which is T",)),
    (("dataset=file",), ("dataset.path is missing: give dataset.path=…",)),
    (("dataset=file", "dataset.path=nowhere.csv"), ("dataset.path=nowhere.csv: no such file in /",)),
    (("dataset=file", "dataset.path=empty.csv"), ("dataset.path=empty.csv: holds no line of numbers",)),
    (("dataset=file", "dataset.path=nan.csv"), ("NaN or infinity",)),
    (("weighting=uniform,variance",), ("add -m",)),
    (("network=oracle", "dataset=moons"), ("network: the distribution of this data set is not known",)),
    (("resume=nowhere",), ("nowhere: no such folder",)),
    (("devices=4",), ("devices=4: only a forecast takes it: add forecast=true, or", "torchrun --nproc-per-node=4")),
    (("forecast=true", "devices=0"), ("devices=0: must be at least 1",)),
    (("-m", "forecast=true", "devices=2", "seed=0,1"), ("devices=2: works for a single run",)),
    (("sde.sigma_max=3",), ("sde.sigma_max: no option of the chosen sde; sde=edm, sde=smld, sde=ve have this option",)),
    (("trainer.lr=3",), ("did you mean optimizer.lr?",)),
    (("beta_max=3",), ("beta_max: no such option; did you mean sde.beta_max?",)),
    (("animate=false",), ("animate: no option of sdegen train; animate is an option of sdegen sample",)),
    (("metrics=[foo]",), ("metrics: no option of sdegen train; metrics is an option of sdegen evaluate",)),
    (("weights=raw",), ("weights is an option of sdegen sample, sdegen evaluate",)),
    (("guidance=classifier",), ("guidance: no option of sdegen train; guidance is an option of sdegen sample",)),
    (("guidance.scale=3",), ("guidance: no option of sdegen train; guidance is an option of sdegen sample",)),
    (("stpes=3",), ("stpes: no such option; did you mean trainer.steps?",)),
    (("animals=3",), ("animals: no such option; sdegen train --help shows the options",)),
    (("sampler.foo=3",), ("sampler.foo: no such option; sdegen train --help shows the options",)),
    (("steps=3",), ("did you mean trainer.steps or sampler.steps?",)),
    (("dataset=file", "dataset.path=."), ("dataset.path=.: is a folder",)),
    (("name=../up",), ("name: '../up' is no name for a folder",)),
    (("--flag",), ("unrecognized arguments: --flag",)),
    (("-m", "experiment=smile", "sde=vp,vpp"), ("sde=vpp", "did you mean sde=vp?")),
    (("-m", "experiment=smile", "sde.beta_max=20,0.01"), ("sde.beta_max=0.01 must be at least",)),
    (("sampler=null",), ("sampler=null: sampler is a group: choose one of adams,",)),
    (
        ("sde=3",),
        ("sde=3: sde is a group: choose one of cosine, ddpm, double_well, edm, linear, smld, subvp, table, ve, vp",),
    ),
    (("sde=[vp,ve]",), ("sde=[vp,ve]: sde is a group",)),
    (("-m", "sde=vp,null"), ("sde=null: sde is a group",)),
    (("hydra=3",), ("hydra=3: hydra is a group",)),
    (("hydra/launcher=3",), ("hydra/launcher=3: hydra/launcher is a group",)),
    (("sde={beta:3}",), ("sde.beta: no such option", "sde.beta_m")),
    (("sde.beta_max=1e300",), ("sde.beta_max: must be a number below 9.2e+18, not 1e+300",)),
    (("~seed",), ("seed is missing: leave out ~seed",)),
    (("~sampler",), ("sampler is missing: leave out ~sampler",)),
    (("~sde.nope",), ("'sde.nope' does not exist",)),
    (("~sde.eps=3",), ("The value of 'sde.eps' is 1e-05 and not 3",)),
    (("+sde=ve",), ("sde has a choice already: remove the +",)),
    (("sde.eps@x=3",), ("sde.eps@x=3", "config group 'sde.eps' does not exist")),
    (("sampler/corrector.leaps=1",), ("/ separates groups, and . separates options: try sampler.corrector.leaps=",)),
    (("hydra.mode=x",), ("hydra.mode: Invalid value 'x', expected one of [RUN, MULTIRUN]",)),
    (("hydra.job.env_copy=[NOPE]",), ("hydra.job.env_copy=[NOPE]: Hydra cannot use this: 'NOPE'",)),
    (("hydra.searchpath=[nowhere]",), ("hydra.searchpath", "nowhere is not available")),
    (("hydra.run.dir=/dev/null/run",), ("/dev/null/run: Not a directory",)),
    (("-m", "hydra.launcher._target_=os.system"), ("hydra.launcher._target_=os.system: not a launcher of Hydra",)),
    (("-m", "hydra.sweeper._target_=os.system"), ("hydra.sweeper._target_=os.system: not a sweeper of Hydra",)),
    (("experiment=smile", "network.hidden=[1000000000]"), ("network: ", "memory")),
    (
        ("-m", "seed=interval(0,1)"),
        ("seed=interval(0,1): an interval has no list of values: write the values, as in seed=1,2",),
    ),
    (("name=${name}",), ("name: Recursive interpolation detected",)),
    (("dataset=file", "dataset.path=a\nb"), ("'dataset.path=a\\nb': contains a line break",)),
    (("dataset=file", f"dataset.path={'x' * 5000}"), ("dataset.path=xxx", "x … xxx", "no such file")),
    (("resume=",), (".: holds no checkpoint",)),
    (("resume=.", "sde/x.y=1"), ("sde/x.y=1: / separates groups",)),
    (("--config-name=sample",), ("--config-name is fixed by the command",)),
    (("--config-dir=nowhere",), ("--config-dir=nowhere: no such folder",)),
    (("--resolve",), ("--resolve works only with --cfg job",)),
    (("-m", "--cfg", "job"), ("--multirun runs jobs, but --cfg and --info only show",)),
    ((" ",), ("' ': cannot be read",)),
    (("--experimental-rerun=x",), ("--experimental-rerun is fixed by the command",)),
    (("trainer.device=mps",), ("trainer.device=mps is not supported: use cpu or cuda",)),
    (("trainer.device=cuda:99",), ("trainer.device=cuda:99 is not on this machine",)),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value))
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path: Path, arguments: tuple, words: tuple) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "nan.csv").write_text("1\nnan\n2\n")
    refused(run("train", *arguments, cwd=tmp_path), tmp_path, *words)


def test_what_needs_more_memory_than_there_is_is_one_line(tmp_path: Path) -> None:
    result = run("train", "times.draws=1e15", "trainer.steps=1", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(r"out of memory, \d+ bytes were needed: try a smaller trainer.batch_size, .*", line)


def test_groups_left_without_a_choice_and_flags_behind_the_options_are_as_meant(tmp_path: Path) -> None:
    """``experiment=null`` cancels the experiment before it, ``-m`` may stand anywhere, ``glob(*)`` finds choices."""
    given = ("experiment=gaussian_mixture", "experiment=null", "sweep=null", "sde=glob(v*)", "-m")
    result = run("train", *given[:1], *SHORT, *given[1:], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (sweep,) = (tmp_path / "outputs").iterdir()
    assert {path.name for path in sweep.glob("?-*")} == {"0-smile", "1-smile"}
    assert "sdegen.sde.VE" in (sweep / "0-smile" / "config.yaml").read_text()


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("--nope",), ("nowhere",), ("",)], ids=" ".join)
def test_report_of_nonsense_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refused(run("report", *arguments, cwd=tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("run= is missing",)),
        (("run=3",), ("run: must be a string, not 3",)),
        (("run=null",), ("run: must be a string, not None",)),
        (("run=nowhere", "checkpoint=nan"), ("checkpoint: must be",)),
        (("run=nowhere", "checkpoint=[1]"), ("checkpoint: must be an integer or one of last, best, not [1]",)),
        (("run=nowhere",), ("nowhere: no such folder",)),
        (("run=.",), ("holds no checkpoint",)),
    ],
)
def test_sampling_from_no_run_is_told(tmp_path: Path, arguments: tuple, words: tuple) -> None:
    refused(run("sample", *arguments, cwd=tmp_path), tmp_path, *words)


def test_sampling_mistakes_are_told_and_leave_nothing(trained: Path) -> None:
    latest = newest(trained, "smile")
    before = sorted(latest.rglob("*"))
    for option, words in (
        ("sampler.stepz=4", "did you mean sampler.steps?"),
        ("dataset=moons", "dataset: no option of sdegen sample; dataset is an option of sdegen train"),
        ("metrics=likelihood", "metrics is an option of sdegen evaluate"),
        ("count=0", "count: must lie between 1 and 1e+09"),
        ("weights=emma", "weights: must be one of ema, raw, not 'emma': did you mean ema?"),
        ("checkpoint=3", "choose checkpoint= from 0, 4"),
        ("network=mlp", "use network=run or oracle"),
        ("guidance=3", "guidance=3: guidance is a group: choose one of auto, classifier,"),
        ("trust=null", "trust: must be a list, each entry a string, not None"),
        ("~seed", "seed is missing: leave out ~seed"),
        ("~guidance", "guidance is missing: leave out ~guidance"),
        ("sampler=null", "sampler=null: sampler is a group"),
    ):
        result = run("sample", "run=outputs/smile/latest", option, cwd=trained)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert words in result.stderr
    assert sorted(latest.rglob("*")) == before


@pytest.mark.parametrize("harm", [["pathlib.Path.write_text"], ["joblib.load"], ["os.system"]])
def test_a_stranger_checkpoint_cannot_reach_hydra(trained: Path, tmp_path: Path, harm: list[str]) -> None:
    """Configurations with a defaults list, a package or a callback are refused before Hydra reads them."""
    from sdegen.runs import checkpoint

    target = tmp_path / "ran"
    call = {
        "_target_": harm[0],
        "self": str(target),
        "data": "ran",
        "filename": str(target),
        "command": f"touch {target}",
    }
    attacks = [
        {"defaults": [{"evil@_global_.hydra.callbacks.evil": "run"}, "_self_"], "evil": call},
        {"evil@_global_.hydra.callbacks.evil": call},
        {"predictor": {**call}},
        {"predictor": {"_target_": "sdegen.samplers.EulerMaruyama", "defaults": [{"/hydra": "x"}]}},
    ]
    saved = checkpoint.load(checkpoint.find(newest(trained, "smile")))
    for i, attack in enumerate(attacks):
        folder = tmp_path / f"run{i}" / "checkpoints"
        config = {**saved.config, "sampler": {**saved.config["sampler"], **attack}}
        checkpoint.save(saved._replace(config=config), folder)
        result = run("sample", f"run=run{i}", "count=5", cwd=tmp_path)
        assert result.returncode == 2
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        assert not target.exists()
        with pytest.raises(UserError, match="refused"):
            stored.store("sampler", {"defaults": [], "_target_": "x"})


def test_latest_may_be_a_file_and_numbers_may_be_whole_floats(trained: Path, tmp_path: Path) -> None:
    source = newest(trained, "smile")
    odd = tmp_path / "it's [a] (b) é"
    shutil.copytree(source, odd / "there")
    (odd / "latest").write_text("there")
    result = run(
        "sample",
        f"run={odd}/latest",
        "count=1e1",
        "batch_size=1e1",
        "seed=1e3",
        "checkpoint=4",
        "figures=false",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    told = run("sample", f"run={odd / 'there'}", "count=10", "seed=1000", "checkpoint=4", "figures=false", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    samples = [np.load(f)["x"] for f in sorted((odd / "there" / "samples").glob("*/samples.npz"))[-2:]]
    assert len(samples[0]) == 10
    np.testing.assert_array_equal(*samples)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder with a run that uses the exact score of the noisy smile."""
    folder = tmp_path_factory.mktemp("exact")
    # With large noise, the exact score needs few nodes and is quick to compute.
    line = (
        "dataset=smile_noisy",
        "dataset.noise=0.3",
        "network=oracle",
        "sampler.steps=3",
        "count=100",
        "figures=false",
    )
    result = run("train", *line, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_likelihood_of_the_exact_score_is_its_floor(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The likelihood and the floor differ by the tolerance of the solver only."""
    monkeypatch.setitem(densities.CELLS, 2, 10)
    base = ("run=outputs/smile_noisy/latest", "count=40", "precision=float64")
    result = run("evaluate", *base, "metrics=[likelihood,interpolation]", "batch_size=170", cwd=exact)
    assert result.returncode == 0, result.stderr
    assert "likelihood of 40 fresh points, exact score" in result.stdout
    assert re.search(r"nll +(-?[\d.]+) +\1 ", result.stdout)
    folders = [exact / line.removeprefix("results in ") for line in result.stdout.splitlines() if "results in" in line]
    assert [folder.name for folder in folders] == ["0001-likelihood", "0002-interpolation"]
    for folder, name in zip(folders, ("likelihood", "interpolation"), strict=True):
        left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        left = {name for name in left if not name.startswith("events.out.tfevents.")}
        assert left == {"config.yaml", "metrics.json", f"{name}.npz", f"figures/{name}.png"}
    nll = json.loads((folders[0] / "metrics.json").read_text())["nll"]
    assert nll["value"] == pytest.approx(nll["floor"], abs=1e-4)
    stored = np.load(folders[0] / "likelihood.npz")
    assert nll["value"] == pytest.approx(-stored["log_p"].mean())
    assert nll["standard_error"] == pytest.approx(stored["log_p"].std(ddof=1) / 40**0.5)
    assert np.abs(stored["log_p"] - stored["exact_log_p"]).mean() < 5e-4
    again = json.loads((folders[1] / "metrics.json").read_text())["reconstruction"]
    assert again["floor"] == 0
    assert again["value"] < 1e-3


def test_c2st_tells_the_samples_of_three_steps_from_the_data(exact: Path) -> None:
    result = run("evaluate", "run=outputs/smile_noisy/latest", "metrics=c2st", "count=300", cwd=exact)
    assert result.returncode == 0, result.stderr
    folder = exact / re.findall(r"results in (.*)", result.stdout)[0]
    assert {"config.yaml", "metrics.json", "c2st.npz"} <= {path.name for path in folder.iterdir()}
    assert len(np.load(folder / "c2st.npz")["x"]) == 300
    found = json.loads((folder / "metrics.json").read_text())["c2st"]
    assert found["floor"] < 0.56 < 0.6 < found["value"] <= 1


def test_evaluation_mistakes_are_told_and_leave_nothing(exact: Path, trained: Path) -> None:
    for folder, name, option, words in (
        (trained, "smile", "metrics=likelihood", "the data lie on a curve or at points and have no density"),
        (
            exact,
            "smile_noisy",
            "probes=3",
            "probes=3 cost more than the exact divergence in 2 dimensions: use probes=0",
        ),
        (exact, "smile_noisy", "metrics=[]", "metrics: is empty"),
        (exact, "smile_noisy", "dataset.path=new.csv", "give new points as points=new.csv"),
        (exact, "smile_noisy", "points=new.csv", "points=new.csv: no such file"),
        (exact, "smile_noisy", "metrics=samples", "add points=theirs.csv"),
        (exact, "smile_noisy", "metrics=c2st count=9", "metrics=c2st: 9 samples are too few: set count to 10 or more"),
        (exact, "smile_noisy", "probe=1", "did you mean probes?"),
    ):
        before = sorted((folder / "outputs").rglob("*"))
        result = run("evaluate", f"run=outputs/{name}/latest", *option.split(), cwd=folder)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert words in result.stderr
        assert sorted((folder / "outputs").rglob("*")) == before


@pytest.mark.parametrize("script", ["train", "sample", "evaluate", "calibrate", "verify"])
def test_help_is_a_page_with_groups_and_five_commands(script: str, tmp_path: Path) -> None:
    result = run(script, "--help", cwd=tmp_path)
    assert result.returncode == 0
    typed = f"python {ROOT / 'scripts' / script}.py "
    assert sum(line.startswith(typed) and "--help" not in line for line in result.stdout.splitlines()) == 5
    assert len(result.stdout.splitlines()) < 40
    assert not (tmp_path / "outputs").exists()


def test_command_of_a_calibration_trains(tmp_path: Path) -> None:
    given = ("dataset=circles", "dataset.size=200", "sde=ve", "seed=3", "network.hidden=[8]")
    result = run("calibrate", *given, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert not (tmp_path / "outputs").exists()
    assert "auto measures it on the data: the largest distance between two points" in result.stdout
    words = shlex.split(result.stdout.splitlines()[-1])
    assert words[1].endswith("scripts/train.py") and set(given[:-1]) <= set(words)
    assert "network.hidden=[128,128,128]" not in words and "network.hidden=[128]" in words
    assert run("train", *words[2:], *SHORT[:-1], cwd=tmp_path).returncode == 0
    refused(run("calibrate", "dataset=file", cwd=tmp_path / "outputs"), tmp_path / "outputs", "dataset.path")


def test_help_says_in_words_what_each_metric_is(tmp_path: Path) -> None:
    result = run("evaluate", "--help", "metrics=c2st", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for name in WORDS:
        assert re.search(rf"^{name}  +\w", result.stdout, re.MULTILINE), name
    assert "accuracy with which a random forest tells samples from unseen data" in " ".join(result.stdout.split())
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_verify_tells_what_holds_and_what_does_not(tmp_path: Path) -> None:
    """Enough steps pass the tests and too few steps fail. A pair of SDE and sampler that cannot work is refused."""
    good = run("verify", "sde=ve", "sampler=dpm_solver", cwd=tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr
    checked, *outcomes = good.stdout.splitlines()
    assert re.fullmatch(r"sde=ve \(.*sigma_max=.*\), sampler=dpm_solver \(.*steps=.*\)", checked)
    assert {line.split()[0] for line in outcomes} == {"pass"}
    bad = run("verify", "sampler=ddim", "sampler.steps=2", cwd=tmp_path)
    assert bad.returncode == 1
    assert "steps=2, " in bad.stdout.splitlines()[0]
    assert {line.split()[0] for line in bad.stdout.splitlines()[1:]} == {"pass", "FAIL"}
    refused(
        run("verify", "sde=double_well", "sampler=adams", cwd=tmp_path), tmp_path, "sampler=adams needs a closed-form"
    )


def test_verify_takes_a_users_own_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's predictor declares a higher order than it has, and only this claim fails."""
    (tmp_path / "mine.py").write_text(
        "from sdegen.samplers import EulerMaruyama\n\n\nclass Boastful(EulerMaruyama):\n    order = 3\n"
    )
    node = tmp_path / "conf" / "sampler" / "predictor" / "boastful.yaml"
    node.parent.mkdir(parents=True)
    node.write_text("_target_: mine.Boastful\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    line = ("--config-dir", "conf", "sampler=euler_maruyama", "sampler/predictor=boastful", "json=true")
    result = run("verify", *line, "sampler.steps=300", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    failed = [proof["claim"] for proof in json.loads(result.stdout) if proof["holds"] is False]
    assert failed == ["converges at its declared order"]


def test_sweep_over_samplers_leaves_a_table_and_a_figure(exact: Path) -> None:
    line = ("-m", "run=outputs/smile_noisy/latest", "count=100", "sampler=adams,ddim,dopri5", "figures=false")
    before = {*(exact / "outputs").iterdir()}
    result = run("sample", *line, cwd=exact)
    assert result.returncode == 0, result.stderr
    assert {*(exact / "outputs").iterdir()} == before
    folder = exact / result.stdout.splitlines()[-1].removeprefix("frontier in ")
    assert (folder / "frontier.png").stat().st_size > 10_000
    with (folder / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["sampler"] for row in rows] == ["adams", "ddim", "dopri5"]
    for row, samples in zip(rows, sorted((newest(exact, "smile_noisy") / "samples").iterdir())[-3:], strict=True):
        metrics = json.loads((samples / "metrics.json").read_text())["sliced_w1"]
        assert float(row["nfe"]) == pytest.approx(float(np.load(samples / "samples.npz")["nfe"]), rel=1e-5)
        assert float(row["sliced_w1"]) == pytest.approx(metrics["value"], rel=1e-4)
        assert float(row["sliced_w1_floor"]) == pytest.approx(metrics["floor"], rel=1e-4)


def test_own_sampler_without_a_corrector_can_be_given_one(exact: Path) -> None:
    line = ("run=outputs/smile_noisy/latest", "count=50", "sampler/corrector=metropolis_hmc", "sampler.steps=3",
            "figures=false")  # fmt: skip
    result = run("sample", *line, cwd=exact)
    assert result.returncode == 0, result.stderr
    assert "-metropolis_hmc" in result.stdout
    assert "of the corrector's moves accepted" in result.stdout


TINY = ("trainer.steps=4", "count=100", "trainer.preview_every=0", "sampler.steps=2", "trainer.threads=1")
UNET = ("network.channels=8", "network.multipliers=[1]", "network.blocks=1", "network.attention=[]")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder with short runs of digits, of digits with labels, and of two classifiers of digits."""
    folder = tmp_path_factory.mktemp("digits")
    classifier = ("experiment=digits_classifier", *TINY, "network.channels=[8]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "EPOCHS", (1, 1))
        patch.setattr(likelihoods, "TIMES", 5)
        for line in (
            ("experiment=digits", *TINY, "network.channels=[8]"),
            ("experiment=digits_conditional", *TINY, *UNET, "figures=false"),
            classifier,
            (*classifier, "sde=subvp", "name=other", "figures=false"),
        ):
            result = run("train", *line, cwd=folder)
            assert result.returncode == 0, result.stderr
    return folder


def test_digits_leave_their_figures_and_measures(digits: Path) -> None:
    latest = newest(digits, "digits")
    assert {path.name for path in (latest / "figures").iterdir()} == {"samples.png", "generation.png", "generation.gif"}
    found = json.loads((latest / "metrics.json").read_text())
    in_features = {"frechet", "kernel", "precision", "recall", "class_balance", "c2st_features"}
    assert set(found) == {*in_features, "spectrum", "near_copies", "c2st"}
    classifier = newest(digits, "digits_classifier")
    assert (classifier / "figures" / "accuracy.png").exists()
    assert 0 < json.loads((classifier / "metrics.json").read_text())["accuracy"]["value"] < 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("digits", ("guidance=classifier", "guidance.run=outputs/digits_classifier/latest", "guidance.scale=2")),
        ("digits_conditional", ("guidance=classifier_free", "guidance.scale=2")),
    ],
)
def test_all_classes_are_sampled_one_after_the_other(digits: Path, name: str, line: tuple[str, ...]) -> None:
    """All samples have labels. Samples of one class alone equal the samples of this class among all."""
    base = (f"run=outputs/{name}/latest", *line, "count=3", "sampler=euler_maruyama", "sampler.steps=3")
    result = run("sample", *base, "label=all", cwd=digits)
    assert result.returncode == 0, result.stderr
    folder = digits / result.stdout.splitlines()[-1].removeprefix("results in ")
    assert {path.name for path in (folder / "figures").iterdir()} == {"classes.png", "generation.png"}
    assert {"agreement", "spread", "class_recall", "frechet"} <= set(json.loads((folder / "metrics.json").read_text()))
    samples = np.load(folder / "samples.npz")
    assert samples["y"].tolist() == [label for label in range(10) for _ in range(3)]
    assert samples["nfe"] == (3 if name == "digits" else 6)
    result = run("sample", *base, "label=0", "figures=false", cwd=digits)
    one = np.load(digits / result.stdout.splitlines()[-1].removeprefix("results in ") / "samples.npz")
    np.testing.assert_allclose(one["x"], samples["x"][:3], atol=1e-4)


def test_an_image_is_inpainted_and_agrees_with_what_is_known(digits: Path) -> None:
    line = (
        "run=outputs/digits_conditional/latest",
        "guidance=inpaint",
        "guidance.measurement.mask=left",
        "guidance.image=5",
    )
    result = run("sample", *line, "count=6", "sampler=ddim", "sampler.steps=30", "guidance.noise=0.02", cwd=digits)
    assert result.returncode == 0, result.stderr
    folder = digits / result.stdout.splitlines()[-1].removeprefix("results in ")
    assert {path.name for path in (folder / "figures").iterdir()} == {"posterior.png", "generation.png"}
    samples = np.load(folder / "samples.npz")
    known = samples["measured"][0, :, :4]
    assert np.isnan(samples["measured"][0, :, 4:]).all()
    assert np.abs(samples["x"][:, 0, :, :4] - known).mean() < 0.5
    np.testing.assert_allclose(samples["mean"], samples["x"].mean(0))


def test_a_measurement_of_ones_own_is_drawn_as_it_is(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (digits / "ours.py").write_text(
        "from sdegen.guidance import Operator\n\n\nclass Rows(Operator):\n"
        "    def __call__(self, x):\n        return x.mean(-1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(digits))
    monkeypatch.syspath_prepend(str(digits))
    node = ("guidance=operator", "guidance.measurement._target_=ours.Rows", "trust=[ours]", "guidance.noise=0.1")
    line = ("run=outputs/digits/latest", *node, "guidance.image=5", "count=6", "sampler=ddim", "sampler.steps=30")
    result = run("sample", *line, cwd=digits)
    assert result.returncode == 0, result.stderr
    folder = digits / result.stdout.splitlines()[-1].removeprefix("results in ")
    assert (folder / "figures" / "posterior.png").exists()
    measured = np.load(folder / "samples.npz")["measured"]
    truth = sdegen.load(digits / "outputs" / "digits" / "latest").dataset.held_out[5]
    np.testing.assert_allclose(measured, truth.double().mean(-1).squeeze(), atol=0.5)
    assert measured.max() > 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("guidance=classifier", "label=3"), ("guidance.run is missing",)),
        (("guidance=classifier", "guidance.run=outputs/digits_classifier/latest"), ("needs a class: give label=3",)),
        (("guidance=classifier", "guidance.run=outputs/digits_classifier/latest", "label=10"), ("choose from 0 to 9",)),
        (("guidance=classifier", "guidance.run=outputs/digits/latest", "label=1"), ("holds no classifier",)),
        (("guidance=classifier", "guidance.run=outputs/other/latest", "label=1"), ("was trained with another SDE",)),
        (("guidance=classifier", "guidance.run=nowhere", "label=1"), ("guidance.run: nowhere: no such folder",)),
        (("label=3",), ("add guidance=classifier",)),
        (("guidance=classifier_free", "label=3"), ("train one with network.label_dropout=0.1",)),
        (("guidance=inpaint", "guidance.measurement=[1,2]"), ("a list cannot replace named options",)),
        (("guidance=inpaint", "label=3"), ("steers towards no class",)),
        (("guidance=inpaint", "mask=top"), ("did you mean guidance.measurement.mask?",)),
        (("guidance=inpaint", "guidance.measurement.mask=half"), ("mask=half is unknown: choose one of left",)),
        (("guidance=inpaint", "guidance.measurement.mask=small.npy"), ("zeros and ones of the shape",)),
        (("guidance=inpaint", "guidance.image=5000"), ("choose from 0 to",)),
        (("guidance=inpaint", "guidance.noise=0"), ("noise=0 must be above 0",)),
        (("guidance=colourise",), ("guidance=colourise needs colours",)),
        (("guidance=auto",), ("step 4 is the network that is sampled: give guidance.checkpoint=",)),
        (("guidance=auto", "guidance.checkpoint=3"), ("has no checkpoint step-00000003.pt",)),
        (("guidance=operator",), ("guidance.measurement: Operator is abstract: define __call__",)),
        (("guidance=[inpaint,deblur]",), ("guidance is a group: choose one of auto",)),
        (("guidance=deblur", "guidance/method=replacement"), ("guidance/method=moments",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_guidance_that_cannot_work_is_one_line(digits: Path, line: tuple, words: tuple) -> None:
    np.save(digits / "small.npy", np.ones((4, 4)))
    latest = newest(digits, "digits")
    before = sorted(latest.rglob("*"))
    result = run("sample", "run=outputs/digits/latest", "count=2", *line, cwd=digits)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert "guidance: guidance=" not in result.stderr
    assert sorted(latest.rglob("*")) == before


def test_a_sweep_with_a_wrong_label_is_refused_before_its_first_job(digits: Path) -> None:
    folder = newest(digits, "digits") / "samples"
    before = set(folder.iterdir())
    steered = ("guidance=classifier", "guidance.run=outputs/digits_classifier/latest", "label=1,10")
    line = ("-m", "run=outputs/digits/latest", *steered, "count=3", "sampler=ddim", "sampler.steps=3")
    result = run("sample", *line, cwd=digits)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "label=10 is no class of the data: choose from 0 to 9\n"
    assert set(folder.iterdir()) == before


def test_a_classifier_does_not_sample(digits: Path) -> None:
    result = run("sample", "run=outputs/digits_classifier/latest", "count=2", cwd=digits)
    assert result.returncode == 2
    assert result.stderr.endswith("holds a classifier, not a score: use it to guide another run, with guidance.run=\n")


def test_only_what_cannot_be_read_is_quoted() -> None:
    parser = OverridesParser.create()
    for argument in ("a=1", "a=[1,2]", "a=x,y", "a={b:1}", "-m", "a='b c'", "+a.b=3"):
        assert arguments.quoted(argument) == argument
    for value in ("[1", "a (b).csv", "it's", "São(2)"):
        parsed = parser.parse_override(arguments.quoted(f"path={value}"))
        assert parsed.value() == value


def test_the_jobs_of_a_command_use_one_run_and_step_while_a_training_writes_others(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first job ends just when another training names its run in ``latest``, and this run its checkpoint."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    first = newest(tmp_path, "smile")
    other = shutil.copytree(first, first.parent / "other")
    write, before, step = results.write, len([*(first / "samples").iterdir()]), sdegen.load(first).step

    def written(run: sdegen.Run, count: int, **options: Any) -> files.Written:  # noqa: ANN401
        found = write(run, count, **options)
        files.point_latest(other)
        shutil.copyfile(first / "checkpoints" / "step-00000000.pt", first / "checkpoints" / "last.pt")
        return found

    monkeypatch.setattr(results, "write", written)
    line = ("-m", "run=outputs/smile/latest", "sampler=ddim,adams", "sampler.steps=3", "count=10", "figures=false")
    result = run("sample", *line, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (
        "warning" not in result.stdout
        and result.stdout.count(f"run=outputs/smile/{first.name} checkpoint={step} ") == 2
    )
    new = sorted((first / "samples").iterdir())[before:]
    assert [int(np.load(folder / "samples.npz")["step"]) for folder in new] == [step, step]


@pytest.mark.parametrize("asked", [(), ("guidance.checkpoint=best",), ("guidance.checkpoint=0",)])
def test_the_step_of_a_weaker_network_is_fixed_before_the_jobs(trained: Path, asked: tuple[str, ...]) -> None:
    folder = newest(trained, "smile")
    given = arguments.read([f"run={folder}", "guidance=auto", f"guidance.run={folder.parent / 'latest'}", *asked])
    stored.offer(("sampler",), given, True)
    which = asked[0].partition("=")[2] if asked else "last"
    step = 0 if which == "0" else sdegen.load(folder, checkpoint=which).step  # type: ignore[arg-type]
    fixed = [one for one in given.overrides if one.startswith("guidance.")]
    assert sorted(fixed) == [f"guidance.checkpoint={step}", f"guidance.run={folder}"]


def test_a_run_that_is_not_trained_yet_is_named(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    folder, line = newest(tmp_path, "smile"), ("run=outputs/smile/latest", "count=10", "figures=false")
    step = sdegen.load(folder).step
    with locks.claimed(folder):
        during = run("sample", *line, cwd=tmp_path).stdout
    assert (
        f"warning: run=outputs/smile/{folder.name}: is still training: its checkpoint of step {step} is used\n"
        in during
    )
    go_back(folder, 0)
    before = run("sample", *line, cwd=tmp_path).stdout
    assert f"run=outputs/smile/{folder.name}: is not trained yet: train it with sdegen train resume=" in before
    assert "yet" not in run("sample", *line, "checkpoint=0", cwd=tmp_path).stdout
