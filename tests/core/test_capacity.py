"""The memory of a process is that of the machine, within the limits of the control groups that hold the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdegen.core import capacity

GIB = 2**30
WHOLE = 8 * GIB


def write(root: Path, files: dict[str, object]) -> Path:
    """Writes the files of a machine with 8 GiB of available memory, of which ``files`` are the control groups."""
    for name, text in {"proc/meminfo": f"MemFree: 1 kB\nMemAvailable: {WHOLE // 1024} kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))
    return root


def group(folder: str, limit: object, use: int, cache: int) -> dict[str, object]:
    """Files of a control group of version 2."""
    files = {"max": limit, "current": use, "stat": f"anon {use - cache}\ninactive_file {cache}\n"}
    return {f"sys/fs/cgroup/{folder}/memory.{name}": text for name, text in files.items()}


def test_without_limits_the_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    assert capacity.free(write(tmp_path, {})) == WHOLE
    told = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")]
    assert all(capacity.memory(tmp_path) == pytest.approx(bytes_, rel=0.1) for bytes_ in told)


def test_the_limit_of_a_job_holds_for_its_steps(tmp_path: Path) -> None:
    """Slurm gives the limit to the job, and the process runs in a group below it. Cached files are given back."""
    files = {"proc/self/cgroup": "0::/job_1/step_0\n"}
    files |= group("job_1", GIB, GIB // 2, GIB // 4) | group("job_1/step_0", "max", GIB // 2, GIB // 4)
    root = write(tmp_path, files)
    assert capacity.memory(root) == GIB
    assert capacity.free(root) == 3 * GIB // 4


def test_the_limit_of_a_container_that_does_not_see_its_own_name(tmp_path: Path) -> None:
    below = "sys/fs/cgroup/memory/memory"
    files = {"proc/self/cgroup": "5:cpu:/docker/1f\n4:hugetlb,memory:/docker/1f\n0::/\n"}
    files |= {f"{below}.limit_in_bytes": GIB, f"{below}.usage_in_bytes": GIB // 2, f"{below}.stat": "cache 5\n"}
    root = write(tmp_path, files)
    assert capacity.memory(root) == GIB
    assert capacity.free(root) == GIB / 2


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
