"""What a test asks the kernel about the processes of a daemon."""

from __future__ import annotations

from pathlib import Path

from boxlited.supervisor.pidfile import parse_start_time
from tests.integration.daemon_harness import Daemon, is_alive, until

PF_EXITING = 0x4


def runs(pid: int) -> bool:
    """Alive, and not on its way out either: a process leaves its control group before it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in ("Z", "X") and not int(fields[6]) & PF_EXITING


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def spawners_of(daemon: Daemon) -> list[int]:
    assert daemon.process is not None
    pids = children(daemon.process.pid)
    return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == "boxlited-spawn" and is_alive(pid)]


def spawner_of(daemon: Daemon) -> int:
    return until(lambda: spawners_of(daemon), "there is a spawner")[0]


def start_time(pid: int) -> int:
    value = parse_start_time(Path(f"/proc/{pid}/stat").read_bytes())
    assert value is not None
    return value
