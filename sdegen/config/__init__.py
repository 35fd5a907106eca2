"""From a configuration to objects: composition, checks, options left to ``auto``, construction, rules, trust.

The modules are imported one by one, so that composing costs no torch.
"""
