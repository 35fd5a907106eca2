"""The page on which runs are read: whole, by itself, and true to the files it is made from."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from sdegen import experiment, ledger, report
from sdegen.command import composed
from sdegen.errors import UserError

SHORT = ("trainer.steps=2", "trainer.epochs=null", "trainer.preview_every=0", "sampler.steps=2", "count=30")


class Page(HTMLParser):
    """What a browser would find: tags that close, tables, pictures, and addresses."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href")]
        self.ids += [value for key, value in attributes if key == "id"]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of two SDEs and two seeds."""
    root = tmp_path_factory.mktemp("sweep")
    for i, (sde, seed) in enumerate(itertools.product(("vp", "ve"), (1, 2))):
        config = composed("train", ["dataset=smile", "network.hidden=[8]", *SHORT, f"sde={sde}", f"seed={seed}"])
        experiment.train(config, root / f"{8 + i}-smile", command="python scripts/train.py <script>alert(1)</script>")
    return root


def test_page_is_whole_and_true_to_its_files(sweep: Path) -> None:
    path, entries, left_out = report.write(sweep)
    assert left_out == []
    page = Page(path.read_text())
    # In the order of the jobs, 10 after 9.
    names = ["8-smile", "9-smile", "10-smile", "11-smile"]
    assert [entry.folder.name for entry in entries] == names
    head, *rows = page.tables[0]
    assert head[:3] == ["run", "seed", "sde"]
    assert [row[:3] for row in rows] == [
        [name, str(seed), sde] for name, (sde, seed) in zip(names, itertools.product(("vp", "ve"), (1, 2)), strict=True)
    ]
    for row in rows:
        found = json.loads((sweep / row[0] / "metrics.json").read_text())
        for metric, entry in found.items():
            assert float(row[head.index(metric)]) == pytest.approx(entry["value"], rel=1e-3)
    # Nothing is loaded from elsewhere; every picture can be read; every link leads somewhere.
    pictures = [address for address in page.addresses if address.startswith("data:image/png;base64,")]
    assert len(pictures) == 1 + sum(1 for _ in sweep.glob("*-smile/figures/*.png"))
    for address in pictures:
        Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).verify()
    links = [address.removeprefix("#") for address in page.addresses if address not in pictures]
    assert links == page.ids and len(set(links)) == 4
    assert "http" not in path.read_text().replace("http-equiv", "")
    # Text of the runs is never markup.
    assert "<script>alert(1)</script>" in page.text


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WATCH = """<script>
const faults = [];
const note = event => faults.push(String(event.message || event.type));
for (const kind of ["error", "securitypolicyviolation"]) addEventListener(kind, note, true);
console.error = text => faults.push(String(text));
</script>"""
TRY = """<script>
addEventListener("load", () => {
  const table = document.querySelector("table.sorts"), seen = [];
  const column = [...table.querySelectorAll("th")].findIndex(head => head.textContent === "sliced_w1");
  for (let i = 0; i < 2; i++) {
    table.querySelectorAll("th button")[column].click();
    seen.push([...table.tBodies[0].rows].map(row => row.cells[column].textContent));
  }
  const broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).length;
  document.body.dataset.found = JSON.stringify({faults, seen, broken, images: document.images.length});
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_every_picture_and_sorts_the_table(sweep: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    path, entries, _ = report.write(sweep)
    watched = tmp_path / "watched.html"
    watched.write_text(path.read_text().replace("<head>", f"<head>{WATCH}").replace("</body>", f"{TRY}</body>"))
    line = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    result = subprocess.run([*line, "--dump-dom", watched.as_uri()], capture_output=True, text=True, timeout=120)
    attribute = re.search(r'data-found="([^"]*)"', result.stdout)
    assert attribute, result.stderr
    found = json.loads(unescape(attribute[1]))
    assert found["faults"] == [] and found["broken"] == 0
    assert found["images"] == 1 + sum(1 for _ in sweep.glob("*-smile/figures/*.png"))
    values = sorted(entry.metrics["sliced_w1"]["value"] for entry in entries)
    up, down = ([float(value) for value in column] for column in found["seen"])
    assert up == pytest.approx(values, rel=1e-3)
    assert down == up[::-1]


def test_options_that_only_another_class_has_are_no_difference(sweep: Path) -> None:
    """VE has other options than VP; that they differ is said once, by the SDE."""
    _, entries, _ = report.write(sweep)
    assert report.varied(entries) == ["seed", "sde"]
    changed = entries[1]._replace(options={**entries[1].options, "sde.beta_max": "7"})
    assert report.varied([entries[0]._replace(options={**entries[0].options, "seed": "2"}), changed]) == [
        "sde.beta_max"
    ]


def test_what_is_no_finished_run_is_left_out_with_the_reason(sweep: Path, tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    whole = sweep / "8-smile"
    for name in ("whole", "half", "cut", "text", "config", "strange", "failed"):
        shutil.copytree(whole, root / name)
    (root / "foreign").mkdir()
    (root / "foreign" / "thesis.txt").touch()
    (root / "latest").symlink_to("whole")
    (root / "half" / "metrics.json").unlink()
    (root / "failed" / "metrics.json").unlink()
    ledger.append(root, ledger.Record("failed", "x", "failed", 1.0, "the loss is nan"))
    (root / "cut" / "metrics.json").write_text((whole / "metrics.json").read_text()[:100])
    (root / "text" / "provenance.json").write_text("[1, 2]")
    (root / "config" / "config.yaml").write_text("sde: {_target_: [")
    (root / "strange" / "metrics.json").write_text('{"w1": 3}')
    path, entries, left_out = report.write(root)
    assert [entry.folder.name for entry in entries] == ["whole"]
    reasons = {folder.name: why for folder, why in left_out}
    assert reasons == {
        "half": "is not finished: it has no metrics.json",
        "failed": "failed: the loss is nan",
        "cut": "metrics.json is damaged",
        "text": "provenance.json is not a run's",
        "config": "config.yaml is damaged, or not a run's",
        "strange": "metrics.json is not a run's",
        "foreign": "holds no run",
    }
    text = Page(path.read_text()).text
    assert all(f"{name}: {why}" in text for name, why in reasons.items())


def test_a_folder_without_runs_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        report.write(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no finished run"):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
