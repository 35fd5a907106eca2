"""What ``scripts/benchmark.py`` measures: a module for each suite, with a function ``measure`` that gives its rows."""
