"""A kernel of scripted processes behind the seam of `kernel.py`; counts the descriptors it hands out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from boxlited.supervisor.kernel import ExitStatus, ProcStat


@dataclass
class FakeProcess:
    """`alive` False is a zombie until `reaped`."""

    pid: int
    start_time: int
    inode: int | None = None
    state: str = "S"
    ended: ExitStatus | None = None
    reaped: bool = False
    signals: list[int] = field(default_factory=list)
    sealed: bytes | None = None


@dataclass
class FakeKernel:
    """`failures`: name of a call -> the OSError that it raises. `around`: (call, "before" or "after", what
    happens then in the world, once)."""

    boot: str = "boot-1"
    now: float = 1000.0
    processes: dict[int, FakeProcess] = field(default_factory=dict)
    failures: dict[str, OSError] = field(default_factory=dict)
    open_fds: dict[int, FakeProcess] = field(default_factory=dict)
    around: tuple[str, str, Callable[[], object]] | None = None
    _next_fd: int = 100

    def add(self, pid: int, start_time: int, inode: int | None = None) -> FakeProcess:
        self.processes[pid] = FakeProcess(pid, start_time, inode)
        return self.processes[pid]

    @contextmanager
    def _call(self, call: str) -> Iterator[None]:
        self._happen(call, "before")
        if call in self.failures:
            raise self.failures[call]
        yield
        self._happen(call, "after")

    def _happen(self, call: str, when: str) -> None:
        if self.around is not None and self.around[:2] == (call, when):
            happening, self.around = self.around[2], None
            happening()

    def _get(self, pid: int) -> FakeProcess:
        process = self.processes.get(pid)
        if process is None or process.reaped:
            raise ProcessLookupError(3, "no such process")
        return process

    def boot_id(self) -> str:
        with self._call("boot_id"):
            return self.boot

    def boottime(self) -> float:
        return self.now

    def pidfd_open(self, pid: int) -> int:
        with self._call("pidfd_open"):
            process = self._get(pid)
            self._next_fd += 1
            self.open_fds[self._next_fd] = process
            return self._next_fd

    def pidfd_signal(self, pidfd: int, signal: int) -> None:
        with self._call("pidfd_signal"):
            process = self.open_fds[pidfd]
            if process.reaped:
                raise ProcessLookupError(3, "no such process")
            if signal:
                process.signals.append(signal)

    def pidfd_inode(self, pidfd: int) -> int | None:
        with self._call("pidfd_inode"):
            return self.open_fds[pidfd].inode

    def close(self, fd: int) -> None:
        del self.open_fds[fd]

    def exit_status(self, pidfd: int) -> ExitStatus | None:
        process = self.open_fds[pidfd]
        return process.ended if process.reaped else None

    def zombie_status(self, pid: int) -> ExitStatus | None:
        process = self.processes.get(pid)
        return process.ended if process is not None and process.state == "Z" and not process.reaped else None

    def proc_stat(self, pid: int) -> ProcStat:
        with self._call("proc_stat"):
            process = self._get(pid)
            return ProcStat(pid, process.state, 1, process.start_time)

    def process_children(self, pid: int) -> list[int]:
        return []

    def sealed_input(self, pid: int) -> bytes | None:
        with self._call("sealed_input"):
            process = self.processes.get(pid)
            return None if process is None else process.sealed
