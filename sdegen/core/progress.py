"""Progress of work that takes more than a few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger("sdegen")

DELAY = 2.0
"""Number of seconds after which progress is shown."""
INTERVAL = 5.0
"""Number of seconds between two lines of progress where the output is not a terminal."""


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yields the items. After :data:`DELAY` seconds, shows a bar in a terminal, and logs lines elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, what, delay=DELAY, leave=False)
        return
    began, shown = time.monotonic(), 0.0
    for done, item in enumerate(items):
        spent = time.monotonic() - began
        if done and spent > DELAY and spent - shown > INTERVAL:
            shown = spent
            log.info(f"{what}: {done} of {len(items)} batches, {spent * (len(items) - done) / done:.0f} s left")
        yield item
