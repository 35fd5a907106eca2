"""From a configuration to objects: composition, checks, measured options, and what a stranger may name.

The modules are imported one by one, so that composing costs no torch.
"""
