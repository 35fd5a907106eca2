"""The parts of ``scripts/benchmarks/contest.py``: targets with exact scores, samplers, and how these are measured."""
