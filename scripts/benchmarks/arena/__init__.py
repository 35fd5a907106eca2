"""The parts of ``scripts/benchmarks/contest.py``: targets with exact scores, samplers, and their measurement."""
