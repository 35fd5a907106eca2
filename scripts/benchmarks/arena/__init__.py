"""Parts of ``scripts/benchmarks/contest.py``: targets with exact scores, samplers, and measurements."""
