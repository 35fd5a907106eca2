"""The suites of ``scripts/benchmark.py``: one module each, whose function ``measure`` returns the rows."""
