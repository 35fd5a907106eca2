"""From a configuration to objects: composition, checks, options left to ``auto``, construction, rules, trust.

Nothing is imported here, so that a module that only composes does not wait for torch.
"""
