"""The command line: the commands of ``sdegen``, their help, and one guard that turns each mistake into one line.

Hydra composes configurations and launches jobs. No other room imports this one.
"""
