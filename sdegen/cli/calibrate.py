"""``sdegen calibrate``: measure which options suit the data."""

from __future__ import annotations

import logging
import re

from sdegen.cli.command import Command, Job
from sdegen.cli.train import check
from sdegen.config.compose import Config
from sdegen.core import processes

log = logging.getLogger("sdegen")


def calibrate(config: Config, job: Job) -> None:
    """Log advice on the options, and the command of a training that follows it."""
    from sdegen.runs import advice

    with processes.alone():
        found = advice.calibrate(config)
    line = advice.command(re.sub(r"calibrate\b", "train", job.command, count=1), config, found)
    heading = "with all of it:" if advice.changes(config, found) else "nothing to change:"
    log.info("\n".join([*found.data, "", advice.table(config, found), "", heading, f"  {line}"]))


COMMAND = Command("calibrate", check, calibrate)
