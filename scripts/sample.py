"""Sample from a trained run: ``python scripts/sample.py run=outputs/smile/latest sampler=dopri5``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdegen import command


def loaded(config: dict[str, Any]) -> Any:  # noqa: ANN401
    from sdegen.assembly import SAMPLE, check
    from sdegen.run import load

    config = check(config, command.NODES, SAMPLE, config["trust"])
    nodes = {group: config[group] for group in command.NODES}
    settings = {key: config[key] for key in ("checkpoint", "weights", "device", "precision", "trust")}
    return load(config["run"], nodes=nodes, **settings), config


def task(config: dict[str, Any], folder: Path) -> None:
    run, config = loaded(config)
    left = run.write(config["count"], seed=config["seed"], batch_size=config["batch_size"])
    print(f"results in {left.folder}")
    written.append(left.folder)


def compare() -> None:
    """A table and a figure of the samplers that one command ran."""
    if len(written) > 1:
        from sdegen import frontier

        for folder in frontier.write(written):
            print(f"frontier in {folder}")


if __name__ == "__main__":
    written: list[Path] = []
    try:
        command.run("sample", loaded, task, nodes=command.own_nodes)
    finally:
        compare()
