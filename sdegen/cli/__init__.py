"""The command line: the commands of ``sdegen``, their help, and a guard that reports each mistake in one line.

Hydra composes configurations and launches jobs. No other subpackage imports this one.
"""
