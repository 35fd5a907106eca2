"""``sdegen verify``: check an SDE and a sampler against exact answers."""

from __future__ import annotations

import json
import logging
from typing import Any

from sdegen.cli.command import Command, Job

log = logging.getLogger("sdegen")

OUTCOMES = {True: "pass", False: "FAIL", None: "-"}


def built(config: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the SDE and the sampler; ``auto`` in the SDE is measured on the mixture of the verification."""
    from sdegen.config.construction import construct, measured
    from sdegen.config.options import check
    from sdegen.config.rules import check_process
    from sdegen.core.randomness import generator
    from sdegen.core.schema import ANYTHING
    from sdegen.metrics import verification

    config = check(config, ("sde", "sampler"), {"json": bool}, ANYTHING)
    data = verification.mixture().sample(1000, generator("cpu", 0, "proof"))
    config["sde"] = measured(config["sde"], data, ANYTHING)
    sde, sampler = (construct(config, group, ANYTHING) for group in ("sde", "sampler"))
    check_process(config, {"sampler": sampler}, ANYTHING)
    return sde, sampler


def prove(config: dict[str, Any], job: Job) -> bool:
    """Log all proofs; returns True if one of them fails."""
    import torch

    from sdegen.metrics.verification import verify

    torch.set_num_threads(1)
    with torch.no_grad():
        found = verify(*built(config))
    if config["json"]:
        log.info(json.dumps([proof._asdict() for proof in found], indent=2))
    else:
        width = max(len(proof.claim) for proof in found)
        rows = (
            f"{OUTCOMES[one.holds]:4}  {one.claim:{width}}  {one.measured:>9}  {one.allowed}".rstrip() for one in found
        )
        log.info("\n".join(rows))
    return any(proof.holds is False for proof in found)


COMMAND = Command("verify", built, prove, finish=any)
run = COMMAND.run
