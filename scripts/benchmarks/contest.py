"""Compare samplers at equal numbers of score evaluations: ``python scripts/benchmarks/contest.py ode --steps 5 10 20``.

The targets are Gaussian mixtures of several families (see arena/targets.py) under VP, with exact scores. All samplers
start from the same draws.

ode: mean distance between end points and exact end points, which the flow gives at tolerance 1e-10.
sde: sliced W1 between samples and exact draws; the floor is the distance between two sets of exact draws.

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arena.race import Contestant, Row

BUDGETS = {"ode": [5, 10, 20, 50], "sde": [5, 10, 20]}
SAMPLES = {"ode": 2000, "sde": 10_000}
SEARCH = {"ode": 250, "sde": 2500}
APART = ("as configured", "fitted", "as published", "corrected")
"""Ends of sampler names. In the summary, samplers with these ends have separate columns."""


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
    return name.split()[0] + (f", {how}" if how in APART else "")


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
            best = min(value for name, value in least.items() if name != "floor")
            cells = (marked(least[name], best) if name in least else "" for name in sides)
            lines.append(f"| {family} | {budget} | {' | '.join(cells)} |")
    return "\n".join(lines)


def marked(value: float, best: float) -> str:
    return f"**{value:.2g}**" if value == best else f"{value:.2g}"


def main() -> None:
    import torch
    from arena.targets import FAMILIES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("ode", "sde"))
    parser.add_argument("--families", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
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
    arguments.samples = arguments.samples or SAMPLES[kind]
    arguments.search = arguments.search or SEARCH[kind]
    torch.set_num_threads(1)
    families: dict[str, list[Row]] = {}
    result = {"kind": kind, "samples": arguments.samples, "targets": arguments.targets, "families": families}
    for family in arguments.families:
        families[family] = []
        for row in held(family, arguments):
            families[family].append(row)
            print(f"{family} {line(row, arguments.steps)}", file=sys.stderr, flush=True)
            if arguments.json:
                Path(arguments.json).write_text(json.dumps(result, indent=1))
        print(f"\n{family}\n\n{table(families[family], arguments.steps)}")
    print(f"\n{summary(families, arguments.steps)}")


if __name__ == "__main__":
    main()
