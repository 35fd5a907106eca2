"""Reports on many runs: comparisons of runs and of samplers, the experiments of the paper, and the errata of the paper.

The code for a single run and its files is in :mod:`sdegen.runs`. Figures that need no run are in :mod:`sdegen.figures`.
"""
