"""Which files of a cgroup say a limit, and how: v2 and v1. Pure."""

from __future__ import annotations

CPU_PERIOD_USEC = 100_000
LONG_CPU_PERIOD_USEC = 1_000_000  # the longest there is, for shares below what the kernel takes of the usual one
MIN_CPU_QUOTA_USEC = 1_000
MAX_PIDS = 4_194_304


def v2_writes(limit: str, value: float) -> list[tuple[str, str]]:
    if limit == "cpus":
        quota, period = _cpu_share(value)
        return [("cpu.max", f"{quota} {period}")]
    if limit == "memory":
        return [("memory.max", str(int(value) << 20)), ("memory.swap.max", "0")]
    return [("pids.max", str(min(int(value), MAX_PIDS)))]


def v1_writes(limit: str, value: float) -> list[tuple[str, str]]:
    if limit == "cpus":
        quota, period = _cpu_share(value)
        return [("cpu.cfs_period_us", str(period)), ("cpu.cfs_quota_us", str(quota))]
    if limit == "memory":
        size = str(int(value) << 20)
        return [("memory.limit_in_bytes", size), ("memory.memsw.limit_in_bytes", size)]
    return [("pids.max", str(min(int(value), MAX_PIDS)))]


def _cpu_share(cpus: float) -> tuple[int, int]:
    """(quota, period) in microseconds."""
    period = CPU_PERIOD_USEC if cpus * CPU_PERIOD_USEC >= MIN_CPU_QUOTA_USEC else LONG_CPU_PERIOD_USEC
    return int(cpus * period), period
