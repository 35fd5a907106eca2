"""One page on which a folder of runs is read: the paper's experiments, sweeps and what they answer, and the cost.

It opens with the runs that are the paper's, by their names and settings, each with its figures beside the paper's
captions; then every other folder's runs, compared in what they differ in; then what the paper's formulas should say.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import matplotlib

from sdegen import figures
from sdegen.core.errors import UserError
from sdegen.reports import comparison, page
from sdegen.reports.collection import Entry, collect, metrics_of
from sdegen.reports.errata import errata
from sdegen.reports.paper import EXPERIMENTS
from sdegen.runs import forecast

NAME = "report.html"


def write(root: Path) -> tuple[Path, list[Entry], list[tuple[Path, str]]]:
    """Write ``report.html`` into a folder with runs in it, at any depth.

    Returns:
        The page, the runs on it, and what was left out, with why.

    Raises:
        UserError: there is no such folder, or no finished run in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give one with runs in it, such as outputs")
    entries, left_out = collect(root)
    if not entries:
        why = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise UserError(f"{root}: holds no finished run{why}")
    text = compose(root, entries, left_out)
    temporary = root / f".{NAME}"
    try:
        # It may be there, and a link to anywhere.
        temporary.unlink(missing_ok=True)
        # Names of files may be no text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, root / NAME)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{root / NAME}: cannot be written: {error.strerror}") from None
    return root / NAME, entries, left_out


def compose(root: Path, entries: Sequence[Entry], left_out: Sequence[tuple[Path, str]]) -> str:
    """The whole page."""
    own = papers(entries)
    shown = {entry.folder for seeds in own.values() for entry in seeds}
    sections: list[tuple[str, str, list[str]]] = []
    if own:
        sections.append(("paper", "The paper's experiments", [_summary(own)]))
        sections += [(f"paper-{name}", EXPERIMENTS[name].title, _experiment(name, own[name])) for name in own]
    if costs := _costs(root, own):
        sections.append(("cost", "What the paper's grid of times costs", costs))
    for parent in dict.fromkeys(_parent(root, entry) for entry in entries):
        inside = [entry for entry in entries if _parent(root, entry) == parent]
        if not shown.issuperset(entry.folder for entry in inside):
            sections.append((_anchor("runs", parent), _below(root, parent), _runs(inside)))
    if own:
        sections.append(("errata", "Errata of the paper", _errata()))
    if left_out:
        reasons = [f"{_below(root, folder)}: {why}" for folder, why in left_out]
        sections.append(("left-out", "Left out", [page.items(reasons)]))
    body = "\n".join(page.section(*section) for section in sections)
    if len(sections) > 2:
        body = page.contents([page.Link(heading, anchor) for anchor, heading, _ in sections]) + body
    return page.document(f"Runs in {root}", body)


def papers(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The runs that are the paper's, by their names and settings, one for each seed, in the paper's order.

    A folder with others beside them is a sweep, which asks something of its own.
    """
    swept = {entry.folder.parent for entry in entries if not _is_papers(entry)}
    found: dict[str, list[Entry]] = {}
    for name in EXPERIMENTS:
        own = [entry for entry in entries if entry.name == name and entry.folder.parent not in swept]
        if own:
            # Of one seed the newest.
            by_seed = {entry.options.get("seed"): entry for entry in own}
            found[name] = sorted(by_seed.values(), key=own.index)
    return found


def _is_papers(entry: Entry) -> bool:
    experiment = EXPERIMENTS.get(entry.name)
    return experiment is not None and experiment.settings.items() <= entry.options.items()


def _summary(own: Mapping[str, Sequence[Entry]]) -> str:
    """The measure of quality of every experiment, beside its floor."""
    rows = []
    for name, seeds in own.items():
        shared = (metric for metric in seeds[0].metrics if all(metric in entry.metrics for entry in seeds))
        metric = comparison.headline(seeds) or next(shared, None)
        if metric is None:
            continue
        found = seeds[0].metrics[metric]
        value, floor = median(e.metrics[metric]["value"] for e in seeds), found.get("floor")
        experiment = EXPERIMENTS[name]
        rows.append(
            [page.Link(experiment.title, f"paper-{name}"), experiment.section, len(seeds), metric.replace("_", " ")]
            + [value, floor, found.get("train"), _over(value, floor), _time(seeds[0].cost.get("seconds"))]
        )
    heads = ["", "where", "seeds", "measure", "value", "floor", "training set", "over the floor", "training"]
    note = (
        "Value: of the samples, the median over the seeds. Floor: what as many exact draws get, or, where no exact law "
        "is known, data that were not trained on."
    )
    return page.table(heads, rows) + page.paragraph(note)


def _experiment(name: str, seeds: Sequence[Entry]) -> list[str]:
    """One of the paper's experiments: figures beside the paper's captions, measures, and what was read into it."""
    experiment, first = EXPERIMENTS[name], seeds[0]
    parts = [page.paragraph(f"{experiment.section[0].upper()}{experiment.section[1:]} of the paper.")]
    parts.append(page.code(experiment.command))
    available = _pictures(first)
    for picture in experiment.pictures:
        if picture.file in available:
            label = f"Figure{'s' if ' ' in picture.number else ''} {picture.number}." if picture.number else ""
            words = page.caption(label, picture.caption, "pt", picture.shows)
            parts.append(page.picture(available.pop(picture.file), picture.shows, caption=words))
    if "generation_gif" in available:
        parts.append(page.picture(available.pop("generation_gif"), "the reverse process, from noise to data"))
    if first.metrics:
        parts.append(_measures(seeds))
    if guided := _guided(first):
        parts += [page.paragraph("Of the samples that are guided to each class:"), _measures([guided])]
    parts.append(page.paragraph(_told_cost(first)))
    parts.append(page.folded("Readings", "where the paper is silent or ambiguous", [page.items(experiment.readings)]))
    if available:
        more = [page.picture(path, f"{name}: {stem}") for stem, path in available.items()]
        parts.append(page.folded("More figures", "", more))
    parts.append(_settings(first))
    return parts


def _measures(seeds: Sequence[Entry]) -> str:
    """All measures: the median over the seeds, and the smallest and largest where there are several."""
    rows = []
    for metric, found in seeds[0].metrics.items():
        values = [entry.metrics[metric]["value"] for entry in seeds if metric in entry.metrics]
        spread = [min(values), max(values)] if len(seeds) > 1 else []
        floor = found.get("floor")
        rows.append([metric, median(values), *spread, floor, found.get("train"), _over(median(values), floor)])
    heads = ["", f"median of {len(seeds)} seeds", "least", "most"] if len(seeds) > 1 else ["", "value"]
    return page.table([*heads, "floor", "training set", "over the floor"], rows)


def _runs(entries: Sequence[Entry]) -> list[str]:
    """The runs of one folder: the figure of what they differ in, a table that sorts, and each run."""
    parts, keys = [], comparison.swept(entries)
    try:
        if figure := comparison.figure(entries):
            buffer = io.BytesIO()
            with matplotlib.rc_context(figures.STYLE):
                figure.savefig(buffer, format="png")
            parts.append(page.picture(buffer.getvalue(), "the measure of every run, by what the runs differ in"))
    except Exception as error:  # The numbers are of anybody's files, and may be such that no axis holds them.
        parts.append(page.paragraph(f"There is no figure: {error}"))
    if len(entries) > 1:
        parts.append(_table(entries, keys))
    for entry in entries:
        differs = ", ".join(f"{key}={entry.options[key]}" for key in keys if key in entry.options)
        anchor, opened = _anchor("run", entry.folder), len(entries) <= 6
        parts.append(page.folded(entry.folder.name, differs, _run(entry), anchor=anchor, opened=opened))
    return parts


def _table(entries: Sequence[Entry], keys: Sequence[str]) -> str:
    names = list(dict.fromkeys(name for entry in entries for name in entry.metrics))
    rows = []
    for entry in entries:
        values = [entry.metrics.get(name, {}).get("value") for name in names]
        cost = [entry.cost.get(key) for key in ("steps", "seconds", "peak_memory_mib")]
        link = page.Link(entry.folder.name, _anchor("run", entry.folder))
        rows.append([link, *(entry.options.get(key, "–") for key in keys), *values, *cost])
    return page.table(["run", *keys, *names, "steps", "seconds", "MiB"], rows, kind="sorts")


def _run(entry: Entry) -> list[str]:
    """A run by itself; of its figures the first, the others are in its folder."""
    parts = [page.code(str(entry.provenance.get("command", ""))), page.paragraph(_told_cost(entry))]
    if entry.metrics:
        parts.append(_measures([entry]))
    available = _pictures(entry)
    frontier = max(filter(page.is_picture, (entry.folder / "frontiers").glob("*/frontier.png")), default=None)
    chosen: dict[str, Path] = {
        stem: available[stem] for stem in ("samples", "classes", "accuracy") if stem in available
    }
    if frontier:
        chosen["quality against evaluations and seconds"] = frontier
    parts += [page.picture(path, f"{entry.name}: {stem}") for stem, path in chosen.items()]
    return [*parts, _settings(entry)]


def _pictures(entry: Entry) -> dict[str, Path]:
    """The figures of a run by their names; of its guided samples, the newest that show the classes."""
    found = {path.stem: path for path in sorted((entry.folder / "figures").glob("*.png"))}
    found |= {f"{path.stem}_gif": path for path in (entry.folder / "figures").glob("*.gif")}
    if guided := _guided(entry):
        found["classes"] = guided.folder / "figures" / "classes.png"
    return {name: path for name, path in found.items() if page.is_picture(path)}


def _guided(entry: Entry) -> Entry | None:
    """The newest samples of a run that were guided to each class, as a run of their own."""
    for picture in sorted((entry.folder / "samples").glob("*/figures/classes.png"), reverse=True):
        folder = picture.parents[1]
        with contextlib.suppress(UserError):
            return entry._replace(folder=folder, metrics=metrics_of(folder))
    return None


def _settings(entry: Entry) -> str:
    return page.folded("Settings", "", [page.table(["", ""], entry.options.items(), kind="text")], printed=False)


def _costs(root: Path, own: Mapping[str, Sequence[Entry]]) -> list[str]:
    """What was spent on continuous t, beside what a forecast says of the paper's grid."""
    foreseen = {
        job: cost for path in sorted(root.rglob(forecast.NAME)) for job, cost in forecast.read(path.parent).items()
    }
    rows = []
    for name, seeds in own.items():
        cost, wanted = seeds[0].cost, f"experiment=paper/grid/{name.removeprefix('paper_')}"
        told = next((found for job, found in foreseen.items() if wanted in job.split()), None)
        if told is not None and told.steps == cost.get("steps") and cost.get("seconds", 0) > 0:
            spent = [cost["steps"], _time(cost["seconds"]), _whole(cost.get("peak_memory_mib"))]
            ratio = told.seconds / cost["seconds"]
            rows.append([EXPERIMENTS[name].title, *spent, _time(told.seconds), _whole(told.memory_mib), ratio])
    heads = ["", "steps", "continuous t", "MiB", "grid, forecast", "MiB", "grid over continuous"]
    note = (
        "Training alone, as many steps with either. Continuous t was run; the grid is foretold from a few of its real "
        "steps (forecast=true), in chunks, so that its memory is bounded. Memory is the process's, with Python and "
        "torch, and with what earlier jobs of the process have left."
    )
    return [page.table(heads, rows), page.paragraph(note)] if rows else []


def _errata() -> list[str]:
    """What the paper prints, what is right, and the number that tells them apart."""
    rows = [
        [str(e.number), e.place, e.printed, e.correct, e.quantity, e.printed_value, e.correct_value, e.truth]
        for e in errata()
    ]
    heads = ["", "where", "printed", "correct", "on the same data", "as printed", "corrected", "measured"]
    note = "Every number is computed when this page is written; “measured” is by simulation, or of an exact law."
    return [page.paragraph(note), page.table(heads, rows, kind="text")]


def _told_cost(entry: Entry) -> str:
    """What a run took, in words."""
    steps, seconds, memory = (entry.cost.get(key) for key in ("steps", "seconds", "peak_memory_mib"))
    told = [f"{steps} steps", f"trained in {_time(seconds)}"] if steps else []
    told += [f"{_whole(memory)} MiB"] if memory else []
    return ", ".join(told)


def _over(value: object, floor: object) -> float | None:
    return value / floor if isinstance(value, float) and isinstance(floor, float) and floor > 0 else None


def _time(seconds: object) -> str:
    """A duration as people say it: ``3 h 1 min``, ``1 min 52 s``, ``7 s``."""
    if not isinstance(seconds, (int, float)):
        return ""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((i for i, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2])


def _whole(number: object) -> str:
    return f"{number:.0f}" if isinstance(number, (int, float)) else ""


def _below(root: Path, folder: Path) -> str:
    return str(folder if folder == root else folder.relative_to(root))


def _parent(root: Path, entry: Entry) -> Path:
    """The folder whose runs are read together; a run's own where it is the page's."""
    return root if entry.folder == root else entry.folder.parent


def _anchor(kind: str, folder: Path) -> str:
    """A name for a part of the page that no other folder has."""
    return f"{kind}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
