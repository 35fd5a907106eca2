"""The command line: Hydra, one guard for all mistakes, and the jobs of a sweep.

Nothing here is imported by other rooms.
"""
