"""Compare our posteriors of two moons with sbi's NPSE: ``python scripts/benchmarks/npse.py --python sbi/bin/python``.

Both train on the same 10,000 simulations, on one thread, and draw 2000 samples for each of the same 20 observations.
Samples are compared with exact draws by our C2ST and sliced W1. ``--python`` is an interpreter in whose environment
sbi is installed (``python -m venv sbi && sbi/bin/pip install -c requirements.lock sbi``). Our recipe is
``experiment=posterior``; its CPU seconds are printed beside those of sbi.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

OBSERVED = 20


def peer(interpreter: str, folder: Path, seed: int) -> tuple[torch.Tensor, float]:
    """Returns samples of NPSE ``(M, n, 2)`` and the CPU seconds of its training; files of a former call are used."""
    from suites.simulators import seen

    from sdegen.datasets import TwoMoons

    pairs, out = folder / f"pairs{seed}.npz", folder / f"samples{seed}.npz"
    if not out.exists():
        data = TwoMoons(seed)
        assert data.c is not None
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(pairs, theta=data.x.numpy(), y=data.c.numpy(), seen=seen(data).numpy())
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        script = str(Path(__file__).with_name("npse_peer.py"))
        subprocess.run([interpreter, script, str(pairs), str(out), str(seed)], check=True, env=environment)
    with np.load(out) as arrays:
        return torch.from_numpy(arrays["samples"]).double(), float(arrays["seconds"])


def main() -> None:
    from suites.simulators import one, seen

    from sdegen.datasets import TwoMoons
    from sdegen.metrics.calibration import measure_posteriors

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter with sbi")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--folder", type=Path, default=Path("outputs/npse"), help="folder for simulations and samples")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, float, float]]] = {"sdegen": [], "NPSE": []}
    for seed in range(arguments.seeds):
        samples, seconds = peer(arguments.python, arguments.folder, seed)
        data = TwoMoons(seed)
        theirs = measure_posteriors(data, seen(data), samples)
        ours = one("two moons", [], seed, pairs=OBSERVED)
        rows["NPSE"].append((theirs["c2st"]["value"], theirs["sliced_w1"]["value"], seconds))
        rows["sdegen"].append((ours["C2ST"], ours["sliced W1"], ours["CPU seconds of training"]))
        floors = f"floors {theirs['c2st']['floor']:.3f} and {theirs['sliced_w1']['floor']:.4f}"
        for name, found in rows.items():
            c2st, w1, cpu = found[-1]
            print(f"seed {seed}  {name:8} C2ST {c2st:.3f}  sliced W1 {w1:.4f}  {cpu:.0f} CPU seconds  ({floors})")
    for name, found in rows.items():
        print(f"{name:8} mean C2ST {statistics.fmean(row[0] for row in found):.3f}")


if __name__ == "__main__":
    main()
