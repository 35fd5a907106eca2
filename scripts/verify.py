"""Hold an SDE and a sampler against exact answers: ``python scripts/verify.py sde=vp sampler=dpm_solver``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sdegen import command

SAID = {True: "pass", False: "FAIL", None: "-"}


def built(config: dict[str, Any]) -> tuple[Any, Any]:
    """The SDE and the sampler; an option of the SDE left to ``auto`` is measured on the mixture of the proofs."""
    from sdegen import proofs
    from sdegen.assembly import Faults, check, construct, measured, refusals
    from sdegen.rng import generator
    from sdegen.schema import ANYTHING

    config = check(config, ("sde", "sampler"), {"json": bool}, ANYTHING)
    data = proofs.mixture().sample(1000, generator("cpu", 0, "proof"))
    config["sde"] = measured(config["sde"], data, ANYTHING)
    sde, sampler = (construct(config, group, ANYTHING) for group in ("sde", "sampler"))
    if found := refusals(config, {"sampler": sampler}, ANYTHING):
        raise Faults("\n".join(found))
    return sde, sampler


def task(config: dict[str, Any], folder: Path) -> None:
    import torch

    from sdegen.proofs import verify

    torch.set_num_threads(1)
    with torch.no_grad():
        found = verify(*built(config))
    if config["json"]:
        print(json.dumps([proof._asdict() for proof in found], indent=2))
    else:
        width = max(len(proof.claim) for proof in found)
        for proof in found:
            print(f"{SAID[proof.holds]:4}  {proof.claim:{width}}  {proof.measured:>9}  {proof.allowed}".rstrip())
    failed.extend(proof.claim for proof in found if proof.holds is False)


if __name__ == "__main__":
    failed: list[str] = []
    command.run("verify", built, task)
    sys.exit(bool(failed))
