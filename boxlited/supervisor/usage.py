"""What a box uses now: CPU and memory from its cgroup, else summed over its process tree.

Reads only. psutil does the reading of processes; figures of one box never fail another's.
"""

from __future__ import annotations

import time
from typing import Any

import psutil

from boxlited.model import Box
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.kernel import KernelProtocol

MAX_PROCESSES = 4096


class UsageReader:
    """Keeps one earlier sample for each box, so that `cpu_percent` covers the time between two calls."""

    def __init__(self, kernel: KernelProtocol, cgroups: Cgroups) -> None:
        self._kernel = kernel
        self._cgroups = cgroups
        self._samples: dict[str, tuple[str | None, float, float]] = {}

    def read(self, box: Box) -> dict[str, Any]:
        """Metrics of one box; zeros when it does not run. Percent of one CPU; bytes."""
        if box.pid is None:
            self._samples.pop(box.box_id, None)
            return _metrics(box, 0.0, 0.0, 0, 0)
        processes = self._tree(box.pid)
        cpu_seconds = sum(_cpu_seconds(process) for process in processes)
        memory = sum(_memory_bytes(process) for process in processes)
        usage = self._cgroups.usage(box.box_id)
        if usage.get("memory_bytes") is not None:
            memory = usage["memory_bytes"]
        if usage.get("cpu_usec") is not None:
            cpu_seconds = usage["cpu_usec"] / 1e6
        return _metrics(box, self._percent(box, cpu_seconds), cpu_seconds, memory, len(processes))

    def _percent(self, box: Box, cpu_seconds: float) -> float:
        now = time.monotonic()
        run, then, before = self._samples.get(box.box_id, (None, 0.0, 0.0))
        self._samples[box.box_id] = (box.run_id, now, cpu_seconds)
        if run != box.run_id or run is None:
            ran = self._kernel.boottime() - (box.started_boottime or self._kernel.boottime())
            return 100.0 * cpu_seconds / ran if ran > 0 else 0.0
        return max(0.0, 100.0 * (cpu_seconds - before) / max(now - then, 1e-6))

    def _tree(self, pid: int) -> list[psutil.Process]:
        """The shim and all below it; ends that are met on the way are left out."""
        found: list[psutil.Process] = []
        todo = [pid]
        while todo and len(found) < MAX_PROCESSES:
            current = todo.pop()
            try:
                found.append(psutil.Process(current))
                todo.extend(self._kernel.process_children(current))
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        return found


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
    return float(times.user + times.system)


def _memory_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def _metrics(box: Box, percent: float, seconds: float, memory: int, processes: int) -> dict[str, Any]:
    limit = box.spec.memory_mib
    return {
        "box_id": box.box_id,
        "name": box.name,
        "cpu_percent": round(percent, 2),
        "cpu_seconds": round(seconds, 3),
        "memory_bytes": memory,
        "memory_limit_bytes": None if limit is None else limit * 1024 * 1024,
        "processes": processes,
        "restart_count": box.restart_count,
    }
