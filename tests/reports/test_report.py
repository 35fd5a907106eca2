"""The report is complete, needs no other file, and agrees with the files of the runs."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from matplotlib.figure import Figure
from PIL import Image

import sdegen
from sdegen import figures
from sdegen.config import assembly
from sdegen.config.compose import composed
from sdegen.config.options import flat_options
from sdegen.core.errors import UserError
from sdegen.core.meanings import described
from sdegen.reports import collection, comparison, overview, report, seeds
from sdegen.reports.collection import FinishedRun
from sdegen.reports.paper import experiments, papers
from sdegen.runs import files, forecast, ledger, session

SHORT = ("trainer.steps=2", "trainer.epochs=null", "trainer.preview_every=0", "sampler.steps=2", "count=30")


class Page(HTMLParser):
    """Content of a page as a browser reads it: tags, tables, pictures and addresses."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href")]
        self.ids += [value for key, value in attributes if key == "id"]
        if tag == "h2":
            self.headings.append("")
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
        if "h2" in self.open:
            self.headings[-1] += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder with four runs: two SDEs, each with two seeds."""
    root = tmp_path_factory.mktemp("sweep")
    for i, (sde, seed) in enumerate(itertools.product(("vp", "ve"), (1, 2))):
        own = (f"sde={sde}", f"seed={seed}", "figures=false")
        config, folder = (
            composed("train", ["dataset=smile", "network.hidden=[8]", *SHORT, *own]),
            root / f"{8 + i}-smile",
        )
        session.train(config, folder, command="python scripts/train.py <script>alert(1)</script>")
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([sde == "vp", seed])
        figures.save(figure, folder / "figures" / "samples.png")
        Image.new("P", (30, 20)).save(folder / "figures" / "generation.gif")
    return root


def test_page_is_whole_and_true_to_its_files(sweep: Path) -> None:
    path, entries, left_out = report.write(sweep)
    assert left_out == []
    page = Page(path.read_text())
    # The rows are in the order of the jobs: 10 comes after 9.
    names = ["8-smile", "9-smile", "10-smile", "11-smile"]
    assert [entry.folder.name for entry in entries] == names
    head, *rows = next(table for table in page.tables if table[0][0] == "run")
    assert head[:3] == ["run", "seed", "sde"]
    assert [row[:3] for row in rows] == [
        [name, str(seed), sde] for name, (sde, seed) in zip(names, itertools.product(("vp", "ve"), (1, 2)), strict=True)
    ]
    for row in rows:
        found = json.loads((sweep / row[0] / "metrics.json").read_text())
        for metric, entry in found.items():
            assert float(row[head.index(metric)]) == pytest.approx(entry["value"], rel=1e-3)
    # The page loads nothing, every picture can be read, and every link has a target.
    pictures = [address for address in page.addresses if address.startswith("data:image/png;base64,")]
    assert len(pictures) == 1 + len(names)
    for address in pictures:
        Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).verify()
    links = [address.removeprefix("#") for address in page.addresses if address not in pictures]
    assert set(links) <= set(page.ids) and len(set(page.ids)) == len(page.ids)
    assert all(links.count(f"run-{x}") >= 2 for x in {link.removeprefix("run-") for link in links if "run-" in link})
    assert len({link for link in links if link.startswith("run-")}) == len(names)
    assert "http" not in path.read_text().replace("http-equiv", "")
    # Text from the runs is never markup.
    assert "<script>alert(1)</script>" in page.text


SORTED = """(() => {
  const table = document.querySelector("table.sorts"), seen = [];
  const column = [...table.querySelectorAll("th")].findIndex(head => head.textContent === "sliced_w1");
  for (let i = 0; i < 2; i++) {
    table.querySelectorAll("th button")[column].click();
    seen.push([...table.tBodies[0].rows].map(row => row.cells[column].textContent));
  }
  return seen;
})()"""
BROKEN = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
WIDE = """[document.documentElement, ...document.querySelectorAll(".wide")]
  .filter(part => part.scrollWidth > part.clientWidth).map(part => part.textContent.slice(0, 40))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def boxes(browser: Browser, selector: str) -> list[dict[str, float]]:
    """Returns the places of elements on the screen."""
    return browser.value(
        f"[...document.querySelectorAll({selector!r})].map(part => part.getBoundingClientRect().toJSON())"
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_every_picture_and_sorts_the_table(sweep: Path, browser: Browser, width: int) -> None:
    """On a phone, too, nothing is wider than the screen, and no table has to be pushed aside."""
    path, entries, _ = report.write(sweep)
    browser.open(path, width, phone=width == 390)
    assert browser.value("faults") == [] and browser.value(BROKEN) == 0 and browser.value(WIDE) == []
    assert browser.value("document.images.length") == 1 + len(entries)
    values = sorted(entry.metrics["sliced_w1"]["value"] for entry in entries)
    up, down = ([float(value) for value in column] for column in browser.value(SORTED))
    assert up == pytest.approx(values, rel=1e-3)
    assert down == up[::-1]


def test_the_contents_stay_in_view_on_a_desktop(sweep: Path, browser: Browser) -> None:
    path, _, _ = report.write(sweep)
    browser.open(path, 1280)
    browser.value("scrollTo(0, 2000)")
    (contents,), (main,) = boxes(browser, "nav"), boxes(browser, "main")
    assert main["top"] < -1500 and contents["top"] == 0 and contents["right"] <= main["left"]
    # The figure of a run is beside its measures.
    for run in range(1, 5):
        left, right = boxes(browser, f"details:nth-of-type({run}) .sides > *")
        assert left["right"] < right["left"] and left["top"] == pytest.approx(right["top"], abs=1)


def test_the_rows_of_a_wide_table_are_cards_on_a_phone(sweep: Path, browser: Browser) -> None:
    path, _, _ = report.write(sweep)
    browser.open(path, 390, phone=True)
    rows = boxes(browser, "table.sorts tbody tr")
    assert len(rows) == 4
    for row in rows:
        assert 100 < row["height"] < 450 and row["right"] <= 390
    cells = boxes(browser, "table.sorts tbody tr:first-child td")
    assert all(one["bottom"] <= other["top"] + 1 for one, other in itertools.pairwise(cells))
    each = "[...document.querySelectorAll('table.sorts tr:first-child td')].map"
    heads = browser.value("[...document.querySelectorAll('table.sorts th button')].map(head => head.textContent)")
    assert browser.value(f"{each}(cell => cell.dataset.head)") == heads[1:]
    shown = browser.value(f"{each}(cell => getComputedStyle(cell, '::before').content)")
    assert shown == [f'"{head}: "' for head in heads[1:]]


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_keeps_to_the_light_or_dark_of_the_system(sweep: Path, browser: Browser, dark: bool) -> None:
    """The contrast of text is at least 7 by the WCAG, and figures lie on white."""
    path, _, _ = report.write(sweep)
    browser.open(path, 1280, dark=dark)
    names = ("body", "nav", "figure")
    styles = [browser.value(f"getComputedStyle(document.querySelector('{name}')).backgroundColor") for name in names]
    text = browser.value("getComputedStyle(document.body).color")
    page, side, figure = (luminance(style) for style in styles)
    assert (page < 0.1) == (side < 0.1) == dark and figure == 1
    for ground in (page, side):
        dim, bright = sorted((ground, luminance(text)))
        assert (bright + 0.05) / (dim + 0.05) > 7


def luminance(colour: str) -> float:
    """Returns the relative luminance of a colour such as ``rgb(255, 0, 0)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_on_paper_there_are_no_contents_and_every_run(sweep: Path, browser: Browser, tmp_path: Path) -> None:
    """Closed runs are opened, in the dark, too; a system in the dark prints on white."""
    path, _, _ = report.write(sweep)
    browser.open(path, 1280, dark=True)
    browser.value("document.querySelectorAll('details').forEach(part => { part.open = false; })")
    printed = browser.pdf(tmp_path / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 8
    assert browser.value("document.querySelectorAll('details.run:not([open])').length") == 0
    browser.call(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    shown = "[...document.querySelectorAll({!r})].some(part => part.offsetParent)"
    assert not browser.value(shown.format("nav, .screen")) and browser.value(shown.format(".run img"))
    assert luminance(browser.value("getComputedStyle(document.body).color")) < 0.1
    browser.call("Emulation.setEmulatedMedia", media="")


def test_every_measure_is_explained_where_it_stands(sweep: Path, tmp_path: Path) -> None:
    """A name may be followed by that of a column, which may be any text; all links have a target."""
    root = tmp_path / "outputs"
    shutil.copytree(sweep, root)
    file = root / "8-smile" / "metrics.json"
    odd = {f"ks ({name})": {"value": 0.5} for name in ("age", 'a "b" <i>')}
    file.write_text(json.dumps({**json.loads(file.read_text()), **odd}))
    path, entries, _ = report.write(root)
    text = path.read_text()
    page = Page(text)
    links = [address.removeprefix("#") for address in page.addresses if address.startswith("#")]
    assert "measure-ks" in links and set(links) <= set(page.ids) and len(set(page.ids)) == len(page.ids)
    assert 'ks (a "b" <i>)' in page.text
    entries = [entry for entry in entries if entry.folder.name != "8-smile"]
    for name in entries[0].metrics:
        meaning = described(name)
        assert meaning and text.count(f'title="{escape(meaning)}"') >= len(entries)
        assert f'<dt id="measure-{name}">' in text


def test_the_summary_names_the_best_setting_and_what_failed(sweep: Path, tmp_path: Path) -> None:
    """The best setting has the smallest mean over the seeds; one lucky seed does not make it."""
    root = tmp_path / "outputs"
    shutil.copytree(sweep, root)
    values = {("vp", 1): 0.4, ("vp", 2): 0.6, ("ve", 1): 0.1, ("ve", 2): 1.9}
    for i, (sde, seed) in enumerate(itertools.product(("vp", "ve"), (1, 2))):
        file = root / f"{8 + i}-smile" / "metrics.json"
        found = json.loads(file.read_text())
        found["sliced_w1"] |= {"value": values[sde, seed], "floor": 0.25}
        file.write_text(json.dumps(found))
    shutil.copytree(root / "8-smile", root / "broken")
    (root / "broken" / "metrics.json").write_text("{")
    page = Page(report.write(root)[0].read_text())
    summary = " ".join(page.text.split()).partition("finished runs")[2].partition("Runs in this folder")[0]
    assert "0.5 ± 0.14 sliced_w1 2 times the floor, 0.25" in summary
    assert "best of 2 settings: sde=vp, not distinguishable from 1 other: sde=ve, mean of 2 seeds: 8-smile" in summary
    assert "1 left out" in summary and "broken: metrics.json is damaged" in summary


def test_other_data_are_another_card_and_only_what_changes_the_training_is_a_setting(tmp_path: Path) -> None:
    """The runs a, b and c have the same points, from an array or a file; the run d has others under the same name."""
    points = np.random.default_rng(0).normal(size=(60, 2))
    np.savetxt(tmp_path / "points.csv", points, delimiter=",", fmt="%.18e")
    small = ("network.hidden=[4]", "trainer.preview_every=0", "figures=false", "sampler=adams", "sampler.steps=2")
    sdegen.fit(points, *small, steps=2, count=20, folder=tmp_path / "a")
    path = f"dataset.path={tmp_path / 'points.csv'}"
    more = ("name=array", "trainer.log_every=1", "seed=3", "trainer.steps=2")
    sdegen.train("dataset=file", path, *small, *more, count=30, folder=tmp_path / "b")
    sdegen.fit(points, *small, "trainer.epochs=1", count=20, folder=tmp_path / "c")
    sdegen.fit(points + 1, *small, steps=2, count=20, folder=tmp_path / "d")
    runs, _ = collection.collect(tmp_path)
    groups = seeds.groups(runs, lengths := ["trainer.steps", "trainer.epochs"])
    assert [group.written(lengths) for group in groups] == ["trainer.steps=2", "trainer.epochs=1", "trainer.steps=2"]
    assert set(comparison.swept(runs)) == {"seed", "count", *lengths}
    first, second = overview.overview(runs, [])["best"]
    assert (first.name, second.name) == ("array, a/data.npz", "array, d/data.npz")
    assert (first.among, second.among) == (2, 1)


def test_a_table_has_the_mean_and_the_deviation_of_the_seeds(sweep: Path, tmp_path: Path) -> None:
    """A replica counts as a seed. Settings with a single run have no deviation, and no table if all are single."""
    root = tmp_path / "outputs"
    shutil.copytree(sweep, root)
    shutil.copytree(root / "9-smile", root / "8-smile" / files.REPLICAS / "seed-2")
    shutil.rmtree(root / "9-smile")
    page = Page(report.write(root)[0].read_text())
    head, *rows = next(table for table in page.tables if "seeds" in table[0])
    assert head[:3] == ["name", "sde", "seeds"] and [row[:3] for row in rows] == [
        ["smile", s, "2"] for s in ("vp", "ve")
    ]
    folders = (("8-smile", f"8-smile/{files.REPLICAS}/seed-2"), ("10-smile", "11-smile"))
    for row, own in zip(rows, folders, strict=True):
        found = [json.loads((root / one / "metrics.json").read_text())["sliced_w1"]["value"] for one in own]
        mean, _, deviation = row[head.index("sliced_w1")].removesuffix("tie").strip().partition(" ± ")
        assert float(mean) == pytest.approx(np.mean(found), rel=1e-3)
        assert float(deviation) == pytest.approx(np.std(found, ddof=1), rel=0.05)
    assert "8-smile, seed-2" in page.text
    for folder in (root / "8-smile" / files.REPLICAS, root / "11-smile"):
        shutil.rmtree(folder)
    page = Page(report.write(root)[0].read_text())
    assert "±" not in page.text and all("seeds" not in table[0] for table in page.tables)


def paper_run(name: str, *overrides: str) -> FinishedRun:
    """Returns a finished run of an experiment of the paper, with the parts that a report reads."""
    config = assembly.build(composed("train", [f"experiment={name.replace('_', '/', 1)}", *overrides])).config
    options = {key: str(value) for key, value in flat_options(config)}
    return FinishedRun(Path(name, str(overrides), "0"), name, options, {}, {})


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_of_the_paper_is_known_by_its_settings(name: str) -> None:
    """A run with the settings in conf/ is a run of the paper, and the newest one of each seed counts.

    A run with any other setting is no run of the paper.
    """
    seeds = [paper_run(name, f"seed={seed}") for seed in (0, 1)]
    again = seeds[0]._replace(folder=Path("again", "0"))
    others = [paper_run(name, "sde=subvp")]
    for key in experiments()[name]["settings"]:
        others.append(seeds[0]._replace(folder=Path(key, "0"), options={**seeds[0].options, key: "other"}))
    assert papers([*others, *seeds, again]) == {name: [seeds[1], again]}
    assert papers(others) == {}
    # In a folder with other runs, a run is part of a sweep.
    together = [one._replace(folder=Path("sweep", str(i))) for i, one in enumerate([*others, *seeds])]
    assert papers(together) == {}


def test_the_papers_runs_come_first_beside_their_captions(
    sweep: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two seeds of the smile and one of others, with the metrics of another run, a forecast, and guided samples."""
    root = tmp_path / "paper"
    shutil.copytree(sweep / "8-smile", root / "other" / "0-smile")
    values = {}
    for name, seed in (("paper_smile", 0), ("paper_smile", 1), ("paper_gaussian_mixture", 0), ("paper_digits", 0)):
        folder = root / f"{seed}-{name}"
        shutil.copytree(sweep / "8-smile", folder)
        config = assembly.build(composed("train", [f"experiment={name.replace('_', '/', 1)}", f"seed={seed}"])).config
        files.write_yaml(folder / "config.yaml", config)
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["sliced_w1"]["value"] = values[name, seed] = 0.123 + seed
        (folder / "metrics.json").write_text(json.dumps(metrics))
        provenance = json.loads((folder / "provenance.json").read_text())
        provenance["training"] = {"steps": 49000, "seconds": 100.0, "peak_memory_mib": 300.0}
        (folder / "provenance.json").write_text(json.dumps(provenance))
    forecast.write(root / "grid", [("experiment=paper/grid/smile", forecast.Forecast(49000, 1, 7260.0, 1, 1, 600.0))])
    guided = root / "0-paper_digits" / "samples" / "0002-euler_maruyama"
    (guided / "figures").mkdir(parents=True)
    shutil.copy(sweep / "8-smile" / "figures" / "samples.png", guided / "figures" / "classes.png")
    (guided / "metrics.json").write_text('{"agreement": {"value": 0.875, "floor": 0.99}}')
    path, _, left_out = report.write(root)
    assert left_out == []
    page = Page(path.read_text())
    assert page.headings == [
        *("Summary", "The paper's experiments", "Mixture of Gaussians", "Smile", "Handwritten digits"),
        *("The cost of the paper's grid of times", "other", "Errata of the paper", "Measures"),
    ]
    assert "Figure 3. Mistura de Gaussianas" in page.text and "Figure 4. Dados do sorriso" in page.text
    assert "Figure 9. Geração condicional" in page.text
    assert [table[1][:2] for table in page.tables if table[1][0] == "agreement"] == [["agreement", "0.875"]]
    assert "1/4 is the variance" in page.text
    assert 'lang="pt-BR">Mistura de Gaussianas<' in path.read_text()
    # Formulas are MathML: no TeX is left.
    assert page.text.count("$") == 0 and "\\frac" not in page.text and "<mfrac>" in path.read_text()
    summary = {row[0]: row for row in page.tables[0]}
    value, floor = (
        (0.123 + 1.123) / 2,
        json.loads((guided.parents[1] / "metrics.json").read_text())["sliced_w1"]["floor"],
    )
    wanted = [2, value, floor, value / floor]
    assert [float(summary["Smile"][i]) for i in (2, 4, 5, 7)] == pytest.approx(wanted, rel=1e-3)
    cost = next(table for table in page.tables if table[0][2:3] == ["continuous t"])
    assert cost[1] == ["Smile", "49000", "1 min 40 s", "300", "2 h 1 min", "600", "72.6"]
    errata = next(table for table in page.tables if "printed" in table[0])
    assert [row[0] for row in errata[1:]] == [str(number) for number in range(1, 16)]
    if CHROMIUM is not None:
        browser = request.getfixturevalue("browser")
        for width in (390, 1280):
            browser.open(path, width, phone=width == 390)
            assert browser.value("faults") == [] and browser.value(WIDE) == []
        browser.open(path, 390, phone=True)
        # Each erratum is a card below a screen's height, and its formulas are drawn.
        assert all(80 < row["height"] < 500 for row in boxes(browser, "#errata tbody tr"))
        assert all(formula["width"] > 5 and formula["right"] <= 390 for formula in boxes(browser, "#errata math"))
    # The page has all pictures of each experiment, the samples of the other run, and the guided samples.
    drawn = len(list((sweep / "8-smile" / "figures").iterdir()))
    assert len([a for a in page.addresses if a.startswith("data:image")]) == 3 * drawn + 2


def test_what_is_no_finished_run_is_left_out_with_the_reason(sweep: Path, tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    whole = sweep / "8-smile"
    for name in ("whole", "half", "cut", "text", "config", "strange", "floor", "failed", "torn", "diverged"):
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
    (root / "floor" / "metrics.json").write_text('{"w1": {"value": 3.0, "floor": "none"}}')
    (root / "diverged" / "metrics.json").write_text('{"w1": {"value": NaN, "floor": 0.1}}')
    # A damaged picture or a malformed cost is left out. The other parts of the run are shown.
    picture = root / "torn" / "figures" / "samples.png"
    picture.write_bytes(picture.read_bytes()[:2000])
    noted = json.loads((root / "torn" / "provenance.json").read_text()) | {"training": {"steps": [], "seconds": "x"}}
    (root / "torn" / "provenance.json").write_text(json.dumps(noted))
    path, entries, left_out = report.write(root)
    assert [entry.folder.name for entry in entries] == ["torn", "whole"]
    reasons = {folder.name: why for folder, why in left_out}
    assert reasons == {
        "half": "is not finished, since it has no metrics.json: resume it",
        "failed": "failed: the loss is nan",
        "cut": "metrics.json is damaged: restore it, or train again",
        "text": "provenance.json is not the file of a run: restore it, or train again",
        "config": "config.yaml is damaged, or is not the file of a run: restore it, or train again",
        "strange": "metrics.json is not the file of a run: restore it, or train again",
        "floor": "metrics.json is not the file of a run: restore it, or train again",
        "diverged": "w1 is nan, since samples diverged: train again, or use another sampler",
        "foreign": "holds no run: remove it if it is not needed",
    }
    page = Page(path.read_text())
    assert all(f"{name}: {why}" in page.text for name, why in reasons.items())
    assert len([a for a in page.addresses if a.startswith("data:image")]) == 1


HARM = {
    "deep": ("metrics.json", "[" * 100_000),
    "long": ("metrics.json", '{"w1": {"value": ' + "9" * 400 + "}}"),
    "infinite": ("metrics.json", '{"w1": {"value": Infinity}}'),
    "bytes": ("metrics.json", b"\xff\xfe"),
    "large": ("metrics.json", " " * 2**21),
    "aliases": ("config.yaml", "a: &a [1]\nb: *a\n"),
    "nested": ("provenance.json", '{"training": ' + "[" * 100_000),
}


def test_no_file_keeps_the_others_from_being_read(sweep: Path, tmp_path: Path) -> None:
    """A damaged or malicious file leaves out its own run only. Strange names and numbers leave out no run."""
    root = tmp_path / "outputs"
    for name, (file, content) in HARM.items():
        shutil.copytree(sweep / "8-smile", root / name)
        (root / name / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    strange = ("run2²", "x$^{", "a<b>", "nan", "numbers")
    for name in strange:
        shutil.copytree(sweep / "8-smile", root / name)
    config = files.as_yaml({**composed("train", ["dataset=smile"]), "name": "a$x^{$b", "1": 2})
    (root / "x$^{" / "config.yaml").write_text(config.replace("'1': 2", "1: 2"))
    cost = {"training": {"steps": 4, "seconds": float("nan"), "peak_memory_mib": 10**400}}
    (root / "nan" / "provenance.json").write_text(json.dumps(cost))
    for name, value in (("numbers", "1.0e-300"), ("a<b>", ".inf"), ("run2²", "1.0e+300")):
        text = (root / name / "config.yaml").read_text()
        (root / name / "config.yaml").write_text(text.replace("beta_max: 20.0", f"beta_max: {value}"))
    (root / "ledger.jsonl").mkdir()
    (root / "forecast.json").write_text('{"experiment=paper/grid/smile": {"steps": "x"}}')
    path, entries, left_out = report.write(root)
    assert {folder.name for folder, _ in left_out} == set(HARM)
    assert sorted(entry.folder.name for entry in entries) == sorted(strange)
    assert Page(path.read_text()).headings


def test_the_data_of_a_run_are_shown_as_text_and_may_be_damaged(sweep: Path, tmp_path: Path) -> None:
    run, hostile = tmp_path / "run", "<script>alert(1)</script> & \u2028"
    shutil.copytree(sweep / "8-smile", run)
    lines = json.loads((run / "data.json").read_text())["text"]
    assert lines[0] == "data      400 rows of 2 columns, all for training"
    assert "\n".join(lines) in Page(report.write(run)[0].read_text()).text
    (run / "data.json").write_text(json.dumps({"text": [hostile, 7, None, ["x"]], "concerns": ["odd"]}))
    page = report.write(run)[0].read_text()
    assert f"{hostile}\nwarning   odd" in Page(page).text and hostile not in page
    for content in ("{", "[" * 100_000, "7", "{}", '{"text": 7}', '{"text": []}', " " * 2**21):
        (run / "data.json").write_text(content)
        assert "rows of 2 columns" not in report.write(run)[0].read_text()
    (run / "data.json").unlink()
    assert report.write(run)[1]


def test_a_run_by_itself_is_read_too(sweep: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sweep / "8-smile", run)
    path, entries, _ = report.write(run)
    assert path == run / "report.html" and [entry.folder for entry in entries] == [run]
    with Image.open(run / "figures" / "samples.png") as picture:
        assert f'width="{96 * picture.width / 150:.0f}"' in path.read_text()


def test_a_page_that_cannot_be_written_is_an_error(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "8-smile", tmp_path / "run")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match="report.html: cannot be written"):
        report.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "report.html"}


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        report.write(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no finished run"):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
