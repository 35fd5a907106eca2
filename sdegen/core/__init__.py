"""Foundations of all other rooms: keyed random numbers, broadcasting, errors, and the schema of configurations.

Nothing here knows of processes, networks or files. Import the modules one by one: the errors then do not import torch.
"""
