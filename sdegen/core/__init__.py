"""Modules that all other packages use: keyed random numbers, broadcasting, errors, and the schema of configurations.

They do not depend on SDEs, networks or data. Import each module by its own name: ``errors`` then does not import torch.
"""
