"""Train NPSE of the package sbi: ``python npse_peer.py pairs.npz samples.npz SEED``, in an environment with sbi.

``pairs.npz`` has the parameters ``theta`` and the observations ``y`` of the simulations, and the observations ``seen``
for which samples are drawn. The result has the ``samples`` ``(M, 2000, d)`` and the CPU seconds of the training. The
prior is uniform on the square [-1, 1], which is that of two moons. All options of sbi are its defaults.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from sbi.inference import NPSE
from sbi.utils import BoxUniform

SAMPLES = 2000


def main(pairs: str, out: str, seed: int) -> None:
    torch.manual_seed(seed)
    with np.load(pairs) as arrays:
        theta, y, seen = (torch.from_numpy(arrays[name]).float() for name in ("theta", "y", "seen"))
    prior = BoxUniform(-torch.ones(2), torch.ones(2))
    started = time.process_time()
    inference = NPSE(prior, show_progress_bars=False)
    inference.append_simulations(theta, y).train()
    seconds = time.process_time() - started
    posterior = inference.build_posterior()
    samples = [posterior.sample((SAMPLES,), x=each, show_progress_bars=False) for each in seen]
    np.savez(out, samples=torch.stack(samples).numpy(), seconds=seconds, total=time.process_time() - started)
    print(f"NPSE, seed {seed}: {seconds:.0f} CPU seconds of training")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
