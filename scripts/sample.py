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
    written = run.write(config["count"], seed=config["seed"], batch_size=config["batch_size"])
    print(f"results in {written.folder}")


if __name__ == "__main__":
    command.run("sample", loaded, task, nodes=command.own_nodes)
