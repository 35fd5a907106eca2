"""Suites of ``scripts/benchmark.py``, one module per suite. The function ``measure`` of a module returns the rows."""
