"""strace on chosen threads of a running process: what they call, and one call killed or failed.

Owns the tracer's process. A thread is traced by itself, so that its calls are counted from the
moment of attaching, whatever the other threads do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from tests.faults.calls import ERRORS, expression
from tests.integration.daemon_harness import until

DETACH_SECONDS = 5.0
LINE = re.compile(rb"(\d+) +(\w+)\(")


def has_strace() -> bool:
    """Whether there is a strace, and it may attach to a child of ours."""
    if shutil.which("strace") is None:
        return False
    child = subprocess.Popen(["sleep", "60"])
    try:
        with Tracer([child.pid], Path("/dev/null")):
            return True
    except AssertionError:
        return False
    finally:
        child.kill()
        child.wait()


class Tracer:
    """While the block lasts, the threads are traced. Without an injection it only records."""

    def __init__(
        self,
        threads: list[int],
        output: Path,
        injection: tuple[str, str, int] | None = None,
        *,
        follow: bool = False,
        paths: Iterable[Path] = (),
    ) -> None:
        """`follow`: each thread and child that they make, too. `paths`: only calls that go to one of these."""
        self._threads = threads
        self._output = output
        self._injection = injection
        self._follow = follow
        self._paths = list(paths)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Tracer:
        self._output.parent.mkdir(exist_ok=True)
        argv = ["strace", "-qq", "-e", "signal=none", *(["-f"] if self._follow else [])]
        argv += ["-o", str(self._output), "-e", f"trace={self._traced()}"]
        if self._injection is not None:
            argv += ["-e", f"inject={expression(*self._injection)}"]
        for path in self._paths:
            argv += ["-P", str(path)]
        for thread in self._threads:
            argv += ["-p", str(thread)]
        self._process = subprocess.Popen(argv, stderr=subprocess.PIPE)
        until(self._is_attached, f"strace attaches: {' '.join(argv)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process is not None
        detach(process)

    def _traced(self) -> str:
        return ",".join(ERRORS) if self._injection is None else self._injection[0]

    def _is_attached(self) -> bool:
        process = self._process
        assert process is not None
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(f"strace ended: {process.stderr.read()!r}")
        return all(_tracer_of(thread) == process.pid for thread in self._threads)

    def counts(self) -> Counter[str]:
        """How often each call was made by the thread that made it most often."""
        made: Counter[tuple[bytes, bytes]] = Counter()
        single = str(self._threads[0]).encode()
        for line in self._output.read_bytes().splitlines():
            found = LINE.match(line) or LINE.match(single + b" " + line)  # a single thread's number is left out
            if found is not None:
                made[(found[1], found[2])] += 1
        most: Counter[str] = Counter()
        for (_thread, call), number in made.items():
            most[call.decode()] = max(most[call.decode()], number)
        return most

    def is_reached(self) -> bool:
        """Whether the call that was to be cut was made. To be asked at any time."""
        assert self._injection is not None
        call, _kind, number = self._injection
        return self.counts()[call] >= number


def detach(tracer: subprocess.Popen[bytes]) -> None:
    """End it. It lets one thread go after the other, and waits for ever for one that waits for its vfork's child, which
    is held by it too: the kernel lets them all go at once."""
    tracer.terminate()
    try:
        tracer.communicate(timeout=DETACH_SECONDS)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.communicate()


def _tracer_of(thread: int) -> int:
    try:
        status = Path(f"/proc/{thread}/status").read_text()
    except FileNotFoundError:
        return 0
    return int(status.partition("TracerPid:")[2].split()[0])


def threads_of(pid: int, role: str) -> list[int]:
    """The daemon's threads: `main`, `database`, or `worker` (those that wait for work to be given to them)."""
    named = {int(tid): _name(pid, tid) for tid in os.listdir(f"/proc/{pid}/task")}
    workers = [tid for tid, name in named.items() if name.startswith("Trio thread")]
    if role == "main":
        return [pid]
    return workers if role == "worker" else [tid for tid in named if tid != pid and tid not in workers]


def _name(pid: int, tid: str) -> str:
    try:
        return Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""
