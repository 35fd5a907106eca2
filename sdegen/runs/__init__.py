"""A run and its folder: training, resumption, checkpoints, reloading, samples, evaluation, export and forecasts.

:mod:`sdegen.config` builds the parts of a run from a configuration. :mod:`sdegen.reports` writes pages about many runs.
"""
