"""One page over many runs: their collection and comparison, the frontier of samplers, the paper and its errata."""
