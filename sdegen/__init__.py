"""sdegen: a library for experiments in score-based generative modelling with stochastic differential equations.

.. code-block:: python

    import sdegen

    run = sdegen.train("experiment=smile", "trainer.steps=500")
    run = sdegen.fit(x, steps=500)                        # points or images in memory
    run = sdegen.load("outputs/smile/latest")
    x = run.sample(1000, sampler="adams", steps=10)       # (1000, 2), in the units of the data

A user's mistake raises :class:`UserError` with a message of one line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from sdegen.cli.python import fit, train
    from sdegen.runs.run import Run, load

__version__ = "0.1.0"
__all__ = ["Run", "UserError", "fit", "load", "train"]

# Import these names on first use: `import sdegen` then does not import torch, which takes seconds.
_LATE = {"Run": "sdegen.runs.run", "load": "sdegen.runs.run", "fit": "sdegen.cli.python", "train": "sdegen.cli.python"}


def __dir__() -> list[str]:
    # Without this function, tab completion would not show names before their first use.
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the signature that Python prescribes
    if name not in _LATE:
        raise AttributeError(f"module 'sdegen' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
