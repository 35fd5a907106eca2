"""Compare samplers at equal numbers of score evaluations: ``python scripts/benchmarks/contest.py ode --steps 5 10 20``.

The targets are Gaussian mixtures of several families (see arena/targets.py) under VP, with exact scores, or trained
networks (see arena/networks.py). All samplers start from the same draws.

ode: mean distance between end points and exact end points, which the flow gives at tolerance 1e-10.
sde: sliced W1 between samples and exact draws; the floor is the distance between two sets of exact draws.
networks: the distance of ode for the flow of each network, and the quality of the samples: sliced W1 and c2st of
points, Fréchet distance and c2st of images. Samplers that choose their own steps are left out. All samplers of a
library share one row, and the setting names the sampler.

Each call of the score counts as one evaluation. A sampler takes as many steps as the number of evaluations allows. The
samplers come from sdegen and from peers.py. Libraries that are not installed are left out. For each family and number
of evaluations, each sampler uses the time grid or the tolerance that suits it best. The two best settings on the first
samples of each target are measured on all samples, and the better result is shown. The sampler that we recommend also
has a row with its own configuration, and one in which its steps are fitted to each target, from other starts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arena.race import Contestant, Row

BUDGETS = {"ode": [5, 10, 20, 50], "sde": [5, 10, 20], "networks": [5, 10, 20, 50]}
SAMPLES = {"ode": 2000, "sde": 10_000}
SEARCH = {"ode": 250, "sde": 2500}
APART = ("as configured", "fitted", "as published", "corrected")
"""Ends of sampler names. In the summary, samplers with these ends have separate columns."""
UNRANKED = ("floor", "exact")
"""Rows that are no samplers."""


def matching(contestants: Sequence[Contestant], words: Sequence[str]) -> list[Contestant]:
    """Returns the contestants whose name contains at least one of the words."""
    return [contestant for contestant in contestants if any(word in contestant.name for word in words)]


def held(family: str, arguments: argparse.Namespace) -> Iterator[Row]:
    """Yields the rows of a family; for the reverse SDE, the first row has the floor."""
    import peers
    from arena import ours
    from arena.problem import apart, floor, problem
    from arena.race import Race

    kind, seeds, budgets = arguments.kind, arguments.targets, arguments.steps
    whole = problem(kind, family, seeds, arguments.samples)
    if kind == "sde":
        value = floor(whole, family, seeds)
        yield {"name": "floor", "at": {str(b): {"value": value, "nfe": b, "setting": ""} for b in budgets}}
    if arguments.only != "peers":
        # Our samplers may drop finished rows, so each target has its own batch.
        race = Race(apart(whole, family, seeds), arguments.search)
        yield from race.rows(matching(ours.contestants(kind), arguments.match), budgets)
    if arguments.only != "ours":
        found = matching(peers.contestants(kind), arguments.match)
        yield from Race([whole], arguments.search).rows([peer for peer in found if not peer.alone], budgets)
        race = Race(apart(whole, family, seeds), arguments.search)
        yield from race.rows([peer for peer in found if peer.alone], budgets)


def headed(arguments: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Yields all rows with the headings of their tables."""
    if arguments.kind == "networks":
        for name in arguments.runs:
            yield from of_network(name, arguments)
        return
    arguments.samples = arguments.samples or SAMPLES[arguments.kind]
    arguments.search = arguments.search or SEARCH[arguments.kind]
    for family in arguments.families:
        for row in held(family, arguments):
            yield family, row


def of_network(name: str, arguments: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Yields the rows of a trained network with the heading of their table: distances first, then each metric."""
    import peers
    from arena import networks, ours
    from arena.race import Race

    run, budgets = networks.trained(name), arguments.steps
    samples = arguments.samples or networks.SAMPLES[run.units.kind]
    search = arguments.search or networks.SEARCH[run.units.kind]
    whole = networks.problem(run, samples, networks.TOLERANCE[run.units.kind])
    found = [] if arguments.only == "peers" else ours.contestants("ode")
    found += [] if arguments.only == "ours" else peers.contestants("ode")
    chosen = together(one for one in matching(found, arguments.match) if not one.adaptive)
    rows = []
    for row in Race([whole], search).rows(chosen, budgets):
        rows.append(row)
        yield name, row
    for metric, judged in networks.judged(run, whole, chosen, rows, budgets).items():
        for row in judged:
            yield f"{name}, {metric}", row


def together(contestants: Iterable[Contestant]) -> list[Contestant]:
    """Returns the contestants with one name for all samplers of a library; the settings name the samplers."""
    found = []
    for one in contestants:
        setting = ", ".join(filter(None, (one.name.removeprefix(f"{one.name.split()[0]} "), one.setting)))
        found.append(one._replace(name=side(one.name), setting=setting))
    return found


def table(rows: Sequence[Row], budgets: Sequence[int]) -> str:
    """Returns the rows in Markdown: distance, setting, and number of evaluations if it differs from the budget."""
    heads = " | ".join(f"{budget} evaluations" for budget in budgets)
    return "\n".join([f"| sampler | {heads} |", "|---" * (len(budgets) + 1) + "|", *(line(r, budgets) for r in rows)])


def line(row: Row, budgets: Sequence[int]) -> str:
    return f"| {row['name']} | {' | '.join(cell(row['at'].get(str(b)), b) for b in budgets)} |"


def cell(result: dict[str, Any] | None, budget: int) -> str:
    if result is None:
        return ""
    count = "" if result["nfe"] == budget else f" at {result['nfe']:.3g}"
    return f"{result['value']:.3g}{count}" + (f" ({result['setting']})" if result["setting"] else "")


def side(name: str) -> str:
    """Returns the heading of a sampler's column in the summary, for example ``iPNDM, as published`` or ``azula``."""
    how = name.rpartition(", ")[2]
    return name.split()[0].rstrip(",") + (f", {how}" if how in APART else "")


def summary(families: dict[str, list[Row]], budgets: Sequence[int]) -> str:
    """Returns, in Markdown, the smallest distance in each column of :func:`side`; the best of a row is bold.

    A row is a family and a number of evaluations.
    """
    sides = list(dict.fromkeys(side(row["name"]) for rows in families.values() for row in rows))
    lines = [f"| family | evaluations | {' | '.join(sides)} |", "|---" * (len(sides) + 2) + "|"]
    for family, rows in families.items():
        for budget in map(str, budgets):
            least: dict[str, float] = {}
            for row in rows:
                if budget in row["at"]:
                    least[side(row["name"])] = min(row["at"][budget]["value"], least.get(side(row["name"]), math.inf))
            best = min(value for name, value in least.items() if name not in UNRANKED)
            cells = (marked(least[name], best) if name in least else "" for name in sides)
            lines.append(f"| {family} | {budget} | {' | '.join(cells)} |")
    return "\n".join(lines)


def marked(value: float, best: float) -> str:
    return f"**{value:.2g}**" if value == best else f"{value:.2g}"


def main() -> None:
    import torch
    from arena.networks import RECIPES
    from arena.targets import FAMILIES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=tuple(BUDGETS))
    parser.add_argument("--families", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--runs", nargs="+", default=list(RECIPES), help="trained networks: recipes or folders of runs")
    parser.add_argument("--steps", type=int, nargs="+", help="numbers of evaluations of the score")
    parser.add_argument("--samples", type=int, help="number of samples of each target")
    parser.add_argument("--search", type=int, help="number of samples on which settings are chosen")
    parser.add_argument("--targets", type=int, nargs="+", default=[0, 1, 2], help="seeds of targets")
    parser.add_argument("--only", choices=("ours", "peers"))
    parser.add_argument("--match", nargs="+", default=[""], help="words; one of them must be in the sampler's name")
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()
    kind = arguments.kind
    arguments.steps = arguments.steps or BUDGETS[kind]
    torch.set_num_threads(1)
    families: dict[str, list[Row]] = {}
    result = {"kind": kind, "samples": arguments.samples, "targets": arguments.targets, "families": families}
    for family, row in headed(arguments):
        families.setdefault(family, []).append(row)
        print(f"{family} {line(row, arguments.steps)}", file=sys.stderr, flush=True)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(result, indent=1))
    for family, rows in families.items():
        print(f"\n{family}\n\n{table(rows, arguments.steps)}")
    print(f"\n{summary(families, arguments.steps)}")


if __name__ == "__main__":
    main()
