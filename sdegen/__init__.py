"""sdegen: a laboratory for score-based generative modelling through stochastic differential equations.

.. code-block:: python

    import sdegen

    run = sdegen.load("outputs/smile/latest")
    x = run.sample(1000)                       # (1000, 2), in the units of the data
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the signature Python prescribes
    # Late, so that `import sdegen` does not cost the seconds of importing torch.
    if name == "load":
        from sdegen.runs.run import load

        return load
    raise AttributeError(f"module 'sdegen' has no attribute {name!r}")
