"""Composition and checks of configurations, values of ``auto`` options, and construction of the parts of a run.

This file imports nothing, so that a module that only composes configurations does not wait for torch.
"""
