"""One page over many runs: their collection and comparison, the frontier of samplers, the paper and its errata.

Single runs and their files are in :mod:`sdegen.runs`; drawing without runs is in :mod:`sdegen.figures`.
"""
