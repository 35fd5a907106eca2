"""TensorBoard's own server shows a sweep correctly. The tests send the requests of the browser."""

from __future__ import annotations

import contextlib
import html
import io
import json
import logging
import multiprocessing
import re
import resource
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import go_back
from omegaconf import OmegaConf
from PIL import Image

import sdegen
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.runs import results, session
from sdegen.runs.evaluation import Evaluation
from sdegen.runs.recorder import Recorder

SHORT = (
    "dataset=smile",
    "network.hidden=[8]",
    "trainer.steps=6",
    "trainer.epochs=null",
    "trainer.preview_every=4",
    "figures=false",
    "trainer.checkpoint_every=3",
    "trainer.log_every=1",
    "sampler.steps=2",
    "count=30",
)
RUNS = {"0-vp": ("sde=vp", "seed=1"), "1-ve": ("sde=ve", "seed=2", "trainer.clip=null")}
RESUMED = "1-ve"


class Server:
    """TensorBoard server that only this machine can reach.

    Args:
        root: folder that the server shows.
        port: port at which the server answers.
    """

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.port = root, port

    def ask(self, path: str, body: object = None, **query: str) -> Any:  # noqa: ANN401
        """Returns the JSON at an address under ``/data``. If there is a body, it is posted."""
        return json.loads(self.raw(path, body, **query))

    def raw(self, path: str, body: object = None, **query: str) -> bytes:
        """Return the content of an address under ``/data``. A body is posted."""
        address = f"http://127.0.0.1:{self.port}/data/{path}?{urllib.parse.urlencode(query)}"
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def sessions(self, columns: Sequence[Mapping[str, Any]] = ()) -> dict[str, dict[str, Any]]:
        """Returns the rows of the HParams tab that pass the filters of the columns, by the name of the run's folder."""
        asked = {
            "colParams": list(columns),
            "allowedStatuses": [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")],
            "sliceSize": 100,
        }
        groups = self.ask("plugin/hparams/session_groups", asked)["sessionGroups"]
        rows = {group["name"].rpartition("/")[2]: group for group in groups}
        assert len(rows) == len(groups)
        return rows


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Server]:
    """Runs TensorBoard's server for a folder while the context is open."""
    line = [sys.executable, "-m", "tensorboard.main", "--logdir", str(root), "--host", "127.0.0.1", "--port", "0"]
    # The server reads the files once, and then writes its address.
    line += ["--load_fast=false", "--reload_task=blocking", "--reload_interval=0"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            written, address = "", None
            while address is None:
                assert process.stderr is not None
                assert (message := process.stderr.readline()), written
                written, address = written + message, re.search(r"http://127\.0\.0\.1:(\d+)", message)
            yield Server(root, int(address[1]))
        finally:
            process.kill()


def train(folder: Path, *overrides: str) -> None:
    session.train(composed("train", [*SHORT, *overrides]), folder)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Makes two finished runs, a failed run and a running one. One of the finished runs was killed and resumed."""
    root = tmp_path_factory.mktemp("sweep")
    for name, overrides in RUNS.items():
        train(root / name, *overrides)
    with pytest.raises(UserError, match="the loss is"):
        train(root / "failed", "trainer.clip=null", "optimizer.lr=9.0e15")
    go_back(root / RESUMED, 3)
    session.resume(root / RESUMED, {})
    with Recorder(root / "running", 0, 6).session([("seed", 3)], "seed: 3"):
        yield root


@pytest.fixture(scope="module")
def server(sweep: Path) -> Iterator[Server]:
    with serving(sweep) as started:
        yield started


def points(server: Server, run: str, tag: str) -> list[tuple[int, float]]:
    """Return the points ``(step, value)`` of a scalar's curve."""
    return [(step, value) for _, step, value in server.ask("plugin/scalars/scalars", run=run, tag=tag)]


def final(folder: Path) -> dict[str, float]:
    """Return the metrics in the folder of a finished run."""
    return {name: entry["value"] for name, entry in json.loads((folder / "metrics.json").read_text()).items()}


def test_scalars_are_grouped_and_agree_with_the_files(server: Server, sweep: Path) -> None:
    tags = server.ask("plugin/scalars/tags")
    assert set(tags) == {*RUNS, *(f"{run}/result" for run in RUNS), "failed"}
    for run in RUNS:
        # TensorBoard sorts the groups: the final metrics come after the curves.
        assert {tag.partition("/")[0] for tag in tags[run]} == {"train", "loss_by_t", "metrics"}
        assert {tag.partition("/")[0] for tag in tags[f"{run}/result"]} == {"values"} and "values" > "train"
        assert [step for step, _ in points(server, run, "train/loss")] == [1, 2, 3, 4, 5, 6]
        assert [step for step, _ in points(server, run, "train/held_out_loss")] == [0, 1, 2, 3, 4, 5, 6]
        for name, value in final(sweep / run).items():
            assert points(server, f"{run}/result", f"values/{name}") == [(6, pytest.approx(value, rel=1e-6))], name


def test_the_table_of_scalars_agrees_with_the_curves(server: Server, sweep: Path) -> None:
    """pandas is not needed: a line is ``step,name,value``."""
    for run in RUNS:
        found: dict[str, list[tuple[int, float]]] = {}
        header, *lines = (sweep / run / "scalars.csv").read_text().splitlines()
        for step, name, value in (line.split(",") for line in lines):
            found.setdefault(name, []).append((int(step), float(value)))
        tags = server.ask("plugin/scalars/tags")
        shown = {tag: points(server, own, tag) for own in (run, f"{run}/result") for tag in tags[own]}
        assert header == "step,name,value"
        assert found == {tag: [(step, pytest.approx(y, rel=1e-6)) for step, y in curve] for tag, curve in shown.items()}


def test_text_is_the_configuration(server: Server, sweep: Path) -> None:
    for run in (*RUNS, "failed"):
        (entry,) = server.ask("plugin/text/text", run=run, tag="config/text_summary")
        code = re.search(r"<pre><code>(.*)</code></pre>", entry["text"], re.DOTALL)
        assert code and html.unescape(code[1]) == (sweep / run / "config.yaml").read_text()


def test_samples_are_shown_by_step_to_the_last(server: Server) -> None:
    found = server.ask("plugin/images/images", run="0-vp", tag="samples", sample="0")
    assert [image["step"] for image in found] == [4, 6]
    for image in found:
        picture = server.raw("plugin/images/individualImage?" + image["query"])
        Image.open(io.BytesIO(picture)).verify()


def test_one_chart_draws_the_training_and_the_held_out_loss_and_one_the_loss_of_all_bins(server: Server) -> None:
    (category,) = server.ask("plugin/custom_scalars/layout")["category"]
    both, chart = category["chart"]
    drawn = [server.ask("plugin/custom_scalars/scalars", run="0-vp", tag=tag) for tag in both["multiline"]["tag"]]
    assert [list(one["tag_to_events"]) for one in drawn] == [["train/loss"], ["train/held_out_loss"]]
    (tag,) = chart["multiline"]["tag"]
    drawn = server.ask("plugin/custom_scalars/scalars", run="0-vp", tag=tag)["tag_to_events"]
    bins = [name for name in server.ask("plugin/scalars/tags")["0-vp"] if name.startswith("loss_by_t/")]
    assert sorted(drawn) == sorted(bins) and len(bins) == 10
    for name in bins:
        assert [(step, value) for _, step, value in drawn[name]] == points(server, "0-vp", name)


def test_table_of_runs_shows_their_differing_options_and_their_metrics(server: Server, sweep: Path) -> None:
    answer = server.ask("plugin/hparams/experiment", {})
    differing = {info["name"] for info in answer["hparamInfos"] if info.get("differs")}
    assert {"sde", "seed", "optimizer.lr"} <= differing and "network.hidden" not in differing
    # The browser shows the first five metrics without a click.
    shown = [metric["name"]["tag"] for metric in answer["metricInfos"]]
    assert sorted(shown) == sorted(f"values/{name}" for name in final(sweep / "0-vp"))
    rows = server.sessions()
    for run in RUNS:
        values = {metric["name"]["tag"]: metric["value"] for metric in rows[run]["metricValues"]}
        for name, value in final(sweep / run).items():
            assert values[f"values/{name}"] == pytest.approx(value, rel=1e-6)


def test_options_of_a_row_agree_with_its_configuration(server: Server, sweep: Path) -> None:
    for run, overrides in RUNS.items():
        config = OmegaConf.load(sweep / run / "config.yaml")
        options = server.sessions()[run]["hparams"]
        assert {"seed": options["seed"], "sde": options["sde"]} == {
            "seed": int(overrides[1][-1]),
            "sde": overrides[0][-2:],
        }
        for path, value in options.items():
            written = OmegaConf.select(config, path)
            assert value == written or value == str(written) or "_target_" in written, path
        assert options["dataset.standardize"] is True and options["sampler.steps"] == 2
    assert "trainer.clip" not in server.sessions()["1-ve"]["hparams"]


def test_rows_stay_when_the_browser_asks_with_its_filters(server: Server) -> None:
    """The browser sends the values of each column back as a filter. The server drops rows of another type."""
    columns: list[dict[str, Any]] = []
    for info in server.ask("plugin/hparams/experiment", {})["hparamInfos"]:
        column: dict[str, Any] = {"hparam": info["name"]}
        if "domainDiscrete" in info:
            column["filterDiscrete"] = info["domainDiscrete"]
        columns.append(column)
    assert any("filterDiscrete" in column for column in columns)
    assert server.sessions(columns).keys() == server.sessions().keys()


def test_a_row_has_the_final_status_of_its_run(server: Server) -> None:
    status = {run: {session["status"] for session in row["sessions"]} for run, row in server.sessions().items()}
    assert status == {
        **{run: {"STATUS_SUCCESS"} for run in RUNS},
        "failed": {"STATUS_FAILURE"},
        "running": {"STATUS_UNKNOWN"},
    }


def test_a_resumed_run_is_one_run_without_repeated_steps(server: Server, sweep: Path) -> None:
    for tag in ("train/loss", "train/learning_rate"):
        assert [step for step, _ in points(server, RESUMED, tag)] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in points(server, f"{RESUMED}/result", "values/energy")] == [6]
    assert len(list((sweep / RESUMED / "result").glob("events.out.tfevents.*.ended"))) == 1
    # There is one row for each run, although latest names the newest run.
    assert (sweep / "latest").is_file()
    assert {run: len(row["sessions"]) for run, row in server.sessions().items()} == dict.fromkeys(
        (*RUNS, "failed", "running"), 1
    )


def test_samples_and_evaluations_are_runs_below_their_run(tmp_path: Path) -> None:
    train(tmp_path / "run")
    run = sdegen.load(tmp_path / "run")
    written = results.write(run, 40, seed=1)
    options = {"count": 20, "seed": 0, "batch_size": 20, "probes": 0, "rtol": 1e-2, "atol": 1e-2}
    evaluated = Evaluation(run, **options).write("interpolation")
    with serving(tmp_path) as server:
        tags = server.ask("plugin/scalars/tags")
        assert set(tags) == {"run", "run/result", *(f"run/{one.folder.parent.name}/{one.folder.name}"
                                                    for one in (written, evaluated))}  # fmt: skip
        own = f"run/samples/{written.folder.name}"
        for name, entry in written.metrics.items():
            assert points(server, own, f"values/{name}") == [(6, pytest.approx(entry["value"], rel=1e-6))]
        (image,) = server.ask("plugin/images/images", run=own, tag="figures/samples", sample="0")
        shown = server.raw("plugin/images/individualImage?" + image["query"])
        assert shown == (written.folder / "figures" / "samples.png").read_bytes()


def test_a_resumed_run_drops_its_earlier_status(tmp_path: Path) -> None:
    def ended() -> int:
        return len(list(tmp_path.glob("*/*.ended")))

    with Recorder(tmp_path, 0, 6).session([], ""):
        assert ended() == 0
    assert ended() == 1
    with pytest.raises(KeyboardInterrupt), Recorder(tmp_path, 6, 9).session([], ""):
        assert ended() == 0
        raise KeyboardInterrupt
    assert ended() == 1


def test_a_full_disk_is_reported_once_and_stops_nothing(tmp_path: Path) -> None:
    receive, send = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        logged: list[str] = []
        logging.getLogger("sdegen").addFilter(lambda record: logged.append(record.getMessage()))
        recorder = Recorder(tmp_path, 0, 6)
        # With a limit on the size of files, the operating system refuses to write, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        with recorder.session([("seed", 1)], "seed: 1"):
            for step in range(100):
                recorder.scalars(step, {"train/loss": 1.0})
        send.send(logged)

    # Use another process, so that the limit and the exceptions in TensorBoard's threads end with the process.
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0 and receive.poll()
    (line,) = receive.recv()
    assert "could not be written, training continues" in line
