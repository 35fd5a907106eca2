"""A run and its folder: training and resumption, checkpoints, files, loading, samples, evaluation, forecasts."""
