"""Foundations of all other rooms: keyed randomness, broadcasting, errors, and the schema of configurations.

Nothing here knows of processes, networks or files. The modules are imported one by one, so that errors cost no torch.
"""
