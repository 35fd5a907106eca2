"""``sdegen verify``: check an SDE and a sampler against exact answers."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from sdegen.cli.command import Command, Job
from sdegen.config.compose import Config
from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from sdegen.samplers import Sampler
    from sdegen.sde import SDE

log = logging.getLogger("sdegen")

OUTCOMES = {True: "pass", False: "FAIL", None: "-"}
"""Printed text for each value of :attr:`sdegen.metrics.verification.Proof.holds`."""


def verified(config: Config) -> tuple[SDE, Sampler]:
    """Returns the SDE and the sampler. ``auto`` options of the SDE are computed from the verification's mixture."""
    from sdegen.config.construction import construct, measured
    from sdegen.config.options import check
    from sdegen.config.rules import check_process, check_times
    from sdegen.core.randomness import generator
    from sdegen.core.schema import ANYTHING
    from sdegen.metrics import verification

    config = check(config, ("sde", "sampler"), {"json": bool}, ANYTHING)
    data = verification.mixture().sample(1000, generator("cpu", 0, "proof"))
    config["sde"] = measured(config["sde"], data, ANYTHING)
    sde, sampler = (construct(config, group, ANYTHING) for group in ("sde", "sampler"))
    if sampler.maps:
        raise UserError(
            "sampler=flow_map: its steps are those of a trained network, which have no order to verify: compare its "
            "samples with the data, with sdegen sample run=…"
        )
    check_process(config, {"sampler": sampler}, ANYTHING)
    check_times(sampler, sde)
    return sde, sampler


def described(config: Config, group: str) -> str:
    """Returns the choice of a group with its options, such as ``sde=ve (sigma_min=0.01, sigma_max=50.0)``."""
    from sdegen.config.options import flat_options

    (_, name), *values = flat_options({group: config[group]})
    given = ", ".join(f"{path.removeprefix(f'{group}.')}={value}" for path, value in values if value is not None)
    return f"{group}={name} ({given})" if given else f"{group}={name}"


def verify(config: Config, job: Job) -> bool:
    """Log the SDE, the sampler and the outcomes of all proofs; return True if a proof fails."""
    import torch

    from sdegen.metrics import verification

    torch.set_num_threads(1)
    with torch.no_grad():
        found = verification.verify(*verified(config))
    if config["json"]:
        log.info(json.dumps([proof._asdict() for proof in found], indent=2))
    else:
        width = max(len(proof.claim) for proof in found)
        log.info(", ".join(described(config, group) for group in ("sde", "sampler")))
        lines = (f"{OUTCOMES[p.holds]:4}  {p.claim:{width}}  {p.measured:>9}  {p.allowed}".rstrip() for p in found)
        log.info("\n".join(lines))
    return any(proof.holds is False for proof in found)


COMMAND = Command("verify", verified, verify, finish=any)
