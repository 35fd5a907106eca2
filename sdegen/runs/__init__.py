"""A run and its folder: training and resumption, checkpoints, reloading, samples, evaluation, export, forecasts.

How a configuration becomes objects is in :mod:`sdegen.config`; pages over many runs are in :mod:`sdegen.reports`.
"""
