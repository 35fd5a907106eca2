"""The parts of ``scripts/contest.py``: targets with exact scores, samplers, and how these are measured."""
